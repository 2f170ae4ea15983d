//! Each test has a heap and a host of its own; threads have their caches on their stacks.

use std::{
    sync::{atomic::Ordering::SeqCst, mpsc},
    thread,
};

use super::{class::ALIGN_MAX, *};

mod trial;

use trial::{Piece, Random, Trial, layout, share};

#[test]
fn every_class_holds_what_it_is_for() {
    for class in 2..CLASSES {
        assert!(class::of(class).size > class::of(class - 1).size);
        assert_eq!(class_of(class::of(class).size, 1), class);
        assert_eq!(class_of(class::of(class).size + 1, 1), class + 1, "{class}");
    }
    for align in (0..=8).map(|log| 1_usize << log) {
        for size in (1..3000).chain((1..=2100).map(|step| step * 512 - step % 3)) {
            let class = class_of(size, align);
            if size > 1 << 20 {
                assert_eq!(class, LARGE);
            } else if class < CLASSES {
                let found = class::of(class);
                assert!(found.size >= size && found.align >= align, "{size} {align}");
                assert!(found.size <= (size + size / 4).next_multiple_of(align.max(16)), "{size} {align}");
            }
        }
    }
    assert_eq!(class_of(16, ALIGN_MAX * 2), class::OVERALIGNED);
}

#[test]
fn every_alignment_is_honoured() {
    let trial = Trial::new();
    let local = trial.local();
    let mut pieces = Vec::new();
    for align in (0..=21).map(|log| 1 << log) {
        for size in [1, 8, 15, 16, 17, 100, 255, 256, 257, 1000, 5000, 40_000, 200_000, 1 << 20, 3_000_000] {
            for zero in [false, true] {
                pieces.push(local.take(layout(size, align), zero, size + align));
            }
        }
        // Every other one is resized, and half of all are given back before the next alignment.
        for piece in pieces.iter_mut().step_by(2) {
            let size = piece.layout.size();
            local.resize(piece, size * 2 + 1);
            local.resize(piece, size);
        }
        for piece in pieces.split_off(pieces.len() / 2) {
            local.free(piece);
        }
    }
    pieces.into_iter().for_each(|piece| local.free(piece));
    drop(local);
    trial.end();
}

fn random_walk(trial: Trial, seed: u64, steps: usize) {
    let local = trial.local();
    let mut random = Random(seed);
    let mut pieces: Vec<Piece> = Vec::new();
    for step in 0..steps {
        match random.below(10) {
            0..4 => {
                let zero = random.below(4) == 0;
                pieces.push(local.take(random.layout(), zero, step));
            }
            4..6 if !pieces.is_empty() => {
                let place = random.below(pieces.len());
                let size = random.size();
                local.resize(&mut pieces[place], size);
            }
            _ if !pieces.is_empty() => {
                let place = random.below(pieces.len());
                local.free(pieces.swap_remove(place));
            }
            _ => {}
        }
    }
    let held: usize = pieces.iter().map(|piece| piece.layout.size()).sum();
    let usage = trial.usage();
    assert_eq!(usage.live_blocks, pieces.len());
    assert!(held <= usage.live_bytes && usage.live_bytes <= usage.mapped_bytes, "{held} {usage:?}");
    pieces.into_iter().for_each(|piece| local.free(piece));
}

#[test]
fn no_two_blocks_overlap_and_none_is_lost() {
    for seed in 1..=8 {
        let trial = Trial::new();
        random_walk(trial, seed * 0x1234_5678_9abc_def1, share(20_000));
        trial.end();
    }
}

#[test]
fn without_a_host_it_works_as_well_and_keeps_nothing_per_thread() {
    let trial = Trial::without_host();
    random_walk(trial, 77, share(20_000));
    assert_eq!(trial.usage().live_blocks, 0);
    let before = trial.usage().mapped_bytes;
    for round in 0..share(500) {
        let run = move || {
            let local = trial.local();
            let pieces: Vec<_> = (1..200).map(|size| local.take(layout(size * 8, 8), false, round)).collect();
            pieces.into_iter().for_each(|piece| local.free(piece));
            // Nobody notices this thread's end.
            std::mem::forget(local);
        };
        thread::spawn(run).join().unwrap();
    }
    assert_eq!(trial.usage().live_blocks, 0);
    assert!(trial.usage().mapped_bytes <= before + (1 << 20));
    trial.attach();
    trial.end();
}

