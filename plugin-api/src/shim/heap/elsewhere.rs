//! Targets where a library is never unmapped: the system's allocator.

use std::alloc::{GlobalAlloc, Layout, System};

use super::{Heap, RegionSource, Usage};

// SAFETY: each function is the system allocator's, with the same arguments.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

/// Does nothing: there are no regions.
pub(crate) fn attach(_source: RegionSource) {}

/// Does nothing: there are no caches.
///
/// # Safety
/// None needed; elsewhere there is.
pub(crate) unsafe fn lend_word(_word: isize) {}

/// Does nothing: there are no caches.
///
/// # Safety
/// None needed; elsewhere there is.
#[allow(dead_code, reason = "for the benchmark, which includes this file")]
pub(crate) unsafe extern "C" fn release_this_thread() {}

/// Does nothing: there are no caches.
///
/// # Safety
/// None needed; elsewhere there is.
pub(crate) unsafe fn leave_threads() {}

/// Nothing is known of the system's allocator.
pub(crate) fn usage() -> Usage {
    Usage::default()
}
