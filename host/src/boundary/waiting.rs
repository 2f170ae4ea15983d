//! A call that waits: the host-owned slot that its wakers refer to, and the way to cancel it.
//!
//! A waker given to a plugin refers to this slot. Waking it wakes the caller's task by reference; the
//! caller's waker itself is dropped only by the caller. The slot's lock is held while the plugin's future
//! is polled or dropped, so a future being polled is never cancelled. While the caller is woken, only those who
//! exchange its waker wait: its executor may poll the call inside `wake`.

use std::{
    cell::Cell,
    collections::HashMap,
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::{self, NonNull},
    task::Waker,
};

use oxide_plugin_api::ffi::call::{Call, WakerHeader, WakerVTable};

use super::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst, fence},
    thread_local,
};

/// One waiting call. The header comes first: a plugin's waker is a pointer to it.
#[repr(C)]
pub(crate) struct Waiting {
    _header: WakerHeader,
    /// The caller's waker; `None` once the call has ended. Locked to look at it, not while it wakes.
    waker: Mutex<Option<Arc<Waker>>>,
    /// Held while it wakes, and while it is exchanged, so that the caller is who drops it.
    turn: Mutex<()>,
    /// The caller is to be woken, by whoever has the turn.
    wanted: AtomicBool,
    parked: Mutex<Parked>,
    cancel: AtomicBool,
}

/// Where the plugin's future stands between two polls.
pub(crate) enum Parked {
    /// Its first poll has not returned yet.
    Unborn,
    /// In this record, which stays where it is until the future is dropped. The ticket goes with the future,
    /// so that a caller who never looks again holds nothing.
    Idle { record: Record, ticket: Ticket },
    /// Dropped, because the generation is going.
    Cancelled,
    /// It has ended, or its caller has dropped it.
    Ended,
}

/// The call's ticket, whichever kind of generation it is of.
pub(crate) type Ticket = Box<dyn Send>;

/// The address of a pinned call record.
#[derive(Clone, Copy)]
pub(crate) struct Record(pub(crate) NonNull<Call>);

// SAFETY: it is used only under the lock of the `Waiting` that holds it.
unsafe impl Send for Record {}

impl Waiting {
    pub(crate) fn new(caller: &Waker) -> Arc<Self> {
        Arc::new(Self {
            _header: WakerHeader { vtable: &KEPT },
            waker: Mutex::new(Some(Arc::new(caller.clone()))),
            turn: Mutex::new(()),
            wanted: AtomicBool::new(false),
            parked: Mutex::new(Parked::Unborn),
            cancel: AtomicBool::new(false),
        })
    }

    /// What a plugin's waker points to: the whole slot, seen as its first field.
    pub(crate) fn header(this: &Arc<Self>) -> *const WakerHeader {
        Arc::as_ptr(this).cast()
    }

    /// Locks the plugin's future for a poll or a drop.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock()
    }

    /// Sets whom to wake. Called by the caller only, so the old waker is dropped on its thread.
    pub(crate) fn set_waker(&self, caller: &Waker) {
        if !self.waker.lock().as_ref().is_some_and(|known| known.will_wake(caller)) {
            self.exchange(Some(Arc::new(caller.clone())));
        }
    }

    /// Wakes nobody any more. Called by the caller only.
    pub(crate) fn clear_waker(&self) {
        self.exchange(None);
    }

    fn exchange(&self, new: Option<Arc<Waker>>) {
        // Polled inside the wake, the turn is this thread's already, and the old waker is dropped at the wake's end.
        let turn = (!is_being_woken_here(self)).then(|| self.turn.lock());
        let old = std::mem::replace(&mut *self.waker.lock(), new);
        if turn.is_some() {
            drop(turn);
            drop(old);
            self.wake_if_wanted();
        }
    }

    /// Wakes the caller.
    fn wake(&self) {
        // Not a store: whoever wakes for another sees what that one has done before (found with loom).
        self.wanted.swap(true, SeqCst);
        self.wake_if_wanted();
    }

    /// Wakes the caller if that is wanted and nobody else is at it. To be called after every unlock of the turn.
    fn wake_if_wanted(&self) {
        loop {
            // On both sides, as in `cancel_if_asked`: either the turn is free by now, or whoever has it sees what
            // is wanted.
            fence(SeqCst);
            if !self.wanted.load(SeqCst) {
                return;
            }
            let Some(turn) = self.turn.try_lock() else { return };
            if self.wanted.swap(false, SeqCst) {
                let waker = self.waker.lock().clone();
                if let Some(waker) = waker {
                    being_woken_here(self, || calmly(|| waker.wake_by_ref()));
                }
            }
            drop(turn);
        }
    }

    /// Has the plugin's future dropped at the next `cancel_if_asked`, and wakes the caller, whose poll looks.
    fn ask_to_cancel(&self) {
        self.cancel.store(true, SeqCst);
        self.wake();
    }

    /// Locks the plugin's future, unless somebody is cancelling it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Parked>> {
        self.parked.try_lock()
    }

    /// Does what `ask_to_cancel` asked for, unless the future is being polled. To be called after every
    /// unlock.
    pub(crate) fn cancel_if_asked(&self) {
        // On both sides: either the canceller's look at the lock comes after the poller's unlock, or the
        // poller's look at `cancel`, which comes after that, sees what was asked. The lock itself orders
        // neither.
        fence(SeqCst);
        if !self.cancel.load(SeqCst) {
            return;
        }
        let Some(mut parked) = self.parked.try_lock() else { return };
        let ticket = match std::mem::replace(&mut *parked, Parked::Cancelled) {
            Parked::Idle { record, ticket } => {
                // SAFETY: `Idle` says that the record is pinned and holds a future; the lock makes it ours.
                unsafe { drop_future(record) };
                Some(ticket)
            }
            other => {
                *parked = other;
                None
            }
        };
        drop(parked);
        drop(ticket);
        // Also when the caller has cancelled it before us: its poll may have met our lock and have come back
        // pending, and nobody else would wake it (found with loom).
        self.wake();
    }
}

