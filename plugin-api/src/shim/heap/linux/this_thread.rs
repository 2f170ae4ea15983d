//! Where a thread's cache is.
//!
//! It is a thread-local of the library, and finding one from inside a library is a call of `__tls_get_addr`:
//! twice per block that takes as long as all the rest. A host whose own thread-locals are at a fixed distance
//! from the thread pointer can lend a word of them, in which the address is kept.

use std::{
    arch::asm,
    cell::UnsafeCell,
    ptr,
    sync::atomic::{AtomicIsize, Ordering::Relaxed},
};

use super::cache::Cache;

thread_local! {
    // Without a destructor: one would pin the library.
    static CACHE: UnsafeCell<Cache> = const { UnsafeCell::new(Cache::new()) };
}

/// The word's distance from the thread pointer; zero when there is none.
static WORD: AtomicIsize = AtomicIsize::new(0);

/// This thread's cache, found the long way.
#[inline(always)]
pub(super) fn found() -> *mut Cache {
    CACHE.with(UnsafeCell::get)
}

/// This thread's cache if the word says it; null otherwise.
#[inline(always)]
pub(super) fn known() -> *mut Cache {
    match WORD.load(Relaxed) {
        0 => ptr::null_mut(),
        // SAFETY: `lend` was promised that the word is there.
        word => unsafe { read(word) },
    }
}

/// This thread's cache, the short way if there is one.
#[inline(always)]
pub(super) fn known_or_found() -> *mut Cache {
    let known = known();
    if known.is_null() { found() } else { known }
}

/// Says it from now on, if the cache is linked: then somebody will say `forget` before it is gone.
pub(super) fn remember(cache: *mut Cache) {
    let word = WORD.load(Relaxed);
    // SAFETY: the cache is this thread's; the word is there.
    unsafe {
        if word != 0 && Cache::is_linked(cache) {
            write(word, cache);
        }
    }
}

pub(super) fn forget() {
    let word = WORD.load(Relaxed);
    if word != 0 {
        // SAFETY: the word is there.
        unsafe { write(word, ptr::null_mut()) };
    }
}

/// # Safety
/// See `lend_word`.
pub(super) unsafe fn lend(word: isize) {
    WORD.store(word, Relaxed);
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn read(word: isize) -> *mut Cache {
    let value;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("mov {}, fs:[{}]", lateout(reg) value, in(reg) word,
            options(nostack, readonly, preserves_flags));
    }
    value
}

#[cfg(target_arch = "x86_64")]
unsafe fn write(word: isize, value: *mut Cache) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov fs:[{}], {}", in(reg) word, in(reg) value, options(nostack, preserves_flags)) };
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn read(word: isize) -> *mut Cache {
    let value;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("mrs {tmp}, tpidr_el0", "ldr {value}, [{tmp}, {word}]", tmp = out(reg) _,
            value = lateout(reg) value, word = in(reg) word, options(nostack, readonly, preserves_flags));
    }
    value
}

#[cfg(target_arch = "aarch64")]
unsafe fn write(word: isize, value: *mut Cache) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("mrs {tmp}, tpidr_el0", "str {value}, [{tmp}, {word}]", tmp = out(reg) _,
            value = in(reg) value, word = in(reg) word, options(nostack, preserves_flags));
    }
}
