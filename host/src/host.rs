//! The façade for embedders.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

#[cfg(all(feature = "daemon", unix))]
use oxide_plugin_api::ModuleMetadata;
use oxide_plugin_api::Payload;

#[cfg(all(feature = "daemon", unix))]
use crate::manager::{Failure, Looked, Probed};
use crate::{
    bus::MessageBus,
    error::Result,
    intake::{LoadPolicy, StagingDir},
    life::{flush, reaper},
    manager::{Limits, LoadOptions, Loading, ModuleHandle, ModuleManager, Source, SwapOptions, WasmOptions},
    report::{ModuleInfo, Receipt, Retained, SwapReport},
};

/// A plugin host: a manager, a bus, and a private folder for the copies that are opened. Cheap to clone.
///
/// ```no_run
/// # async fn example() -> oxide_host::error::Result<()> {
/// let host = oxide_host::Host::new()?;
/// host.load("./libecho.so").await?;
/// let echo = host.module("echo")?;
/// let reply = echo.invoke("echo", "hello").await?;
/// assert_eq!(reply.as_bytes(), b"hello");
/// for receipt in host.shutdown().await {
///     println!("{}: unmapped {}", receipt.id, receipt.unmapped);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Host {
    manager: ModuleManager,
    bus: MessageBus,
    loading: Loading,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("manager", &self.manager).finish_non_exhaustive()
    }
}

/// Sets up a [`Host`].
#[derive(Clone, Debug, Default)]
pub struct HostBuilder {
    bus: Option<MessageBus>,
    limits: Limits,
    staging: Option<PathBuf>,
    policy: LoadPolicy,
    wasm: WasmOptions,
}

impl HostBuilder {
    /// Uses this bus instead of one of its own.
    #[must_use]
    pub fn bus(mut self, bus: MessageBus) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Keeps the private copies below this folder, which must allow execution.
    #[must_use]
    pub fn staging_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.staging = Some(folder.into());
        self
    }

    /// Opens plugins also when they need libraries that are not part of the system, whose constructors then
    /// run uninspected.
    #[must_use]
    pub fn allow_foreign_libraries(mut self, allow: bool) -> Self {
        self.policy.allow_foreign_libraries = allow;
        self
    }

    /// How many bytes a state may have that a swap hands over; a module with a larger one is not swapped: 64 MiB
    /// by default.
    #[must_use]
    pub fn state_limit(mut self, bytes: usize) -> Self {
        self.limits.state = bytes;
        self
    }

    /// Runs WASM guests with the engine at this path. Without it, the host looks for `libwasm_runtime.so` beside the
    /// program, then in `../lib/oxide`, then where cargo builds it, when the program was built by cargo.
    #[must_use]
    pub fn wasm_engine(mut self, path: impl Into<PathBuf>) -> Self {
        self.wasm.engine = Some(path.into());
        self
    }

    /// Lets engines keep what they have compiled in this folder, which is made with mode 0700 and must be writable to
    /// nobody else; without one, which is the default, each load compiles its guest.
    #[must_use]
    pub fn wasm_cache(mut self, folder: Option<PathBuf>) -> Self {
        self.wasm.cache = folder;
        self
    }

    /// The deadlines and bounds, to be changed.
    pub fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// Sets up the host.
    ///
    /// # Errors
    /// [`KernelError::Io`](crate::error::KernelError::Io) when the private folder cannot be prepared, and
    /// [`KernelError::Setup`](crate::error::KernelError::Setup) when the system gives it no threads.
    pub fn build(self) -> Result<Host> {
        let bus = self.bus.unwrap_or_default();
        let manager = ModuleManager::with_limits(bus.clone(), self.limits)?;
        let staging = Arc::new(StagingDir::open(self.staging.as_deref())?);
        Ok(Host { manager, bus, loading: Loading { staging, policy: self.policy, wasm: self.wasm } })
    }
}

