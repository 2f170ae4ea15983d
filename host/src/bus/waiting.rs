//! A publisher's wait for room, at however many full subscriptions at once.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::queue::Queue;

/// Counts the subscriptions into which a message has yet to come. The last one wakes the publisher.
#[derive(Default)]
pub(super) struct Arrival(Mutex<Outstanding>);

#[derive(Default)]
struct Outstanding {
    count: usize,
    publisher: Option<Waker>,
}

impl Arrival {
    /// The message stands outside one more subscription.
    pub(super) fn expect_one_more(&self) {
        self.0.lock().count += 1;
    }

    /// The message came into one of them, or that one is gone.
    pub(super) fn arrived(&self) {
        let mut outstanding = self.0.lock();
        outstanding.count -= 1;
        let publisher = if outstanding.count == 0 { outstanding.publisher.take() } else { None };
        drop(outstanding);
        if let Some(publisher) = publisher {
            publisher.wake();
        }
    }

    fn is_complete(&self) -> bool {
        self.0.lock().count == 0
    }

    fn poll_complete(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_complete() {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        let mut outstanding = self.0.lock();
        if outstanding.count == 0 {
            drop(outstanding);
            return Poll::Ready(());
        }
        let former = outstanding.publisher.replace(waker);
        drop(outstanding);
        drop(former);
        Poll::Pending
    }
}

/// Resolves when the message is in every subscription it stood outside of. Dropped earlier, it takes the
/// message out of those lines: they never see it.
#[must_use = "dropping it withdraws the message"]
pub(super) struct Waiting {
    arrival: Arc<Arrival>,
    outside: Vec<Arc<Queue>>,
}

impl Waiting {
    /// `outside`: the queues that hold `arrival`.
    pub(super) fn new(arrival: Arc<Arrival>, outside: Vec<Arc<Queue>>) -> Self {
        Self { arrival, outside }
    }
}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.arrival.poll_complete(context)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.arrival.is_complete() {
            self.outside.iter().for_each(|queue| queue.withdraw(&self.arrival));
        }
    }
}
