//! The plugin's heap against the system's allocator, in one run, turn by turn.
//!
//! ```text
//! cargo build --release -p oxide-plugin-api --example heap_cdylib
//! cargo bench -p oxide-plugin-api --bench heap [-- PART-OF-A-NAME]
//! ```
//!
//! Each figure is a median of many rounds; in a round each allocator does the same work, the one right after
//! the other. A ratio below 1 means that the heap is faster. The library's column is the one that counts.
#![allow(unsafe_code, reason = "opens a library")]

#[path = "heap/work.rs"]
mod work;

use std::{
    cell::Cell,
    ffi::{CString, c_char, c_int, c_void},
    os::unix::ffi::OsStrExt as _,
    ptr,
    sync::Barrier,
    thread,
};

use work::{NAMES, PAIRED};

type Run = extern "C" fn(ours: bool, work: usize, role: u64, iterations: u64) -> u64;

type Lend = extern "C" fn(word: isize);

/// How long one allocator's turn of a round takes, roughly.
const TURN: u64 = 2_000_000;
const ROUNDS: usize = 61;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

thread_local! {
    /// What the program lends the heap of the library.
    static WORD: Cell<*mut ()> = const { Cell::new(ptr::null_mut()) };
}

/// How far it is from the thread pointer. A program's thread-locals are that far on every thread.
#[cfg(target_arch = "x86_64")]
fn word() -> isize {
    let thread: isize;
    // SAFETY: the thread pointer is also in the word that it points to.
    unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) thread) };
    WORD.with(|word| ptr::from_ref(word).addr() as isize - thread)
}

#[cfg(not(target_arch = "x86_64"))]
fn word() -> isize {
    let thread: isize;
    // SAFETY: reads a register.
    unsafe { std::arch::asm!("mrs {}, tpidr_el0", out(reg) thread) };
    WORD.with(|word| ptr::from_ref(word).addr() as isize - thread)
}

/// The library's workloads, and what lends it a word.
fn library() -> Option<(Run, Lend)> {
    let program = std::env::current_exe().ok()?;
    let path = program.parent()?.parent()?.join("examples/libheap_cdylib.so");
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: our own example; the function has this type, and the library is never closed.
    unsafe {
        let library = dlopen(path.as_ptr(), 2);
        if library.is_null() {
            return None;
        }
        let run = dlsym(library, c"oxide_bench_heap".as_ptr());
        let lend = dlsym(library, c"oxide_bench_heap_lend".as_ptr());
        let found = !run.is_null() && !lend.is_null();
        found.then(|| {
            (std::mem::transmute::<*mut c_void, Run>(run), std::mem::transmute::<*mut c_void, Lend>(lend))
        })
    }
}

/// Nanoseconds per iteration, of the slower thread.
fn measure(run: Run, ours: bool, work: usize, threads: u64, iterations: u64) -> f64 {
    let barrier = Barrier::new(threads as usize);
    let taken = thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|role| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    run(ours, work, role, iterations)
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().expect("no panic")).max()
    });
    taken.unwrap_or(0) as f64 / iterations as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(run: Run, work: usize, threads: u64) -> String {
    let mut iterations = 4;
    while measure(run, false, work, threads, iterations) * (iterations as f64) < TURN as f64 / 2.0 {
        iterations *= 2;
    }
    measure(run, true, work, threads, iterations);
    let (mut ours, mut systems, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let first = measure(run, round % 2 == 0, work, threads, iterations);
        let second = measure(run, round % 2 != 0, work, threads, iterations);
        let (our, system) = if round % 2 == 0 { (first, second) } else { (second, first) };
        ours.push(our);
        systems.push(system);
        ratios.push(our / system);
    }
    format!("{:>9.1} {:>9.1} {:>5.2}", median(ours), median(systems), median(ratios))
}

fn main() {
    // cargo passes `--bench`, and `--test` when it only wants to see that it runs.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let library = library();
    if library.is_none() {
        println!("no library: build the example `heap_cdylib` in the same profile first\n");
    }
    let title = format!("{:>9} {:>9} {:>5}", "heap ns", "system", "ratio");
    println!("{:34}{:^26}{:^27}{:^26}", "", "in a library", "with a word lent", "in a program");
    println!("{:33} {title}   {title}   {title}", "");
    for (work, name) in NAMES.iter().enumerate() {
        if wanted.as_ref().is_some_and(|wanted| !name.contains(wanted.as_str())) {
            continue;
        }
        for threads in [1, 2] {
            if work == PAIRED && threads == 1 {
                continue;
            }
            let title = format!("{name}, {threads} thread{}", if threads == 1 { "" } else { "s" });
            let inside = library.map_or_else(
                || format!("{:53}", ""),
                |(run, lend)| {
                    lend(0);
                    let alone = compare(run, work, threads);
                    lend(word());
                    format!("{alone}   {}", compare(run, work, threads))
                },
            );
            println!("{title:33} {inside}   {}", compare(work::run, work, threads));
        }
    }
}