/// A call whose caller is being woken on this thread, and those further out.
struct Woken {
    waiting: *const Waiting,
    outer: *const Woken,
}

thread_local! {
    static WOKEN: Cell<*const Woken> = const { Cell::new(ptr::null()) };
}

/// Runs `wake`, which does not unwind, with `waiting` as the call that is being woken on this thread.
fn being_woken_here(waiting: &Waiting, wake: impl FnOnce()) {
    let outer = WOKEN.with(Cell::get);
    let woken = Woken { waiting, outer };
    WOKEN.with(|innermost| innermost.set(&raw const woken));
    wake();
    WOKEN.with(|innermost| innermost.set(outer));
}

fn is_being_woken_here(waiting: &Waiting) -> bool {
    let mut woken = WOKEN.with(Cell::get);
    while !woken.is_null() {
        // SAFETY: it is on this thread's stack, below, and is unset before it goes.
        let here = unsafe { &*woken };
        if ptr::eq(here.waiting, waiting) {
            return true;
        }
        woken = here.outer;
    }
    false
}

/// Runs a caller's waker: what panics in it, or in the drop of its panic's payload, must not unwind into a
/// plugin.
pub(crate) fn calmly(wake: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(wake))
        && let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload)))
    {
        std::mem::forget(second);
    }
}

/// Drops the plugin's future in `record`, if there is one.
///
/// # Safety
/// The record is valid, nobody else uses it, and a ticket keeps the generation.
pub(crate) unsafe fn drop_future(record: Record) {
    let call = record.0.as_ptr();
    // SAFETY: as the caller promises.
    if let Some(drop) = unsafe { (*call).drop.take() } {
        // SAFETY: the plugin set it for the future that stands in this record. It never unwinds.
        unsafe { drop(call) };
    }
}

/// The wakers that a plugin keeps: counted references to a [`Waiting`].
static KEPT: WakerVTable =
    WakerVTable { clone: kept_clone, wake: kept_wake, wake_by_ref: kept_wake_by_ref, drop: kept_drop };

unsafe extern "C" fn kept_clone(header: *const WakerHeader) -> *const WakerHeader {
    // SAFETY: a kept waker is a counted reference to a `Waiting`, whose first field the header is.
    unsafe { Arc::increment_strong_count(header.cast::<Waiting>()) };
    header
}

unsafe extern "C" fn kept_wake(header: *const WakerHeader) {
    // SAFETY: as in `kept_clone`; this gives the reference back.
    unsafe { Arc::from_raw(header.cast::<Waiting>()) }.wake();
}

unsafe extern "C" fn kept_wake_by_ref(header: *const WakerHeader) {
    // SAFETY: as in `kept_clone`; the reference stays the plugin's.
    ManuallyDrop::new(unsafe { Arc::from_raw(header.cast::<Waiting>()) }).wake();
}

unsafe extern "C" fn kept_drop(header: *const WakerHeader) {
    // SAFETY: as in `kept_clone`; this gives the reference back.
    drop(unsafe { Arc::from_raw(header.cast::<Waiting>()) });
}

/// The calls of one generation that wait, so that an unload can cancel them.
#[derive(Default)]
pub(crate) struct WaitingCalls {
    calls: Mutex<Calls>,
    next: AtomicU64,
}

/// Which run of a module a call is of: a run lasts from one start to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run(u64);

#[derive(Default)]
struct Calls {
    run: Run,
    waiting: HashMap<u64, Arc<Waiting>>,
    /// All were told to go: so is whatever begins to wait from now on.
    cancelled: bool,
}

