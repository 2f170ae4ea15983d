//! The workloads in a library, as a plugin is one: there a thread-local is a call of `__tls_get_addr`.
#![allow(unsafe_code, reason = "the allocators are called directly")]
#![allow(missing_docs, reason = "a part of a benchmark")]

#[allow(dead_code, reason = "the names are for the benchmark itself")]
mod work;

/// See `work::run`.
// SAFETY: no other symbol of this name.
#[unsafe(no_mangle)]
pub extern "C" fn oxide_bench_heap(ours: bool, work: usize, role: u64, iterations: u64) -> u64 {
    work::run(ours, work, role, iterations)
}

/// See `work::lend`.
// SAFETY: no other symbol of this name.
#[unsafe(no_mangle)]
pub extern "C" fn oxide_bench_heap_lend(word: isize) {
    work::lend(word);
}
