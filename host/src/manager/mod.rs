//! The module manager: in-process and foreign modules behind one set of verbs.
//!
//! Knows which modules there are and what becomes of them; never touches what crosses the wall itself.

mod announce;
mod commands;
mod guest;
mod handle;
mod lifecycle;
mod limits;
mod load;
mod mailbox;
mod probation;
#[cfg(all(feature = "daemon", unix))]
mod probe;
mod registry;
mod services;
mod setup;
mod swap;
mod switch;
mod unload;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use oxide_plugin_api::{ModuleKind, ModuleMetadata, ModuleState, Payload};
use tokio::runtime::Handle;

pub use handle::{Invoke, ModuleHandle};
pub use limits::Limits;
pub use load::LoadOptions;
pub use probation::Probation;
pub use swap::SwapOptions;

pub(crate) use guest::WasmOptions;
#[cfg(all(feature = "daemon", unix))]
pub(crate) use handle::prepare_caller;
pub(crate) use load::Loading;
pub(crate) use swap::Source;
#[cfg(all(feature = "daemon", unix))]
pub(crate) use {
    load::Failure,
    probe::{Looked, Probed},
};

use crate::{
    bus::{HandlerGuard, MessageBus},
    error::{KernelError, Result},
    kernel,
    life::{
        coordinator, flush,
        generation::{Generation, unique_number},
        hook, loader,
    },
    module::{AnyModule, Module, WasmModule},
    report::{ModuleInfo, Receipt, SwapReport},
};
use commands::Commands;
use lifecycle::{Asked, Op, ask, not_from_inside};
use registry::{Entry, Present, Shared};
use swap::Asker;

/// Registers modules and drives them through their lives. Cheap to clone.
///
/// What it is asked to do runs on threads of the host's own and ends there, whatever becomes of the caller
/// or its runtime. When the last clone is dropped, what is still registered is unloaded in the background.
#[derive(Clone)]
pub struct ModuleManager {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    _commands: Arc<Commands>,
    _on_the_bus: HandlerGuard,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // First: a load under way looks at it after it has registered.
        self.shared.abandoned.store(true, SeqCst);
        for entry in self.shared.all() {
            lifecycle::unload_unasked(&entry);
        }
    }
}

impl fmt::Debug for ModuleManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleManager")
            .field("modules", &self.inner.shared.all().len())
            .finish_non_exhaustive()
    }
}

impl ModuleManager {
    /// A manager that acts on the commands of `bus` and announces every transition there. A bus has one
    /// manager: of two, each would answer that it does not know the other's modules.
    ///
    /// # Panics
    /// When the system gives it no threads; [`Host::new`](crate::Host::new) says so with an error.
    pub fn new(bus: MessageBus) -> Self {
        Self::with_limits(bus, Limits::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same with other deadlines and bounds.
    ///
    /// # Errors
    /// [`KernelError::Setup`] when the system gives it no threads.
    pub fn with_limits(bus: MessageBus, limits: Limits) -> Result<Self> {
        coordinator::ready().map_err(KernelError::Setup)?;
        let shared = Arc::new(Shared::new(bus.clone(), limits));
        let commands = Arc::new(Commands(shared.clone()));
        let handler: Arc<dyn crate::bus::Handler> = commands.clone();
        let on_the_bus = bus.attach_handler(Arc::downgrade(&handler));
        Ok(Self { inner: Arc::new(Inner { shared, _commands: commands, _on_the_bus: on_the_bus }) })
    }

    /// Registers a module of the host program's own, as Loaded.
    ///
    /// # Errors
    /// [`KernelError::DuplicateModule`], [`KernelError::InvalidId`], and [`KernelError::HookPanicked`] when
    /// its `metadata` panics.
    pub async fn register_native(&self, module: impl Module) -> Result<()> {
        self.register(AnyModule::Native(Box::new(module)), ModuleKind::Native).await
    }

    /// Registers a WASM engine of the host program's own, as Loaded.
    ///
    /// # Errors
    /// As [`ModuleManager::register_native`].
    pub async fn register_wasm(&self, module: impl WasmModule) -> Result<()> {
        self.register(AnyModule::Wasm(Box::new(module)), ModuleKind::Wasm).await
    }

    async fn register(&self, module: AnyModule, kind: ModuleKind) -> Result<()> {
        let shared = &self.inner.shared;
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| module.metadata()));
        let mut metadata = asked.map_err(|payload| KernelError::HookPanicked {
            module: "(not registered yet)".to_owned(),
            hook: "metadata",
            message: hook::panic_message(payload),
        })?;
        metadata.kind = kind;
        let mut reservation = shared.reserve(&metadata.id)?;
        reservation.after_the_one_before().await;
        let number = unique_number();
        let generation = Arc::new(Generation::in_process(1, number, module));
        let own_id = metadata.id.clone();
        let present = Present::new(generation, metadata, own_id, None);
        load::register(shared, reservation, present, number);
        Ok(())
    }

