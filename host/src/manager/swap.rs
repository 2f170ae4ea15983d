//! A swap from end to end: the new build is made and set up beside the old one, the actor switches, and the old
//! generation is ended.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use oxide_plugin_api::{ModuleMetadata, ModuleState};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{OwnedRwLockReadGuard, oneshot},
};

use super::{
    announce::announce_unmapped,
    guest::{Found, Material},
    lifecycle::{CANCELLING, Drain, Op, cancel_calls},
    load::{Failure, Loading, Plan, make, reading, undo},
    probation::{self, Probation},
    registry::{Build, Entry, Present, Shared},
    setup::Setup,
    switch::{Switch, Switched},
    unload::end,
};
use crate::{
    error::{KernelError, Result},
    kernel,
    life::{
        coordinator,
        generation::Generation,
        loader,
        object::Object,
        reaper::{self, Lingering},
    },
    report::{DropOutcome, Holder, Receipt, Retained, Retention, StopOutcome, SwapReport, SwapStep},
};

/// How a module is to be swapped.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SwapOptions {
    /// Swaps also to the very bytes that are loaded.
    pub force: bool,
    /// What `configure` gets; what the present build got, unless said otherwise.
    pub config: Option<Value>,
    /// Whether the new build is watched, and sent back when it fails its callers; it is not, unless said otherwise.
    pub probation: Option<Probation>,
}

impl SwapOptions {
    /// Refuses the very bytes that are loaded, and keeps the configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to swap also to the very bytes that are loaded.
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Gives this to `configure`, in place of what the present build got.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = Some(config);
        self
    }

    /// Watches the new build, and sends it back when it fails its callers.
    #[must_use]
    pub fn probation(mut self, probation: Probation) -> Self {
        self.probation = Some(probation);
        self
    }
}

/// What to swap to.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    /// The build before the present one, which must still be `of` this number.
    Previous {
        of: Option<u64>,
    },
}

/// Who asked for a swap.
pub(crate) struct Asker {
    pub(crate) runtime: Option<Handle>,
    /// Set when it has gone away: then the swap is undone, unless it is done.
    pub(crate) gone: Arc<AtomicBool>,
}

/// Swaps a module to another build.
pub(crate) async fn swap(
    shared: &Arc<Shared>,
    loading: &Loading,
    entry: &Arc<Entry>,
    source: Source,
    options: &SwapOptions,
    asker: Asker,
) -> Result<SwapReport> {
    let under_way = shared.swaps.clone().read_owned().await;
    let _turn = entry.turn.lock().await;
    let old = entry.present();
    let job = Job { shared, loading, entry, old: &old, asker: &asker };
    let (switched, version) =
        job.run(source, options).await.map_err(|failure| failed(entry, &old, failure))?;
    let Switched { old, now, was, inside, state_moved, held_calls, held_for, forgotten } = switched;
    if let Some(probation) = options.probation {
        probation::begin(shared, loading, entry, &now, probation);
    }
    let leaving = Leaving {
        shared: shared.clone(),
        entry: entry.clone(),
        old: old.clone(),
        was,
        runtime: asker.runtime.clone(),
    };
    let receipt = leaving.end(inside, under_way).await;
    let next = now.build.lock().as_ref().map(|build| build.material.library.next());
    loader::leave(forgotten, next);
    Ok(SwapReport {
        id: entry.id.as_ref().to_owned(),
        from: old.generation.number,
        to: old.generation.number + 1,
        downgrade: is_downgrade(&old.metadata.version, &version),
        from_version: old.metadata.version.clone(),
        to_version: version,
        state_moved,
        held_calls,
        hold_micros: u64::try_from(held_for.as_micros()).unwrap_or(u64::MAX),
        old: receipt,
    })
}

