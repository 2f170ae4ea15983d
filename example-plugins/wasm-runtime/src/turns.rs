//! Whose turn it is. An instance is single-threaded: one is inside, and the others wait in a line.
//!
//! No async mutex: whoever finds nobody inside and nobody waiting pays for one compare-and-swap here, and another one
//! when it leaves. What keeps the clock for those who are inside (`ticker.rs`) looks at the same word.
//! Everything else happens under the line's lock.
#![allow(unsafe_code, reason = "what is kept here is reached by whoever has the turn, without a lock")]

use std::{
    cell::UnsafeCell,
    collections::VecDeque,
    ops::Deref,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU8,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
};

/// Somebody is inside, or has been given the turn.
const TAKEN: u8 = 1;
/// Somebody waits in the line.
const WAITED_FOR: u8 = 2;
/// The clock rests.
const RESTING: u8 = 4;

/// What one at a time may have, and the line of those who wait for it.
pub(crate) struct Turns<T> {
    /// Without the line's lock, it goes from 0 to `TAKEN` and back, and nowhere else.
    state: AtomicU8,
    /// Of whoever set `TAKEN`.
    kept: UnsafeCell<Option<T>>,
    line: Mutex<Line>,
}

// SAFETY: `kept` is touched by one at a time, and goes from thread to thread as a whole.
unsafe impl<T: Send> Sync for Turns<T> {}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiter>,
    /// Who has been given the turn and does not know yet.
    next: Option<u64>,
    numbers: u64,
    /// The clock's, while it rests.
    clock: Option<Waker>,
}

struct Waiter {
    number: u64,
    waker: Waker,
    /// It was told that the turn is free.
    told: bool,
    /// Somebody else was quicker then. It is not passed over twice.
    passed_over: bool,
}

/// The turn, and what was kept, unless it was lost. Its end lets the next one in.
///
/// Who leaves in the middle has taken out what was kept, so that nobody gets an instance whose last call did not end.
pub(crate) struct Turn<T, P: Deref<Target = Turns<T>>> {
    turns: P,
    pub(crate) kept: Option<T>,
}

/// A place in the line.
pub(crate) struct Wait<'a, T> {
    turns: &'a Turns<T>,
    /// Once it has been polled.
    number: Option<u64>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { state: AtomicU8::new(0), kept: UnsafeCell::new(None), line: Mutex::default() }
    }
}

impl<T> Turns<T> {
    /// The turn, when nobody is inside.
    #[inline]
    pub(crate) fn now(&self) -> Option<Turn<T, &Self>> {
        let taken = self.state.compare_exchange(0, TAKEN, Acquire, Relaxed).is_ok() || self.taken_slowly();
        taken.then(|| self.turn())
    }

