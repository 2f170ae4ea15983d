//! The heap on Linux with glibc.

mod cache;
mod central;
mod class;
mod large;
mod lock;
mod regions;
mod sys;
#[cfg(test)]
mod tests;
mod this_thread;

use std::{
    alloc::{GlobalAlloc, Layout},
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use self::{
    cache::Cache,
    central::{Block, Central, Chunks},
    class::{CACHED, CLASSES, LARGE, class_of},
    large::Large,
    lock::Locked,
    regions::Regions,
};
use super::{Heap, RegionSource, Usage};

static STORE: Store = Store::new(release_this_thread);

// SAFETY: blocks are of the layout's size and alignment at least, and no two of them overlap; `dealloc` and
// `realloc` find out from the layout where a block came from. Nothing here panics.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let cache = this_thread::known();
        // SAFETY: the caller's promise, and the cache is this thread's.
        unsafe { if cache.is_null() { alloc_the_long_way(layout) } else { STORE.alloc(|| cache, layout) } }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { STORE.alloc_zeroed(this_thread::known_or_found, layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let cache = this_thread::known();
        // SAFETY: as above.
        unsafe {
            if cache.is_null() {
                dealloc_the_long_way(block, layout);
            } else {
                STORE.dealloc(|| cache, block, layout);
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { STORE.realloc(this_thread::known_or_found, block, layout, new_size) }
    }
}

// Functions of their own, so that the short way needs no stack.
#[inline(never)]
unsafe fn alloc_the_long_way(layout: Layout) -> *mut u8 {
    let cache = this_thread::found();
    this_thread::remember(cache);
    // SAFETY: the caller's promise, and the cache is this thread's.
    unsafe { STORE.alloc(|| cache, layout) }
}

#[inline(never)]
unsafe fn dealloc_the_long_way(block: *mut u8, layout: Layout) {
    let cache = this_thread::found();
    this_thread::remember(cache);
    // SAFETY: as above.
    unsafe { STORE.dealloc(|| cache, block, layout) }
}

/// Has all regions come from the host from now on, and hands over those there are. Once; later calls do
/// nothing.
///
/// Of regions from before, 64 are remembered. Others stay when the library is gone; one that is given back
/// before comes to `unmap` though the host was never told of it.
pub(crate) fn attach(source: RegionSource) {
    STORE.regions.attach(source);
}

/// Gives what this thread's cache holds to the central lists, and forgets the cache. The thread may go on to
/// allocate; it then asks for `at_thread_end` again.
///
/// # Safety
/// Not from inside the allocator, nor from a signal handler.
pub(crate) unsafe extern "C" fn release_this_thread() {
    this_thread::forget();
    // SAFETY: the cache is this thread's.
    unsafe { STORE.release(this_thread::found()) }
}

/// Lends the heap a word of every thread's, `word` bytes from the thread pointer, in which it keeps the address
/// of the thread's cache. Without it each allocation and each free takes a call of `__tls_get_addr` more.
///
/// # Safety
/// The word is in the static thread-local storage of every thread, which is what a program has and what a
/// library that was opened with `dlopen` has not. It is null in every thread at first and nobody else's,
/// until the library is gone *and* every thread that the host was asked about by `at_thread_end` was released
/// or has ended: a thread that was not keeps an address in it ([`Usage::caches`] counts them).
pub(crate) unsafe fn lend_word(word: isize) {
    // SAFETY: the caller's promise.
    unsafe { this_thread::lend(word) };
}

/// What the heap holds. To be called when no other thread runs code of this library.
pub(crate) fn usage() -> Usage {
    // SAFETY: as the caller was told.
    unsafe { STORE.usage() }
}

/// Keeps nothing on any thread from now on, and gives what it had there to the central lists; for a host that will not
/// say any more when a thread ends. Allocating goes on, slower.
///
/// # Safety
/// No other thread runs code of this library meanwhile, and none of those that have a cache ends.
pub(crate) unsafe fn leave_threads() {
    // SAFETY: as the caller was told.
    unsafe { STORE.leave_threads() }
}

/// What the threads of a heap share.
struct Store {
    classes: [Central; CLASSES],
    chunks: Chunks,
    /// The first of the linked caches.
    caches: Locked<*mut Cache>,
    /// No cache is linked any more.
    left_threads: AtomicBool,
    at_thread_end: unsafe extern "C" fn(),
    large: Large,
    regions: Regions,
}

impl Store {
    const fn new(at_thread_end: unsafe extern "C" fn()) -> Self {
        Self {
            classes: [const { Central::new() }; CLASSES],
            chunks: Chunks::new(),
            caches: Locked::new(ptr::null_mut()),
            left_threads: AtomicBool::new(false),
            at_thread_end,
            large: Large::new(),
            regions: Regions::new(),
        }
    }

    /// # Safety
    /// `cache` gives this thread's cache, here and below.
    #[inline(always)]
    unsafe fn alloc(&self, cache: impl Fn() -> *mut Cache, layout: Layout) -> *mut u8 {
        let class = class_of(layout.size(), layout.align());
        // SAFETY: the class is a cached one, the cache is this thread's.
        unsafe {
            if class >= CACHED {
                return self.alloc_rare(cache(), class, layout, false);
            }
            let cache = cache();
            let mut block = Cache::pop(cache, class);
            if block.is_null() {
                block = self.refill(cache, class).0;
            }
            block.cast()
        }
    }

    /// # Safety
    /// As for [`alloc`](Self::alloc).
    #[inline]
    unsafe fn alloc_zeroed(&self, cache: impl Fn() -> *mut Cache, layout: Layout) -> *mut u8 {
        let class = class_of(layout.size(), layout.align());
        // SAFETY: the class is a cached one, the cache is this thread's.
        unsafe {
            if class >= CACHED {
                return self.alloc_rare(cache(), class, layout, true);
            }
            let cache = cache();
            let block = Cache::pop(cache, class);
            let (block, new) = if block.is_null() { self.refill(cache, class) } else { (block, false) };
            zeroed(block, new, layout.size())
        }
    }

    /// # Safety
    /// As for [`alloc`](Self::alloc); `block` was allocated here with this layout and is not used any more.
    #[inline(always)]
    unsafe fn dealloc(&self, cache: impl Fn() -> *mut Cache, block: *mut u8, layout: Layout) {
        let class = class_of(layout.size(), layout.align());
        // SAFETY: the class is a cached one, the cache is this thread's, the block is free now.
        unsafe {
            if class >= CACHED {
                return self.dealloc_rare(cache(), class, block, layout);
            }
            let cache = cache();
            if !Cache::push(cache, class, block.cast()) {
                self.overflow(cache, class, block.cast());
            }
        }
    }

    /// # Safety
    /// As for [`dealloc`](Self::dealloc), unless it returns null; `new_size` makes a layout with the same
    /// alignment.
    #[inline]
    unsafe fn realloc(
        &self,
        cache: impl Fn() -> *mut Cache,
        block: *mut u8,
        layout: Layout,
        new_size: usize,
    ) -> *mut u8 {
        let old = class_of(layout.size(), layout.align());
        let new = class_of(new_size, layout.align());
        if old == new && new < CLASSES {
            return block;
        }
        // SAFETY: the caller's promise. The bytes copied are inside both blocks, which are different ones.
        unsafe {
            if old == LARGE && new == LARGE {
                let moved = self.large.resize(block, layout.size(), new_size, &self.regions);
                if !moved.is_null() {
                    return moved;
                }
            }
            let moved = self.alloc(&cache, Layout::from_size_align_unchecked(new_size, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                self.dealloc(&cache, block, layout);
            }
            moved
        }
    }

    /// Sizes that no thread keeps, and large alignments.
    ///
    /// # Safety
    /// As for [`alloc`](Self::alloc); `class` is that of the layout.
    #[cold]
    #[inline(never)]
    unsafe fn alloc_rare(&self, cache: *mut Cache, class: usize, layout: Layout, zero: bool) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            if class < CLASSES {
                let (block, new) = self.one(class);
                return if zero { zeroed(block, new, layout.size()) } else { block.cast() };
            }
            if class == LARGE {
                return self.large.alloc(layout.size(), zero, &self.regions);
            }
            let Some(inner) = around(layout) else { return ptr::null_mut() };
            let block = if zero { self.alloc_zeroed(|| cache, inner) } else { self.alloc(|| cache, inner) };
            if block.is_null() {
                return block;
            }
            // At most `align` further, and at least a word: the block is aligned to 16.
            let skipped = (block.addr() + 1).next_multiple_of(layout.align()) - block.addr();
            let user = block.add(skipped);
            user.cast::<*mut u8>().sub(1).write(block);
            user
        }
    }

    /// # Safety
    /// As for [`dealloc`](Self::dealloc); `class` is that of the layout.
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_rare(&self, cache: *mut Cache, class: usize, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; the word before an overaligned block is the start of the one around.
        unsafe {
            if class < CLASSES {
                self.classes[class].give_one(class, block.cast());
            } else if class == LARGE {
                self.large.free(block, layout.size(), &self.regions);
            } else if let Some(inner) = around(layout) {
                self.dealloc(|| cache, block.cast::<*mut u8>().sub(1).read(), inner);
            }
        }
    }

    /// # Safety
    /// No other thread uses the heap meanwhile, and the caches are there.
    unsafe fn leave_threads(&self) {
        self.left_threads.store(true, Relaxed);
        loop {
            let first = self.caches.with(|first| *first);
            if first.is_null() {
                return;
            }
            // SAFETY: it is there, and as good as ours while its thread does not use it.
            unsafe { self.release(first) };
        }
    }

    /// # Safety
    /// No other thread uses the heap meanwhile.
    unsafe fn usage(&self) -> Usage {
        // SAFETY: the caller's promise.
        let (caches, cached) = unsafe { self.cached() };
        let (live_blocks, live_bytes) = self.large.usage();
        let mut usage = Usage { live_bytes, live_blocks, mapped_bytes: self.regions.mapped(), caches };
        for (class, central) in self.classes.iter().enumerate() {
            let live = central.out().saturating_sub(*cached.get(class).unwrap_or(&0));
            usage.live_bytes += live * class::of(class).size;
            usage.live_blocks += live;
        }
        usage
    }
}

/// Clears a block; of a new one, only what links may have been in.
///
/// # Safety
/// `block` is null, or a block of `size` bytes at least that the caller has to itself.
#[inline]
unsafe fn zeroed(block: *mut Block, new: bool, size: usize) -> *mut u8 {
    let block = block.cast::<u8>();
    if !block.is_null() {
        let len = if new { size.min(size_of::<Block>()) } else { size };
        // SAFETY: the caller's promise.
        unsafe { block.write_bytes(0, len) };
    }
    block
}

/// The layout of the block that an overaligned one lies in; none when there can't be one.
fn around(layout: Layout) -> Option<Layout> {
    Layout::from_size_align(layout.size() + layout.align(), 16).ok()
}
