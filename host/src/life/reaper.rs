//! Tries again to end what is retained: whenever something has changed, and on a clock that slows down.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{burial::Burial, coordinator, loader};
use crate::{
    boundary::{library::Kept, residue::CHANGED},
    intake::LinkFacts,
    kernel,
    report::{Holder, Retained, Retention},
};

/// The pause after which it looks without having been told; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is retained in this process, in the order in which it was.
static RETAINED: LazyLock<Mutex<Vec<Arc<Burial>>>> = LazyLock::new(Mutex::default);

/// Generations that nobody can end yet: their number, their module's, and what to say of them.
static LINGERING: LazyLock<Mutex<BTreeMap<u64, (u64, Tell)>>> = LazyLock::new(Mutex::default);

type Tell = Box<dyn Fn() -> Retained + Send>;

/// Lists a generation that cannot be ended yet because somebody is inside; until this is dropped.
pub(crate) struct Lingering(u64);

impl Lingering {
    /// `number` is unique in this process, and so is that of its `module`.
    pub(crate) fn list(number: u64, module: u64, tell: Tell) -> Self {
        LINGERING.lock().insert(number, (module, tell));
        Self(number)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let tell = LINGERING.lock().remove(&self.0);
        drop(tell);
    }
}

/// Lists a library that was refused after it was opened, as long as it stays. `number` and `module` are as of
/// [`Lingering::list`]; what keeps it is added to `retained`.
pub(crate) fn list_kept(number: u64, module: u64, mut retained: Retained, kept: Kept) {
    let is_for_good = kept.facts().is_some();
    let detail = "it was refused and closed, but is still in the process's map".to_owned();
    let still_mapped = || vec![Retention { holder: Holder::Loader, count: 1, detail }];
    retained.retained_by = kept.facts().map_or_else(still_mapped, LinkFacts::retained_by);
    let id = retained.id.clone();
    let listed = Lingering::list(number, module, Box::new(move || retained.clone()));
    if is_for_good {
        // With its copy, which debuggers and backtraces look for.
        return std::mem::forget((listed, kept));
    }
    KEPT.lock().push((id, listed, kept));
    go_to_work();
}

/// Libraries that were refused and closed, and stay mapped.
static KEPT: Mutex<Vec<(String, Lingering, Kept)>> = Mutex::new(Vec::new());

/// Whether the reaper runs.
static AT_WORK: AtomicBool = AtomicBool::new(false);

/// Everything that this process retains.
pub(crate) fn retained() -> Vec<Retained> {
    let burials = RETAINED.lock().clone();
    let mut all: Vec<_> = burials.iter().map(|burial| burial.retained()).collect();
    all.extend(LINGERING.lock().values().map(|(_, tell)| tell()));
    all
}

/// What is retained of the module with this number, whose id others may have had before, or have in another host.
pub(crate) fn retained_of(module: u64) -> Vec<Retained> {
    let burials = RETAINED.lock().clone();
    let of_it = burials.iter().filter(|burial| burial.is_of(module));
    let mut all: Vec<_> = of_it.map(|burial| burial.retained()).collect();
    let lingering = LINGERING.lock();
    all.extend(lingering.values().filter(|(of, _)| *of == module).map(|(_, tell)| tell()));
    all
}

/// Takes over what could not be ended.
pub(crate) fn take(burial: Arc<Burial>) {
    list(burial.clone());
    try_again(&burial);
}

/// Lists what could not be ended.
pub(crate) fn list(burial: Arc<Burial>) {
    RETAINED.lock().push(burial);
}

/// Tries what is listed again, from now on; who is to be told of its end is known by now.
pub(crate) fn try_again(burial: &Burial) {
    burial.try_again();
    if burial.is_for_good() {
        return;
    }
    if let Some(lending) = burial.tickets() {
        coordinator::spawn(async move {
            lending.work.drained().await;
            CHANGED.notify_waiters();
        });
    }
    go_to_work();
}

fn go_to_work() {
    if !AT_WORK.swap(true, SeqCst) {
        coordinator::spawn(work());
    } else {
        CHANGED.notify_waiters();
    }
}

async fn work() {
    let mut pause = FIRST_PAUSE;
    let mut changed = Box::pin(CHANGED.notified());
    loop {
        let told = kernel::within(pause, changed.as_mut()).await.is_some();
        // From before the round on: what changes during it may be about one that it has passed.
        changed.set(CHANGED.notified());
        pause = if told { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        if !round().await {
            AT_WORK.store(false, SeqCst);
            // One that came in between has seen us at work.
            if (hopeful().is_empty() && KEPT.lock().is_empty()) || AT_WORK.swap(true, SeqCst) {
                return;
            }
        }
    }
}

/// Those that may be freed.
fn hopeful() -> Vec<Arc<Burial>> {
    RETAINED.lock().iter().filter(|burial| burial.is_to_be_tried()).cloned().collect()
}

/// Tries each; tells whether any is left to be tried.
async fn round() -> bool {
    let mut left = false;
    for burial in hopeful() {
        let end = burial.attempt_again().await;
        if end.unmapped {
            RETAINED.lock().retain(|other| !Arc::ptr_eq(other, &burial));
            tracing::info!(module = burial.module, "a retained library is gone after all");
            burial.is_gone(end);
        } else {
            left = true;
        }
    }
    let kept = std::mem::take(&mut *KEPT.lock());
    let (gone, kept): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(_, _, kept)| kept.is_gone());
    for (module, listed, kept) in gone {
        tracing::info!(module, "a library that was refused is gone after all");
        drop(listed);
        loader::leave(kept, None);
    }
    left |= !kept.is_empty();
    KEPT.lock().extend(kept);
    left
}