    /// A place at the end of the line, from its first poll on.
    pub(crate) fn wait(&self) -> Wait<'_, T> {
        Wait { turns: self, number: None }
    }

    /// Whether anybody is inside.
    pub(crate) fn taken(&self) -> bool {
        self.state.load(SeqCst) & TAKEN != 0
    }

    /// Ready when somebody is inside, or about to be; wakes the clock when somebody comes.
    pub(crate) fn poll_taken(&self, context: &Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut line = self.lock();
        match self.state.compare_exchange(0, RESTING, SeqCst, SeqCst) {
            Ok(_) | Err(RESTING) => {
                line.clock = Some(waker);
                Poll::Pending
            }
            Err(_) => Poll::Ready(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For whoever has just set `TAKEN`.
    #[inline]
    fn turn(&self) -> Turn<T, &Self> {
        // SAFETY: only the one who has the turn comes here; the one before has put it there before it let go of
        // `TAKEN`, and it was let go of before it was set again.
        let kept = unsafe { (*self.kept.get()).take() };
        Turn { turns: self, kept }
    }

    #[cold]
    fn taken_slowly(&self) -> bool {
        let mut line = self.lock();
        let take = |state| (state & TAKEN == 0).then_some(state & !RESTING | TAKEN);
        let taken = self.state.fetch_update(SeqCst, SeqCst, take).is_ok();
        let clock = if taken { line.clock.take() } else { None };
        drop(line);
        wake(clock);
        taken
    }

    #[cold]
    fn let_next_in(&self) {
        let mut line = self.lock();
        let next = line.let_go(&self.state);
        drop(line);
        wake(next);
    }
}

impl Line {
    /// Lets go of the turn: gives it to the first of the line if that was passed over, and tells it if not.
    fn let_go(&mut self, state: &AtomicU8) -> Option<Waker> {
        let Some(first) = self.waiting.front_mut() else {
            state.fetch_and(!(TAKEN | WAITED_FOR), SeqCst);
            return None;
        };
        first.told = true;
        let waker = std::mem::replace(&mut first.waker, Waker::noop().clone());
        if first.passed_over {
            self.next = Some(first.number);
            self.waiting.pop_front();
            // It is not set when this comes from one who has left the line.
            state.fetch_or(TAKEN, SeqCst);
            if self.waiting.is_empty() {
                state.fetch_and(!WAITED_FOR, SeqCst);
            }
        } else {
            state.fetch_and(!TAKEN, SeqCst);
        }
        Some(waker)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl<T> Turn<T, &Turns<T>> {
    /// The same turn, for one who keeps what it is of.
    pub(crate) fn owned(mut self, turns: Arc<Turns<T>>) -> Turn<T, Arc<Turns<T>>> {
        debug_assert!(std::ptr::eq(self.turns, &raw const *turns));
        let kept = self.kept.take();
        std::mem::forget(self);
        Turn { turns, kept }
    }
}

impl<T, P: Deref<Target = Turns<T>>> Drop for Turn<T, P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this is the turn.
        unsafe { *self.turns.kept.get() = self.kept.take() };
        if self.turns.state.compare_exchange(TAKEN, 0, Release, Relaxed).is_err() {
            self.turns.let_next_in();
        }
    }
}

impl<'a, T> Future for Wait<'a, T> {
    type Output = Turn<T, &'a Turns<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = context.waker().clone();
        let turns = self.turns;
        let mut guard = turns.lock();
        let line = &mut *guard;
        let number = self.number;
        let clock = if number.is_some() && line.next == number {
            line.next = None;
            None
        } else {
            // From here on nobody comes or leaves without the lock.
            let state = turns.state.fetch_or(WAITED_FOR, SeqCst);
            let first = line.waiting.front().is_none_or(|first| Some(first.number) == number);
            if state & TAKEN != 0 || !first {
                self.number = Some(line.waits(number, waker));
                return Poll::Pending;
            }
            line.waiting.pop_front();
            let waited_for = if line.waiting.is_empty() { 0 } else { WAITED_FOR };
            turns.state.store(TAKEN | waited_for, SeqCst);
            line.clock.take()
        };
        self.number = None;
        drop(guard);
        wake(clock);
        Poll::Ready(turns.turn())
    }
}

impl Line {
    /// Notes that this one waits, which has a number if it has waited before; gives its number.
    fn waits(&mut self, number: Option<u64>, waker: Waker) -> u64 {
        if let Some(waiter) = self.waiting.iter_mut().find(|waiter| Some(waiter.number) == number) {
            waiter.passed_over |= waiter.told;
            waiter.waker = waker;
            return waiter.number;
        }
        self.numbers += 1;
        self.waiting.push_back(Waiter { number: self.numbers, waker, told: false, passed_over: false });
        self.numbers
    }
}

impl<T> Drop for Wait<'_, T> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut line = self.turns.lock();
        let given = line.next == Some(number);
        if given {
            line.next = None;
        }
        let left = line.waiting.iter().position(|waiter| waiter.number == number);
        let left = left.and_then(|at| line.waiting.remove(at));
        // The one who was told that the turn is free may be this one.
        let free = given || self.turns.state.load(SeqCst) & TAKEN == 0;
        let next = if free {
            line.let_go(&self.turns.state)
        } else {
            if line.waiting.is_empty() {
                self.turns.state.fetch_and(!WAITED_FOR, SeqCst);
            }
            None
        };
        drop(line);
        drop(left);
        wake(next);
    }
}
