//! A generation on its way out: revoke, drop, join, seal, wait for its threads, flush thread-locals, look at
//! signal handlers, close and look.
//!
//! What one attempt leaves undone the next one takes up, so a generation that is retained is tried again by the
//! reaper. Whatever is retained keeps its library, its object's memory and all that it was lent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    coordinator, flush,
    generation::{Generation, GenerationSeat},
    hook, loader,
    object::Object,
    pool,
    residents::{debtors, until, wait_for_threads},
    undertaker::{End, Holders, Patience},
};
use crate::{
    boundary::{
        hooks::HookEnd,
        lend::{Lending, Phase},
        library::{self, Closed},
        module::ForeignModule,
        residue::CHANGED,
    },
    intake::StagedFile,
    kernel,
    report::{DropOutcome, Holder, Retained, Retention},
};

/// What is to be told when a generation that was retained is gone after all.
pub(crate) type WhenGone = Box<dyn FnOnce(End) + Send>;

/// A generation on its way out.
pub(crate) struct Burial {
    pub(crate) module: String,
    generation: Arc<Generation>,
    /// `None` for one that never took calls.
    seat: Option<GenerationSeat>,
    /// What no later attempt can change.
    for_good: Holders,
    patience: Patience,
    object: Arc<ObjectEnd>,
    /// The lock keeps attempts apart.
    progress: tokio::sync::Mutex<Progress>,
    /// What the last attempt came to.
    last: Mutex<Vec<Retention>>,
    when_gone: Mutex<Option<WhenGone>>,
    /// The reaper may go on with it.
    tried_again: AtomicBool,
}

#[derive(Default)]
struct Progress {
    tasks_ended: bool,
    revoked: bool,
    revoked_count: u64,
    /// Since when nothing but thread-locals keeps it.
    locals_since: Option<Instant>,
    forgotten_locals: u64,
    /// Its copy, when it was closed and stayed mapped.
    still_mapped: Option<StagedFile>,
    /// The loader is at its close, late.
    closing: Option<Arc<Mutex<Option<Option<Closed>>>>>,
    leaked_bytes: Option<u64>,
    gone: bool,
}

/// How far the object's end is, told by the life thread that is at it.
#[derive(Default)]
struct ObjectEnd {
    destroyed: AtomicU8,
    detached: AtomicU8,
}

const NOT_YET: u8 = 0;
const UNDER_WAY: u8 = 1;
const DONE: u8 = 2;
const PANICKED: u8 = 3;

impl Burial {
    /// `for_good` is what no attempt can change.
    pub(crate) fn new(
        module: &str,
        generation: Arc<Generation>,
        seat: Option<GenerationSeat>,
        for_good: Holders,
        patience: Patience,
    ) -> Arc<Self> {
        Arc::new(Self {
            module: module.to_owned(),
            generation,
            seat,
            for_good,
            patience,
            object: Arc::default(),
            progress: tokio::sync::Mutex::default(),
            last: Mutex::default(),
            when_gone: Mutex::default(),
            tried_again: AtomicBool::new(false),
        })
    }

    /// Whether nothing that may still happen can free it.
    pub(crate) fn is_for_good(&self) -> bool {
        !self.for_good.is_empty()
    }

    /// From now on the reaper may go on with it.
    pub(crate) fn try_again(&self) {
        self.tried_again.store(true, SeqCst);
    }

    /// Whether the reaper is to go on with it.
    pub(crate) fn is_to_be_tried(&self) -> bool {
        self.tried_again.load(SeqCst) && !self.is_for_good()
    }

    /// Whether it is a generation of the module with this number.
    pub(crate) fn is_of(&self, module: u64) -> bool {
        matches!(&self.generation.object, Object::Foreign(foreign) if foreign.lending().module_number == module)
    }

    /// What it looks like from outside.
    pub(crate) fn retained(&self) -> Retained {
        Retained {
            id: self.module.clone(),
            generation: self.generation.number,
            path: self.generation.origin.as_ref().map(|origin| origin.path.clone()).unwrap_or_default(),
            retained_by: self.last.lock().clone(),
        }
    }

    /// Has `tell` called when it is gone; never when that is so already.
    pub(crate) fn when_gone(&self, tell: WhenGone) {
        *self.when_gone.lock() = Some(tell);
    }

    /// Tells that it is gone, and gives back where it sat.
    pub(crate) fn is_gone(&self, end: End) {
        if let Some(tell) = self.when_gone.lock().take() {
            tell(end);
        }
    }

    /// Ready when a ticket that it waits for has been given back.
    pub(crate) fn tickets(&self) -> Option<Arc<Lending>> {
        match &self.generation.object {
            Object::Foreign(foreign) if !foreign.lending().work.is_drained() => {
                Some(foreign.lending().clone())
            }
            _ => None,
        }
    }

    /// The first attempt, for which somebody waits.
    pub(crate) async fn attempt(&self) -> End {
        self.go_on(self.patience).await
    }

