//! What waits at a module's gate while a swap hands its state over: fresh calls, in the order in which they came.
//!
//! A call that finds the gate shut asks here whether it may wait. The hold begins before the gate is shut and ends
//! after one is open again, so whoever was turned away in between is found here and woken.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    task::{Poll, Waker},
};

use super::sync::{
    Mutex, Notify,
    atomic::{AtomicBool, Ordering::SeqCst},
};

/// Holds a module's calls, or does not.
#[derive(Debug)]
pub(crate) struct Hold {
    /// As in `held`, for those who need not know exactly.
    on: AtomicBool,
    held: Mutex<Held>,
    /// So many may wait. One more is for the swap to give up; no call fails of it.
    limit: usize,
    full: Notify,
}

#[derive(Debug, Default)]
struct Held {
    on: bool,
    /// Counts the holds that have ended.
    epoch: u64,
    next: u64,
    calls: BTreeMap<u64, Waker>,
    /// So many calls have waited in this hold.
    count: u64,
}

/// Where a call stands that found the gate shut.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered<T> {
    /// Inside after all.
    In(T),
    /// It waits, and is woken when the hold is over.
    Held,
    /// Nothing is held: the gate is shut for another reason.
    Refused,
}

/// The calls of a hold that is over.
#[derive(Debug)]
#[must_use = "they wait to be woken"]
pub(crate) struct Released {
    /// So many calls have waited in it.
    pub(crate) count: u64,
    calls: BTreeMap<u64, Waker>,
}

impl Released {
    /// Whether any call still waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Wakes them, in the order in which they came. A caller's executor may run the call inside `wake`.
    pub(crate) fn wake(self) {
        for waker in self.calls.into_values() {
            super::waiting::calmly(|| waker.wake());
        }
    }
}

impl Hold {
    pub(crate) fn new(limit: usize) -> Self {
        Self { on: AtomicBool::new(false), held: Mutex::default(), limit, full: Notify::new() }
    }

