//! A new build on probation: when it fails its callers too often, its module goes back to the build before.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use oxide_plugin_api::Event;

use super::{
    announce::announce,
    load::Loading,
    registry::{Entry, Present, Shared},
    swap::{self, Asker, Source, SwapOptions},
};
use crate::{error::KernelError, kernel, life::coordinator};

/// How long a new build is watched after a swap, and what sends it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probation {
    /// How long, from the moment in which calls are led to it.
    pub time: Duration,
    /// So many calls and messages may fail with an error: 10, unless said otherwise. One more sends it back, and so
    /// does the first panic. A method that it does not know is no failure of its.
    pub errors: u64,
}

impl Probation {
    /// For so long, with 10 errors allowed.
    pub fn new(time: Duration) -> Self {
        Self { time, errors: 10 }
    }

    /// Allows so many errors.
    #[must_use]
    pub fn errors(mut self, errors: u64) -> Self {
        self.errors = errors;
        self
    }
}

/// Watches the present generation; what it comes to is announced.
pub(crate) fn begin(
    shared: &Arc<Shared>,
    loading: &Loading,
    entry: &Arc<Entry>,
    now: &Present,
    probation: Probation,
) {
    let Some(failures) = now.generation.failures().cloned() else { return };
    let unique = now.generation.unique;
    let (shared, loading, entry) = (shared.clone(), loading.clone(), entry.clone());
    *entry.probation.lock() = Some((unique, Instant::now() + probation.time));
    coordinator::spawn(async move {
        let failed = tokio::select! {
            failed = kernel::within(probation.time, failures.beyond(probation.errors)) => failed,
            () = entry.ops.closed() => None,
        };
        entry.probation.lock().take_if(|(on_probation, _)| *on_probation == unique);
        let Some((panics, errors)) = failed else { return };
        let counted = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let reason =
            format!("{} and {} while on probation", counted(panics, "panic"), counted(errors, "error"));
        go_back(&shared, &loading, &entry, unique, reason).await;
    });
}

async fn go_back(shared: &Arc<Shared>, loading: &Loading, entry: &Arc<Entry>, failed: u64, reason: String) {
    let module_id = entry.id.as_ref().to_owned();
    let source = Source::Previous { of: Some(failed) };
    let asker = Asker { runtime: None, gone: Arc::new(AtomicBool::new(false)) };
    match swap::swap(shared, loading, entry, source, &SwapOptions::new().force(true), asker).await {
        Ok(report) => {
            let (from, to) = (report.from, report.to);
            announce(shared, Event::ModuleRolledBack { module_id, from, to, reason });
        }
        // Somebody else has swapped or unloaded it meanwhile.
        Err(KernelError::UnknownModule(_) | KernelError::Superseded { .. }) => {}
        Err(error) => {
            let reason = format!("{reason}; {}", error.in_full());
            announce(shared, Event::RollbackFailed { module_id, reason });
        }
    }
}