/// Whether a build that calls itself so may take the place of the present one.
pub(crate) fn is_the_same_module(entry: &Entry, present: &Present, own_id: &str) -> Result<()> {
    if own_id == present.own_id || own_id == &*entry.id {
        return Ok(());
    }
    Err(KernelError::OtherModule { module: present.own_id.clone(), found: own_id.to_owned() })
}

/// How a failed step reads.
pub(crate) fn failed(entry: &Entry, present: &Present, Failure { step, error }: Failure) -> KernelError {
    if is_no_failed_swap(step, &error) {
        return error;
    }
    let (module, generation) = (entry.id.as_ref().to_owned(), present.generation.number);
    KernelError::SwapFailed { module, step, generation, source: Box::new(error) }
}

/// Whether there was nothing to swap, rather than a swap that failed at a step.
fn is_no_failed_swap(step: SwapStep, error: &KernelError) -> bool {
    match error {
        KernelError::SameBuild { .. }
        | KernelError::NoPreviousBuild(_)
        | KernelError::Superseded { .. }
        | KernelError::TooManyRetained { .. }
        | KernelError::UnknownModule(_) => true,
        // By another library; later on it would be the new build's own.
        KernelError::LoaderStuck(_) => step == SwapStep::Inspect,
        _ => false,
    }
}

/// As [semantic versions](https://semver.org) are compared; nothing is known of others.
pub(crate) fn is_downgrade(from: &str, to: &str) -> bool {
    let version = |text: &str| semver::Version::parse(text).ok();
    matches!((version(from), version(to)), (Some(from), Some(to)) if to < from)
}

pub(super) struct Job<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) loading: &'a Loading,
    pub(super) entry: &'a Arc<Entry>,
    pub(super) old: &'a Arc<Present>,
    pub(super) asker: &'a Asker,
}

