//! From a path to a registered module. All or nothing: whatever fails is undone.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use oxide_plugin_api::{Event, ModuleKind, ModuleMetadata, ModuleState};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::{
    lifecycle::{self, announce, run_hook},
    mailbox::{self, Mailbox},
    registry::{Entry, Reservation, Shared, check_id},
    services::ManagerServices,
};
use crate::{
    boundary::{
        hooks::HookEnd,
        lend::Lending,
        library::CheckedLibrary,
        module::{ForeignModule, NotMade},
        residue::Residue,
        seat::Route,
    },
    error::{KernelError, Result},
    intake::{InspectedFile, LoadPolicy, StagedFile, StagingDir},
    kernel,
    life::{
        flush,
        generation::{Generation, Origin, SEATS, unique_number},
        hook, loader,
        object::Object,
        reaper,
        undertaker::{self, Holders, Patience},
    },
    report::StopOutcome,
};

/// How long reading and copying a file may take.
const READING: Duration = Duration::from_secs(120);

/// How a file is to be loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The id to manage it under, in place of the module's own.
    pub id: Option<String>,
    /// What `configure` gets.
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
    let (file, staged) = read_and_stage(loading, &path).await?;
    let origin = Origin { path: path.clone(), facts: file.facts().clone() };
    let provisional: Arc<str> = options.id.as_deref().unwrap_or(&file.description().package).into();
    let (module_number, unique) = (unique_number(), unique_number());
    let residue = Residue::new(&provisional, module_number, unique, flush::present_runtime);
    let library = open(staged, path.clone(), residue, shared.limits.loader).await?;

    let services = Arc::new(ManagerServices::new(shared.bus.clone()));
    let lending = Lending::new(provisional.clone(), module_number, unique, 1, services);
    let module = create(shared, &provisional, library, lending, origin.clone()).await?;
    let generation = Arc::new(Generation::foreign(1, module, origin));

    let built = build(shared, &generation, early, options, &file).await;
    match built {
        Ok((mut reservation, metadata)) => {
            reservation.after_the_one_before().await;
            Ok(register(shared, reservation, metadata, generation, module_number))
        }
        Err(error) => {
            // A hook that ran past its deadline may still be inside.
            drop(generation.alone(shared.limits.stop).await);
            bury(&provisional, generation, shared.limits.patience()).await;
            Err(error)
        }
    }
}

/// Everything between construction and registration.
async fn build(
    shared: &Arc<Shared>,
    generation: &Arc<Generation>,
    early: Option<Reservation>,
    options: &LoadOptions,
    file: &InspectedFile,
) -> Result<(Reservation, ModuleMetadata)> {
    let Object::Foreign(foreign) = &generation.object else { return Err(KernelError::ShuttingDown) };
    let provisional = foreign.lending().module();
    let mut metadata = ask_metadata(shared, &provisional, generation).await?;
    let reservation = match early {
        Some(reservation) => reservation,
        None => shared.reserve(&metadata.id)?,
    };
    let id = reservation.id();
    foreign.lending().set_module(id.clone());
    metadata.id = id.as_ref().to_owned();
    metadata.kind = file.description().kind;
    if metadata.description.is_none() && !file.description().description.is_empty() {
        metadata.description = Some(file.description().description.clone());
    }
    run_hook(&id, "configure", shared.limits.init, generation, || foreign.configure(&options.config)).await?;
    let init = match metadata.kind {
        ModuleKind::Native => "init",
        ModuleKind::Wasm => "instantiate",
    };
    run_hook(&id, init, shared.limits.init, generation, || foreign.init()).await?;
    generation.initialised.store(true, SeqCst);
    Ok((reservation, metadata))
}

async fn read_and_stage(loading: &Loading, path: &Path) -> Result<(InspectedFile, StagedFile)> {
    let (loading, read) = (loading.clone(), path.to_owned());
    let work = move || {
        let file = InspectedFile::read(&read)?;
        file.check_loadable(&loading.policy)?;
        let staged = StagedFile::write(&loading.staging, &file)?;
        Ok::<_, KernelError>((file, staged))
    };
    hook::run_blocking(READING, work, drop).await.unwrap_or_else(|| {
        let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
        Err(KernelError::Io { action: "read", path: path.to_owned(), source })
    })
}

