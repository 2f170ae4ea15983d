//! wasmtime, set up so that nothing of it is left in the process when its library is gone.

use wasmtime::{Config, Engine, Result};

/// Room on the stack of a call for the host functions that it calls, and all below them.
pub(crate) const HOST_STACK: usize = 1 << 20;

/// A fresh engine for one guest. `stack` is what the guest may use of the stack.
pub(crate) fn new(stack: usize) -> Result<Engine> {
    let mut config = Config::new();
    config
        // No handler for SIGSEGV and the like: it would be the process's, and point into this library. Every
        // access to memory is checked in the code instead.
        .signals_based_traps(false)
        // No tables for other unwinders either, which would be registered with the process.
        .native_unwind_info(false)
        .epoch_interruption(true)
        .max_wasm_stack(stack)
        .async_stack_size(stack + HOST_STACK)
        // One task at a time is inside a guest.
        .concurrency_support(false)
        // As accesses are checked anyway, a memory needs no gigabytes of address space around it. One that grows
        // may move.
        .memory_reservation(0)
        .memory_guard_size(0)
        .memory_reservation_for_growth(1 << 20)
        // What a memory begins with is copied there; no file descriptor is kept for it.
        .memory_init_cow(false)
        // Names of functions are told in a backtrace, offsets are not.
        .generate_address_map(false);
    Engine::new(&config)
}