    /// One more, after something may have changed.
    pub(crate) async fn attempt_again(&self) -> End {
        self.go_on(self.patience.again()).await
    }

    /// Goes on from where the last attempt stood.
    async fn go_on(&self, patience: Patience) -> End {
        let mut progress = self.progress.lock().await;
        let mut holders = self.for_good.clone();
        let Object::Foreign(foreign) = &self.generation.object else {
            return self.end_of(&progress, Vec::new(), true);
        };
        if !progress.gone {
            self.release(foreign, &mut progress, &mut holders, patience).await;
            if holders.is_empty() {
                progress.gone = self.close(foreign, &mut progress, &mut holders).await;
            }
        }
        let gone = progress.gone;
        self.last.lock().clone_from(&holders.list().to_vec());
        self.end_of(&progress, holders.list().to_vec(), gone)
    }

    fn end_of(&self, progress: &Progress, retained_by: Vec<Retention>, unmapped: bool) -> End {
        let drop = match self.object.destroyed.load(SeqCst) {
            DONE => DropOutcome::Ok,
            PANICKED => DropOutcome::Panicked,
            _ => DropOutcome::Skipped,
        };
        let leaked_bytes = if unmapped { progress.leaked_bytes } else { None };
        End {
            unmapped,
            retained_by,
            drop,
            revoked: progress.revoked_count,
            leaked_bytes,
            forgotten_locals: progress.forgotten_locals,
        }
    }

    /// Everything before the close, in the order that matters; what is left is added to `holders`.
    async fn release(
        &self,
        foreign: &ForeignModule,
        progress: &mut Progress,
        holders: &mut Holders,
        patience: Patience,
    ) {
        if progress.still_mapped.is_some() || progress.closing.is_some() {
            return;
        }
        revoke(foreign.lending(), progress, holders, patience).await;
        if !self.drop_object(holders, patience).await {
            // Not sealed yet: its destructor will need a ticket.
            return;
        }
        seal(foreign.lending(), holders, patience).await;
        if !holders.is_empty() {
            return;
        }
        let residue = foreign.residue();
        wait_for_threads(residue, holders, patience).await;
        if !holders.is_empty() {
            return;
        }
        // Last: a thread-local that is destroyed must never be entered again.
        let mut flushed = flush::flush(residue, patience.locals).await;
        if residue.threads() > 0 {
            // A destructor has started it; what it owes itself is not due before its end.
            wait_for_threads(residue, holders, patience).await;
            if !holders.is_empty() {
                return;
            }
            flushed = flush::flush(residue, patience.locals).await;
        }
        if !flushed {
            let since = *progress.locals_since.get_or_insert_with(Instant::now);
            // A thread that is parked for good must not keep a library for good. To leave them undestroyed is
            // memory-safe; what they own stays, but for memory of the generation's heap.
            if since.elapsed() >= patience.forget_locals {
                progress.forgotten_locals += residue.forget_locals() as u64;
            }
            let (count, detail) = debtors(residue);
            if count > 0 {
                holders.add(Holder::ThreadLocal, count, detail);
            }
        }
        let handlers = foreign.signal_handlers();
        if !handlers.is_empty() {
            holders.add(Holder::SignalHandler, handlers.len(), handlers.join(", "));
        }
    }

    /// Drops the object and joins the plugin's own runtime, once nobody uses it; tells whether that is so.
    async fn drop_object(&self, holders: &mut Holders, patience: Patience) -> bool {
        if self.object.destroyed.load(SeqCst) == NOT_YET {
            if let Some(seat) = self.seat.filter(|seat| !seat.gate().is_drained()) {
                holders.add(Holder::Call, seat.gate().inside(), "calls that did not come out");
                return false;
            }
            let Some(lease) = self.generation.alone(patience.step.min(Duration::from_millis(1))).await else {
                holders.add(Holder::Call, 1, "a hook that ran past its deadline is still running");
                return false;
            };
            let (generation, object) = (self.generation.clone(), self.object.clone());
            object.destroyed.store(UNDER_WAY, SeqCst);
            if generation.started.load(SeqCst) {
                // What `stop` might use has been taken back by now.
                tracing::warn!(module = &*self.module, "was started, and is destroyed without `stop`");
            }
            pool::run(move || {
                let _lease = lease;
                let Object::Foreign(module) = &generation.object else { return };
                let destroyed = matches!(module.destroy(), HookEnd::Ok(_));
                object.destroyed.store(if destroyed { DONE } else { PANICKED }, SeqCst);
                object.detached.store(UNDER_WAY, SeqCst);
                let detached = matches!(module.detach(), HookEnd::Ok(_));
                object.detached.store(if detached { DONE } else { PANICKED }, SeqCst);
                coordinator::answering(|| CHANGED.notify_waiters());
            });
        }
        let ended = || self.object.detached.load(SeqCst) >= DONE;
        if !until(patience.step * 2, ended).await {
            if self.object.destroyed.load(SeqCst) == UNDER_WAY {
                holders.add(Holder::Call, 1, "the object's destructor does not end");
            } else {
                holders.add(Holder::Thread, 1, "the plugin's own runtime could not be joined");
            }
            return false;
        }
        if self.object.detached.load(SeqCst) == PANICKED {
            holders.add(Holder::Thread, 1, "the plugin's own runtime could not be joined");
        }
        true
    }

