//! What waits at a module's gate while a swap hands its state over: fresh calls, in the order in which they came.
//!
//! A call that finds the gate shut asks here whether it may wait. The hold begins before the gate is shut and ends
//! after one is open again, so whoever was turned away in between is found here and woken.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    task::Waker,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{boundary::waiting::calmly, life::pool};

/// Holds a module's calls, or does not.
pub(crate) struct Hold {
    on: AtomicBool,
    held: Mutex<Held>,
    /// So many may wait. One more ends the hold, and with it the swap; no call fails of it.
    limit: usize,
    full: Notify,
}

#[derive(Default)]
struct Held {
    on: bool,
    /// Counts the holds that have ended.
    epoch: u64,
    next: u64,
    calls: BTreeMap<u64, Waker>,
    /// So many calls have waited in this hold.
    count: u64,
}

/// Whether a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It is woken when the hold is over.
    Held,
    /// Nothing is held; so many holds have ended so far.
    Free(u64),
}

impl Hold {
    pub(crate) fn new(limit: usize) -> Self {
        Self { on: AtomicBool::new(false), held: Mutex::default(), limit, full: Notify::new() }
    }

    /// Whether calls are held now.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(SeqCst)
    }

    /// How many holds have ended so far.
    pub(crate) fn epoch(&self) -> u64 {
        self.held.lock().epoch
    }

    /// From now on calls wait. To be done before the gate is shut.
    pub(crate) fn begin(&self) {
        let mut held = self.held.lock();
        held.on = true;
        held.count = 0;
        self.on.store(true, SeqCst);
    }

    /// Wakes those that wait, in the order in which they came, and tells how many have waited. To be done after a
    /// gate is open again.
    pub(crate) fn end(&self) -> u64 {
        let mut held = self.held.lock();
        held.on = false;
        held.epoch += 1;
        self.on.store(false, SeqCst);
        let calls = std::mem::take(&mut held.calls);
        let count = held.count;
        drop(held);
        if !calls.is_empty() {
            // Not here: a caller's executor may run the call inside `wake`.
            pool::run(move || {
                for waker in calls.into_values() {
                    calmly(|| waker.wake());
                }
            });
        }
        count
    }

    /// Has a call wait, if calls are held. `place` is its number in the row, which it keeps.
    pub(crate) fn wait(&self, place: &mut Option<u64>, waker: &Waker) -> Asked {
        // Before the lock: a waker is somebody else's code.
        let waker = waker.clone();
        let mut held = self.held.lock();
        if !held.on {
            return Asked::Free(held.epoch);
        }
        let number = place.unwrap_or_else(|| {
            held.next += 1;
            held.count += 1;
            held.next
        });
        *place = Some(number);
        let before = held.calls.insert(number, waker);
        let full = held.calls.len() > self.limit;
        drop(held);
        drop(before);
        if full {
            self.full.notify_one();
        }
        Asked::Held
    }

    /// A call that waited does not any more.
    pub(crate) fn leave(&self, place: u64) {
        let waker = self.held.lock().calls.remove(&place);
        drop(waker);
    }

    /// Ends when more calls wait than may.
    pub(crate) async fn is_full(&self) {
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
        sync::{Arc, mpsc},
        task::Wake,
    };

    use super::*;

    struct Told(u32, Mutex<mpsc::Sender<u32>>);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            let _ = self.1.lock().send(self.0);
        }
    }

    #[test]
    fn calls_are_woken_in_the_order_in_which_they_came_and_keep_their_place() {
        let hold = Hold::new(10);
        let (send, told) = mpsc::channel();
        let waker = |number| Waker::from(Arc::new(Told(number, Mutex::new(send.clone()))));
        let mut places = [None; 4];
        assert_eq!(hold.wait(&mut places[0], &waker(0)), Asked::Free(0));
        hold.begin();
        for (number, place) in (0..).zip(&mut places) {
            assert_eq!(hold.wait(place, &waker(number)), Asked::Held);
        }
        // Polled again in between, and dropped.
        assert_eq!(hold.wait(&mut places[0], &waker(7)), Asked::Held);
        hold.leave(places[2].unwrap());
        assert_eq!(hold.end(), 4);
        drop(send);
        let order: Vec<u32> = (0..3).map(|_| told.recv().unwrap()).collect();
        assert_eq!(order, [7, 1, 3]);
        assert_eq!(hold.wait(&mut None, Waker::noop()), Asked::Free(1));
    }

    #[test]
    fn one_more_than_may_wait_is_told_and_waits_too() {
        let hold = Hold::new(1);
        hold.begin();
        let (mut one, mut two) = (None, None);
        hold.wait(&mut one, Waker::noop());
        let mut full = std::pin::pin!(hold.is_full());
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(full.as_mut().poll(&mut context).is_pending());
        assert_eq!(hold.wait(&mut two, Waker::noop()), Asked::Held);
        assert!(full.as_mut().poll(&mut context).is_ready());
    }
}
