//! A heap on trial: a host that lists its regions, threads' views of it, and blocks that know what is in them.

use std::{
    cell::UnsafeCell,
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use super::super::*;

/// Lists regions as a host does.
#[derive(Default)]
pub(super) struct Host {
    pub(super) regions: Mutex<BTreeMap<usize, usize>>,
    pub(super) adopted: AtomicUsize,
    pub(super) ends_asked_for: AtomicUsize,
    pub(super) refuses: AtomicBool,
}

unsafe fn host<'a>(context: *const ()) -> &'a Host {
    // SAFETY: `Trial::attach` gave it, and leaked it.
    unsafe { &*context.cast::<Host>() }
}

unsafe extern "C" fn map(context: *const (), len: usize) -> *mut u8 {
    // SAFETY: our own context.
    let host = unsafe { host(context) };
    assert!(len > 0 && len.is_multiple_of(sys::PAGE));
    if host.refuses.load(SeqCst) {
        return ptr::null_mut();
    }
    let start = sys::map(len);
    assert!(host.regions.lock().unwrap().insert(start.addr(), len).is_none());
    start
}

unsafe extern "C" fn unmap(context: *const (), start: *mut u8, len: usize) {
    // SAFETY: our own context, and a region of the heap's.
    unsafe {
        let listed = host(context).regions.lock().unwrap().remove(&start.addr());
        assert!(listed.is_none_or(|listed| listed == len), "{listed:?} is not {len}");
        sys::unmap(start, len);
    }
}

unsafe extern "C" fn remap(context: *const (), start: *mut u8, len: usize, new_len: usize) -> *mut u8 {
    // SAFETY: our own context, and a region of the heap's.
    unsafe {
        if host(context).refuses.load(SeqCst) {
            return ptr::null_mut();
        }
        let mut regions = host(context).regions.lock().unwrap();
        assert_eq!(regions.remove(&start.addr()), Some(len));
        let moved = sys::remap(start, len, new_len);
        assert!(regions.insert(moved.addr(), new_len).is_none());
        moved
    }
}

unsafe extern "C" fn adopt(context: *const (), start: *mut u8, len: usize) {
    // SAFETY: our own context.
    let host = unsafe { host(context) };
    assert!(host.regions.lock().unwrap().insert(start.addr(), len).is_none());
    host.adopted.fetch_add(1, SeqCst);
}

unsafe extern "C" fn at_thread_end(context: *const (), _release: unsafe extern "C" fn()) {
    // SAFETY: our own context. `Local` releases by itself.
    unsafe { host(context) }.ends_asked_for.fetch_add(1, SeqCst);
}

unsafe extern "C" fn nothing() {}

#[derive(Clone, Copy)]
pub(super) struct Trial {
    pub(super) store: &'static Store,
    pub(super) host: &'static Host,
}

impl Trial {
    pub(super) fn without_host() -> Self {
        Self { store: Box::leak(Box::new(Store::new(nothing))), host: Box::leak(Box::default()) }
    }

    pub(super) fn new() -> Self {
        let trial = Self::without_host();
        trial.attach();
        trial
    }

    pub(super) fn attach(self) {
        let context = ptr::from_ref(self.host).cast();
        self.store.regions.attach(RegionSource { context, map, unmap, remap, adopt, at_thread_end });
    }

    pub(super) fn local(self) -> Local {
        Local { trial: self, cache: Box::new(UnsafeCell::new(Cache::new())) }
    }

    pub(super) fn usage(self) -> Usage {
        // SAFETY: tests ask when their threads are done.
        unsafe { self.store.usage() }
    }

    /// Nothing is allocated, the host lists what the heap has mapped; then unmaps it, as after an unload.
    pub(super) fn end(self) {
        let usage = self.usage();
        assert_eq!((usage.live_blocks, usage.live_bytes), (0, 0));
        let regions = std::mem::take(&mut *self.host.regions.lock().unwrap());
        assert_eq!(usage.mapped_bytes, regions.values().sum::<usize>());
        for (start, len) in regions {
            // SAFETY: nobody uses this heap any more.
            unsafe { sys::unmap(ptr::without_provenance_mut(start), len) };
        }
    }
}

/// A thread's view of a heap.
pub(super) struct Local {
    pub(super) trial: Trial,
    pub(super) cache: Box<UnsafeCell<Cache>>,
}

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: this thread's cache.
        unsafe { self.trial.store.release(self.cache.get()) };
    }
}

