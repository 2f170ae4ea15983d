//! The subscriber's end.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use oxide_plugin_api::Envelope;
use tokio::task::coop;
use uuid::Uuid;

use super::{queue::Queue, roster::Roster};

/// A place on the bus, from which messages are received. Dropping it unsubscribes at once, and lets go the
/// publishers that waited for it.
#[derive(Debug)]
pub struct Subscription {
    /// Where the messages come out. It may be moved out of here, and keeps the subscription.
    pub receiver: Receiver,
    /// The subscription's own id.
    pub id: Uuid,
}

impl Subscription {
    pub(super) fn new(queue: Arc<Queue>, roster: Weak<Roster>) -> Self {
        Self { id: queue.id(), receiver: Receiver { queue, roster } }
    }

    /// How many messages were dropped to make room for newer ones. What was received, what still lies waiting
    /// and what was missed add up to exactly what was published for this subscription; with
    /// [`Overflow::Wait`](super::Overflow::Wait) nothing is ever missed.
    pub fn missed(&self) -> u64 {
        self.receiver.missed()
    }

    /// Unsubscribes, but lets what lies waiting be received. After that, `recv` gives `None`.
    pub fn close(&self) {
        self.receiver.close();
    }
}

/// Where a subscription's messages come out.
pub struct Receiver {
    queue: Arc<Queue>,
    roster: Weak<Roster>,
}

impl Receiver {
    /// The next message. `None` when there will be no more: the bus is gone (every `MessageBus` clone was
    /// dropped) or the subscription was closed, and everything that lay waiting was received.
    ///
    /// Cancel safe: a `recv` that is dropped before it is ready has taken nothing. Runs on any executor; on
    /// tokio's it gives way to other tasks now and then.
    pub async fn recv(&mut self) -> Option<Envelope> {
        self.recv_shared().await.map(Arc::unwrap_or_clone)
    }

    /// As [`recv`](Self::recv), without a copy of a message that other subscribers have too.
    pub async fn recv_shared(&mut self) -> Option<Arc<Envelope>> {
        coop::cooperative(Recv { queue: &self.queue, waiting: false }).await
    }

    /// The next message, if one lies waiting.
    pub fn try_recv(&mut self) -> Option<Envelope> {
        match self.queue.try_take() {
            Poll::Ready(Some(envelope)) => Some(Arc::unwrap_or_clone(envelope)),
            Poll::Ready(None) | Poll::Pending => None,
        }
    }

    /// [`recv`](Self::recv) for those who write futures by hand. The task that polled last is woken.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Envelope>> {
        self.queue.poll_take(context).map(|envelope| envelope.map(Arc::unwrap_or_clone))
    }

    /// [`poll_recv`](Self::poll_recv) for several readers of one subscription: each message goes to one.
    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Envelope>> {
        self.queue.poll_take(context).map(|envelope| envelope.map(Arc::unwrap_or_clone))
    }

    /// How many messages lie waiting, those of waiting publishers included.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no message lies waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// See [`Subscription::missed`].
    pub fn missed(&self) -> u64 {
        self.queue.missed()
    }

    /// See [`Subscription::close`].
    pub fn close(&self) {
        self.unsubscribe();
        self.queue.close();
    }

    fn unsubscribe(&self) {
        if let Some(roster) = self.roster.upgrade() {
            roster.leave(self.queue.id());
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.unsubscribe();
        self.queue.abandon();
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Receiver")
            .field("waiting", &self.len())
            .field("missed", &self.missed())
            .finish_non_exhaustive()
    }
}

/// One wait for the next message. Dropped while it waits, it leaves no waker behind.
struct Recv<'a> {
    queue: &'a Queue,
    waiting: bool,
}

impl Future for Recv<'_> {
    type Output = Option<Arc<Envelope>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.queue.poll_take(context);
        self.waiting = polled.is_pending();
        polled
    }
}

impl Drop for Recv<'_> {
    fn drop(&mut self) {
        if self.waiting {
            self.queue.forget_receiver();
        }
    }
}
