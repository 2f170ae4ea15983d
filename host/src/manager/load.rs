//! From a path to a registered module. All or nothing: whatever fails is undone.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use oxide_plugin_api::{Event, ModuleMetadata};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    announce::announce,
    guest::{Found, Material, WasmOptions},
    lifecycle::{self, stop_at_the_end},
    mailbox,
    registry::{Build, Entry, Present, Reservation, Shared, check_id},
    services::ManagerServices,
    setup::Setup,
};
use crate::{
    boundary::{
        hooks::HookEnd,
        lend::Lending,
        library::{CheckedLibrary, NotOpened},
        module::{ForeignModule, NotMade},
        residue::Residue,
    },
    error::{KernelError, Result},
    intake::{LoadPolicy, StagedFile, StagingDir},
    life::{
        coordinator, flush,
        generation::{Generation, Origin, unique_number},
        hook, loader,
        reaper::{self, Lingering},
        undertaker::{self, Holders, Patience},
    },
    report::{Holder, Retained, Retention, StopOutcome, SwapStep},
};

/// How long reading or copying a file may take.
pub(crate) const READING: Duration = Duration::from_secs(120);

/// How a file is to be loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The id to manage it under, in place of the module's own.
    pub id: Option<String>,
    /// What `configure` gets. Of a WASM guest's, the key `wasm` holds its limits and grants; the rest is its own.
    pub config: Value,
    /// Whether to start it; yes, unless said otherwise.
    pub start: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { id: None, config: Value::Null, start: true }
    }
}

impl LoadOptions {
    /// Loads under the module's own id, without configuration, and starts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Manages it under this id.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Gives this to `configure`.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Whether to start it.
    #[must_use]
    pub fn start(mut self, start: bool) -> Self {
        self.start = start;
        self
    }
}

/// What loading needs besides the manager.
#[derive(Clone, Debug)]
pub(crate) struct Loading {
    pub(crate) staging: Arc<StagingDir>,
    pub(crate) policy: LoadPolicy,
    pub(crate) wasm: WasmOptions,
}

/// A step that failed, and how.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: SwapStep,
    pub(crate) error: KernelError,
}

impl Failure {
    /// For `map_err`.
    pub(crate) fn at(step: SwapStep) -> impl Fn(KernelError) -> Self {
        move |error| Self { step, error }
    }
}

impl From<Failure> for KernelError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// Loads a plugin up to a registered, initialised module.
pub(crate) async fn load(
    shared: &Arc<Shared>,
    loading: &Loading,
    path: PathBuf,
    options: &LoadOptions,
) -> Result<Arc<Entry>> {
    if let Some(id) = &options.id {
        check_id(id)?;
    }
    // Before anything is handed to a life thread: a new one might have to wait for the loader.
    if let Some(stuck) = loader::stuck() {
        return Err(stuck);
    }
    let early = options.id.as_deref().map(|id| shared.reserve(id)).transpose()?;
    let material = read_and_stage(loading, &path).await?;
    let provisional: Arc<str> = options.id.clone().unwrap_or_else(|| material.name()).into();
    let plan = Plan { id: provisional.clone(), module: unique_number(), number: 1, path: path.clone() };
    let generation = make(shared, &plan, &material).await?;
    flush::end_is_near();
    match build(shared, &generation, early, options, &material).await {
        Ok((mut reservation, metadata, own_id)) => {
            reservation.after_the_one_before().await;
            // For the next build; not beside what may follow the load at once.
            coordinator::spawn(loader::ready_when_calm(material.library.next()));
            let build = Build { material, path, config: options.config.clone() };
            let present = Present::new(generation, metadata, own_id, Some(build));
            Ok(register(shared, reservation, present, plan.module))
        }
        Err(error) => {
            undo(shared, &provisional, generation).await;
            Err(error)
        }
    }
}

/// Ends a generation that no call has been led to.
pub(crate) async fn undo(shared: &Arc<Shared>, id: &str, generation: Arc<Generation>) {
    // A hook that ran past its deadline may still be inside, and be a `start` that ends well.
    drop(generation.alone(shared.limits.stop).await);
    let stop = match generation.started.load(SeqCst) {
        true => stop_at_the_end(shared, id, &generation, None).await,
        false => StopOutcome::NotRunning,
    };
    bury(id, generation, stop, shared.limits.patience()).await;
}