    /// Has the loader close the library, and look; tells whether it is gone.
    async fn close(&self, foreign: &ForeignModule, progress: &mut Progress, holders: &mut Holders) -> bool {
        if let Some(staged) = progress.still_mapped.take() {
            if library::is_gone(&staged) {
                foreign.residue().bury();
                return true;
            }
            progress.still_mapped = Some(staged);
            holders.add(Holder::Loader, 1, "it was closed, but is still in the process's map");
            return false;
        }
        let closed = match &progress.closing {
            Some(late) => late.lock().take(),
            None => self.close_now(progress, holders).await,
        };
        match closed {
            Some(Some(Closed::Unmapped { leaked_bytes, .. })) => {
                progress.leaked_bytes = leaked_bytes;
                true
            }
            Some(Some(Closed::StillMapped(staged))) => {
                progress.closing = None;
                progress.still_mapped = Some(staged);
                holders.add(Holder::Loader, 1, "it was closed, but is still in the process's map");
                false
            }
            Some(None) => {
                progress.closing = None;
                wait_for_threads(foreign.residue(), holders, self.patience.again()).await;
                if holders.is_empty() {
                    let (count, detail) = debtors(foreign.residue());
                    holders.add(Holder::ThreadLocal, count.max(1), detail);
                }
                false
            }
            None => {
                if holders.is_empty() {
                    holders.add(Holder::Loader, 1, "its closing has not ended: a destructor in it blocks");
                }
                false
            }
        }
    }

    async fn close_now(&self, progress: &mut Progress, holders: &mut Holders) -> Option<Option<Closed>> {
        flush::end_is_near();
        let generation = self.generation.clone();
        let what = format!("closing generation {} of `{}`", generation.number, self.module);
        let late = Arc::new(Mutex::new(None));
        let keep = late.clone();
        let close = move || {
            let mut closed = match &generation.object {
                Object::Foreign(foreign) => foreign.close(),
                Object::InProcess(_) => None,
            };
            // Nobody needs to wait for the disk.
            let copy = closed.as_mut().and_then(Closed::take_copy);
            (closed, copy)
        };
        let done = loader::run(what, self.patience.loader, close, move |closed| {
            *keep.lock() = Some(closed);
            CHANGED.notify_waiters();
        })
        .await;
        match done {
            Ok(closed) => Some(closed),
            Err(loader::NotRun::Refused(error)) => {
                holders.add(Holder::Loader, 1, error.to_string());
                None
            }
            Err(loader::NotRun::Late(error)) => {
                progress.closing = Some(late);
                holders.add(Holder::Loader, 1, error.to_string());
                None
            }
        }
    }
}

/// Takes back all that was lent.
async fn revoke(lending: &Arc<Lending>, progress: &mut Progress, holders: &mut Holders, patience: Patience) {
    if !progress.tasks_ended {
        lending.close();
        match kernel::within(patience.step, lending.end_tasks(Phase::Init)).await {
            Some(ended) => {
                progress.tasks_ended = true;
                progress.revoked_count += ended as u64;
            }
            None => {
                let (tasks, _) = lending.outstanding();
                holders.add(Holder::Handle, tasks, "tasks that did not end when they were told to");
            }
        }
    }
    if progress.revoked {
        return;
    }
    if lending.is_idle() {
        // Nothing of the plugin's is run for it, so it needs no thread of its own.
        progress.revoked = true;
        progress.revoked_count += lending.revoke() as u64;
        return;
    }
    let revoker = lending.clone();
    let revoked = hook::run_blocking(
        patience.step.max(Duration::from_secs(1)),
        move || {
            let Some(_ticket) = revoker.ticket() else { return 0 };
            revoker.within(|| revoker.revoke())
        },
        drop,
    )
    .await;
    match revoked {
        Some(revoked) => {
            progress.revoked = true;
            progress.revoked_count += revoked as u64;
        }
        None => holders.add(Holder::Handle, 1, "taking its handles back did not end"),
    }
}

/// Nobody gets a ticket any more; waits for those that are out.
async fn seal(lending: &Lending, holders: &mut Holders, patience: Patience) {
    let work = &lending.work;
    work.shut();
    if !work.is_drained() && kernel::within(patience.step, work.drained()).await.is_none() {
        holders.add(Holder::Call, work.inside(), "hooks, tasks or wakers that are still running");
    }
}
