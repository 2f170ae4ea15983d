//! The plugin's heap as the allocator of a whole process, with a host that lists regions and hears of threads'
//! ends. In a process of its own, without the test harness: that would allocate at the same time.
#![allow(unsafe_code, reason = "stands in for the host")]

#[path = "../src/shim/heap/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the crate's own module, read as a source file")]
mod heap;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ptr,
    sync::{
        Arc, Barrier, OnceLock,
        atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use heap::{Heap, RegionSource};

#[global_allocator]
static HEAP: Heap = Heap::new();

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

static MAPPED: AtomicUsize = AtomicUsize::new(0);
static ENDS: AtomicUsize = AtomicUsize::new(0);
static KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();
static RELEASE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

unsafe extern "C" fn map(_: *const (), len: usize) -> *mut u8 {
    // SAFETY: a new anonymous mapping.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), len, READ_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    assert_ne!(start, libc::MAP_FAILED);
    MAPPED.fetch_add(len, SeqCst);
    start.cast()
}

unsafe extern "C" fn unmap(_: *const (), start: *mut u8, len: usize) {
    MAPPED.fetch_sub(len, SeqCst);
    // SAFETY: the heap is done with it.
    unsafe { libc::munmap(start.cast(), len) };
}

unsafe extern "C" fn remap(_: *const (), start: *mut u8, len: usize, new_len: usize) -> *mut u8 {
    MAPPED.fetch_add(new_len.wrapping_sub(len), SeqCst);
    // SAFETY: a mapping of the heap's.
    unsafe { libc::mremap(start.cast(), len, new_len, libc::MREMAP_MAYMOVE).cast() }
}

unsafe extern "C" fn adopt(_: *const (), _: *mut u8, len: usize) {
    MAPPED.fetch_add(len, SeqCst);
}

unsafe extern "C" fn thread_ended(_: *mut libc::c_void) {
    let release = RELEASE.load(SeqCst);
    ENDS.fetch_add(1, SeqCst);
    // SAFETY: `at_thread_end` put it there.
    unsafe { std::mem::transmute::<*mut (), unsafe extern "C" fn()>(release)() }
}

unsafe extern "C" fn at_thread_end(_: *const (), release: unsafe extern "C" fn()) {
    RELEASE.store(release as *mut (), SeqCst);
    // SAFETY: the key is there; any value that isn't null will do.
    unsafe { libc::pthread_setspecific(*KEY.get().expect("made before attach"), ptr::dangling()) };
}

thread_local! {
    /// Lent to the heap: in a program a thread-local is equally far from the thread pointer on every thread.
    static WORD: Cell<*mut ()> = const { Cell::new(ptr::null_mut()) };
    static WORDS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn word() -> isize {
    let thread: isize;
    // SAFETY: reads the thread pointer, which on x86-64 is also in the word that it points to.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov {}, fs:[0]", out(reg) thread);
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) thread);
    }
    WORD.with(|word| ptr::from_ref(word).addr() as isize - thread)
}

fn work(number: usize) -> usize {
    WORDS.with_borrow_mut(|words| {
        words.extend((0..200).map(|word| format!("{number} and {word}")));
        words.retain(|word| word.len() % 3 != 0);
    });
    let mut table: HashMap<usize, Vec<u8>> = HashMap::new();
    for place in 0..2000 {
        table.entry(place % 97).or_default().extend_from_slice(&[place as u8; 100]);
    }
    assert!(table.values().flatten().count() == 200_000);
    let big = vec![1_u64; 400_000];
    table.len() + big.len()
}

/// Threads that live at once, threads after one another, and blocks that end elsewhere than they began.
fn round() {
    let barrier = Arc::new(Barrier::new(4));
    let together: Vec<_> = (0..4)
        .map(|number| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                barrier.wait();
                work(number)
            })
        })
        .collect();
    for thread in together {
        assert_eq!(thread.join().expect("no panic"), 400_097);
    }
    for number in 0..50 {
        thread::spawn(move || work(number)).join().expect("no panic");
    }
    // Bounded, so that what is alive at once does not depend on who is quicker.
    let (sender, receiver) = mpsc::sync_channel(64);
    let producer = thread::spawn(move || {
        for number in 0..20_000_usize {
            sender.send(vec![number; 1 + number % 50]).expect("somebody listens");
        }
    });
    for (number, message) in receiver.into_iter().enumerate() {
        assert!(message.iter().all(|&found| found == number));
    }
    producer.join().expect("no panic");
}

fn main() {
    let early = vec![String::from("from before the host"); 1000];
    round();
    let ended = ENDS.load(SeqCst);
    assert_eq!(ended, 0);

    let mut key = 0;
    // SAFETY: the destructor is a function of the program.
    assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(thread_ended)) }, 0);
    KEY.set(key).expect("once");
    heap::attach(RegionSource { context: ptr::null(), map, unmap, remap, adopt, at_thread_end });
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        assert_eq!(MAPPED.load(SeqCst), heap::usage().mapped_bytes);
        assert!(heap::usage().live_bytes > 1000 * 32);
    }

    // Once more before it is measured: what std makes only once is there then.
    round();
    let before = heap::usage();
    for _ in 0..3 {
        round();
    }
    let after = heap::usage();
    assert_eq!((before.live_blocks, before.live_bytes), (after.live_blocks, after.live_bytes));
    assert_eq!(early.iter().filter(|text| text.starts_with("from before")).count(), 1000);
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        assert_eq!(MAPPED.load(SeqCst), after.mapped_bytes);
        // Four threads may have had their large blocks at once that had them in turn before.
        let large = 4 * 400_000 * size_of::<u64>();
        assert!(after.mapped_bytes <= before.mapped_bytes + large + (8 << 20), "{before:?} {after:?}");
        assert!(ENDS.load(SeqCst) >= 4 * 55, "{}", ENDS.load(SeqCst));
    }
    let without = left_without(early);
    assert_eq!(without, before.live_blocks.saturating_sub(1001));

    // The same with a word lent, which a released thread does not keep.
    // SAFETY: the word is this program's, and this is the only heap.
    unsafe { heap::lend_word(word()) };
    for _ in 0..3 {
        round();
        assert_eq!(WORD.get().is_null(), !cfg!(all(target_os = "linux", target_env = "gnu")));
        // SAFETY: not inside the allocator.
        unsafe { heap::release_this_thread() };
        assert!(WORD.get().is_null());
        assert_eq!(heap::usage().caches, 0);
        assert_eq!(heap::usage().live_blocks, without);
    }
    println!("{before:?} before, {after:?} after");
}

/// The blocks that are left without `early`.
fn left_without(early: Vec<String>) -> usize {
    drop(early);
    heap::usage().live_blocks
}