/// What a generation is made as.
pub(crate) struct Plan {
    pub(crate) id: Arc<str>,
    /// The module's number.
    pub(crate) module: u64,
    /// The generation's, within the module.
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
}

/// Opens a library and constructs its module. What fails here is undone here.
pub(crate) async fn make(
    shared: &Arc<Shared>,
    plan: &Plan,
    material: &Material,
) -> Result<Arc<Generation>, Failure> {
    let unique = unique_number();
    let origin = material.origin(&plan.path);
    let residue = Residue::new(&plan.id, plan.module, unique, flush::present_runtime);
    let services = Arc::new(ManagerServices::new(shared.bus.clone()));
    let lending = Lending::new(plan.id.clone(), plan.module, unique, plan.number, services);
    let unwanted =
        Unwanted { lending: lending.clone(), origin: origin.clone(), patience: shared.limits.patience() };
    let library = open(plan, material.library.clone(), residue, shared.limits.loader, unwanted)
        .await
        .map_err(Failure::at(SwapStep::Open))?;
    let module = create(shared, plan, library, lending, origin.clone())
        .await
        .map_err(Failure::at(SwapStep::Constructor))?;
    Ok(Arc::new(Generation::foreign(plan.number, module, origin)))
}

/// Everything between construction and registration. Gives the id by which the build calls itself, too.
async fn build(
    shared: &Arc<Shared>,
    generation: &Arc<Generation>,
    early: Option<Reservation>,
    options: &LoadOptions,
    material: &Material,
) -> Result<(Reservation, ModuleMetadata, String)> {
    let setup = Setup { shared, generation, material, config: &options.config };
    let mut metadata = setup.metadata().await?;
    let reservation = match early {
        Some(reservation) => reservation,
        None => shared.reserve(&metadata.id)?,
    };
    let id = reservation.id();
    setup.foreign()?.lending().set_module(id.clone());
    let own_id = std::mem::replace(&mut metadata.id, id.as_ref().to_owned());
    setup.finish(&id, metadata.kind).await?;
    Ok((reservation, metadata, own_id))
}

async fn read_and_stage(loading: &Loading, path: &Path) -> Result<Material> {
    let (loading, read) = (loading.clone(), path.to_owned());
    reading(path, move || Found::read(&loading, &read)?.stage(&loading)).await
}

/// Has a life thread read files.
pub(crate) async fn reading<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    hook::run_blocking(READING, work, drop).await.unwrap_or_else(|| {
        let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
        Err(KernelError::Io { action: "read", path: path.to_owned(), source })
    })
}

/// What a library needs for its end that is opened too late for anybody.
struct Unwanted {
    lending: Arc<Lending>,
    origin: Origin,
    patience: Patience,
}

async fn open(
    plan: &Plan,
    staged: StagedFile,
    residue: Arc<Residue>,
    limit: Duration,
    unwanted: Unwanted,
) -> Result<CheckedLibrary> {
    let path = staged.origin().to_owned();
    let name = crate::intake::file_name(&path);
    let job = move || (crate::boundary::library::open_checked(staged, &path, residue), None);
    let (id, number) = (plan.id.clone(), plan.number);
    let (unique, module, retained) = (unwanted.lending.generation, plan.module, retained(plan, Vec::new()));
    let refused = move |NotOpened { error, kept }| {
        if let Some(kept) = kept {
            reaper::list_kept(unique, module, retained, kept);
        }
        error
    };
    let refused_late = refused.clone();
    let opened = loader::run(format!("opening `{name}`"), limit, job, move |late| {
        let library = match late {
            Ok(library) => library,
            Err(not_opened) => {
                refused_late(not_opened);
                return;
            }
        };
        let Unwanted { lending, origin, patience } = unwanted;
        let module = ForeignModule::never_made(library, lending);
        let generation = Arc::new(Generation::foreign(number, module, origin));
        coordinator::spawn(async move { bury(&id, generation, StopOutcome::NotRunning, patience).await });
    })
    .await?;
    opened.map_err(refused)
}