    /// Whether calls are held now.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(SeqCst)
    }

    /// From now on calls wait. To be done before the gate is shut.
    pub(crate) fn begin(&self) {
        let mut held = self.held.lock();
        held.on = true;
        held.count = 0;
        self.on.store(true, SeqCst);
    }

    /// Gives those that wait, to be woken. To be done after a gate is open again.
    pub(crate) fn end(&self) -> Released {
        let mut held = self.held.lock();
        held.on = false;
        held.epoch += 1;
        self.on.store(false, SeqCst);
        Released { count: held.count, calls: std::mem::take(&mut held.calls) }
    }

    /// For a call that was turned away: tries again, waits, or is refused. `place` is its number in the row, which
    /// it keeps when it is polled again.
    pub(crate) fn enter_or_wait<T>(
        &self,
        place: &mut Option<u64>,
        waker: &Waker,
        mut enter: impl FnMut() -> Option<T>,
    ) -> Entered<T> {
        let mut epoch = self.held.lock().epoch;
        loop {
            // Only now: a hold may have ended before we knew how many have.
            if let Some(inside) = enter() {
                if let Some(place) = place.take() {
                    self.leave(place);
                }
                return Entered::In(inside);
            }
            match self.wait(place, waker) {
                None => return Entered::Held,
                Some(now) if now == epoch => return Entered::Refused,
                // One has ended since the gate turned us away: it is open again, or was.
                Some(now) => epoch = now,
            }
        }
    }

    /// Has a call wait, if calls are held; otherwise tells how many holds have ended.
    fn wait(&self, place: &mut Option<u64>, waker: &Waker) -> Option<u64> {
        // Before the lock: a waker is somebody else's code.
        let waker = waker.clone();
        let mut held = self.held.lock();
        if !held.on {
            // Whoever had a place is no longer in the row.
            *place = None;
            return Some(held.epoch);
        }
        if place.is_none() {
            held.next += 1;
        }
        let number = *place.get_or_insert(held.next);
        let before = held.calls.insert(number, waker);
        // Also one that an earlier hold let go, and that this one meets before it is inside.
        held.count += u64::from(before.is_none());
        let full = held.calls.len() > self.limit;
        drop(held);
        drop(before);
        if full {
            self.full.notify_waiters();
        }
        None
    }

    /// A call that waited does not any more.
    pub(crate) fn leave(&self, place: u64) {
        let waker = self.held.lock().calls.remove(&place);
        drop(waker);
    }

    /// Does what calls are held for, unless more come to wait meanwhile than may; then it is dropped where it is.
    pub(crate) async fn unless_full<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let (mut work, mut full) = (pin!(work), pin!(self.is_full()));
        poll_fn(|context| {
            // First: what is done would have to be undone.
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            full.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    /// Ends when more calls wait than may.
    async fn is_full(&self) {
        loop {
            let full = self.full.notified();
            let held = self.held.lock().calls.len();
            if held > self.limit {
                return;
            }
            full.await;
        }
    }

    /// So many may wait.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex, mpsc},
        task::Wake,
    };

    use super::*;

    struct Told(u32, Mutex<mpsc::Sender<u32>>);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            let _ = self.1.lock().unwrap().send(self.0);
        }
    }

    fn shut() -> Option<()> {
        None
    }

    #[test]
    fn calls_are_woken_in_the_order_in_which_they_came_and_keep_their_place() {
        let hold = Hold::new(10);
        let (send, told) = mpsc::channel();
        let waker = |number| Waker::from(Arc::new(Told(number, Mutex::new(send.clone()))));
        let mut places = [None; 4];
        assert_eq!(hold.enter_or_wait(&mut places[0], &waker(0), shut), Entered::Refused);
        hold.begin();
        for (number, place) in (0..).zip(&mut places) {
            assert_eq!(hold.enter_or_wait(place, &waker(number), shut), Entered::Held);
        }
        // Polled again in between, and dropped.
        assert_eq!(hold.enter_or_wait(&mut places[0], &waker(7), shut), Entered::Held);
        hold.leave(places[2].unwrap());
        let released = hold.end();
        assert_eq!(released.count, 4);
        assert!(!released.is_empty());
        released.wake();
        let order: Vec<u32> = (0..3).map(|_| told.recv().unwrap()).collect();
        assert_eq!(order, [7, 1, 3]);
        assert_eq!(hold.enter_or_wait(&mut places[1], Waker::noop(), || Some(())), Entered::In(()));
        assert_eq!(hold.enter_or_wait(&mut None, Waker::noop(), shut), Entered::Refused);
    }

    #[test]
    fn who_was_turned_away_by_a_hold_that_is_over_is_not_refused() {
        let hold = Hold::new(10);
        let mut turned_away = 0;
        let entered = hold.enter_or_wait(&mut None, Waker::noop(), || {
            turned_away += 1;
            if turned_away < 3 {
                // A whole hold between the look at the gate and the question here.
                hold.begin();
                assert!(hold.end().is_empty());
                return None;
            }
            Some(turned_away)
        });
        assert_eq!(entered, Entered::In(3));
    }

    #[test]
    fn who_meets_a_second_hold_before_it_is_inside_keeps_its_place_and_is_counted_again() {
        let hold = Hold::new(10);
        let mut places = [None; 2];
        hold.begin();
        assert_eq!(hold.enter_or_wait(&mut places[0], Waker::noop(), shut), Entered::Held);
        assert_eq!(hold.end().count, 1);
        hold.begin();
        assert_eq!(hold.enter_or_wait(&mut places[1], Waker::noop(), shut), Entered::Held);
        assert_eq!(hold.enter_or_wait(&mut places[0], Waker::noop(), shut), Entered::Held);
        assert!(places[0] < places[1]);
        assert_eq!(hold.end().count, 2);
    }

    #[test]
    fn what_is_done_in_the_moment_in_which_it_gets_full_is_done_and_all_go_in_once() {
        let hold = Hold::new(1);
        hold.begin();
        let is_done = std::cell::Cell::new(false);
        let work = poll_fn(|_| if is_done.get() { Poll::Ready("done") } else { Poll::Pending });
        let mut handed_over = pin!(hold.unless_full(work));
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(handed_over.as_mut().poll(&mut context).is_pending());
        // Both before it is looked at again.
        let mut places = [None; 3];
        for place in &mut places {
            assert_eq!(hold.enter_or_wait(place, Waker::noop(), shut), Entered::Held);
        }
        is_done.set(true);
        assert_eq!(handed_over.as_mut().poll(&mut context), Poll::Ready(Some("done")));
        // One is polled after the gate is open and before the hold is over: it is not woken, too.
        assert_eq!(hold.enter_or_wait(&mut places[0], Waker::noop(), || Some(0)), Entered::In(0));
        let released = hold.end();
        assert_eq!((released.count, released.calls.len()), (3, 2));
        released.wake();
        for place in &mut places[1..] {
            assert_eq!(hold.enter_or_wait(place, Waker::noop(), || Some(1)), Entered::In(1));
        }
    }

    #[test]
    fn one_more_than_may_wait_is_told_and_waits_too() {
        let hold = Hold::new(1);
        hold.begin();
        let (mut one, mut two) = (None, None);
        assert_eq!(hold.enter_or_wait(&mut one, Waker::noop(), shut), Entered::Held);
        let mut full = std::pin::pin!(hold.is_full());
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(full.as_mut().poll(&mut context).is_pending());
        assert_eq!(hold.enter_or_wait(&mut two, Waker::noop(), shut), Entered::Held);
        assert!(full.as_mut().poll(&mut context).is_ready());
    }
}
