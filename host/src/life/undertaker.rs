//! The end of a generation, after its drain and its `stop`; what is left of it goes to the reaper.

use std::{sync::Arc, time::Duration};

use super::{
    burial::Burial,
    generation::{Generation, GenerationSeat},
    hook,
    object::Object,
};
use crate::{
    intake::LinkFacts,
    report::{DropOutcome, Holder, Retention, StopOutcome},
    sys,
};

/// How long each step of an end may take before it counts as hanging.
const STEP: Duration = Duration::from_secs(5);

/// How patient an attempt is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For tasks, hooks and wakers that are still running.
    pub(crate) step: Duration,
    /// For the threads that it started.
    pub(crate) threads: Duration,
    /// For living threads to run their thread-locals' destructors.
    pub(crate) locals: Duration,
    /// For them altogether, before what they owe is left undone.
    pub(crate) forget_locals: Duration,
    /// For the loader to close the library.
    pub(crate) loader: Duration,
}

impl Patience {
    /// For an unload that somebody waits for.
    pub(crate) fn of_an_unload(threads: Duration, forget_locals: Duration, loader: Duration) -> Self {
        Self { step: STEP, threads, locals: Duration::from_secs(1), forget_locals, loader }
    }

    /// For one more attempt, after something has changed.
    pub(crate) fn again(self) -> Self {
        let locals = Duration::from_millis(100);
        Self { step: Duration::ZERO, threads: Duration::ZERO, locals, ..self }
    }
}

/// What the end of a generation has come to.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) unmapped: bool,
    pub(crate) retained_by: Vec<Retention>,
    pub(crate) drop: DropOutcome,
    pub(crate) revoked: u64,
    /// `None` when nobody counts, or it is still mapped.
    pub(crate) leaked_bytes: Option<u64>,
    /// Destructors of thread-locals that were left unrun because their threads did not come by.
    pub(crate) forgotten_locals: u64,
}

/// Why a generation cannot be closed, so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holders(Vec<Retention>);

impl Holders {
    pub(crate) fn add(&mut self, holder: Holder, count: usize, detail: impl Into<String>) {
        self.0.push(Retention { holder, count: count as u64, detail: detail.into() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn list(&self) -> &[Retention] {
        &self.0
    }
}

/// Ends a generation whose calls are drained, or not: `seat` says so. What `holders` already say keeps it for
/// good. What is left of it is for the caller to give to the reaper.
pub(crate) async fn end(
    module: &str,
    generation: Arc<Generation>,
    seat: Option<GenerationSeat>,
    stop: StopOutcome,
    mut holders: Holders,
    patience: Patience,
) -> (End, Option<Arc<Burial>>) {
    if let Object::InProcess(_) = &generation.object {
        let free = seat.is_none_or(|seat| seat.gate().is_drained()) && is_alone(&generation).await;
        let drop = if free { drop_in_process(generation.clone()).await } else { DropOutcome::Skipped };
        let leaked_bytes = Some(0);
        return (
            End {
                unmapped: true,
                retained_by: Vec::new(),
                drop,
                revoked: 0,
                leaked_bytes,
                forgotten_locals: 0,
            },
            None,
        );
    }
    if !matches!(stop, StopOutcome::Ok | StopOutcome::NotRunning) {
        holders.add(Holder::Stop, 1, format!("its `stop` hook {}", stop_words(stop)));
    }
    if let Some(origin) = &generation.origin {
        holders.0.extend(static_holders(&origin.facts));
    }
    let burial = Burial::new(module, generation, seat, holders, patience);
    let end = burial.attempt().await;
    if end.unmapped {
        return (end, None);
    }
    (end, Some(burial))
}

fn stop_words(stop: StopOutcome) -> &'static str {
    match stop {
        StopOutcome::Failed => "failed",
        StopOutcome::TimedOut => "did not end in time",
        StopOutcome::Panicked => "panicked",
        StopOutcome::Skipped => "was skipped",
        StopOutcome::Ok | StopOutcome::NotRunning => "ended",
    }
}

/// Why a library can never be closed, as far as its file and this system say: imports whose effects we neither
/// see nor undo, and orders to the loader.
pub(crate) fn static_holders(facts: &LinkFacts) -> Vec<Retention> {
    let platform = sys::platform::unload_is_proven().err().map(|why| Retention {
        holder: Holder::Platform,
        count: 1,
        detail: why.to_owned(),
    });
    platform.into_iter().chain(facts.retained_by()).collect()
}

async fn is_alone(generation: &Generation) -> bool {
    generation.alone(Duration::ZERO).await.is_some()
}

async fn drop_in_process(generation: Arc<Generation>) -> DropOutcome {
    let dropped = hook::run_blocking(
        STEP,
        move || {
            let Object::InProcess(module) = &generation.object else { return Ok(()) };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| module.destroy()))
                .map_err(|payload| drop(hook::panic_message(payload)))
        },
        drop,
    )
    .await;
    match dropped {
        Some(Ok(())) => DropOutcome::Ok,
        Some(Err(())) => DropOutcome::Panicked,
        None => DropOutcome::Skipped,
    }
}
