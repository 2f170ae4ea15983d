//! The plugin's own heap, in place of the system's allocator.
//!
//! All its memory lies in regions that the host maps and lists, so that the host can unmap every one of them
//! once the library is gone, whatever the plugin leaked. Blocks go through a free list per size class and
//! thread; the lists are thread-locals without `Drop`, because one that has it pins the library.
//!
//! Before a host is attached, regions come from `mmap` directly and nothing is kept per thread.
//! On targets other than Linux with glibc this is the system's allocator.
//!
//! The regions of a forked child's heap are those of its parent, but a lock that another thread held at the
//! fork stays held: as with any allocator, such a child may only `exec`.

#[cfg(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod linux;
#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
use linux as imp;

#[cfg(not(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
mod elsewhere;
#[cfg(not(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
use elsewhere as imp;

#[allow(unused_imports, reason = "`release_this_thread` is for the benchmark, which includes this file")]
pub(crate) use imp::{attach, leave_threads, lend_word, release_this_thread, usage};

/// The allocator of one library. Its state is in this module's statics, so that all values are the same heap.
#[derive(Debug, Default)]
pub struct Heap {
    _private: (),
}

impl Heap {
    /// For `#[global_allocator] static HEAP: Heap = Heap::new();`
    #[must_use]
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

/// What a host does for the heap once it is attached.
///
/// None of these may allocate from the heap that it serves; the host has its own.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "elsewhere the heap is the system's"))]
pub(crate) struct RegionSource {
    /// Handed to each function; the heap doesn't look at it.
    pub(crate) context: *const (),
    /// Maps `len` bytes (a multiple of the page size): zeroed, page-aligned; null when there is no memory.
    pub(crate) map: unsafe extern "C" fn(context: *const (), len: usize) -> *mut u8,
    /// Gives a whole region back. It may be one that `adopt` was not told of: see [`attach`].
    pub(crate) unmap: unsafe extern "C" fn(context: *const (), start: *mut u8, len: usize),
    /// Grows or shrinks a region, maybe moving it; null when that can't be done (the old one then stays).
    pub(crate) remap:
        unsafe extern "C" fn(context: *const (), start: *mut u8, len: usize, new_len: usize) -> *mut u8,
    /// Takes over a region that was mapped before the host was attached.
    pub(crate) adopt: unsafe extern "C" fn(context: *const (), start: *mut u8, len: usize),
    /// Has `release` called on this thread when it ends, after all of the plugin's own destructors on it.
    ///
    /// Asked for again when the thread allocates after a `release`.
    pub(crate) at_thread_end: unsafe extern "C" fn(context: *const (), release: unsafe extern "C" fn()),
}

/// What the heap holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes in blocks that were allocated and not freed, each rounded up to its size class.
    pub(crate) live_bytes: usize,
    /// The number of those blocks.
    pub(crate) live_blocks: usize,
    /// Bytes in all regions.
    pub(crate) mapped_bytes: usize,
    /// Threads that have a cache: they were neither released nor have they ended.
    pub(crate) caches: usize,
}