pub(super) fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

pub(super) fn byte(seed: usize, place: usize) -> u8 {
    (seed.wrapping_mul(31) + place.wrapping_mul(7) + place / 251) as u8
}

/// A block that knows what is in it.
pub(super) struct Piece {
    pub(super) start: *mut u8,
    pub(super) layout: Layout,
    pub(super) seed: usize,
}

// SAFETY: a block may be used by any thread.
unsafe impl Send for Piece {}

impl Piece {
    /// All of a small one; of others the ends, which neighbours would hit, and some in between.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let size = self.layout.size();
        let dense = if size <= 1024 { size } else { 64 };
        (0..dense).chain((dense..size).step_by(1021)).chain(size.saturating_sub(64).max(dense)..size)
    }

    pub(super) fn fill(&self) {
        for place in self.places() {
            // SAFETY: inside the block.
            unsafe { self.start.add(place).write(byte(self.seed, place)) };
        }
    }

    pub(super) fn check(&self, len: usize) {
        for place in self.places().filter(|place| *place < len) {
            // SAFETY: inside the block.
            assert_eq!(unsafe { self.start.add(place).read() }, byte(self.seed, place), "{:?}", self.layout);
        }
    }
}

impl Local {
    pub(super) fn raw(&self, layout: Layout) -> *mut u8 {
        // SAFETY: this thread's cache.
        unsafe { self.trial.store.alloc(|| self.cache.get(), layout) }
    }

    pub(super) fn take(&self, layout: Layout, zero: bool, seed: usize) -> Piece {
        // SAFETY: this thread's cache.
        let start = unsafe {
            if zero { self.trial.store.alloc_zeroed(|| self.cache.get(), layout) } else { self.raw(layout) }
        };
        assert!(!start.is_null());
        assert_eq!(start.addr() % layout.align(), 0, "{layout:?}");
        let piece = Piece { start, layout, seed };
        if zero {
            // SAFETY: inside the block.
            assert!(piece.places().all(|place| unsafe { start.add(place).read() } == 0), "{layout:?}");
        }
        piece.fill();
        piece
    }

    pub(super) fn resize(&self, piece: &mut Piece, new_size: usize) {
        let kept = piece.layout.size().min(new_size);
        let old = piece.layout;
        // SAFETY: the block is this piece's, with this layout.
        piece.start = unsafe { self.trial.store.realloc(|| self.cache.get(), piece.start, old, new_size) };
        assert!(!piece.start.is_null());
        assert_eq!(piece.start.addr() % old.align(), 0);
        piece.layout = layout(new_size, old.align());
        // `check` chooses other places for another size: of what was written, those that both have.
        let written = Piece { start: piece.start, layout: old, seed: piece.seed };
        written.check(kept);
        piece.fill();
    }

    pub(super) fn free(&self, piece: Piece) {
        piece.check(usize::MAX);
        self.free_unlooked(piece);
    }

    pub(super) fn free_unlooked(&self, piece: Piece) {
        // SAFETY: the block is this piece's, with this layout.
        unsafe { self.trial.store.dealloc(|| self.cache.get(), piece.start, piece.layout) };
    }
}

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) as usize) % limit
    }

    /// Mostly small, sometimes megabytes.
    pub(super) fn size(&mut self) -> usize {
        let doublings = if self.below(100) == 0 { 23 } else { 13 };
        let log = self.below(doublings);
        1 + self.below(1 << log) + (1 << log) / 2
    }

    pub(super) fn layout(&mut self) -> Layout {
        let align = if self.below(8) == 0 { 1 << self.below(14) } else { 1 << self.below(5) };
        layout(self.size(), align)
    }
}

/// How much a test does: less under valgrind and the like, which `OXIDE_HEAP_TEST_SHARE=20` asks for.
pub(super) fn share(of: usize) -> usize {
    let divisor = std::env::var("OXIDE_HEAP_TEST_SHARE").ok().and_then(|text| text.parse().ok());
    of / divisor.unwrap_or(1)
}
