//! STAND-IN, replaced when the branches are merged.
#![allow(missing_docs, clippy::unused_async, clippy::new_without_default)]

use oxide_plugin_api::{Envelope, Event, Filter};
use tokio::sync::{broadcast, mpsc};

use crate::Result;

#[derive(Clone)]
pub struct MessageBus(broadcast::Sender<Envelope>);

#[derive(Default)]
pub struct SubscribeOptions {
    pub filter: Filter,
}

pub struct Subscription {
    pub receiver: Receiver,
}

pub struct Receiver(mpsc::UnboundedReceiver<Envelope>);

impl Receiver {
    pub async fn recv(&mut self) -> Option<Envelope> {
        self.0.recv().await
    }
}

impl Subscription {
    pub fn missed(&self) -> u64 {
        0
    }
}

impl SubscribeOptions {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }
}

impl MessageBus {
    pub fn new() -> Self {
        Self(broadcast::channel(1024).0)
    }

    pub async fn publish(&self, envelope: Envelope) -> Result<()> {
        let _ = self.0.send(envelope);
        Ok(())
    }

    pub async fn emit_event(&self, source: impl Into<String>, event: Event) -> Result<()> {
        self.publish(Envelope::new(source, event)).await
    }

    pub async fn subscribe_with(&self, options: SubscribeOptions) -> Subscription {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut inner = self.0.subscribe();
        tokio::spawn(async move {
            while let Ok(envelope) = inner.recv().await {
                if options.filter.matches(&envelope) && sender.send(envelope).is_err() {
                    break;
                }
            }
        });
        Subscription { receiver: Receiver(receiver) }
    }
}