macro_rules! limit_setters {
    ($($(#[$doc:meta])* $name:ident => $field:ident),* $(,)?) => {
        impl HostBuilder {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(mut self, limit: std::time::Duration) -> Self {
                    self.limits.$field = limit;
                    self
                }
            )*
        }
    };
}

limit_setters! {
    /// How long the constructor, `metadata`, `configure` and `init` may each take: 30 s by default.
    init_timeout => init,
    /// How long `start` may take: 30 s by default.
    start_timeout => start,
    /// How long `stop` may take: 10 s by default.
    stop_timeout => stop,
    /// How long calls may take to come out before a stop or an unload cancels those that wait: 10 s by
    /// default.
    drain_timeout => drain,
    /// How long an unload waits for the threads that a module started, before it is retained: 5 s by default.
    thread_timeout => threads,
    /// How long threads on which a module left thread-locals may take to come by, before these are left
    /// undestroyed for good: 10 s by default.
    local_timeout => locals,
    /// How long the dynamic loader may take to open or close a library, before loading is refused until it
    /// returns: 30 s by default.
    loader_timeout => loader,
    /// How long a swap may hold calls while it hands the state over, before it is given up: 10 s by default.
    hold_timeout => hold,
    /// How long one `on_message` may take: 30 s by default.
    message_timeout => message,
}

impl Host {
    /// A host with the defaults.
    ///
    /// # Errors
    /// As [`HostBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// A host with something else than the defaults.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// Loads a plugin, or a WASM guest, and starts it. All or nothing: whatever fails is undone.
    ///
    /// # Errors
    /// [`KernelError::Refused`](crate::error::KernelError::Refused) before any of its code ran; a duplicate
    /// or invalid id; a hook's own failure.
    pub async fn load(&self, path: impl AsRef<Path>) -> Result<ModuleInfo> {
        self.load_with(path, LoadOptions::new()).await
    }

    /// Loads a plugin in another way than the usual one.
    ///
    /// # Errors
    /// As [`Host::load`].
    pub async fn load_with(&self, path: impl AsRef<Path>, options: LoadOptions) -> Result<ModuleInfo> {
        self.manager.load(self.loading.clone(), path.as_ref().to_owned(), options).await
    }

    /// Replaces a running module by another build of it, while callers keep calling: no call fails, is repeated, or
    /// is answered by a mix of both. What the old one's `save_state` gives goes to the new one's `restore_state`; fresh
    /// calls wait meanwhile. A module that does not run is replaced, and not started.
    ///
    /// A future that is dropped before calls are led to the new build has the swap undone.
    ///
    /// # Errors
    /// [`KernelError::SwapFailed`](crate::error::KernelError::SwapFailed) says at which step; the old build goes on as
    /// if nothing had happened. [`KernelError::SameBuild`](crate::error::KernelError::SameBuild) when the file holds
    /// the very bytes that are loaded, and
    /// [`KernelError::TooManyRetained`](crate::error::KernelError::TooManyRetained).
    pub async fn swap(&self, id: &str, path: impl AsRef<Path>) -> Result<SwapReport> {
        self.swap_with(id, path, SwapOptions::new()).await
    }

    /// Replaces a module in another way than the usual one.
    ///
    /// # Errors
    /// As [`Host::swap`].
    pub async fn swap_with(
        &self,
        id: &str,
        path: impl AsRef<Path>,
        options: SwapOptions,
    ) -> Result<SwapReport> {
        let source = Source::File(path.as_ref().to_owned());
        self.manager.swap(self.loading.clone(), id, source, options).await
    }

    /// Swaps a module back to the build before the present one, with the configuration that it had; the state is
    /// handed over as in any swap. Done twice, it leads back to where it began.
    ///
    /// # Errors
    /// As [`Host::swap`], and [`KernelError::NoPreviousBuild`](crate::error::KernelError::NoPreviousBuild).
    pub async fn rollback(&self, id: &str) -> Result<SwapReport> {
        let options = SwapOptions::new().force(true);
        self.manager.swap(self.loading.clone(), id, Source::Previous { of: None }, options).await
    }

    /// Ends a module; the receipt says what was done and whether the library is gone.
    ///
    /// # Errors
    /// As [`ModuleManager::unload`].
    pub async fn unload(&self, id: &str) -> Result<Receipt> {
        self.manager.unload(id).await
    }

    /// As [`ModuleManager::start`].
    ///
    /// # Errors
    /// As there.
    pub async fn start(&self, id: &str) -> Result<()> {
        self.manager.start(id).await
    }

    /// As [`ModuleManager::stop`].
    ///
    /// # Errors
    /// As there.
    pub async fn stop(&self, id: &str) -> Result<()> {
        self.manager.stop(id).await
    }

    /// Calls a module by its id. Who calls often keeps a [`Host::module`].
    ///
    /// # Errors
    /// As [`ModuleHandle::invoke`].
    pub async fn invoke(&self, id: &str, method: &str, payload: impl Into<Payload>) -> Result<Payload> {
        let payload = payload.into();
        self.module(id)?.invoke(method, payload).await
    }

    /// A handle to call a module by, which follows it through swaps.
    ///
    /// # Errors
    /// [`KernelError::UnknownModule`](crate::error::KernelError::UnknownModule).
    pub fn module(&self, id: &str) -> Result<ModuleHandle> {
        self.manager.handle(id)
    }

    /// All modules, by id.
    pub async fn list(&self) -> Vec<ModuleInfo> {
        self.manager.infos()
    }

    /// One module.
    ///
    /// # Errors
    /// [`KernelError::UnknownModule`](crate::error::KernelError::UnknownModule).
    pub async fn show(&self, id: &str) -> Result<ModuleInfo> {
        self.manager.info(id)
    }

    /// What this process keeps mapped after unloads, and why.
    pub fn retained(&self) -> Vec<Retained> {
        reaper::retained()
    }

    /// The manager.
    pub fn modules(&self) -> &ModuleManager {
        &self.manager
    }

    /// The bus.
    pub fn bus(&self) -> &MessageBus {
        &self.bus
    }

    /// Runs something short on the kernel's thread, before any task of a module.
    #[cfg(all(feature = "daemon", unix))]
    pub(crate) fn on_kernel_thread(&self, work: impl FnOnce() + Send + 'static) {
        crate::kernel::run(work);
    }

    /// Removes the private copies, also of libraries that are still mapped: for the end of the process.
    #[cfg(all(feature = "daemon", unix))]
    pub(crate) fn remove_copies(&self) {
        if let Err(error) = self.loading.staging.remove_all() {
            tracing::debug!(%error, "the private copies stay for the next host to remove");
        }
    }

    /// Unloads every module, all at once; the receipts are in the order of the ids.
    pub async fn shutdown(&self) -> Vec<Receipt> {
        let ends: Vec<_> = self
            .manager
            .infos()
            .into_iter()
            .map(|info| {
                let manager = self.manager.clone();
                crate::life::coordinator::spawn(async move { manager.unload(&info.id).await })
            })
            .collect();
        let receipts = async {
            let mut receipts = Vec::new();
            for end in ends {
                // A module that is gone already has given its receipt to whoever unloaded it.
                if let Ok(Ok(receipt)) = end.await {
                    receipts.push(receipt);
                }
            }
            self.manager.settled().await;
            receipts
        };
        // Meanwhile this thread runs what it owes, as with every verb: each unload waits on a thread of the host's.
        flush::attend(receipts).await
    }
}

/// What a dry run of a swap needs.
#[cfg(all(feature = "daemon", unix))]
impl Host {
    /// Looks whether a module could be swapped to a file, without running any of it. Gives the number and the version
    /// of the present build.
    pub(crate) async fn look(&self, id: &str, path: &Path, force: bool) -> Result<Looked> {
        self.manager.look(&self.loading, id, path.to_owned(), force).await
    }

    /// Opens and constructs a build in this process, asks it what it is, and ends it again.
    pub(crate) async fn probe(&self, path: &Path, config: &serde_json::Value) -> Result<Probed, Failure> {
        self.manager.probe(&self.loading, path.to_owned(), config).await
    }

    /// Whether a build that says this of itself may take a module's place, and whether it is a downgrade.
    pub(crate) fn fits(&self, id: &str, probed: &ModuleMetadata) -> Result<bool> {
        self.manager.fits(id, probed)
    }

    /// The folder that was chosen for private copies.
    pub(crate) fn chosen_staging(&self) -> Option<&Path> {
        self.loading.staging.chosen_base()
    }

    /// What is accepted.
    pub(crate) fn policy(&self) -> &LoadPolicy {
        &self.loading.policy
    }

    /// How guests are run.
    pub(crate) fn wasm(&self) -> &WasmOptions {
        &self.loading.wasm
    }

    /// The deadlines and bounds.
    pub(crate) fn limits(&self) -> &Limits {
        self.manager.limits()
    }
}

/// Runs what plugins that are being unloaded have left on the calling thread: the destructors of their
/// thread-locals. Calls of plugins, waiting for an unload, and threads of a tokio runtime do so by themselves; this
/// is for threads that have called a plugin once and do other things since. Costs a load when there is nothing to do.
///
/// As long as the destructors take; they are the plugin's.
pub fn come_by() {
    flush::come_by();
}
