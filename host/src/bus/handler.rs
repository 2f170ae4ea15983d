//! Those who act on what is published: a manager, which carries out commands and brings custom events to the
//! modules they are about.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
};

use oxide_plugin_api::Envelope;

use super::roster::Roster;
use crate::error::Result;

/// What [`Handler::deliver`] returns. It borrows nothing, so a publisher that waits in it keeps no handler
/// alive.
pub(crate) type Delivery = Pin<Box<dyn Future<Output = Result<()>> + Send + 'static>>;

/// Is given every published message, commands and events, after the subscribers have it; not the
/// announcements.
pub(crate) trait Handler: Send + Sync {
    /// Whether this message is worth a copy. A message that no handler wants costs nothing here.
    fn wants(&self, envelope: &Envelope) -> bool {
        let _ = envelope;
        true
    }

    /// Takes the message. The publisher awaits the result, so a full mailbox may make it wait; an error goes
    /// back to the publisher.
    fn deliver(&self, envelope: Envelope) -> Delivery;
}

/// Detaches its handler when it is dropped.
#[must_use = "dropping it detaches the handler"]
pub(crate) struct HandlerGuard {
    pub(super) roster: Weak<Roster>,
    pub(super) key: u64,
}

impl Drop for HandlerGuard {
    fn drop(&mut self) {
        if let Some(roster) = self.roster.upgrade() {
            roster.detach(self.key);
        }
    }
}

/// Gives `envelope` to every handler that wants it, and awaits them all. Returns the first error.
pub(super) async fn deliver_to(handlers: Vec<Arc<dyn Handler>>, envelope: Arc<Envelope>) -> Result<()> {
    let deliveries: Vec<_> =
        handlers.iter().map(|handler| handler.deliver(Envelope::clone(&envelope))).collect();
    drop((handlers, envelope));
    let mut outcome = Ok(());
    for delivery in deliveries {
        outcome = outcome.and(delivery.await);
    }
    outcome
}
