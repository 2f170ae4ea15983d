//! What the manager does for plugins: the bus, the clock, and threads to run on.

use std::{future::poll_fn, sync::Arc, time::Duration};

use oxide_plugin_api::{Envelope, Filter};

use super::announce::KERNEL;
use crate::{
    boundary::lend::{BoxFuture, LentSubscription, Services},
    bus::{MessageBus, Overflow, SubscribeOptions, Subscription},
    error::Result,
    kernel,
    life::pool,
};

/// How many messages a plugin's subscription holds before it drops the oldest.
const CAPACITY: usize = 1024;

/// The services of one manager.
pub(crate) struct ManagerServices {
    bus: MessageBus,
}

impl ManagerServices {
    pub(crate) fn new(bus: MessageBus) -> Self {
        Self { bus }
    }
}

impl Services for ManagerServices {
    fn publish(&self, envelope: Envelope) -> BoxFuture<Result<()>> {
        let bus = self.bus.clone();
        Box::pin(async move { bus.publish(envelope).await })
    }

    fn request(&self, envelope: Envelope, limit: Duration) -> BoxFuture<Result<Envelope>> {
        let bus = self.bus.clone();
        let id = envelope.id;
        Box::pin(async move {
            let event = bus.answer_within(envelope, limit).await?;
            Ok(Envelope::new(KERNEL, event).answering(id))
        })
    }

    fn subscribe(&self, filter: Filter) -> Arc<dyn LentSubscription> {
        // Never one that makes publishers wait: a plugin that does not read must hold up nobody.
        let options =
            SubscribeOptions::new().filter(filter).capacity(CAPACITY).overflow(Overflow::DropOldest);
        Arc::new(Lent(Arc::new(self.bus.join(options))))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        Box::pin(kernel::sleep(duration))
    }

    fn spawn(&self, task: BoxFuture<()>) {
        pool::spawn(task);
    }

    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        // Never at once: whoever wakes may be in the middle of another module's code.
        pool::run(work);
    }
}

/// A subscription of a plugin's.
struct Lent(Arc<Subscription>);

impl LentSubscription for Lent {
    fn receive(&self) -> BoxFuture<Option<Envelope>> {
        let subscription = self.0.clone();
        Box::pin(poll_fn(move |context| subscription.receiver.poll_next(context)))
    }

    fn missed(&self) -> u64 {
        self.0.missed()
    }

    fn close(&self) {
        self.0.close();
    }
}