#[test]
fn threads_exchange_blocks() {
    let trial = Trial::new();
    // The heap's own lock, so that it is tried too.
    let pool: Locked<Vec<Piece>> = Locked::new(Vec::new());
    thread::scope(|scope| {
        for number in 1..=4_u64 {
            let pool = &pool;
            scope.spawn(move || {
                let local = trial.local();
                let mut random = Random(number << 40 | 0x5_5555);
                for step in 0..share(40_000) {
                    let mut layout = random.layout();
                    if layout.size() > 20_000 && random.below(10) > 0 {
                        layout = super::tests::layout(64, 8);
                    }
                    let piece = local.take(layout, random.below(8) == 0, step);
                    let got = pool.with(|pool| {
                        pool.push(piece);
                        let place = random.below(pool.len());
                        (pool.len() > 300 || step % 3 == 0).then(|| pool.swap_remove(place))
                    });
                    if let Some(mut got) = got {
                        if random.below(5) == 0 {
                            local.resize(&mut got, random.size());
                        }
                        local.free(got);
                    }
                }
            });
        }
    });
    let local = trial.local();
    assert_eq!(trial.usage().live_blocks, pool.with(|pool| pool.len()));
    pool.with(std::mem::take).into_iter().for_each(|piece| local.free(piece));
    drop(local);
    trial.end();
    assert_eq!(trial.usage().caches, 0);
}

#[test]
fn a_host_is_given_what_was_mapped_before_it() {
    let trial = Trial::without_host();
    let local = trial.local();
    let mut pieces: Vec<_> = [100, 70_000, 600_000, 2_000_000, 30_000_000]
        .map(|size| local.take(layout(size, 8), false, size))
        .into();
    let gone = local.take(layout(40_000_000, 8), false, 1);
    local.free(gone);
    local.resize(&mut pieces[4], 50_000_000);
    assert_eq!(trial.host.ends_asked_for.load(SeqCst), 0);

    trial.attach();
    assert_eq!(trial.host.adopted.load(SeqCst), 4);
    assert_eq!(trial.host.regions.lock().unwrap().values().sum::<usize>(), trial.usage().mapped_bytes);
    trial.attach();
    assert_eq!(trial.host.adopted.load(SeqCst), 4);

    local.free(local.take(layout(100, 8), false, 2));
    assert_eq!(trial.host.ends_asked_for.load(SeqCst), 1);
    local.free(local.take(layout(5000, 8), false, 2));
    assert_eq!(trial.host.ends_asked_for.load(SeqCst), 1);
    // The end of the thread, and then another destructor that allocates.
    // SAFETY: this thread's cache.
    unsafe { trial.store.release(local.cache.get()) };
    local.free(local.take(layout(100, 8), false, 3));
    assert_eq!(trial.host.ends_asked_for.load(SeqCst), 2);

    pieces.into_iter().for_each(|piece| local.free(piece));
    drop(local);
    trial.end();
}

#[test]
fn of_many_early_regions_some_are_remembered() {
    let trial = Trial::without_host();
    let local = trial.local();
    let pieces: Vec<_> = (0..100).map(|seed| local.take(layout(20 << 20, 8), false, seed)).collect();
    trial.attach();
    assert_eq!(trial.host.adopted.load(SeqCst), 64);
    pieces.into_iter().for_each(|piece| local.free(piece));
    assert_eq!(trial.usage().mapped_bytes, 0);
    drop(local);
    trial.end();
}

