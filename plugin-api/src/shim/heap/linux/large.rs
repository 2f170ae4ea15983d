//! Blocks of more than 1 MiB.
//!
//! Each begins a region of its own. A few such regions are *spans*: longer than their block, so that it can
//! grow in place, and kept when the block is freed, because mapping and touching memory anew costs hundreds of
//! times what a free list does. Which blocks lie in a span is in a small table; all others are as long as
//! their layout says.

use std::ptr;

use super::{lock::Locked, regions::Regions, sys};

/// How many spans there are at most.
const SPANS: usize = 16;
/// Larger blocks are never in a span.
const SPANNED: usize = 16 << 20;
/// The length of a span: four times the block's, within these limits. Pages not touched cost nothing.
const SPAN_MIN: usize = 8 << 20;
const SPAN_MAX: usize = 64 << 20;
/// How much memory spans without a block keep, all together.
const IDLE_MAX: usize = 16 << 20;

#[derive(Clone, Copy)]
struct Span {
    start: *mut u8,
    len: usize,
    /// What lies behind this many bytes has never been written to.
    dirty: usize,
    used: bool,
}

struct Table {
    spans: [Span; SPANS],
    count: usize,
    /// The sum of `dirty` of all unused spans.
    idle: usize,
    /// All large blocks, in spans or not, and their bytes.
    blocks: usize,
    bytes: usize,
}

impl Table {
    fn known(&mut self) -> &mut [Span] {
        &mut self.spans[..self.count]
    }

    fn used(&mut self, start: *mut u8) -> Option<usize> {
        self.known().iter().position(|span| span.used && span.start == start)
    }

    /// The smallest unused one that is long enough.
    fn take(&mut self, len: usize) -> Option<Span> {
        let fitting = self.known().iter_mut().filter(|span| !span.used && span.len >= len);
        let span = fitting.min_by_key(|span| span.len)?;
        let taken = *span;
        span.used = true;
        span.dirty = span.dirty.max(len);
        self.idle -= taken.dirty;
        self.count_in(len);
        Some(taken)
    }

    fn count_in(&mut self, len: usize) {
        self.blocks += 1;
        self.bytes += len;
    }

    fn remove(&mut self, place: usize) -> Span {
        self.count -= 1;
        let removed = self.spans[place];
        self.spans[place] = self.spans[self.count];
        removed
    }

    /// False when the table is full.
    fn insert(&mut self, span: Span) -> bool {
        if self.count == SPANS {
            return false;
        }
        self.spans[self.count] = span;
        self.count += 1;
        true
    }
}

/// The large blocks of a heap.
pub(super) struct Large {
    table: Locked<Table>,
}

fn pages(size: usize) -> usize {
    size.next_multiple_of(sys::PAGE)
}

fn span_len(len: usize) -> usize {
    (len * 4).clamp(SPAN_MIN, SPAN_MAX)
}

impl Large {
    pub(super) const fn new() -> Self {
        let none = Span { start: ptr::null_mut(), len: 0, dirty: 0, used: false };
        let table = Table { spans: [none; SPANS], count: 0, idle: 0, blocks: 0, bytes: 0 };
        Self { table: Locked::new(table) }
    }

    /// How many blocks there are, and their bytes.
    pub(super) fn usage(&self) -> (usize, usize) {
        self.table.with(|table| (table.blocks, table.bytes))
    }

    /// Null when there is no memory.
    pub(super) fn alloc(&self, size: usize, zero: bool, regions: &Regions) -> *mut u8 {
        let len = pages(size);
        let mut start = ptr::null_mut();
        if len <= SPANNED {
            if let Some(span) = self.table.with(|table| table.take(len)) {
                if zero {
                    // SAFETY: the span is this thread's alone, and at least `len` long.
                    unsafe { span.start.write_bytes(0, span.dirty.min(len)) };
                }
                return span.start;
            }
            start = self.map_span(len, regions);
        }
        if start.is_null() {
            start = regions.map(len);
        }
        if !start.is_null() {
            self.table.with(|table| table.count_in(len));
        }
        start
    }