impl Job<'_> {
    /// Everything up to the moment in which calls are led to the new generation; it is undone when anything fails.
    /// Gives the new version, too.
    async fn run(&self, source: Source, options: &SwapOptions) -> Result<(Switched, String), Failure> {
        self.may_begin().map_err(Failure::at(SwapStep::Inspect))?;
        let present = self.old.build.lock().clone();
        let (path, again, config) = match source {
            Source::File(path) => {
                let config = present.as_ref().map(|build| build.config.clone()).unwrap_or_default();
                (path, None, options.config.clone().unwrap_or(config))
            }
            Source::Previous { of } => {
                if of.is_some_and(|unique| unique != self.old.generation.unique) {
                    let error = KernelError::Superseded { module: self.entry.id.as_ref().to_owned() };
                    return Err(Failure { step: SwapStep::Inspect, error });
                }
                let previous = self.entry.previous.lock().clone();
                let none = || KernelError::NoPreviousBuild(self.entry.id.as_ref().to_owned());
                let build = previous.ok_or_else(none).map_err(Failure::at(SwapStep::Inspect))?;
                (build.path, Some(build.material), build.config)
            }
        };
        let same_as = present.map(|build| build.material).filter(|_| !options.force);
        let material = self.inspect_and_stage(&path, again, same_as).await?;
        let (id, number) = (self.entry.id.clone(), self.old.generation.number + 1);
        let plan = Plan { id, module: self.entry.number, number, path: path.clone() };
        let generation = make(self.shared, &plan, &material).await?;
        let switched = match self.set_up(&generation, &material, &config).await {
            Ok((metadata, own_id)) => {
                let version = metadata.version.clone();
                let build = Build { material, path, config };
                let switched = self.switch(&generation, metadata, own_id, build).await;
                switched.map(|switched| (switched, version))
            }
            Err(failure) => Err(failure),
        };
        if switched.is_err() {
            undo(self.shared, &self.entry.id, generation).await;
        }
        switched
    }

    /// Whether there is any point in beginning, and in going on.
    pub(super) fn may_begin(&self) -> Result<()> {
        self.is_wanted()?;
        if let Some(stuck) = loader::stuck() {
            return Err(stuck);
        }
        let kept = reaper::retained_of(self.entry.number);
        if kept.len() < self.shared.limits.retained.max(1) {
            return Ok(());
        }
        let list: Vec<String> = kept.iter().map(words).collect();
        let module = self.entry.id.as_ref().to_owned();
        Err(KernelError::TooManyRetained { module, count: kept.len(), list: list.join("; ") })
    }

    fn is_wanted(&self) -> Result<()> {
        if self.entry.ops.is_closed() {
            return Err(KernelError::UnknownModule(self.entry.id.as_ref().to_owned()));
        }
        if self.asker.gone.load(SeqCst) {
            return Err(KernelError::Abandoned);
        }
        Ok(())
    }

    /// `again` is made from once more, in place of the file at `path`; its copy stays until it has been read, whatever
    /// becomes of the module.
    async fn inspect_and_stage(
        &self,
        path: &Path,
        again: Option<Material>,
        same_as: Option<Material>,
    ) -> Result<Material, Failure> {
        let (loading, read) = (self.loading.clone(), path.to_owned());
        let differs = self.differs(same_as);
        let work = move || {
            let found = match &again {
                Some(material) => Found::read_again(&loading, material),
                None => Found::read(&loading, &read),
            };
            let found = found.map_err(Failure::at(SwapStep::Inspect))?;
            differs(&found)?;
            found.stage(&loading).map_err(Failure::at(SwapStep::Stage))
        };
        reading(path, move || Ok(work())).await.map_err(Failure::at(SwapStep::Inspect))?
    }

    /// Refuses what would be the very same build, if there is one to compare with.
    pub(super) fn differs(
        &self,
        same_as: Option<Material>,
    ) -> impl FnOnce(&Found) -> Result<(), Failure> + use<> {
        let (module, generation) = (self.entry.id.as_ref().to_owned(), self.old.generation.number);
        move |found| {
            let inspect = Failure::at(SwapStep::Inspect);
            match same_as {
                Some(present) if found.is_same_as(&present).map_err(&inspect)? => {
                    Err(inspect(KernelError::SameBuild { module, generation }))
                }
                _ => Ok(()),
            }
        }
    }

    /// Everything between construction and the switch. Gives the id by which the build calls itself, too.
    async fn set_up(
        &self,
        generation: &Arc<Generation>,
        material: &Material,
        config: &Value,
    ) -> Result<(ModuleMetadata, String), Failure> {
        let setup = Setup { shared: self.shared, generation, material, config };
        let at_metadata = Failure::at(SwapStep::Metadata);
        self.is_wanted().map_err(&at_metadata)?;
        let mut metadata = setup.metadata().await?;
        let own_id = std::mem::replace(&mut metadata.id, self.entry.id.as_ref().to_owned());
        is_the_same_module(self.entry, self.old, &own_id).map_err(&at_metadata)?;
        setup.finish(&self.entry.id, metadata.kind).await?;
        self.is_wanted().map_err(Failure::at(SwapStep::Switch))?;
        Ok((metadata, own_id))
    }

    async fn switch(
        &self,
        generation: &Arc<Generation>,
        metadata: ModuleMetadata,
        own_id: String,
        build: Build,
    ) -> Result<Switched, Failure> {
        let new = Switch {
            generation: generation.clone(),
            metadata,
            own_id,
            build,
            runtime: self.asker.runtime.clone(),
            abandoned: self.asker.gone.clone(),
        };
        let (send, receive) = oneshot::channel();
        let gone = |_| Failure {
            step: SwapStep::Switch,
            error: KernelError::UnknownModule(self.entry.id.as_ref().to_owned()),
        };
        if self.entry.ops.send(Op::Switch(Box::new(new), send)).is_err() {
            return Err(gone(()));
        }
        receive.await.map_err(|_| gone(()))?
    }
}

