//! What wasmtime would do to the signals of the process, and is kept from.
#![allow(unsafe_code, reason = "no safe function tells a thread's alternate signal stack")]

use std::mem::MaybeUninit;

use wasm_runtime_tests::{Given, House};

/// Where this thread's alternate signal stack is, and how large.
fn alternate_stack() -> (usize, usize, i32) {
    let mut stack = MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: a null pointer changes nothing, and the other one may be written.
    let asked = unsafe { libc::sigaltstack(std::ptr::null(), stack.as_mut_ptr()) };
    assert_eq!(asked, 0);
    // SAFETY: it was just written.
    let stack = unsafe { stack.assume_init() };
    (stack.ss_sp as usize, stack.ss_size, stack.ss_flags)
}

#[tokio::test(flavor = "current_thread")]
async fn a_callers_alternate_stack_is_what_it_was() {
    let before = alternate_stack();
    assert_ne!(before.0, 0, "the standard library gives each of its threads one");
    let house = House::new();
    house.load("traps", &Given::guest("traps")).await;
    assert_eq!(house.call("traps", "count", "").await, "1");
    house.fails("traps", "go ahead", "").await;
    assert_eq!(alternate_stack(), before);
    house.gone("traps").await;
    assert_eq!(alternate_stack(), before);
}
