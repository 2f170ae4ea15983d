//! The end of a module, or of one generation of it: drain, stop, and what the undertaker says; then the receipt.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use oxide_plugin_api::ModuleState;
use tokio::runtime::Handle;

use super::{
    announce::{announce_unloaded, announce_unmapped},
    lifecycle::{Drain, drain, set_state, stop_at_the_end},
    registry::{Entry, Present, Shared},
};
use crate::{
    life::{
        burial::Burial,
        generation::{GenerationSeat, SEATS},
        loader, reaper,
        undertaker::{self, End, Holders},
    },
    report::{Receipt, StopOutcome},
};

/// Unloads a module from whatever state it is in. Cannot fail: what could not be done is on the receipt.
pub(crate) async fn unload(shared: &Arc<Shared>, entry: &Arc<Entry>, runtime: Option<&Handle>) -> Receipt {
    let was = entry.state();
    set_state(entry, ModuleState::Stopping);
    let present = entry.present();
    // The copies go with the libraries, not with the last handle to the module.
    drop(present.build.lock().take());
    let previous = entry.previous.lock().take();
    let drain = drain(shared, entry, &present).await;
    let ended = end(shared, &entry.id, &present, was, &drain, runtime).await;

    if previous.is_some() {
        loader::leave(previous, None);
    }
    entry.route.close();
    ended.list(present.seat);
    let departure = shared.depart(entry);
    entry.mailbox.close(shared, entry);
    announce_unloaded(shared, &ended.receipt);
    drop(departure);
    ended.settle(shared, present.seat)
}

/// A generation that has ended, or is retained.
pub(crate) struct Ended {
    receipt: Receipt,
    draft: Draft,
    retained: Option<Arc<Burial>>,
}

/// What a receipt says besides the undertaker's part.
#[derive(Clone)]
struct Draft {
    id: String,
    generation: u64,
    drained: u64,
    cancelled: u64,
    stop: StopOutcome,
}

impl Draft {
    fn with(self, end: End) -> Receipt {
        Receipt {
            id: self.id,
            generation: self.generation,
            unmapped: end.unmapped,
            retained_by: end.retained_by,
            drained: self.drained,
            cancelled: self.cancelled,
            stop: self.stop,
            drop: end.drop,
            leaked_bytes: end.leaked_bytes,
            revoked: end.revoked,
            forgotten_locals: end.forgotten_locals,
        }
    }
}

/// Ends a generation after its drain: `stop`, if it was started, and the undertaker.
pub(crate) async fn end(
    shared: &Arc<Shared>,
    id: &str,
    present: &Present,
    was: ModuleState,
    drain: &Drain,
    runtime: Option<&Handle>,
) -> Ended {
    let generation = &present.generation;
    let earlier = *generation.bad_stop.lock();
    // A hook that ran past its deadline may still be inside, and be a `start` that ends well after all.
    let is_held = was == ModuleState::Failed && generation.alone(shared.limits.stop).await.is_none();
    let owed = generation.started.load(SeqCst);
    let stop = match (owed, drain.drained) {
        (true, true) if is_held => StopOutcome::TimedOut,
        (true, true) => stop_at_the_end(shared, id, generation, runtime).await,
        (true, false) => StopOutcome::Skipped,
        // A stop that went wrong before this unload keeps the library as one in it would.
        (false, _) if was == ModuleState::Failed => earlier.unwrap_or(StopOutcome::NotRunning),
        (false, _) => StopOutcome::NotRunning,
    };
    // A `stop` may be, now.
    if !is_held {
        drop(generation.alone(shared.limits.stop).await);
    }
    let patience = shared.limits.patience();
    let (end, retained) =
        undertaker::end(id, generation.clone(), Some(present.seat), stop, Holders::default(), patience).await;
    let draft = Draft {
        id: id.to_owned(),
        generation: generation.number,
        drained: drain.came_out,
        cancelled: drain.cancelled,
        stop,
    };
    Ended { receipt: draft.clone().with(end), draft, retained }
}

impl Ended {
    /// Lists it when it is retained, and gives its seat back when it is gone. The route leads elsewhere by now.
    pub(crate) fn list(&self, seat: GenerationSeat) {
        if let Some(retained) = &self.retained {
            reaper::list(retained.clone());
        }
        if self.receipt.unmapped {
            SEATS.give_back(seat);
        }
    }

    /// Has the reaper try again what is retained, and announce when it is gone. After `list`.
    pub(crate) fn settle(self, shared: &Arc<Shared>, seat: GenerationSeat) -> Receipt {
        let Self { receipt, draft, retained } = self;
        if let Some(retained) = retained {
            let shared = Arc::downgrade(shared);
            retained.when_gone(Box::new(move |end| {
                SEATS.give_back(seat);
                if let Some(shared) = shared.upgrade() {
                    announce_unmapped(&shared, &draft.with(end));
                }
            }));
            reaper::try_again(&retained);
        }
        receipt
    }
}
