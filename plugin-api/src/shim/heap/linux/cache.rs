//! What a thread has of its own: free blocks per class, taken and put back without a lock.

use std::{ptr, sync::atomic::Ordering::Relaxed};

use super::{
    Store,
    central::{Batch, Block},
    class::{self, CACHED},
};

/// Lives in a thread-local without `Drop`, all zeros at first; or, in tests, wherever they put it.
pub(super) struct Cache {
    bins: [Bin; CACHED],
    /// Linked into the store's list of caches. Only then are there blocks in it.
    linked: bool,
    next: *mut Cache,
    before: *mut Cache,
}

#[derive(Clone, Copy)]
struct Bin {
    head: *mut Block,
    count: u32,
    /// How many it may have. Begins at zero, so that a thread's first `free` comes by the slow path; grows
    /// with use, so that a library that is soon unloaded touches few pages.
    limit: u32,
}

impl Bin {
    const EMPTY: Self = Self { head: ptr::null_mut(), count: 0, limit: 0 };

    fn grow(&mut self, class: usize) {
        self.limit = (self.limit * 2).max(2).min(class::of(class).kept);
    }
}

impl Cache {
    pub(super) const fn new() -> Self {
        Self { bins: [Bin::EMPTY; CACHED], linked: false, next: ptr::null_mut(), before: ptr::null_mut() }
    }

    /// # Safety
    /// `cache` is this thread's.
    pub(super) unsafe fn is_linked(cache: *mut Self) -> bool {
        // SAFETY: the caller's promise.
        unsafe { (*cache).linked }
    }

    /// A block, or null when the bin is empty.
    ///
    /// # Safety
    /// `cache` is this thread's, and `class` below [`CACHED`].
    #[inline(always)]
    pub(super) unsafe fn pop(cache: *mut Self, class: usize) -> *mut Block {
        // SAFETY: the caller's promise; what the bin holds is free.
        unsafe {
            let bin = (&raw mut (*cache).bins).cast::<Bin>().add(class);
            let head = (*bin).head;
            if !head.is_null() {
                (*bin).head = (*head).next;
                (*bin).count -= 1;
            }
            head
        }
    }

    /// False when the bin is full.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop); `block` is a block of that class which nobody uses any more.
    #[inline(always)]
    pub(super) unsafe fn push(cache: *mut Self, class: usize, block: *mut Block) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let bin = (&raw mut (*cache).bins).cast::<Bin>().add(class);
            if (*bin).count >= (*bin).limit {
                return false;
            }
            (*block).next = (*bin).head;
            (*bin).head = block;
            (*bin).count += 1;
            true
        }
    }
}

impl Store {
    /// A block for a bin that is empty, and more into the bin. Null when there is no memory.
    ///
    /// Also says whether it is new, and so zero but for its links.
    ///
    /// # Safety
    /// As for [`Cache::pop`].
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn refill(&self, cache: *mut Cache, class: usize) -> (*mut Block, bool) {
        // SAFETY: the caller's promise. Linking comes first: it calls the host, after which nothing read
        // before is relied on.
        unsafe {
            if !self.link(cache) {
                return self.one(class);
            }
            let bin = &raw mut (*cache).bins[class];
            (*bin).grow(class);
            let wanted = ((*bin).limit as usize / 2).max(1);
            let central = &self.classes[class];
            let mut batch = central.take(wanted);
            let new = batch.count == 0;
            if new {
                batch = central.carve_lines(class, wanted, &self.chunks, &self.regions);
            }
            if batch.count > 0 {
                (*bin).head = (*batch.head).next;
                (*bin).count = batch.count as u32 - 1;
            }
            (batch.head, new)
        }
    }

    /// A block from the central list or a new one, as [`refill`](Self::refill).
    ///
    /// # Safety
    /// `class` is a class.
    pub(super) unsafe fn one(&self, class: usize) -> (*mut Block, bool) {
        let central = &self.classes[class];
        // SAFETY: what is taken and not handed on is given back at once.
        unsafe {
            let taken = central.take(1);
            if taken.count == 0 {
                return (central.carve_one(class, &self.chunks, &self.regions), true);
            }
            if taken.count > 1 {
                central.give(Batch { head: (*taken.head).next, count: taken.count - 1 });
            }
            (taken.head, false)
        }
    }

