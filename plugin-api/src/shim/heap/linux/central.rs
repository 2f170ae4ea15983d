//! The blocks that no thread has: per class a list of batches, and the chunks that new blocks are cut from.

use std::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{class, lock::Locked, regions::Regions, sys};

const FIRST_CHUNK: usize = 256 << 10;
const LAST_CHUNK: usize = 4 << 20;
/// What a class may have free before the pages of its further blocks are given back,
const FREE_MAX: usize = 2 << 20;
/// and from which size on that is done.
const GIVEN_BACK: usize = 64 << 10;

/// A cache line.
const LINE: usize = 64;

/// A free block.
#[repr(C)]
pub(super) struct Block {
    /// The next of the same list or batch.
    pub(super) next: *mut Block,
    /// In the first block of a batch on a central list: the next batch. In the second: how many they are.
    extra: *mut Block,
}

/// Blocks on their way between a thread and a central list.
pub(super) struct Batch {
    pub(super) head: *mut Block,
    pub(super) count: usize,
}

impl Batch {
    pub(super) const EMPTY: Self = Self { head: ptr::null_mut(), count: 0 };
}

/// The central list of one class. Batches go in and out whole, so that the lock is held for a few instructions.
pub(super) struct Central {
    lists: Locked<Lists>,
    /// How many blocks were ever cut for this class.
    carved: AtomicUsize,
}

struct Lists {
    batches: *mut Block,
    free: usize,
}

impl Central {
    pub(super) const fn new() -> Self {
        Self { lists: Locked::new(Lists { batches: ptr::null_mut(), free: 0 }), carved: AtomicUsize::new(0) }
    }

    /// Blocks that are not on this list: in use or in a thread's cache.
    pub(super) fn out(&self) -> usize {
        self.carved.load(Relaxed) - self.lists.with(|lists| lists.free)
    }

    /// A batch, or as many batches of one block as make up `wanted`.
    ///
    /// # Safety
    /// All blocks on the list are free ones of this class; the caller now has those it gets to itself.
    pub(super) unsafe fn take(&self, wanted: usize) -> Batch {
        self.lists.with(|lists| {
            let mut taken = Batch::EMPTY;
            while taken.count < wanted && !lists.batches.is_null() {
                let head = lists.batches;
                // SAFETY: blocks on the list are free, and the lock keeps everybody else from them.
                unsafe {
                    let second = (*head).next;
                    if second.is_null() {
                        lists.batches = (*head).extra;
                        (*head).next = taken.head;
                        taken = Batch { head, count: taken.count + 1 };
                    } else if taken.count == 0 {
                        lists.batches = (*head).extra;
                        taken = Batch { head, count: (*second).extra.addr() };
                    } else {
                        break;
                    }
                }
            }
            lists.free -= taken.count;
            taken
        })
    }

    /// # Safety
    /// Free blocks of this class, at least one, linked with a null at the end, that the caller has to itself.
    pub(super) unsafe fn give(&self, batch: Batch) {
        // SAFETY: the caller's promise: the blocks are ours to write to, and there are `count` of them.
        unsafe {
            let second = (*batch.head).next;
            if !second.is_null() {
                (*second).extra = ptr::without_provenance_mut(batch.count);
            }
        }
        self.lists.with(|lists| {
            // SAFETY: as above.
            unsafe { (*batch.head).extra = lists.batches };
            lists.batches = batch.head;
            lists.free += batch.count;
        });
    }

    /// [`give`](Self::give) for one block, of any class: gives its pages back when the class has much free.
    ///
    /// # Safety
    /// A block of class `class`, which is this one, that the caller has to itself.
    pub(super) unsafe fn give_one(&self, class: usize, block: *mut Block) {
        let size = class::of(class).size;
        if size >= GIVEN_BACK && self.lists.with(|lists| lists.free) * size >= FREE_MAX {
            let from = (block.addr() + size_of::<Block>()).next_multiple_of(sys::PAGE);
            let to = (block.addr() + size) & !(sys::PAGE - 1);
            if from < to {
                // SAFETY: whole pages inside a free block, without the two links at its start.
                unsafe { sys::forget_pages(block.cast::<u8>().add(from - block.addr()), to - from) };
            }
        }
        // SAFETY: the block is the caller's, as promised.
        unsafe {
            (*block).next = ptr::null_mut();
            self.give(Batch { head: block, count: 1 });
        }
    }