impl WaitingCalls {
    pub(crate) fn add(&self, waiting: Arc<Waiting>) -> u64 {
        let number = self.next.fetch_add(1, SeqCst);
        let mut calls = self.calls.lock();
        if calls.cancelled {
            // It was in its first poll when the others were told; its poller looks at this next.
            waiting.cancel.store(true, SeqCst);
        }
        calls.waiting.insert(number, waiting);
        number
    }

    pub(crate) fn remove(&self, number: u64) {
        self.calls.lock().waiting.remove(&number);
    }

    /// The present run, whose calls are to be cancelled.
    pub(crate) fn run(&self) -> Run {
        self.calls.lock().run
    }

    /// Calls may wait again, because the gate is about to be opened: those of the next run.
    pub(crate) fn reopen(&self) {
        let mut calls = self.calls.lock();
        calls.cancelled = false;
        calls.run.0 += 1;
    }

    /// Cancels all of `run` that wait, also those that begin to until `reopen`; those being polled are
    /// cancelled when their poll is over. Tells how many there were. Once that run is over, which may be when
    /// this was asked for long ago and had to wait for a thread, it does nothing.
    ///
    /// The caller holds a ticket of the generation.
    pub(crate) fn cancel_all(&self, run: Run) -> usize {
        let waiting: Vec<_> = {
            let mut calls = self.calls.lock();
            if calls.run != run {
                return 0;
            }
            calls.cancelled = true;
            calls.waiting.drain().map(|(_, waiting)| waiting).collect()
        };
        // All are told first: one whose future blocks when it is dropped must not keep the others waiting.
        for call in &waiting {
            call.ask_to_cancel();
        }
        for call in &waiting {
            call.cancel_if_asked();
        }
        waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The drain's deadline may pass while a call is in its first poll: it must not wait on for ever.
    #[test]
    fn a_call_that_begins_to_wait_after_all_were_cancelled_is_cancelled_too() {
        let calls = WaitingCalls::default();
        let early = Waiting::new(Waker::noop());
        calls.add(early.clone());
        assert_eq!(calls.cancel_all(calls.run()), 1);
        let late = Waiting::new(Waker::noop());
        calls.add(late.clone());
        assert!(early.cancel.load(SeqCst) && late.cancel.load(SeqCst));

        calls.reopen();
        let next = Waiting::new(Waker::noop());
        calls.add(next.clone());
        assert!(!next.cancel.load(SeqCst), "after a new start calls wait as before");
    }

    /// The caller's poll may meet the lock of a canceller that finds nothing to do, since the caller itself
    /// was first, and come back pending: it must be woken by that one.
    #[test]
    fn a_canceller_that_comes_second_wakes_the_caller_too() {
        struct Caller(AtomicBool);
        impl std::task::Wake for Caller {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, SeqCst);
            }
        }
        let caller = std::sync::Arc::new(Caller(AtomicBool::new(false)));
        let waiting = Waiting::new(&caller.clone().into());
        waiting.cancel.store(true, SeqCst);
        *waiting.lock() = Parked::Cancelled;
        waiting.cancel_if_asked();
        assert!(caller.0.load(SeqCst));
    }

    /// The cancelling waits for a life thread; by the time it has one, the module may have been started
    /// again.
    #[test]
    fn a_cancelling_that_comes_late_leaves_the_next_run_alone() {
        let calls = WaitingCalls::default();
        let asked_for = calls.run();
        calls.reopen();
        let next = Waiting::new(Waker::noop());
        calls.add(next.clone());
        assert_eq!(calls.cancel_all(asked_for), 0);
        let later = Waiting::new(Waker::noop());
        calls.add(later.clone());
        assert!(!next.cancel.load(SeqCst) && !later.cancel.load(SeqCst));
        assert_eq!(calls.cancel_all(calls.run()), 2);
    }

    /// A caller's executor may poll the call inside `wake`: that sets another waker, and clears it at the end.
    #[test]
    fn a_call_may_be_polled_inside_the_wake() {
        struct Caller(std::sync::Mutex<Option<Arc<Waiting>>>, AtomicU64);
        impl std::task::Wake for Caller {
            fn wake(self: std::sync::Arc<Self>) {
                self.1.fetch_add(1, SeqCst);
                let Some(waiting) = self.0.lock().unwrap().take() else { return };
                waiting.set_waker(&self.clone().into());
                // What is to be woken meanwhile is woken afterwards.
                waiting.wake();
                assert_eq!(self.1.load(SeqCst), 1);
                waiting.set_waker(Waker::noop());
                waiting.set_waker(&self.into());
            }
        }
        let caller = std::sync::Arc::new(Caller(std::sync::Mutex::new(None), AtomicU64::new(0)));
        let waiting = Waiting::new(&caller.clone().into());
        *caller.0.lock().unwrap() = Some(waiting.clone());
        waiting.wake();
        assert_eq!(caller.1.load(SeqCst), 2);
        waiting.clear_waker();
        waiting.wake();
        assert_eq!((caller.1.load(SeqCst), std::sync::Arc::strong_count(&caller)), (2, 1));
    }
}
