//! The C functions that the heap calls.

use std::{
    ffi::{c_int, c_void},
    ptr,
};

/// The largest page size of the target: what is mapped is a multiple of it.
pub(super) const PAGE: usize = if cfg!(target_arch = "x86_64") { 4096 } else { 65536 };

/// Up to 100 tries a waiting thread spins, up to 120 it yields, then it sleeps.
const SPINS: u32 = 100;
const YIELDS: u32 = 20;

const PROT_READ: c_int = 1;
const PROT_WRITE: c_int = 2;
const MAP_PRIVATE: c_int = 0x02;
const MAP_ANONYMOUS: c_int = 0x20;
const MREMAP_MAYMOVE: c_int = 1;
const MADV_DONTNEED: c_int = 4;

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn mmap(
        at: *mut c_void,
        len: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        from: i64,
    ) -> *mut c_void;
    fn munmap(start: *mut c_void, len: usize) -> c_int;
    fn mremap(start: *mut c_void, len: usize, new_len: usize, flags: c_int, ...) -> *mut c_void;
    fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int;
    fn sched_yield() -> c_int;
    fn nanosleep(time: *const Timespec, left: *mut Timespec) -> c_int;
}

fn failed(start: *mut c_void) -> bool {
    start.addr() == usize::MAX
}

/// Fresh zeroed memory, or null.
pub(super) fn map(len: usize) -> *mut u8 {
    // SAFETY: a new anonymous mapping; nothing that exists is touched.
    let start =
        unsafe { mmap(ptr::null_mut(), len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) };
    if failed(start) { ptr::null_mut() } else { start.cast() }
}

/// # Safety
/// The bytes are a mapping of [`map`]'s that nobody uses any more.
pub(super) unsafe fn unmap(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { munmap(start.cast(), len) };
}

/// Null when it can't be done; the old mapping then stays.
///
/// # Safety
/// The bytes are a mapping of [`map`]'s; on success its old address is no longer used.
pub(super) unsafe fn remap(start: *mut u8, len: usize, new_len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    let moved = unsafe { mremap(start.cast(), len, new_len, MREMAP_MAYMOVE) };
    if failed(moved) { ptr::null_mut() } else { moved.cast() }
}

/// Gives the pages back; they read as zero from then on. False when the system refuses, as it does for locked
/// memory (`mlockall`): then they stay as they were, perhaps not all.
///
/// # Safety
/// The bytes are whole pages of a mapping of ours, and their content is not needed.
pub(super) unsafe fn forget_pages(start: *mut u8, len: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { madvise(start.cast(), len, MADV_DONTNEED) == 0 }
}

/// One turn of a thread that waits for a lock.
///
/// It ends up sleeping, because a holder of lower real-time priority never runs while this thread spins or
/// yields on its processor.
pub(super) fn wait_a_turn(tries: u32) {
    if tries < SPINS {
        std::hint::spin_loop();
    } else if tries < SPINS + YIELDS {
        // SAFETY: takes nothing and always succeeds on Linux.
        unsafe { sched_yield() };
    } else {
        let time = Timespec { seconds: 0, nanoseconds: 50_000 };
        // SAFETY: a valid time; the rest after a signal is not asked for.
        unsafe { nanosleep(&raw const time, ptr::null_mut()) };
    }
}
