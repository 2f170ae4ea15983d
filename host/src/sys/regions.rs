//! Memory straight from the system.

use std::ptr;

/// Maps `len` zeroed bytes; null when there is no memory.
pub(crate) fn map(len: usize) -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh mapping at a place of the system's choosing.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED { ptr::null_mut() } else { start.cast() }
}

/// Gives a region back.
///
/// # Safety
/// `map` or `remap` gave it, and nobody uses it any more.
pub(crate) unsafe fn unmap(start: *mut u8, len: usize) {
    // SAFETY: as our caller promises.
    unsafe { libc::munmap(start.cast(), len) };
}

/// Changes a region's length and perhaps its place; null when that can't be done, and then it stays.
///
/// # Safety
/// `map` or `remap` gave it with this length; when it moves, nobody uses the old place any more.
pub(crate) unsafe fn remap(start: *mut u8, len: usize, new_len: usize) -> *mut u8 {
    // SAFETY: as our caller promises.
    let moved = unsafe { libc::mremap(start.cast(), len, new_len, libc::MREMAP_MAYMOVE) };
    if moved == libc::MAP_FAILED { ptr::null_mut() } else { moved.cast() }
}