/// Runs the constructor on a life thread.
async fn create(
    shared: &Arc<Shared>,
    plan: &Plan,
    library: CheckedLibrary,
    lending: Arc<Lending>,
    origin: Origin,
) -> Result<ForeignModule> {
    let limit = shared.limits.init;
    let patience = shared.limits.patience();
    let (number, unique) = (plan.number, lending.generation);
    let unmade =
        move |not_made: Box<NotMade>, origin| Arc::new(Generation::foreign(number, not_made.module, origin));
    let (late_name, late_origin) = (plan.id.as_ref().to_owned(), origin.clone());
    let overdue = Arc::new(Mutex::new(Overdue::NotYet));
    let is_over = overdue.clone();
    let made = hook::run_blocking(
        limit,
        move || ForeignModule::create(library, lending),
        move |late| {
            let generation = match late {
                Ok(made) => Arc::new(Generation::foreign(number, made, late_origin)),
                Err(not_made) => unmade(not_made, late_origin),
            };
            coordinator::spawn(async move {
                bury(&late_name, generation, StopOutcome::NotRunning, patience).await;
                let listed = std::mem::replace(&mut *is_over.lock(), Overdue::Over);
                drop(listed);
            });
        },
    )
    .await;
    let module = plan.id.as_ref().to_owned();
    match made {
        Some(Ok(made)) => Ok(made),
        Some(Err(not_made)) => {
            let error = error_of(&module, "the constructor", &not_made.why);
            bury(&module, unmade(not_made, origin), StopOutcome::NotRunning, patience).await;
            Err(error)
        }
        None => {
            let mut overdue = overdue.lock();
            if matches!(*overdue, Overdue::NotYet) {
                *overdue = Overdue::Listed(list_constructor(plan, unique));
            }
            Err(KernelError::HookTimedOut { module, hook: "the constructor", after: limit })
        }
    }
}

/// What became of a constructor that ran past its deadline.
enum Overdue {
    NotYet,
    /// It still runs, and keeps its library.
    Listed(#[expect(dead_code, reason = "kept to be dropped")] Lingering),
    Over,
}

fn list_constructor(plan: &Plan, unique: u64) -> Lingering {
    let detail = "its constructor, which ran past its deadline, is still running".to_owned();
    let retained = retained(plan, vec![Retention { holder: Holder::Call, count: 1, detail }]);
    Lingering::list(unique, plan.module, Box::new(move || retained.clone()))
}

fn retained(plan: &Plan, by: Vec<Retention>) -> Retained {
    let (id, path) = (plan.id.as_ref().to_owned(), plan.path.clone());
    Retained { id, generation: plan.number, path, retained_by: by }
}

/// Ends a generation that was never registered.
async fn bury(module: &str, generation: Arc<Generation>, stop: StopOutcome, patience: Patience) {
    let (end, retained) = undertaker::end(module, generation, None, stop, Holders::default(), patience).await;
    if let Some(retained) = retained {
        reaper::take(retained);
    }
    tracing::debug!(?end, "undid a load that failed");
}

pub(crate) fn error_of<T>(module: &str, hook: &'static str, end: &HookEnd<T>) -> KernelError {
    let module = module.to_owned();
    match end {
        HookEnd::Panicked(message) => KernelError::HookPanicked { module, hook, message: message.clone() },
        HookEnd::Failed(error) => KernelError::HookFailed {
            module,
            hook,
            message: error.to_string(),
            chain: error.chain().to_vec(),
        },
        HookEnd::Ok(_) => KernelError::Module(format!("{hook} of module `{module}` gave no answer")),
    }
}

/// Puts a generation under management, as Loaded.
pub(crate) fn register(
    shared: &Arc<Shared>,
    reservation: Reservation,
    present: Present,
    number: u64,
) -> Arc<Entry> {
    let (ops, receive) = mpsc::unbounded_channel();
    let entry = Arc::new(Entry::new(reservation.id(), number, present, ops, &shared.limits));
    reservation.register(entry.clone());
    announce(shared, Event::ModuleLoaded { module_id: entry.id.as_ref().to_owned() });
    lifecycle::run(shared.clone(), entry.clone(), receive);
    mailbox::run(shared, &entry);
    if shared.abandoned.load(SeqCst) {
        lifecycle::unload_unasked(&entry);
    }
    entry
}
