//! What the kernel says: every transition once, when it is true, to the log and on the bus.

use oxide_plugin_api::{Envelope, Event};
use serde_json::Value;
use uuid::Uuid;

use super::registry::Shared;
use crate::report::Receipt;

/// Who announces transitions.
pub(crate) const KERNEL: &str = "kernel";

/// Announces a transition.
pub(crate) fn announce(shared: &Shared, event: Event) {
    record(&event);
    shared.bus.announce_with(|| Envelope::new(KERNEL, event));
}

/// Announces what a command asked for, if it was one; the announcement is its answer.
pub(crate) fn answer(shared: &Shared, command: Option<Uuid>, event: Event) {
    record(&event);
    shared.bus.announce_with(|| {
        let mut envelope = Envelope::new(KERNEL, event);
        envelope.correlation_id = command;
        envelope
    });
}

/// Announces that a module is no longer there.
pub(crate) fn announce_unloaded(shared: &Shared, receipt: &Receipt) {
    tracing::info!(module = receipt.id, "unloaded");
    shared.bus.announce_with(|| {
        let (module_id, receipt) = (receipt.id.clone(), json_of(receipt));
        Envelope::new(KERNEL, Event::ModuleUnloaded { module_id, receipt })
    });
}

/// Announces that a library which was retained is gone.
pub(crate) fn announce_unmapped(shared: &Shared, receipt: &Receipt) {
    tracing::info!(module = receipt.id, "its library, which was retained, is gone");
    shared.bus.announce_with(|| {
        let (module_id, receipt) = (receipt.id.clone(), json_of(receipt));
        Envelope::new(KERNEL, Event::ModuleUnmapped { module_id, receipt })
    });
}

fn json_of(receipt: &Receipt) -> Value {
    serde_json::to_value(receipt).unwrap_or_default()
}

/// What is announced goes to the log, too: who reads only that can follow every module's life.
fn record(event: &Event) {
    match event {
        Event::ModuleLoaded { module_id } => tracing::info!(module = module_id, "loaded"),
        Event::ModuleStarted { module_id } => tracing::info!(module = module_id, "started"),
        Event::ModuleStopped { module_id } => tracing::info!(module = module_id, "stopped"),
        Event::ModuleSwapped { module_id, from, to } => {
            tracing::info!(module = module_id, from, to, "swapped");
        }
        Event::ModuleRolledBack { module_id, from, to, reason } => {
            tracing::warn!(module = module_id, from, to, reason, "went back to the build before");
        }
        Event::RollbackFailed { module_id, reason } => {
            tracing::error!(module = module_id, reason, "could not go back to the build before");
        }
        Event::ModuleFailed { module_id, reason } => tracing::warn!(module = module_id, reason, "failed"),
        _ => {}
    }
}