#[test]
fn large_blocks_grow_and_shrink() {
    let trial = Trial::new();
    let local = trial.local();
    // More at once than there are spans.
    let mut pieces: Vec<_> = (0..24).map(|seed| local.take(layout(1_500_000, 8), false, seed)).collect();
    for size in
        [1_500_001, 3_000_000, 12_000_000, 40_000_000, 41_000_000, 9_000_000, 2_000_000, 500_000, 5_000_000]
    {
        for piece in &mut pieces {
            local.resize(piece, size);
        }
        assert_eq!(trial.usage().live_blocks, 24);
    }
    pieces.into_iter().for_each(|piece| local.free(piece));
    // One that was used comes back zeroed when that is asked for.
    local.free(local.take(layout(6_000_000, 8), true, 9));
    local.free(local.take(layout(6_000_000, 8), true, 9));
    drop(local);
    trial.end();
}

fn resident(trial: Trial) -> usize {
    // SAFETY: only asks.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
    let mut sum = 0;
    for (&start, &len) in trial.host.regions.lock().unwrap().iter() {
        let mut pages = vec![0_u8; len / page];
        // SAFETY: a mapped region; one byte for each page of it.
        unsafe { libc::mincore(ptr::without_provenance_mut(start), len, pages.as_mut_ptr()) };
        sum += pages.iter().filter(|page| **page & 1 == 1).count() * page;
    }
    sum
}

#[test]
fn free_memory_of_larger_blocks_goes_back() {
    let trial = Trial::new();
    let local = trial.local();
    for (size, count, kept) in [(1 << 20, 32, 3 << 20), (200_000, 100, 6 << 20), (8 << 20, 10, 22 << 20)] {
        let pieces: Vec<_> = (0..count).map(|seed| local.take(layout(size, 8), true, seed)).collect();
        for piece in &pieces {
            // SAFETY: the block's own bytes.
            unsafe { piece.start.write_bytes(1, size) };
        }
        assert!(resident(trial) >= size * count);
        pieces.into_iter().for_each(|piece| local.free_unlooked(piece));
        // `kept` is for the smallest pages. Larger ones are given back as well when they lie inside a block as a
        // whole, and there is one at either end of it that may not.
        let kept = kept + count * 2 * (sys::PAGE - 4096);
        assert!(resident(trial) <= kept, "{} after {size}", resident(trial));
    }
    drop(local);
    trial.end();
}

#[test]
fn without_memory_it_says_so() {
    let trial = Trial::new();
    let local = trial.local();
    let layouts = [(100, 8), (100, 4096), (70_000, 8), (800_000, 8), (2_000_000, 8), (50_000_000, 1 << 21)];
    trial.host.refuses.store(true, SeqCst);
    for (size, align) in layouts {
        assert!(local.raw(layout(size, align)).is_null());
    }
    assert!(local.raw(layout(isize::MAX as usize - 4095, 4096)).is_null());
    trial.host.refuses.store(false, SeqCst);
    let pieces: Vec<_> = layouts.map(|(size, align)| local.take(layout(size, align), false, size)).into();
    trial.host.refuses.store(true, SeqCst);
    for piece in &pieces[4..] {
        // SAFETY: the block is this piece's, with this layout; it stays when it can't be made larger.
        let moved =
            unsafe { trial.store.realloc(|| local.cache.get(), piece.start, piece.layout, 200_000_000) };
        assert!(moved.is_null());
    }
    trial.host.refuses.store(false, SeqCst);
    pieces.into_iter().for_each(|piece| local.free(piece));
    drop(local);
    trial.end();
}

#[test]
fn short_lived_threads_strand_nothing() {
    let trial = Trial::new();
    let run = move || {
        let local = trial.local();
        let pieces: Vec<_> = (1..300).map(|size| local.take(layout(size * 16, 8), false, size)).collect();
        pieces.into_iter().for_each(|piece| local.free(piece));
    };
    thread::spawn(run).join().unwrap();
    let before = trial.usage();
    for _ in 0..share(2000) {
        thread::spawn(run).join().unwrap();
    }
    // What blocks are cut from may end between two classes; the next chunk is the last.
    assert!(trial.usage().mapped_bytes <= before.mapped_bytes * 2, "{before:?} {:?}", trial.usage());
    trial.end();
}

