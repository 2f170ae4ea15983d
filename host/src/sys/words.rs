//! Words of every thread's that can be lent to plugins: found from the thread pointer in one instruction, where a
//! library's own thread-locals take a call.

use std::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::signals::image_of;

/// So many can be lent at a time; later plugins do without.
pub(crate) const WORDS: usize = 64;

/// A thread's words.
pub(crate) type Words = [AtomicUsize; WORDS];

thread_local! {
    static OWN: Words = const { [const { AtomicUsize::new(0) }; WORDS] };
}

/// Where this thread's words are; valid until it has ended.
pub(crate) fn own() -> *const Words {
    // Without a destructor, so it can be reached to the thread's very end.
    OWN.with(ptr::from_ref)
}

/// How many bytes from the thread pointer the words of every thread are; `None` when that is not the same in
/// every thread.
pub(crate) fn offset() -> Option<isize> {
    // The thread-locals of the program itself are in the static block, at one distance in all threads (Drepper, "ELF
    // Handling For Thread-Local Storage"). Those of a library that this host was linked into need not be.
    let here = image_of(offset as *const () as usize);
    if here.is_none() || here != image_of(program_headers()) {
        return None;
    }
    thread_pointer().map(|pointer| (own() as isize).wrapping_sub(pointer))
}

/// An address in the program's own image.
fn program_headers() -> usize {
    #[cfg(target_os = "linux")]
    // SAFETY: only asks.
    return unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    #[cfg(not(target_os = "linux"))]
    0
}

fn thread_pointer() -> Option<isize> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        let pointer: isize;
        // SAFETY: the first word of the block that `fs` leads to is its own address (System V ABI, AMD64).
        unsafe {
            std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags));
        }
        Some(pointer)
    }
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    {
        let pointer: isize;
        // SAFETY: reads a register that programs may read.
        unsafe {
            std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, nomem, preserves_flags));
        }
        Some(pointer)
    }
    #[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    None
}

/// Makes a thread's word null.
///
/// # Safety
/// `words` is of a thread that has not ended, and nobody runs code that uses this word.
pub(crate) unsafe fn clear(words: *const Words, word: usize) {
    // SAFETY: as our caller promises.
    if let Some(word) = unsafe { &*words }.get(word) {
        word.store(0, Relaxed);
    }
}