    /// A new span with a block of `len`; null when the table is full of used ones.
    fn map_span(&self, len: usize, regions: &Regions) -> *mut u8 {
        // None of the unused ones was long enough.
        let (full, short) = self.table.with(|table| {
            if table.count < SPANS {
                return (false, None);
            }
            let Some(place) = table.known().iter().position(|span| !span.used) else { return (true, None) };
            let short = table.remove(place);
            table.idle -= short.dirty;
            (false, Some(short))
        });
        if let Some(short) = short {
            // SAFETY: the region of a span without a block, which nobody can find any more.
            unsafe { regions.unmap(short.start, short.len) };
        }
        if full {
            return ptr::null_mut();
        }
        let span = Span { start: regions.map(span_len(len)), len: span_len(len), dirty: len, used: true };
        if span.start.is_null() || self.table.with(|table| table.insert(span)) {
            return span.start;
        }
        // Other threads have filled the table meanwhile.
        // SAFETY: just mapped, and nobody else has heard of it.
        unsafe { regions.unmap(span.start, span.len) };
        ptr::null_mut()
    }

    /// # Safety
    /// From [`alloc`](Self::alloc) or [`resize`](Self::resize) with this size, and not used any more.
    pub(super) unsafe fn free(&self, start: *mut u8, size: usize, regions: &Regions) {
        let len = pages(size);
        let (spanned, surplus) = self.table.with(|table| {
            table.blocks -= 1;
            table.bytes -= len;
            let Some(place) = table.used(start) else { return (false, None) };
            let span = &mut table.spans[place];
            if table.idle + span.dirty > IDLE_MAX {
                return (true, Some(span.dirty));
            }
            span.used = false;
            table.idle += span.dirty;
            (true, None)
        });
        if !spanned {
            // SAFETY: the caller's promise; outside the table a region is as long as its layout says.
            unsafe { regions.unmap(start, len) };
        } else if let Some(dirty) = surplus {
            // SAFETY: the span is still marked as used, so that nobody else gets it meanwhile.
            let left = if unsafe { sys::forget_pages(start, dirty) } { 0 } else { dirty };
            self.table.with(|table| {
                if let Some(place) = table.used(start) {
                    table.spans[place].dirty = left;
                    table.spans[place].used = false;
                    table.idle += left;
                }
            });
        }
    }

    /// Null when it can't be done; the block then stays as it was.
    ///
    /// # Safety
    /// As for [`free`](Self::free), unless it returns null.
    pub(super) unsafe fn resize(
        &self,
        start: *mut u8,
        size: usize,
        new_size: usize,
        regions: &Regions,
    ) -> *mut u8 {
        let (len, new_len) = (pages(size), pages(new_size));
        let (fits, outgrown) = self.table.with(|table| {
            let Some(place) = table.used(start) else { return (len == new_len, None) };
            let span = &mut table.spans[place];
            if new_len > span.len {
                let outgrown = *span;
                // Keeps the place. The old address may soon be somebody else's.
                span.start = ptr::null_mut();
                return (false, Some(outgrown));
            }
            span.dirty = span.dirty.max(new_len);
            (true, None)
        });
        let moved = if fits {
            start
        } else if let Some(span) = outgrown {
            // SAFETY: the caller's promise, and nobody can find the span.
            unsafe { self.grow_span(span, new_len, regions) }
        } else {
            // SAFETY: the caller's promise; outside the table a region is as long as its layout says.
            unsafe { regions.remap(start, len, new_len) }
        };
        if !moved.is_null() {
            self.table.with(|table| table.bytes = table.bytes.wrapping_add(new_len).wrapping_sub(len));
        }
        moved
    }

    /// # Safety
    /// As for [`resize`](Self::resize); in the span's place in the table there is a null.
    unsafe fn grow_span(&self, span: Span, new_len: usize, regions: &Regions) -> *mut u8 {
        let still_a_span = new_len <= SPANNED;
        let len = if still_a_span { span_len(new_len) } else { new_len };
        // SAFETY: the caller's promise.
        let start = unsafe { regions.remap(span.start, span.len, len) };
        self.table.with(|table| {
            // Perhaps the place of another thread's span that is growing too: there are as many as such spans.
            if let Some(place) = table.used(ptr::null_mut()) {
                if start.is_null() {
                    table.spans[place] = span;
                } else if still_a_span {
                    table.spans[place] = Span { start, len, dirty: new_len, used: true };
                } else {
                    table.remove(place);
                }
            }
        });
        start
    }
}
