//! One subscriber's line of messages.
//!
//! The first `capacity` places of the line are inside. Who stands further back is outside: either a publisher
//! that waits with its message in its hands, or an announcement, for which nobody waits. When the front
//! leaves, everyone moves up one place, and the one that comes in thereby lets its publisher go. So the order
//! of arrival is the order of delivery, whoever waited, and a message is handed over exactly once: it stands in
//! the line or it does not, and a publisher that gives up takes it out again.
//!
//! Wakers may be code from elsewhere: they are cloned, woken and dropped while no lock is held.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use oxide_plugin_api::{Envelope, Filter};
use parking_lot::Mutex;
use uuid::Uuid;

use super::{
    options::{Overflow, SubscribeOptions},
    waiting::Arrival,
};

/// The line, shared by the bus (which puts messages in) and one receiver (which takes them out).
pub(super) struct Queue {
    id: Uuid,
    filter: Filter,
    capacity: usize,
    overflow: Overflow,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    places: VecDeque<Place>,
    missed: u64,
    closed: bool,
    receiver: Option<Waker>,
}

/// A place in the line. `publisher` is set only outside, where somebody waits to come in.
struct Place {
    envelope: Arc<Envelope>,
    publisher: Option<Arc<Arrival>>,
}

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// The subscriber does not want it, or is gone.
    Unwanted,
    /// It is in.
    Taken,
    /// It stands outside, and its publisher has to wait.
    Outside,
}

impl Queue {
    pub(super) fn new(options: SubscribeOptions) -> Self {
        Self {
            id: Uuid::new_v4(),
            filter: options.filter,
            capacity: options.capacity.max(1),
            overflow: options.overflow,
            line: Mutex::default(),
        }
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn missed(&self) -> u64 {
        self.line.lock().missed
    }

    /// How many messages stand in the line, those outside included.
    pub(super) fn len(&self) -> usize {
        self.line.lock().places.len()
    }

    /// Puts a message at the end of the line. `arrival` is the publisher's own, made when first needed.
    pub(super) fn offer(&self, envelope: &Arc<Envelope>, arrival: &mut Option<Arc<Arrival>>) -> Offered {
        self.put(envelope, || {
            let arrival = arrival.get_or_insert_default();
            arrival.expect_one_more();
            Some(Arc::clone(arrival))
        })
    }

    /// Puts a message at the end of the line without anyone waiting for it, also when that is outside.
    pub(super) fn announce(&self, envelope: &Arc<Envelope>) {
        self.put(envelope, || None);
    }

    fn put(&self, envelope: &Arc<Envelope>, publisher: impl FnOnce() -> Option<Arc<Arrival>>) -> Offered {
        if !self.filter.matches(envelope) {
            return Offered::Unwanted;
        }
        let mut place = Place { envelope: Arc::clone(envelope), publisher: None };
        let mut displaced = None;
        let mut line = self.line.lock();
        if line.closed {
            drop(line);
            return Offered::Unwanted;
        }
        if line.places.len() >= self.capacity {
            match self.overflow {
                Overflow::Wait => place.publisher = publisher(),
                Overflow::DropOldest => {
                    displaced = line.places.pop_front();
                    line.missed += 1;
                }
            }
        }
        let offered = if place.publisher.is_some() { Offered::Outside } else { Offered::Taken };
        line.places.push_back(place);
        let receiver = line.receiver.take();
        drop(line);
        drop(displaced);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        offered
    }

    /// Takes the message of a publisher that gives up out of the line, if it still stands outside.
    pub(super) fn withdraw(&self, arrival: &Arc<Arrival>) {
        let mut line = self.line.lock();
        let at = line
            .places
            .iter()
            .skip(self.capacity)
            .position(|place| place.publisher.as_ref().is_some_and(|other| Arc::ptr_eq(other, arrival)));
        let withdrawn = at.and_then(|at| line.places.remove(self.capacity + at));
        drop(line);
        drop(withdrawn);
    }

    /// Takes the front of the line. `Ready(None)`: it is empty and will stay so.
    pub(super) fn try_take(&self) -> Poll<Option<Arc<Envelope>>> {
        let mut line = self.line.lock();
        let taken = self.take_front(&mut line);
        drop(line);
        taken.map(Taken::finish)
    }

    /// As [`Queue::try_take`], and has the task woken when there is more.
    pub(super) fn poll_take(&self, context: &Context<'_>) -> Poll<Option<Arc<Envelope>>> {
        let mut line = self.line.lock();
        if let Poll::Ready(taken) = self.take_front(&mut line) {
            drop(line);
            return Poll::Ready(taken.finish());
        }
        if line.receiver.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        drop(line);

        let waker = context.waker().clone();
        let mut line = self.line.lock();
        if let Poll::Ready(taken) = self.take_front(&mut line) {
            drop(line);
            return Poll::Ready(taken.finish());
        }
        let former = line.receiver.replace(waker);
        drop(line);
        drop(former);
        Poll::Pending
    }

    /// Forgets the task that waited to receive.
    pub(super) fn forget_receiver(&self) {
        let waker = self.line.lock().receiver.take();
        drop(waker);
    }

    fn take_front(&self, line: &mut Line) -> Poll<Taken> {
        match line.places.pop_front() {
            Some(front) => Poll::Ready(Taken {
                envelope: Some(front.envelope),
                admitted: line.places.get_mut(self.capacity - 1).and_then(|place| place.publisher.take()),
            }),
            None if line.closed => Poll::Ready(Taken { envelope: None, admitted: None }),
            None => Poll::Pending,
        }
    }

    /// Takes nothing more in. What stands in the line can still be received; nobody waits any longer.
    pub(super) fn close(&self) {
        let mut line = self.line.lock();
        line.closed = true;
        let publishers: Vec<_> =
            line.places.iter_mut().skip(self.capacity).filter_map(|place| place.publisher.take()).collect();
        let receiver = line.receiver.take();
        drop(line);
        publishers.iter().for_each(|publisher| publisher.arrived());
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// The receiver is gone: takes nothing more in, and lets go of everything.
    pub(super) fn abandon(&self) {
        self.close();
        let places = std::mem::take(&mut self.line.lock().places);
        drop(places);
    }
}

/// What [`Queue::take_front`] found, to be finished once the lock is released.
struct Taken {
    envelope: Option<Arc<Envelope>>,
    admitted: Option<Arc<Arrival>>,
}

impl Taken {
    fn finish(self) -> Option<Arc<Envelope>> {
        if let Some(publisher) = self.admitted {
            publisher.arrived();
        }
        self.envelope
    }
}