fn words(kept: &Retained) -> String {
    let word = |held: &Retention| match serde_json::to_value(held.holder) {
        Ok(Value::String(word)) => word,
        _ => format!("{:?}", held.holder),
    };
    let holders: Vec<String> = kept.retained_by.iter().map(word).collect();
    format!("generation {} by {}", kept.generation, holders.join(", "))
}

/// A generation that calls are no longer led to, on its way out.
struct Leaving {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    old: Arc<Present>,
    was: ModuleState,
    runtime: Option<Handle>,
}

impl Leaving {
    /// Ends it when its calls have come out; `inside` were in it. When they take longer than a drain may, they go on
    /// all the same: the receipt says so, and the rest is done in the background.
    async fn end(self, inside: usize, under_way: OwnedRwLockReadGuard<()>) -> Receipt {
        let gate = self.old.seat.gate();
        if kernel::within(self.shared.limits.drain, gate.drained()).await.is_some() {
            return self.bury(&Drain { drained: true, came_out: inside as u64, cancelled: 0 }).await;
        }
        let receipt = self.receipt_so_far(inside);
        // Before anybody hears of the swap's end.
        let listed = self.list_calls_inside();
        coordinator::spawn(async move {
            let _under_way = under_way;
            let receipt = self.end_late(inside).await;
            drop(listed);
            if receipt.unmapped {
                announce_unmapped(&self.shared, &receipt);
            }
        });
        receipt
    }

    /// Lists the generation as retained by its calls, if it is in a library.
    fn list_calls_inside(&self) -> Option<Lingering> {
        if matches!(self.old.generation.object, Object::InProcess(_)) {
            return None;
        }
        let (seat, told) = (self.old.seat, self.entry.id.clone());
        let (number, origin) = (self.old.generation.number, self.old.generation.origin.clone());
        let path = origin.map(|origin| origin.path).unwrap_or_default();
        let tell = move || Retained {
            id: told.as_ref().to_owned(),
            generation: number,
            path: path.clone(),
            retained_by: vec![calls_inside(seat.gate().inside())],
        };
        Some(Lingering::list(self.old.generation.unique, self.entry.number, Box::new(tell)))
    }

    /// Waits for the calls that are inside as long as the module is there; when it is unloaded, those that wait
    /// are cancelled as in any unload.
    async fn end_late(&self, inside: usize) -> Receipt {
        let gate = self.old.seat.gate();
        let cancelled = tokio::select! {
            () = gate.drained() => 0,
            () = self.entry.ops.closed() => cancel_calls(&self.old.generation).await,
        };
        let drained = kernel::within(CANCELLING, gate.drained()).await.is_some();
        let left = gate.inside();
        let came_out = inside.saturating_sub(cancelled + left) as u64;
        self.bury(&Drain { drained, came_out, cancelled: cancelled as u64 }).await
    }

    async fn bury(&self, drain: &Drain) -> Receipt {
        let ended =
            end(&self.shared, &self.entry.id, &self.old, self.was, drain, self.runtime.as_ref()).await;
        ended.list(self.old.seat);
        ended.settle(&self.shared, self.old.seat)
    }

    fn receipt_so_far(&self, inside: usize) -> Receipt {
        let left = self.old.seat.gate().inside();
        let mapped = matches!(self.old.generation.object, Object::Foreign(_));
        Receipt {
            id: self.entry.id.as_ref().to_owned(),
            generation: self.old.generation.number,
            unmapped: !mapped,
            retained_by: if mapped { vec![calls_inside(left)] } else { Vec::new() },
            drained: inside.saturating_sub(left) as u64,
            cancelled: 0,
            stop: StopOutcome::Skipped,
            drop: DropOutcome::Skipped,
            leaked_bytes: None,
            revoked: 0,
            forgotten_locals: 0,
        }
    }
}

fn calls_inside(count: usize) -> Retention {
    let detail = "calls of the replaced generation that are still under way".to_owned();
    Retention { holder: Holder::Call, count: count as u64, detail }
}