#[test]
fn a_producer_and_a_consumer_do_not_grow() {
    let trial = Trial::new();
    let (sender, receiver) = mpsc::sync_channel::<Piece>(100);
    let consumer = thread::spawn(move || {
        let local = trial.local();
        receiver.into_iter().for_each(|piece| local.free(piece));
    });
    let local = trial.local();
    for seed in 0..share(300_000) {
        sender.send(local.take(layout(64 + seed % 1000, 8), false, seed)).unwrap();
    }
    drop(sender);
    consumer.join().unwrap();
    drop(local);
    assert!(trial.usage().mapped_bytes <= 4 << 20, "{:?}", trial.usage());
    trial.end();
}

#[test]
fn usage_counts_whole_classes() {
    let trial = Trial::new();
    let local = trial.local();
    let small = local.take(layout(100, 8), false, 1);
    let large = local.take(layout(2 << 20, 8), false, 1);
    let usage = trial.usage();
    assert_eq!((usage.live_blocks, usage.live_bytes, usage.caches), (2, 112 + (2 << 20), 1));
    local.free(small);
    local.free(large);
    // Also while the thread lives, and has the small one in its cache.
    assert_eq!((trial.usage().live_blocks, trial.usage().live_bytes), (0, 0));
    drop(local);
    trial.end();
}

/// `mlock`ed memory is not given back by the system, as none is in a process that called `mlockall`.
#[test]
fn a_zeroed_block_is_zero_also_where_memory_is_locked() {
    unsafe extern "C" {
        fn mlock(start: *const std::ffi::c_void, len: usize) -> std::ffi::c_int;
    }
    let trial = Trial::new();
    let local = trial.local();
    let layout = layout(10 << 20, 16);
    // Together more than is kept: of one the pages are to be given back.
    let blocks = [local.raw(layout), local.raw(layout)];
    for block in blocks {
        // SAFETY: the block is this long; its first page is locked.
        unsafe {
            block.write_bytes(7, layout.size());
            assert_eq!(mlock(block.cast(), sys::PAGE), 0);
        }
    }
    // SAFETY: the cache is this thread's, and each block is given back once.
    unsafe {
        for block in blocks {
            trial.store.dealloc(|| local.cache.get(), block, layout);
        }
        let zeroed = blocks.map(|_| trial.store.alloc_zeroed(|| local.cache.get(), layout));
        for block in zeroed {
            assert!(std::slice::from_raw_parts(block, layout.size()).iter().all(|&byte| byte == 0));
            trial.store.dealloc(|| local.cache.get(), block, layout);
        }
    }
    drop(local);
    trial.end();
}

#[test]
fn a_heap_that_has_left_its_threads_keeps_nothing_there_and_goes_on() {
    let trial = Trial::new();
    let locals = [trial.local(), trial.local(), trial.local()];
    let take = |step: usize| locals[step % 3].take(layout(16 + step * 40, 8), false, step);
    let mut pieces: Vec<Piece> = (0..300).map(take).collect();
    for (step, piece) in pieces.drain(100..).enumerate() {
        locals[step % 3].free(piece);
    }
    let before = trial.usage();
    assert_eq!((before.caches, before.live_blocks, trial.host.ends_asked_for.load(SeqCst)), (3, 100, 3));
    // SAFETY: nobody else uses this heap, and the caches are there.
    unsafe { trial.store.leave_threads() };
    assert_eq!(trial.usage(), Usage { caches: 0, ..before }, "what they had free is in the central lists");
    // Of those threads some go on, others end and nobody says so.
    let again: Vec<Piece> = (0..300).map(take).collect();
    drop(locals);
    let late = trial.local();
    pieces.extend((0..300).map(|step| late.take(layout(16 + step * 40, 8), true, step)));
    pieces.into_iter().chain(again).for_each(|piece| late.free(piece));
    assert_eq!((trial.usage().caches, trial.host.ends_asked_for.load(SeqCst)), (0, 3));
    trial.end();
}