    /// Loads a plugin, and starts it unless `options` say otherwise. The work goes on when the caller does
    /// not wait for it.
    pub(crate) async fn load(
        &self,
        loading: Loading,
        path: PathBuf,
        options: LoadOptions,
    ) -> Result<ModuleInfo> {
        let shared = self.inner.shared.clone();
        let runtime = Handle::try_current().ok();
        let under_way = kernel::UnderWay::begin();
        let work = coordinator::asking(|| {
            coordinator::spawn(async move {
                let _under_way = under_way;
                let entry =
                    load::load(&shared, &loading, path.clone(), &options).await.inspect_err(|error| {
                        tracing::warn!(path = %path.display(), error = error.in_full(), "not loaded");
                    })?;
                if options.start
                    && let Err(error) = start(&entry, runtime.clone()).await
                {
                    let undone = ask(&entry, "unload", |reply| Op::Unload(runtime, reply)).await;
                    tracing::debug!(?undone, "undid a load whose start failed");
                    return Err(error);
                }
                Ok(entry.info())
            })
        });
        flush::attend(work)
            .await
            .unwrap_or_else(|_| Err(KernelError::Setup("the load came to no end".to_owned())))
    }

    /// Swaps a module to another build. The work goes on when the caller does not wait for it, but is undone when
    /// the caller goes away before calls are led to the new generation.
    pub(crate) async fn swap(
        &self,
        loading: Loading,
        id: &str,
        source: Source,
        options: SwapOptions,
    ) -> Result<SwapReport> {
        let entry = self.inner.shared.find(id)?;
        not_from_inside(&entry, "swap")?;
        let shared = self.inner.shared.clone();
        let gone = Arc::new(AtomicBool::new(false));
        let asker = Asker { runtime: Handle::try_current().ok(), gone: gone.clone() };
        let _goes_away = GoesAway(gone);
        let under_way = kernel::UnderWay::begin();
        let work = coordinator::asking(|| {
            coordinator::spawn(async move {
                let _under_way = under_way;
                let done = swap::swap(&shared, &loading, &entry, source, &options, asker).await;
                done.inspect_err(
                    |error| tracing::warn!(module = %entry.id, error = error.in_full(), "not swapped"),
                )
            })
        });
        // Meanwhile this thread runs what it owes, so that the old generation may wait for it.
        let done = flush::attend(work).await;
        done.unwrap_or_else(|_| Err(KernelError::Setup("the swap came to no end".to_owned())))
    }

    /// Waits until no swap is under way, every replaced generation has ended, and the copies of those that are gone have
    /// been removed.
    pub(crate) async fn settled(&self) {
        drop(self.inner.shared.swaps.write().await);
        loader::settled(self.inner.shared.limits.loader).await;
    }

    /// Runs `init`. A repeated one is Ok, runs nothing and announces nothing.
    ///
    /// # Errors
    /// [`KernelError::UnknownModule`], [`KernelError::SelfWait`], and the hook's own failure, which makes the
    /// module Failed.
    pub async fn init(&self, id: &str) -> Result<()> {
        let entry = self.inner.shared.find(id)?;
        let runtime = Handle::try_current().ok();
        ask(&entry, "init", |reply| Op::Init(runtime, reply)).await
    }

    /// Runs `start`, after `init` where that has not run. A repeated one is Ok, runs nothing and announces
    /// nothing. A Failed module is tried again, after the `stop` that it may still owe: one that was skipped, or of a
    /// `start` that ended well past its deadline.
    ///
    /// # Errors
    /// As [`ModuleManager::init`].
    pub async fn start(&self, id: &str) -> Result<()> {
        let entry = self.inner.shared.find(id)?;
        start(&entry, Handle::try_current().ok()).await
    }

