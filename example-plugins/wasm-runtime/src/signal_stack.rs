//! Leaves the alternate signal stacks of the host's threads alone.
//!
//! Although it is told to install no signal handler, wasmtime gives each thread that enters a guest a larger alternate
//! stack to run handlers on, unless it finds one that is large enough; and when the thread ends, or the engine is
//! unloaded, it leaves the thread without any. The stack is the host's: its standard library reports an overflow on it.
//! So wasmtime's question is answered here, with a stack that is large enough, and nothing is changed.
#![allow(unsafe_code, reason = "it stands in for a function of the C library, in this library only")]

use std::ffi::c_int;

// Hidden, so that it is bound within this library and nobody else sees it. plugin-api's shim does the same.
#[cfg(all(not(test), target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
std::arch::global_asm!(
    ".globl sigaltstack",
    ".hidden sigaltstack",
    ".type sigaltstack,@function",
    "sigaltstack: jmp {answer}",
    answer = sym answer,
);
#[cfg(all(not(test), target_os = "linux", target_env = "gnu", target_arch = "aarch64"))]
std::arch::global_asm!(
    ".globl sigaltstack",
    ".hidden sigaltstack",
    ".type sigaltstack,@function",
    "sigaltstack: b {answer}",
    answer = sym answer,
);

/// Says that there is a stack of any size, and sets none.
///
/// # Safety
/// As of `sigaltstack(2)`: `old` is null, or may be written.
#[cfg_attr(test, allow(dead_code, reason = "a test binary has the C library's"))]
unsafe extern "C" fn answer(_: *const libc::stack_t, old: *mut libc::stack_t) -> c_int {
    if !old.is_null() {
        let large = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: usize::MAX };
        // SAFETY: the caller's duty.
        unsafe { old.write(large) };
    }
    0
}