async fn open(
    staged: StagedFile,
    path: PathBuf,
    residue: Arc<Residue>,
    limit: Duration,
) -> Result<CheckedLibrary> {
    let name = crate::intake::file_name(&path);
    let job = move || crate::boundary::library::open_checked(staged, &path, residue);
    // Opened after all, too late for anybody: nothing but its constructors has run.
    loader::run(format!("opening `{name}`"), limit, job, |late| {
        if let Ok(library) = late {
            library.close_unused();
        }
    })
    .await?
}

/// Runs the constructor on a life thread.
async fn create(
    shared: &Arc<Shared>,
    module: &Arc<str>,
    library: CheckedLibrary,
    lending: Arc<Lending>,
    origin: Origin,
) -> Result<ForeignModule> {
    let limit = shared.limits.init;
    let patience = shared.limits.patience();
    let unmade =
        move |not_made: Box<NotMade>, origin| Arc::new(Generation::foreign(0, not_made.module, origin));
    let (late_name, late_origin) = (module.as_ref().to_owned(), origin.clone());
    let made = hook::run_blocking(
        limit,
        move || ForeignModule::create(library, lending),
        move |late| {
            let generation = match late {
                Ok(made) => Arc::new(Generation::foreign(0, made, late_origin)),
                Err(not_made) => unmade(not_made, late_origin),
            };
            kernel::spawn(async move { bury(&late_name, generation, patience).await });
        },
    )
    .await;
    let module = module.as_ref().to_owned();
    match made {
        Some(Ok(made)) => Ok(made),
        Some(Err(not_made)) => {
            let error = error_of(&module, "the constructor", &not_made.why);
            bury(&module, unmade(not_made, origin), patience).await;
            Err(error)
        }
        None => Err(KernelError::HookTimedOut { module, hook: "the constructor", after: limit }),
    }
}

/// Ends a generation that was never registered.
async fn bury(module: &str, generation: Arc<Generation>, patience: Patience) {
    let (stop, holders) = (StopOutcome::NotRunning, Holders::default());
    let (end, retained) = undertaker::end(module, generation, None, stop, holders, patience).await;
    if let Some(retained) = retained {
        reaper::take(retained);
    }
    tracing::debug!(?end, "undid a load that failed");
}

async fn ask_metadata(
    shared: &Arc<Shared>,
    module: &str,
    generation: &Arc<Generation>,
) -> Result<ModuleMetadata> {
    let limit = shared.limits.init;
    let timed_out =
        || KernelError::HookTimedOut { module: module.to_owned(), hook: "metadata", after: limit };
    let lease = generation.alone(limit).await.ok_or_else(timed_out)?;
    let asked = generation.clone();
    let metadata = hook::run_blocking(
        limit,
        move || {
            let _lease = lease;
            match &asked.object {
                Object::Foreign(foreign) => foreign.metadata(),
                Object::InProcess(_) => HookEnd::Panicked("not a foreign module".to_owned()),
            }
        },
        drop,
    )
    .await
    .ok_or_else(timed_out)?;
    match metadata {
        HookEnd::Ok(metadata) => Ok(metadata),
        end => Err(error_of(module, "metadata", &end)),
    }
}

fn error_of<T>(module: &str, hook: &'static str, end: &HookEnd<T>) -> KernelError {
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
    metadata: ModuleMetadata,
    generation: Arc<Generation>,
    number: u64,
) -> Arc<Entry> {
    let seat = SEATS.take(generation.clone());
    let (ops, receive) = mpsc::unbounded_channel();
    let entry = Arc::new(Entry {
        id: reservation.id(),
        number,
        metadata,
        state: watch::Sender::new(ModuleState::Loaded),
        failure: parking_lot::Mutex::new(None),
        route: Route::to(seat),
        seat,
        generation,
        ops,
        mailbox: Mailbox::new(),
    });
    reservation.register(entry.clone());
    announce(shared, Event::ModuleLoaded { module_id: entry.id.as_ref().to_owned() });
    lifecycle::run(shared.clone(), entry.clone(), receive);
    mailbox::run(shared, &entry);
    if shared.abandoned.load(SeqCst) {
        lifecycle::unload_unasked(&entry);
    }
    entry
}