    /// Drains the module's calls and runs `stop`. A repeated one is Ok, runs nothing and announces nothing.
    ///
    /// # Errors
    /// [`KernelError::IllegalTransition`] when it is not running; otherwise as [`ModuleManager::init`].
    pub async fn stop(&self, id: &str) -> Result<()> {
        let entry = self.inner.shared.find(id)?;
        let asked = Asked { runtime: Handle::try_current().ok(), command: None };
        ask(&entry, "stop", |reply| Op::Stop(asked, reply)).await.map(drop)
    }

    /// Ends a module from whatever state it is in. What could not be done is on the receipt.
    ///
    /// # Errors
    /// [`KernelError::UnknownModule`], [`KernelError::SelfWait`].
    pub async fn unload(&self, id: &str) -> Result<Receipt> {
        let entry = self.inner.shared.find(id)?;
        let runtime = Handle::try_current().ok();
        ask(&entry, "unload", |reply| Op::Unload(runtime, reply)).await
    }

    /// Where a module stands; `None` when there is none of that id. Waits for nothing.
    pub async fn state(&self, id: &str) -> Option<ModuleState> {
        self.inner.shared.find(id).ok().map(|entry| entry.state())
    }

    /// All modules with their states, by id. Waits for nothing.
    pub async fn list(&self) -> Vec<(ModuleMetadata, ModuleState)> {
        let all = self.inner.shared.all();
        all.iter().map(|entry| (entry.present().metadata.clone(), entry.state())).collect()
    }

    /// Calls a module.
    ///
    /// # Errors
    /// As [`ModuleHandle::invoke`].
    pub async fn invoke(
        &self,
        id: &str,
        method: &str,
        payload: impl Into<Payload> + Send,
    ) -> Result<Payload> {
        self.handle(id)?.invoke(method, payload).await
    }

    /// A handle to call a module by.
    ///
    /// # Errors
    /// [`KernelError::UnknownModule`].
    pub fn handle(&self, id: &str) -> Result<ModuleHandle> {
        self.inner.shared.find(id).map(ModuleHandle::new)
    }

    /// All modules in full, by id.
    pub(crate) fn infos(&self) -> Vec<ModuleInfo> {
        self.inner.shared.all().iter().map(|entry| entry.info()).collect()
    }

    /// One module in full.
    pub(crate) fn info(&self, id: &str) -> Result<ModuleInfo> {
        self.inner.shared.find(id).map(|entry| entry.info())
    }
}

/// What a dry run of a swap needs.
#[cfg(all(feature = "daemon", unix))]
impl ModuleManager {
    /// Looks whether a module could be swapped to a file, without running any of it. Gives the number and the version
    /// of the present build.
    pub(crate) async fn look(
        &self,
        loading: &Loading,
        id: &str,
        path: PathBuf,
        force: bool,
    ) -> Result<Looked> {
        let entry = self.inner.shared.find(id)?;
        probe::look(&self.inner.shared, loading, &entry, path, force).await
    }

    /// Opens and constructs a build, asks it what it is, and ends it again.
    pub(crate) async fn probe(
        &self,
        loading: &Loading,
        path: PathBuf,
        config: &serde_json::Value,
    ) -> Result<Probed, Failure> {
        probe::probe(&self.inner.shared, loading, path, config).await
    }

    /// What there is to say of a module and of a build that was probed: whether it would be a swap to a lower version.
    pub(crate) fn fits(&self, id: &str, probed: &ModuleMetadata) -> Result<bool> {
        let entry = self.inner.shared.find(id)?;
        let present = entry.present();
        swap::is_the_same_module(&entry, &present, &probed.id).map_err(|error| {
            swap::failed(&entry, &present, Failure { step: crate::report::SwapStep::Metadata, error })
        })?;
        Ok(swap::is_downgrade(&present.metadata.version, &probed.version))
    }

    /// The deadlines and bounds.
    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.shared.limits
    }
}

/// Says that whoever waited does not any more.
struct GoesAway(Arc<AtomicBool>);

impl Drop for GoesAway {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

async fn start(entry: &Entry, runtime: Option<Handle>) -> Result<()> {
    let asked = Asked { runtime, command: None };
    ask(entry, "start", |reply| Op::Start(asked, reply)).await.map(drop)
}
