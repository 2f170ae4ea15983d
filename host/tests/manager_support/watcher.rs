//! A watcher of the bus, and its events in words.

use oxide_host::bus::{Envelope, Event, Message, MessageBus, SubscribeOptions, Subscription};
use uuid::Uuid;

use super::patiently;

/// Sees everything that is published.
pub struct Watcher(Subscription);

impl Watcher {
    pub async fn of(bus: &MessageBus) -> Self {
        Self(bus.subscribe_with(SubscribeOptions::new().capacity(1_000_000)).await)
    }

    /// The next event.
    pub async fn event(&mut self) -> (Envelope, Event) {
        loop {
            let envelope = patiently(self.0.receiver.recv()).await.expect("the bus is alive");
            if let Message::Event(event) = envelope.message.clone() {
                return (envelope, event);
            }
        }
    }

    /// Waits for the first event that `wanted` accepts.
    pub async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> (Envelope, Event) {
        loop {
            let (envelope, event) = self.event().await;
            if wanted(&event) {
                return (envelope, event);
            }
        }
    }

    /// Waits for the first event that answers `command`.
    pub async fn answer(&mut self, command: Uuid) -> (Envelope, Event) {
        loop {
            let (envelope, event) = self.event().await;
            if envelope.correlation_id == Some(command) {
                return (envelope, event);
            }
        }
    }

    /// The events that lie in the queue now, in words: `started a`, `failed a: reason`. Each must come
    /// from the kernel, unless it is a module's own.
    pub fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(envelope) = self.0.receiver.try_recv() {
            if let Message::Event(event) = &envelope.message {
                told.push(words(&envelope, event));
            }
        }
        told
    }
}

/// An event in words.
pub fn words(envelope: &Envelope, event: &Event) -> String {
    let kernel = |text: String| {
        assert_eq!(envelope.source, "kernel", "{text}");
        text
    };
    match event {
        Event::ModuleLoaded { module_id } => kernel(format!("loaded {module_id}")),
        Event::ModuleStarted { module_id } => kernel(format!("started {module_id}")),
        Event::ModuleStopped { module_id } => kernel(format!("stopped {module_id}")),
        Event::ModuleFailed { module_id, reason } => kernel(format!("failed {module_id}: {reason}")),
        Event::ModuleUnloaded { module_id, .. } => kernel(format!("unloaded {module_id}")),
        Event::CommandScheduled { module_id } => kernel(format!("scheduled {module_id}")),
        Event::CommandCompleted { module_id } => kernel(format!("completed {module_id}")),
        Event::CommandFailed { error, .. } => format!("command failed: {error}"),
        Event::InvokeCompleted { module_id, payload } => format!("answered {module_id}: {payload}"),
        Event::Custom { module_id, kind, payload } => format!("{kind} for {module_id}: {payload}"),
        other => format!("{other:?}"),
    }
}
