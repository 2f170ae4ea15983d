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
        reaper,
        undertaker::{self, End, Holders},
    },
    report::{Receipt, StopOutcome},
};

/// Unloads a module from whatever state it is in. Cannot fail: what could not be done is on the receipt.
pub(crate) async fn unload(shared: &Arc<Shared>, entry: &Arc<Entry>, runtime: Option<&Handle>) -> Receipt {
    let was = entry.state();
    set_state(entry, ModuleState::Stopping);
    let drain = drain(shared, entry).await;
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
    drop(entry.generation.alone(shared.limits.stop).await);
    let patience = shared.limits.patience();
    let (generation, seat) = (entry.generation.clone(), Some(entry.seat));
    let (end, retained) =
        undertaker::end(&entry.id, generation, seat, stop, Holders::default(), patience).await;

    entry.route.close();
    if let Some(retained) = &retained {
        reaper::list(retained.clone());
    }
    if end.unmapped {
        SEATS.give_back(entry.seat);
    }
    let departure = shared.depart(entry);
    entry.mailbox.close(shared, entry);
    let receipt_of = {
        let (id, generation) = (entry.id.as_ref().to_owned(), entry.generation.number);
        let (drained, cancelled) = (drain.came_out, drain.cancelled);
        move |end: End| Receipt {
            id,
            generation,
            unmapped: end.unmapped,
            retained_by: end.retained_by,
            drained,
            cancelled,
            stop,
            drop: end.drop,
            leaked_bytes: end.leaked_bytes,
            revoked: end.revoked,
            forgotten_locals: end.forgotten_locals,
        }
    };
    let receipt = receipt_of.clone()(end);
    let module_id = entry.id.as_ref().to_owned();
    announce(shared, Event::ModuleUnloaded { module_id: module_id.clone(), receipt: json_of(&receipt) });
    drop(departure);
    if let Some(retained) = retained {
        let (shared, seat) = (Arc::downgrade(shared), entry.seat);
        retained.when_gone(Box::new(move |end| {
            SEATS.give_back(seat);
            if let Some(shared) = shared.upgrade() {
                let receipt = json_of(&receipt_of(end));
                announce(&shared, Event::ModuleUnmapped { module_id, receipt });
            }
        }));
        reaper::try_again(&retained);
    }
    receipt
}

fn json_of(receipt: &Receipt) -> serde_json::Value {
    serde_json::to_value(receipt).unwrap_or_default()
}
