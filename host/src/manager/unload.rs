//! The end of a module: drain, stop, and what the undertaker says; then the receipt.

use std::sync::Arc;

use oxide_plugin_api::{Event, ModuleState};
use tokio::runtime::Handle;

use super::{
    lifecycle::{announce, drain, set_state, stop_hook, stop_outcome},
    registry::{Entry, Shared},
};
use crate::{
    life::{
        generation::SEATS,
        undertaker::{self, Holders},
    },
    report::{Holder, Receipt, StopOutcome},
};

/// Unloads a module from whatever state it is in. Cannot fail: what could not be done is on the receipt.
pub(crate) async fn unload(shared: &Arc<Shared>, entry: &Arc<Entry>, runtime: Option<&Handle>) -> Receipt {
    let was = entry.state();
    set_state(entry, ModuleState::Stopping);
    let drain = drain(shared, entry).await;
    let mut holders = Holders::default();
    if !drain.drained {
        holders.add(Holder::Call, entry.seat.gate().inside(), "calls that did not come out");
    }
    let earlier = *entry.generation.bad_stop.lock();
    // Still to be stopped: running, or failed because calls were inside when it was to stop.
    let owed = match was {
        ModuleState::Running => true,
        ModuleState::Failed => earlier == Some(StopOutcome::Skipped),
        _ => false,
    };
    let stop = match (owed, drain.drained) {
        (true, true) => {
            let stopped = stop_hook(shared, entry, runtime).await;
            stopped.map_or_else(|error| stop_outcome(&error), |()| StopOutcome::Ok)
        }
        (true, false) => StopOutcome::Skipped,
        // A stop that went wrong before this unload keeps the library as one in it would.
        (false, _) if was == ModuleState::Failed => earlier.unwrap_or(StopOutcome::NotRunning),
        (false, _) => StopOutcome::NotRunning,
    };
    // A hook that ran past its deadline may still be inside.
    let alone = entry.generation.alone(shared.limits.stop).await;
    if alone.is_none() {
        holders.add(Holder::Call, 1, "a hook that ran past its deadline is still running");
    }
    let free = drain.drained && alone.is_some();
    let end = undertaker::end(&entry.id, entry.generation.clone(), stop, free, holders).await;
    drop(alone);

    entry.route.close();
    if free && end.unmapped {
        SEATS.give_back(entry.seat);
    }
    let departure = shared.depart(entry);
    entry.mailbox.close(shared, entry);
    let receipt = Receipt {
        id: entry.id.as_ref().to_owned(),
        generation: entry.generation.number,
        unmapped: end.unmapped,
        retained_by: end.retained_by,
        drained: drain.came_out,
        cancelled: drain.cancelled,
        stop,
        drop: end.drop,
        leaked_bytes: 0,
        revoked: end.revoked,
    };
    announce(
        shared,
        Event::ModuleUnloaded {
            module_id: entry.id.as_ref().to_owned(),
            receipt: serde_json::to_value(&receipt).unwrap_or_default(),
        },
    );
    drop(departure);
    receipt
}