    /// Takes a block for which the bin has no room.
    ///
    /// # Safety
    /// As for [`Cache::push`].
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn overflow(&self, cache: *mut Cache, class: usize, block: *mut Block) {
        // SAFETY: the caller's promise; linking first, as in `refill`.
        unsafe {
            if !self.link(cache) {
                return self.classes[class].give_one(class, block);
            }
            let bin = &raw mut (*cache).bins[class];
            let kept = class::of(class).kept;
            (*bin).grow(class);
            if (*bin).count < kept {
                // A batch from the central list may have been larger than the limit.
                (*bin).limit = (*bin).limit.max((*bin).count + 1);
            } else if kept == 1 {
                let old = (*bin).head;
                *bin = Bin { head: ptr::null_mut(), count: 0, limit: 1 };
                self.classes[class].give_one(class, old);
            } else {
                self.spill_half(class, bin);
            }
            let pushed = Cache::push(cache, class, block);
            debug_assert!(pushed, "there is room now");
        }
    }

    /// Keeps the half that was freed last, and gives the rest to the central list.
    ///
    /// # Safety
    /// `bin` is a full bin of `class`, of this thread's.
    unsafe fn spill_half(&self, class: usize, bin: *mut Bin) {
        // SAFETY: the bin has `count` blocks, more than are walked over.
        unsafe {
            let keep = (*bin).count / 2;
            let mut last = (*bin).head;
            for _ in 1..keep {
                last = (*last).next;
            }
            let rest = Batch { head: (*last).next, count: ((*bin).count - keep) as usize };
            (*last).next = ptr::null_mut();
            (*bin).count = keep;
            self.classes[class].give(rest);
        }
    }

    /// Links the cache and asks to hear of the thread's end. False without a host, and at the library's end: then
    /// nobody would say when the thread ends, what its cache holds would be lost, and its neighbours on the list would
    /// lead to where it was.
    ///
    /// # Safety
    /// `cache` is this thread's, and `release` is called for it before it is gone.
    unsafe fn link(&self, cache: *mut Cache) -> bool {
        // SAFETY: the caller's promise; caches on the list are there until they are unlinked.
        unsafe {
            if (*cache).linked {
                return true;
            }
            if self.left_threads.load(Relaxed) {
                return false;
            }
            let Some(source) = self.regions.source() else { return false };
            (*cache).linked = true;
            self.caches.with(|first| {
                (*cache).before = ptr::null_mut();
                (*cache).next = *first;
                if !first.is_null() {
                    (**first).before = cache;
                }
                *first = cache;
            });
            (source.at_thread_end)(source.context, self.at_thread_end);
            true
        }
    }

    /// Gives what the cache holds to the central lists and unlinks it. It may be used again afterwards.
    ///
    /// # Safety
    /// `cache` is this thread's, or there while its thread does not use it.
    pub(super) unsafe fn release(&self, cache: *mut Cache) {
        // SAFETY: the caller's promise; neighbours on the list are there until they are unlinked.
        unsafe {
            if !(*cache).linked {
                return;
            }
            for (class, bin) in (*cache).bins.iter_mut().enumerate() {
                let Bin { head, count, .. } = std::mem::replace(bin, Bin::EMPTY);
                match count {
                    0 => {}
                    1 => self.classes[class].give_one(class, head),
                    count => self.classes[class].give(Batch { head, count: count as usize }),
                }
            }
            self.caches.with(|first| {
                let Cache { next, before, .. } = *cache;
                if before.is_null() {
                    *first = next;
                } else {
                    (*before).next = next;
                }
                if !next.is_null() {
                    (*next).before = before;
                }
            });
            (*cache).linked = false;
        }
    }

    /// How many caches are linked, and the free blocks of each class in all of them.
    ///
    /// # Safety
    /// No other thread uses the heap meanwhile.
    pub(super) unsafe fn cached(&self) -> (usize, [usize; CACHED]) {
        let (mut caches, mut sums) = (0, [0; CACHED]);
        self.caches.with(|first| {
            let mut cache = *first;
            while !cache.is_null() {
                caches += 1;
                // SAFETY: a cache on the list is there, and its thread doesn't write to it.
                unsafe {
                    for (sum, bin) in sums.iter_mut().zip(&(*cache).bins) {
                        *sum += bin.count as usize;
                    }
                    cache = (*cache).next;
                }
            }
        });
        (caches, sums)
    }
}
