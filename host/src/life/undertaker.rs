//! The end of a generation, after its drain and its `stop`: revoke, drop, join, seal, close and look.
//!
//! In this version a library is closed only where its file shows that nothing of it can be left on the
//! host's threads; every other is retained, with the reason. Whatever is retained keeps its library, its
//! object's memory and all that it was lent.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    generation::{Generation, Origin},
    hook, loader,
    object::Object,
    pool,
};
use crate::{
    boundary::{
        hooks::HookEnd,
        lend::{Lending, Phase},
        library::Closed,
        module::{ForeignModule, NotMade},
    },
    intake::LinkFacts,
    kernel,
    report::{DropOutcome, Holder, Retained, Retention, StopOutcome},
    sys,
};

/// How long each step of an end may take before it counts as hanging.
const STEP: Duration = Duration::from_secs(5);

/// What the end of a generation came to.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) unmapped: bool,
    pub(crate) retained_by: Vec<Retention>,
    pub(crate) drop: DropOutcome,
    pub(crate) revoked: u64,
}

/// Why a generation cannot be closed, so far.
#[derive(Debug, Default)]
pub(crate) struct Holders(Vec<Retention>);

impl Holders {
    pub(crate) fn add(&mut self, holder: Holder, count: usize, detail: impl Into<String>) {
        self.0.push(Retention { holder, count: count as u64, detail: detail.into() });
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is retained in this process, in the order in which it was.
static RETAINED: LazyLock<Mutex<Vec<Retained>>> = LazyLock::new(Mutex::default);

/// Everything that this process retains.
pub(crate) fn retained() -> Vec<Retained> {
    RETAINED.lock().clone()
}

/// Ends a generation whose gate is drained, or which `holders` already say cannot be closed.
pub(crate) async fn end(
    module: &str,
    generation: Arc<Generation>,
    stop: StopOutcome,
    drained: bool,
    mut holders: Holders,
) -> End {
    if matches!(stop, StopOutcome::Failed | StopOutcome::TimedOut | StopOutcome::Panicked) {
        holders.add(Holder::Stop, 1, format!("its `stop` hook {}", stop_words(stop)));
    }
    let outcome = match &generation.object {
        Object::InProcess(_) => {
            let drop = if drained { drop_in_process(generation.clone()).await } else { DropOutcome::Skipped };
            return End { unmapped: true, retained_by: Vec::new(), drop, revoked: 0 };
        }
        Object::Foreign(foreign) => {
            let revoked = revoke(foreign.lending(), &mut holders).await;
            let drop =
                if drained { destroy(generation.clone(), &mut holders).await } else { DropOutcome::Skipped };
            let unmapped = close(&generation, &mut holders).await;
            End { unmapped, retained_by: holders.0, drop, revoked }
        }
    };
    if !outcome.unmapped {
        remember(module, generation.number, generation.origin.as_ref(), outcome.retained_by.clone());
        // Its library, and with it the memory that it was lent, stays for good.
        std::mem::forget(generation);
    }
    outcome
}

/// Ends a library whose module could not be made.
pub(crate) async fn end_unmade(module: &str, not_made: Box<NotMade>, origin: Origin) {
    let mut holders = Holders::default();
    let lending = not_made.lending.clone();
    revoke(&lending, &mut holders).await;
    let detached = hook::run_blocking(
        STEP * 2,
        move || {
            let detached = not_made.detach();
            (not_made, detached)
        },
        // Too late to be closed; it is listed as retained already.
        std::mem::forget,
    )
    .await;
    match &detached {
        Some((_, true)) => {}
        _ => holders.add(Holder::Thread, 1, "the plugin's own runtime could not be joined"),
    }
    seal(&lending, &mut holders).await;
    static_holders(&origin.facts, &mut holders);
    if let Some((not_made, _)) = detached {
        let NotMade { library, .. } = *not_made;
        if holders.is_empty() {
            let closed = loader::run("closing a library".to_owned(), move || library.close(), drop).await;
            match closed {
                Ok(Closed::Unmapped) => return,
                Ok(Closed::StillMapped) => {
                    holders.add(Holder::Loader, 1, "it is still in the process's map");
                }
                Err(error) => holders.add(Holder::Loader, 1, error.to_string()),
            }
        } else {
            std::mem::forget(library);
        }
    }
    std::mem::forget(lending);
    remember(module, 0, Some(&origin), holders.0);
}

fn remember(module: &str, generation: u64, origin: Option<&Origin>, retained_by: Vec<Retention>) {
    let path = origin.map(|origin| origin.path.clone()).unwrap_or_default();
    RETAINED.lock().push(Retained { id: module.to_owned(), generation, path, retained_by });
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

/// Takes back all that was lent; tells how many things were out.
async fn revoke(lending: &Arc<Lending>, holders: &mut Holders) -> u64 {
    lending.close();
    let ended = kernel::within(STEP, lending.end_tasks(Phase::Init)).await;
    let tasks = ended.unwrap_or_else(|| {
        let (tasks, _) = lending.outstanding();
        holders.add(Holder::Handle, tasks, "tasks that did not end when they were told to");
        0
    });
    let revoker = lending.clone();
    let revoked = hook::run_blocking(
        STEP,
        move || {
            let Some(_ticket) = revoker.ticket() else { return 0 };
            revoker.within(|| revoker.revoke())
        },
        drop,
    )
    .await;
    match revoked {
        Some(revoked) => (tasks + revoked) as u64,
        None => {
            holders.add(Holder::Handle, 1, "taking its handles back did not end");
            tasks as u64
        }
    }
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

/// Drops the object and joins the plugin's own runtime.
async fn destroy(generation: Arc<Generation>, holders: &mut Holders) -> DropOutcome {
    let destroyed = hook::run_blocking(
        STEP * 2,
        move || {
            let Object::Foreign(module) = &generation.object else { return (true, true) };
            let destroyed = module.destroy();
            let detached = module.detach();
            (matches!(destroyed, HookEnd::Ok(_)), matches!(detached, HookEnd::Ok(_)))
        },
        drop,
    )
    .await;
    match destroyed {
        Some((dropped, detached)) => {
            if !detached {
                holders.add(Holder::Thread, 1, "the plugin's own runtime could not be joined");
            }
            if dropped { DropOutcome::Ok } else { DropOutcome::Panicked }
        }
        None => {
            holders.add(Holder::Call, 1, "the object's destructor does not end");
            DropOutcome::Skipped
        }
    }
}

/// Seals the generation, and closes it if nothing can hold it. Tells whether it is gone.
async fn close(generation: &Arc<Generation>, holders: &mut Holders) -> bool {
    let Object::Foreign(foreign) = &generation.object else { return true };
    seal(foreign.lending(), holders).await;
    if let Some(origin) = &generation.origin {
        static_holders(&origin.facts, holders);
    }
    if !holders.is_empty() {
        return false;
    }
    let closing = generation.clone();
    let what = format!("closing generation {}", generation.number);
    let closed = loader::run(what, move || close_foreign(&closing), drop).await;
    match closed {
        Ok(Some(Closed::Unmapped)) => true,
        Ok(_) => {
            holders.add(Holder::Loader, 1, "it was closed, but is still in the process's map");
            false
        }
        Err(error) => {
            holders.add(Holder::Loader, 1, error.to_string());
            false
        }
    }
}

fn close_foreign(generation: &Generation) -> Option<Closed> {
    match &generation.object {
        Object::Foreign(foreign) => foreign.close(),
        Object::InProcess(_) => None,
    }
}

/// Nobody gets a ticket any more; waits for those that are out.
async fn seal(lending: &Lending, holders: &mut Holders) {
    let work = &lending.work;
    work.shut();
    if holders.0.iter().any(|holder| holder.holder == Holder::Call) {
        // It stays anyway: nothing would be won by waiting for who is known not to come out.
        return;
    }
    if kernel::within(STEP, work.drained()).await.is_none() {
        holders.add(Holder::Call, work.inside(), "hooks, tasks or wakers that are still running");
    }
}

/// What the file itself says: imports whose effects we neither see nor undo, and orders to the loader.
fn static_holders(facts: &LinkFacts, holders: &mut Holders) {
    if let Err(why) = sys::unload_is_proven() {
        holders.add(Holder::Platform, 1, why);
    }
    holders.0.extend(facts.retained_by());
}

/// Ends, on a life thread, what came too late for whoever wanted it.
pub(crate) fn end_late(module: String, made: ForeignModule, origin: Origin) {
    pool::spawn(async move {
        let generation = Arc::new(Generation::foreign(0, made, origin));
        drop(end(&module, generation, StopOutcome::NotRunning, true, Holders::default()).await);
    });
}