    /// Cuts new blocks for a thread: `wanted` of them, fewer when the chunk ends, more when they share a cache
    /// line, since another thread's writes to the same line would slow both.
    pub(super) fn carve_lines(
        &self,
        class: usize,
        wanted: usize,
        chunks: &Chunks,
        regions: &Regions,
    ) -> Batch {
        let class::Class { size, align, .. } = class::of(class);
        self.carve(class, align.max(LINE), wanted.max(LINE / size), chunks, regions)
    }

    /// Cuts one new block, as [`carve`](Self::carve).
    pub(super) fn carve_one(&self, class: usize, chunks: &Chunks, regions: &Regions) -> *mut Block {
        self.carve(class, class::of(class).align, 1, chunks, regions).head
    }

    /// Cuts up to `wanted` new blocks; none when there is no memory.
    ///
    /// They hold zeros but for the links, which every block of a batch has.
    fn carve(&self, class: usize, align: usize, wanted: usize, chunks: &Chunks, regions: &Regions) -> Batch {
        let size = class::of(class).size;
        let (start, count) = chunks.cut(size, align, wanted, regions);
        if count == 0 {
            return Batch::EMPTY;
        }
        self.carved.fetch_add(count, Relaxed);
        let mut head = ptr::null_mut();
        for place in (0..count).rev() {
            // SAFETY: `cut` gave `count` times `size` bytes, aligned to at least 16, to this thread alone.
            unsafe {
                let block = start.add(place * size).cast::<Block>();
                (*block).next = head;
                head = block;
            }
        }
        Batch { head, count }
    }
}

/// Where new blocks are cut from.
pub(super) struct Chunks {
    current: Locked<Chunk>,
}

struct Chunk {
    at: *mut u8,
    end: *mut u8,
    /// How much the last one had.
    len: usize,
}

impl Chunk {
    /// As many blocks up to `wanted` as are left, perhaps none.
    fn cut(&mut self, size: usize, align: usize, wanted: usize) -> (*mut u8, usize) {
        let gap = self.at.addr().next_multiple_of(align) - self.at.addr();
        let left = self.end.addr() - self.at.addr();
        let count = wanted.min(left.saturating_sub(gap) / size);
        if count == 0 {
            return (ptr::null_mut(), 0);
        }
        // SAFETY: inside the chunk, by the division above.
        unsafe {
            let start = self.at.add(gap);
            self.at = start.add(count * size);
            (start, count)
        }
    }

    fn next_len(&self) -> usize {
        (self.len * 2).clamp(FIRST_CHUNK, LAST_CHUNK)
    }
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { current: Locked::new(Chunk { at: ptr::null_mut(), end: ptr::null_mut(), len: 0 }) }
    }

    fn cut(&self, size: usize, align: usize, wanted: usize, regions: &Regions) -> (*mut u8, usize) {
        let (cut, len) = self.current.with(|chunk| (chunk.cut(size, align, wanted), chunk.next_len()));
        if cut.1 > 0 {
            return cut;
        }
        if size > len / 2 {
            // A chunk would be used up by it: a region of its own, and the chunk at hand stays.
            let start = regions.map(size.next_multiple_of(sys::PAGE));
            return (start, usize::from(!start.is_null()));
        }
        // Not under the lock: mapping takes long.
        let start = regions.map(len);
        if start.is_null() {
            return (start, 0);
        }
        let (cut, spare) = self.current.with(|chunk| {
            let cut = chunk.cut(size, align, wanted);
            if cut.1 > 0 {
                // Another thread was faster.
                return (cut, true);
            }
            // What is left of the old one was never touched, so that it costs nothing but addresses.
            // SAFETY: the end of the region just mapped.
            *chunk = Chunk { at: start, end: unsafe { start.add(len) }, len };
            (chunk.cut(size, align, wanted), false)
        });
        if spare {
            // SAFETY: just mapped, and nobody else has heard of it.
            unsafe { regions.unmap(start, len) };
        }
        cut
    }
}
