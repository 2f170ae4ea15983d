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
    #[inline(always)]
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

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicUsize,
        task::Wake,
        thread::{self, Thread},
    };

    use super::*;

    struct Woken(AtomicUsize, Thread);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
            self.1.unpark();
        }
    }

    fn woken() -> (Arc<Woken>, Waker) {
        let woken = Arc::new(Woken(AtomicUsize::new(0), thread::current()));
        (woken.clone(), woken.into())
    }

    fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(waker))
    }

    fn with(kept: u64) -> Turns<u64> {
        let turns = Turns::default();
        turns.now().expect("nobody is inside").kept = Some(kept);
        turns
    }

    #[test]
    fn one_is_inside_and_finds_what_the_last_one_left() {
        let turns = with(7);
        let mut turn = turns.now().unwrap();
        assert_eq!(turn.kept, Some(7));
        assert!(turns.now().is_none() && turns.taken());
        turn.kept = None;
        drop(turn);
        assert!(!turns.taken());
        assert_eq!(turns.now().unwrap().kept, None);
    }

    #[test]
    fn they_come_in_as_they_stand_in_the_line() {
        let turns = with(0);
        let turn = turns.now().unwrap();
        let (woken, waker) = woken();
        let mut line: VecDeque<_> = (0..3).map(|_| turns.wait()).collect();
        assert!(line.iter_mut().all(|wait| poll(wait, &waker).is_pending()));
        drop(turn);
        for nth in 1..=3 {
            assert_eq!(woken.0.load(SeqCst), nth);
            assert!(line.iter_mut().skip(1).all(|wait| poll(wait, &waker).is_pending()));
            let mut first = line.pop_front().unwrap();
            assert!(poll(&mut first, &waker).is_ready());
        }
        assert_eq!(turns.state.load(SeqCst), 0);
    }

    #[test]
    fn nobody_is_passed_over_twice() {
        let turns = with(0);
        let (_, waker) = woken();
        let turn = turns.now().unwrap();
        let mut waits = turns.wait();
        assert!(poll(&mut waits, &waker).is_pending());
        drop(turn);
        let quicker = turns.now().expect("it is free, and the first does not come");
        assert!(poll(&mut waits, &waker).is_pending());
        drop(quicker);
        assert!(turns.now().is_none(), "it is the first one's");
        assert!(poll(&mut waits, &waker).is_ready());
    }

    #[test]
    fn who_leaves_the_line_lets_the_next_one_in() {
        let turns = with(0);
        let (woken, waker) = woken();
        for given in [false, true] {
            let turn = turns.now().unwrap();
            let (mut first, mut second) = (turns.wait(), turns.wait());
            assert!(poll(&mut first, &waker).is_pending() && poll(&mut second, &waker).is_pending());
            drop(turn);
            if given {
                let quicker = turns.now().unwrap();
                assert!(poll(&mut first, &waker).is_pending());
                drop(quicker);
            }
            let before = woken.0.load(SeqCst);
            drop(first);
            assert_eq!(woken.0.load(SeqCst), before + 1);
            assert!(poll(&mut second, &waker).is_ready());
            assert_eq!(turns.state.load(SeqCst), 0);
        }
    }

    #[test]
    fn the_clock_is_woken_by_whoever_comes() {
        let turns = with(0);
        let (woken, waker) = woken();
        let context = Context::from_waker(&waker);
        assert!(turns.poll_taken(&context).is_pending());
        let turn = turns.now().unwrap();
        assert_eq!(woken.0.load(SeqCst), 1);
        assert!(turns.poll_taken(&context).is_ready());
        drop(turn);
        assert!(turns.poll_taken(&context).is_pending());
        assert!(poll(&mut turns.wait(), &waker).is_ready());
        assert_eq!(woken.0.load(SeqCst), 2);
    }

    #[test]
    fn no_turn_is_lost_among_threads_that_come_wait_and_go_away() {
        const ROUNDS: u64 = 20_000;
        let turns = with(0);
        thread::scope(|scope| {
            for nth in 0..4 {
                let turns = &turns;
                scope.spawn(move || {
                    let (_, waker) = woken();
                    for round in 0..ROUNDS {
                        if (round + nth) % 7 == 0 {
                            // Goes away: at once, or when it had the turn.
                            let _ = poll(&mut turns.wait(), &waker);
                        }
                        let mut wait = turns.wait();
                        let mut turn = turns.now().unwrap_or_else(|| {
                            loop {
                                if let Poll::Ready(turn) = poll(&mut wait, &waker) {
                                    break turn;
                                }
                                thread::park();
                            }
                        });
                        turn.kept = turn.kept.map(|sum| sum + 1);
                    }
                });
            }
        });
        assert_eq!(turns.now().unwrap().kept, Some(4 * ROUNDS));
        assert_eq!(turns.state.load(SeqCst), 0);
    }
}
