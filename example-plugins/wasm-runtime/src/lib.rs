//! A plugin that runs a WASM guest as a module, on [wasmtime](https://docs.rs/wasmtime). One load of it is one guest.
//! docs/wasm.md is about the guests; this is about what becomes of them here.
//!
//! - **Calls.** An instance is single-threaded, so calls come to it one after the other. A guest that waits for the bus frees its caller's thread, and so does one that computes, at each tick of its clock.
//! - **Limits.** Memory, tables, instances, stack, and the time of each call (`config.rs`).
//! - **Traps.** A call that traps, or is ended for its limits, fails with the reason. Nothing that the instance did up
//!   to then is trusted: it is dropped, and the next call finds a fresh one, configured and started as the first
//!   was. The guest's state is lost with it, and the log says so.
//! - **Callers that go away.** A call that is inside the guest when its caller's future is dropped runs to its end, in
//!   a task of the host's, and its answer is dropped. A `stop` ends it where it stands.
//! - **The end.** No thread, no signal handler and no table of the process's is left: the time limit is a task on the
//!   host's threads (`ticker.rs`), and wasmtime is set up to do without the rest (`engine.rs`, `signal_stack.rs`). What
//!   is left on each thread that was inside a guest is one thread-local of wasmtime's, which the host has destroyed.

mod cache;
mod call;
mod compiled;
mod component;
mod config;
mod core;
mod engine;
mod fault;
mod host;
mod instance;
mod life;
mod limiter;
mod module;
mod signal_stack;
mod store;
#[cfg(test)]
mod tests;
mod ticker;
mod turns;
#[cfg(feature = "wasi")]
mod wasi;

use oxide_plugin_api::prelude::*;

export_wasm_module!(module::WasmRuntime);
