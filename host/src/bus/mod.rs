//! The message bus: every message goes to every subscriber that wants it, in order, and none is lost silently.
//!
//! - `options.rs`: what a subscriber asks for;
//! - `queue.rs`: one subscriber's line, where order, bounds and the count of missed messages are kept;
//! - `waiting.rs`: a publisher's wait for room;
//! - `roster.rs`: who is on the bus;
//! - `subscription.rs`: the subscriber's end;
//! - `handler.rs`: those who act on what is published;
//! - `request.rs`: a command and its answer.
//!
//! No lock is held across an await, or while a waker runs. Nothing here depends on the embedder's runtime.

mod handler;
mod options;
mod queue;
mod request;
mod roster;
mod subscription;
#[cfg(test)]
mod tests;
mod waiting;

use std::{
    fmt,
    sync::{Arc, Weak},
};

pub use oxide_plugin_api::{Command, Envelope, Event, Filter, Message, MessageClass};
use tokio::task::coop;
use uuid::Uuid;

pub(crate) use self::handler::{Delivery, Handler, HandlerGuard};
pub use self::{
    options::{Overflow, SubscribeOptions},
    subscription::{Receiver, Subscription},
};
use self::{queue::Queue, roster::Roster};
use crate::error::Result;

/// A bus. Cloning it gives another handle to the same one; when the last is dropped, the subscriptions end.
///
/// Each subscriber receives one publisher's messages in the order in which they were published: a publisher
/// awaits each before the next.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use oxide_host::bus::{Command, Message, MessageBus};
///
/// let bus = MessageBus::new();
/// let mut subscription = bus.subscribe().await;
/// let id = bus.send_command("me", Command::Ping).await?;
///
/// let envelope = subscription.receiver.recv().await.expect("the bus is alive");
/// assert_eq!((envelope.id, envelope.message), (id, Message::Command(Command::Ping)));
/// # Ok::<_, oxide_host::error::KernelError>(()) }).unwrap();
/// ```
#[derive(Clone, Default)]
pub struct MessageBus {
    roster: Arc<Roster>,
}

impl MessageBus {
    /// A bus with nobody on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Subscribes to everything published from now on: up to 1,024 messages lie waiting, and beyond that the
    /// oldest makes room and is counted.
    pub async fn subscribe(&self) -> Subscription {
        self.subscribe_with(SubscribeOptions::new()).await
    }

    /// Subscribes to what `options` ask for, published from now on.
    pub async fn subscribe_with(&self, options: SubscribeOptions) -> Subscription {
        self.join(options)
    }

    /// [`subscribe_with`](Self::subscribe_with), which waits for nothing.
    pub(crate) fn join(&self, options: SubscribeOptions) -> Subscription {
        let queue = Arc::new(Queue::new(options));
        self.roster.join(&queue);
        Subscription::new(queue, Arc::downgrade(&self.roster))
    }

    /// Publishes a message, as it is. Resolves when every subscriber has it in its queue, which takes a wait
    /// only where a subscription said so ([`Overflow::Wait`]), and every manager on the bus has accepted it.
    ///
    /// Dropped while it waits, it takes the message back from those that had no room for it, and no manager
    /// sees it; those that had room keep it. Do not publish from the task that is to make the room.
    ///
    /// # Errors
    ///
    /// When a manager on the bus refuses it. The subscribers have it even then.
    pub async fn publish(&self, envelope: Envelope) -> Result<()> {
        self.carry(envelope).await.map(drop)
    }

    /// Publishes a command and returns its id, which the answer carries as `correlation_id`.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub async fn send_command(&self, source: impl Into<String>, command: Command) -> Result<Uuid> {
        self.publish_new(Envelope::new(source, command)).await
    }

    /// Publishes an event and returns its id.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub async fn emit_event(&self, source: impl Into<String>, event: Event) -> Result<Uuid> {
        self.publish_new(Envelope::new(source, event)).await
    }

    /// How many subscriptions there are now. Managers do not count.
    pub async fn subscriber_count(&self) -> usize {
        self.roster.subscriber_count()
    }

    /// Publishes what the kernel has to say, without ever waiting: where a subscription makes publishers wait,
    /// it goes beyond the capacity, behind those who came before. Handlers are not given it: what the kernel
    /// says is for those who watch it. `envelope` is made if there are any.
    pub(crate) fn announce_with(&self, envelope: impl FnOnce() -> Envelope) {
        self.roster.announce_with(envelope);
    }

    /// The same of what is there already.
    pub(crate) fn announce(&self, envelope: Envelope) {
        self.announce_with(|| envelope);
    }

    /// Gives every message published from now on to `handler` too, until the guard is dropped. The bus does
    /// not keep the handler alive.
    pub(crate) fn attach_handler(&self, handler: Weak<dyn Handler>) -> HandlerGuard {
        let key = self.roster.attach(&handler);
        HandlerGuard { roster: Arc::downgrade(&self.roster), key }
    }

    async fn publish_new(&self, envelope: Envelope) -> Result<Uuid> {
        let id = envelope.id;
        self.publish(envelope).await.map(|()| id)
    }

    /// Brings a message to everyone, and returns how many took it. Gives way to tokio's other tasks now and
    /// then, so that a publisher in a loop starves nobody.
    async fn carry(&self, envelope: Envelope) -> Result<usize> {
        coop::cooperative(async {
            let envelope = Arc::new(envelope);
            let offer = self.roster.offer(&envelope);
            let mut takers = offer.takers;
            if let Some(waiting) = offer.waiting {
                waiting.await;
            }
            let handlers = self.roster.handlers_for(&envelope);
            if !handlers.is_empty() {
                takers += handlers.len();
                handler::deliver_to(handlers, envelope).await?;
            }
            Ok(takers)
        })
        .await
    }
}

impl fmt::Debug for MessageBus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MessageBus")
            .field("subscribers", &self.roster.subscriber_count())
            .finish_non_exhaustive()
    }
}
