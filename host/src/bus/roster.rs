//! Who is on the bus: its subscribers and its handlers. Read without a lock by every publisher, replaced as a
//! whole by those who come and go.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use oxide_plugin_api::Envelope;
use uuid::Uuid;

use super::{
    handler::Handler,
    queue::{Offered, Queue},
    waiting::Waiting,
};

/// The bus itself. When the last `MessageBus` lets go of it, its subscriptions end.
#[derive(Default)]
pub(super) struct Roster {
    queues: ArcSwap<Vec<Arc<Queue>>>,
    handlers: ArcSwap<Vec<(u64, Weak<dyn Handler>)>>,
    next_key: AtomicU64,
}

/// What [`Roster::offer`] did.
pub(super) struct Offer {
    /// How many subscribers have it or will.
    pub(super) takers: usize,
    /// Resolves when all of them have it; `None` when they have.
    pub(super) waiting: Option<Waiting>,
}

impl Roster {
    pub(super) fn join(&self, queue: &Arc<Queue>) {
        self.queues.rcu(|queues| {
            let mut queues = Vec::clone(queues);
            queues.push(Arc::clone(queue));
            queues
        });
    }

    pub(super) fn leave(&self, id: Uuid) {
        self.queues
            .rcu(|queues| queues.iter().filter(|queue| queue.id() != id).map(Arc::clone).collect::<Vec<_>>());
    }

    pub(super) fn subscriber_count(&self) -> usize {
        self.queues.load().len()
    }

    /// Puts the message into every line that wants it. Never waits itself.
    pub(super) fn offer(&self, envelope: &Arc<Envelope>) -> Offer {
        let mut arrival = None;
        let mut outside = Vec::new();
        let mut takers = 0;
        for queue in self.queues.load().iter() {
            match queue.offer(envelope, &mut arrival) {
                Offered::Unwanted => continue,
                Offered::Taken => {}
                Offered::Outside => outside.push(Arc::clone(queue)),
            }
            takers += 1;
        }
        Offer { takers, waiting: arrival.map(|arrival| Waiting::new(arrival, outside)) }
    }

    /// Puts a message into every line that wants it, beyond the capacity if it must be; there is none where nobody could.
    pub(super) fn announce_with(&self, envelope: impl FnOnce() -> Envelope) {
        let queues = self.queues.load();
        if !queues.is_empty() {
            let envelope = Arc::new(envelope());
            queues.iter().for_each(|queue| queue.announce(&envelope));
        }
    }

    /// Adds a handler, and returns the key under which it can be detached.
    pub(super) fn attach(&self, handler: &Weak<dyn Handler>) -> u64 {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        self.handlers.rcu(|handlers| {
            let mut handlers = Vec::clone(handlers);
            handlers.retain(|(_, handler)| handler.strong_count() > 0);
            handlers.push((key, Weak::clone(handler)));
            handlers
        });
        key
    }

    pub(super) fn detach(&self, key: u64) {
        self.handlers
            .rcu(|handlers| handlers.iter().filter(|(other, _)| *other != key).cloned().collect::<Vec<_>>());
    }

    /// The living handlers that want this message.
    pub(super) fn handlers_for(&self, envelope: &Envelope) -> Vec<Arc<dyn Handler>> {
        self.handlers
            .load()
            .iter()
            .filter_map(|(_, handler)| handler.upgrade())
            .filter(|handler| handler.wants(envelope))
            .collect()
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        self.queues.load().iter().for_each(|queue| queue.close());
    }
}
