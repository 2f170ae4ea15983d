//! The bus as a plugin sees it.

use std::{fmt, time::Duration};

use uuid::Uuid;

use crate::{Command, Envelope, Error, Event, Filter, Result, ffi::host::Host};

/// The host's message bus, lent to a module in `init`. Cheap to clone; a clone holds nothing of the host's.
///
/// The host writes the module's id as the source of all that it sends, whatever is given as `source`.
#[derive(Clone)]
pub struct MessageBus {
    host: Host,
}

impl fmt::Debug for MessageBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageBus")
    }
}

impl MessageBus {
    /// How long [`MessageBus::request`] waits for the answer.
    pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }

    /// Publishes a message. Waits while a subscriber that makes publishers wait is full.
    ///
    /// # Errors
    /// When the generation is being unloaded.
    pub async fn publish(&self, envelope: Envelope) -> Result<()> {
        self.host.publish(&envelope).await
    }

    /// Sends a command; its answer is an event with the returned id as `correlation_id`.
    ///
    /// # Errors
    /// As [`MessageBus::publish`].
    pub async fn send_command(&self, source: impl Into<String> + Send, command: Command) -> Result<Uuid> {
        let envelope = Envelope::new(source, command);
        self.host.publish(&envelope).await.map(|()| envelope.id)
    }

    /// Publishes an event; gives the message's id.
    ///
    /// # Errors
    /// As [`MessageBus::publish`].
    pub async fn emit_event(&self, source: impl Into<String> + Send, event: Event) -> Result<Uuid> {
        let envelope = Envelope::new(source, event);
        self.host.publish(&envelope).await.map(|()| envelope.id)
    }

    /// Sends a command and waits for the event that answers it, at most [`MessageBus::REQUEST_TIMEOUT`].
    ///
    /// # Errors
    /// The command's own failure, or that no answer came in time, or that the generation is being unloaded.
    pub async fn request(&self, command: Command) -> Result<Event> {
        self.request_within(command, Self::REQUEST_TIMEOUT).await
    }

    /// The same with a time limit of your own.
    ///
    /// # Errors
    /// As [`MessageBus::request`].
    pub async fn request_within(&self, command: Command, limit: Duration) -> Result<Event> {
        let answer = self.host.request(&Envelope::new("", command), limit).await?;
        match answer.message {
            crate::Message::Event(Event::CommandFailed { error, .. }) => Err(Error::new(error)),
            crate::Message::Event(event) => Ok(event),
            crate::Message::Command(_) => Err(Error::new("the command was answered by a command")),
        }
    }

    /// Calls another module over the bus: JSON in, JSON out.
    ///
    /// # Errors
    /// As [`MessageBus::request`].
    pub async fn invoke(
        &self,
        module_id: &str,
        method: &str,
        payload: serde_json::Value,
    ) -> Result<serde_json::Value> {
        let command = Command::Invoke { module_id: module_id.to_owned(), method: method.to_owned(), payload };
        match self.request(command).await? {
            Event::InvokeCompleted { payload, .. } => Ok(payload),
            other => Err(Error::new(format_args!("the call was answered by {other:?}"))),
        }
    }

    /// Subscribes to the messages that `filter` matches. A full subscription drops its oldest message and
    /// counts it in [`Subscription::missed`].
    ///
    /// # Errors
    /// When the generation is being unloaded.
    pub async fn subscribe(&self, filter: Filter) -> Result<Subscription> {
        let id = self.host.subscribe(&filter)?;
        Ok(Subscription { receiver: Receiver { host: self.host, id }, id })
    }
}

/// A subscription; dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    /// Where its messages come out.
    pub receiver: Receiver,
    /// Its number within this module.
    pub id: u64,
}

/// Where a subscription's messages come out.
pub struct Receiver {
    host: Host,
    id: u64,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Receiver {
    /// The next message; `None` when the generation is being unloaded.
    pub async fn recv(&mut self) -> Option<Envelope> {
        self.host.receive(self.id).await
    }
}

impl Subscription {
    /// How many messages were dropped so far because the subscription was full.
    pub fn missed(&self) -> u64 {
        self.receiver.host.missed(self.id)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.host.unsubscribe(self.id);
    }
}
