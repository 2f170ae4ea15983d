//! Checks the host's gate, seats and waiting calls with loom, in all interleavings of two or three threads,
//! and in all the values that a weak memory may give them, with a bounded number of preemptions.
//!
//! The files are the host's own, by `#[path]`: `gate.rs`, `seat.rs`, `hold.rs`, `waiting.rs`, `lent_waker.rs`
//! and `call.rs` of its `boundary/`. What they import is here under the same names: `boundary/sync.rs` and
//! `sys.rs` are loom's primitives, `boundary/module.rs` and `models/plugin.rs` the least of a foreign module
//! and of a plugin. Not with `--cfg loom`, under which tokio would be another one.
//!
//! # What is modelled
//!
//! - The gate: entering, leaving (elsewhere, too), calls that come back, shutting (twice at once), the drain,
//!   and opening again; with slots of one's own, shared, and dealt anew when their thread ends.
//! - Seats and routes: callers while a route is closed or led elsewhere, the old seat is drained and given
//!   back, and another generation takes it.
//! - Calls that a swap holds: while it drains and switches, when it is given up, when there may be too many, and by one
//!   swap after the other; and a call that comes back meanwhile.
//! - Calls that wait: every poll of a `ForeignCall`; the plugin's waker, cloned on two threads, woken and
//!   dropped on any; the unload's cancelling at any moment of a call that is polled, dropped, forgotten or
//!   finished; and a cancelling that comes late.
//!
//! What a ticket keeps is a `Watched`: loom ends the model when it goes without having been left by all.
//! Lost wakes are deadlocks, and what is kept for ever a leak of an `Arc`.
//!
//! # The barriers
//!
//! loom knows fences, which the host's fallback is (`Barriers::Fences`). It cannot have one thread put a
//! fence into another, which is what `membarrier(2)` does: by its documentation every running thread passes,
//! between the call and its return, a state in which its memory accesses are as the program orders them. So
//! of a light barrier and a heavy one, either the light one comes before that state, and what its thread did
//! before it is seen after the heavy one; or it comes after, and its thread sees what was done before the
//! heavy one. That is what two full fences give, and less in one point: two *light* ones order nothing.
//! `Barriers::Asymmetric` says just that: the light barrier is a read-modify-write of a place of its thread's
//! own, the heavy one is one of every thread's, and two of the same place are ordered, one way or the other.
//!
//! It says a little more, too: the heavy one visits the places one after the other, so that a thread visited
//! late sees what one visited early had done. The gate does not build on that: whoever looks does so after
//! the barrier. That the compiler keeps the order around `compiler_fence` is beyond loom.
//!
//! # What else it does not see
//!
//! Interleavings with more preemptions than `tests/models.rs` says; more threads; a `SeqCst` load or store
//! that is ordered beyond acquire and release (loom has them weaker, which is the safe side); fairness.
//! parking_lot's and tokio's own code is not in it: their stand-ins do what is documented, and `try_lock` may
//! fail on an old value, as parking_lot's may. The lock of `Lending`, under which an unload cancels, is not
//! in it either.
//!
//! # Mutations
//!
//! Each of these was made in the host's file and found by the tests:
//!
//! - `Gate::enter`: no barrier; `leave`: no barrier; `leave`: never looks; `shut`: no barrier; `shut`: never
//!   looks.
//! - `Gate::look`: says `Empty` before the shutter's barrier; tells nobody.
//! - `Gate::inside`: reads what has entered before what has left.
//! - `Gate::count`: stores `Relaxed`; counts in the shared slot without a read-modify-write.
//! - `Gate::open`: stores `Relaxed`.
//! - `Gate::reopen`: does not say that it is open.
//! - `Hold::enter_or_wait`: refuses whoever a hold turned away that is over; asks which holds are over after its try.
//!   `Released::wake`: wakes nobody.
//! - `deal`: deals a slot whose owner still lives.
//! - `Gate::enter_nested`: lets in after the drain; counts after its lock.
//! - `Route::enter`: no second look at the route; turned away by a shut gate without one.
//! - `Route::enter_nested`: looks neither at the route nor at the generation.
//! - `Seats::give_back`: takes back what is not drained.
//! - `Waiting::cancel_if_asked`: no fence; wakes nobody; wakes only when it has cancelled (as it was until
//!   loom found a caller that nobody woke); the ticket goes before the future.
//! - `Waiting::set_waker`: keeps the first; `clear_waker`: keeps it; `kept_wake_by_ref`: gives its reference
//!   back.
//! - `WaitingCalls::add`: does not tell a newcomer; `cancel_all`: does not ask which run; asks and does not
//!   cancel.
//! - `ForeignCall`: no look for a cancel after the first poll; none after a later one; the ticket goes before
//!   the call's last use of the module; an abandoned future is not dropped, or after its ticket.
//! - `lent_clone`: a slot for each clone; a slot that the call does not know.
//!
//! Two are not found, since one other thing does the same work. `Route::enter_nested` without its second look
//! at the route: the generation's number tells it too. `ask_to_cancel` without its wake: `cancel_if_asked`
//! wakes as well, but for a canceller that is stuck in the drop of another call.
#![allow(unsafe_code, reason = "compiles files of the host's boundary, and stands in for a plugin")]

mod boundary;
pub mod models;
mod sys;
mod watched;

pub use sys::barrier::Barriers;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Runs `model` in all its interleavings with at most `preemptions` of them forced; tells how many there
/// were.
pub fn check(barriers: Barriers, preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> usize {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    let mut builder = loom::model::Builder::new();
    // `LOOM_MAX_PREEMPTIONS` overrules it.
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 10_000;
    let begun = std::time::Instant::now();
    builder.check(move || {
        count.fetch_add(1, Relaxed);
        boundary::sync::forget_globals();
        sys::barrier::begin(barriers);
        model();
    });
    let executions = executions.load(Relaxed);
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("{name}, {barriers:?}: {executions} executions in {:.1?}", begun.elapsed());
    executions
}
