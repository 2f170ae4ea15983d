//! The life of a guest: its instance, who is inside, and what becomes of it when a call ends badly.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, Mutex as StdMutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

// Not tokio's: that leaves a thread-local on each caller's thread, and each would have to come by before the engine can
// be unmapped.
use async_lock::Mutex;
use oxide_plugin_api::{
    Envelope, Error, MessageBus, ModuleMetadata, Payload, Result, SavedState, task::JoinHandle, tracing,
};
use wasmtime::Engine;

#[cfg(feature = "wasi")]
use crate::wasi::Reactor;
use crate::{
    cache::{Cache, Key},
    call::{Call, Invocation, Turn},
    compiled::{Compiled, Kind},
    config::{Config, Limits},
    fault,
    instance::{Ended, Guest, Instance},
    store::{self, Data},
    ticker::Ticker,
};

/// A guest under management.
pub(crate) struct Life {
    shared: Arc<Shared>,
    metadata: ModuleMetadata,
}

/// What a call needs, also one whose caller has gone away.
pub(crate) struct Shared {
    /// The instance, unless somebody is inside, who takes it out. Who leaves it in the middle takes it along, so that
    /// nobody enters an instance whose last call did not end.
    pub(crate) slot: Arc<Mutex<Option<Instance>>>,
    /// The call that goes on without its caller.
    deserted: StdMutex<Option<JoinHandle<()>>>,
    guest: Guest,
    engine: Engine,
    ticker: Ticker,
    tick: Duration,
    limits: Limits,
    /// What the guest's `configure` gets.
    config: String,
    bus: OnceLock<MessageBus>,
    started: AtomicBool,
    #[cfg(feature = "wasi")]
    reactor: Reactor,
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Ended<T>> + Send + 'a>>;

impl Life {
    /// Compiles the guest, or finds it compiled; makes an instance, and asks it what it is.
    ///
    /// # Errors
    /// When the guest is no WASM, imports what is not there, or its first steps fail.
    pub(crate) async fn new(config: Config, guest: &[u8]) -> Result<Self> {
        let named = |error: Error| error.context(format_args!("the guest `{}` cannot be run", config.name));
        let engine = engine(&config.wasm)?;
        let compiled = compiled(&engine, &config, guest).map_err(named)?;
        let linked = Guest::link(&engine, &compiled, config.stem(), &config.wasm).map_err(named)?;
        let tick = Ticker::tick(config.wasm.call_time());
        let shared = Shared {
            slot: Arc::default(),
            deserted: StdMutex::default(),
            guest: linked,
            ticker: Ticker::new(&engine, tick),
            engine,
            tick,
            config: config.config.to_string(),
            bus: OnceLock::new(),
            started: AtomicBool::new(false),
            #[cfg(feature = "wasi")]
            reactor: Reactor::new(&config.wasm.allow)?,
            limits: config.wasm.clone(),
        };
        let metadata = shared.begin().await.map_err(named)?;
        Ok(Self { shared: Arc::new(shared), metadata })
    }

    pub(crate) fn metadata(&self) -> &ModuleMetadata {
        &self.metadata
    }

    /// Gives the guest the bus.
    pub(crate) async fn connect(&self, bus: MessageBus) -> Result<()> {
        let mut slot = self.shared.slot.lock().await;
        if let Some(instance) = slot.as_mut() {
            instance.store().data_mut().bus = Some(bus.clone());
        }
        let _ = self.shared.bus.set(bus);
        Ok(())
    }

    pub(crate) async fn restore_state(&self, state: SavedState) -> Result<()> {
        self.shared
            .hook("restore-state", |one| Box::pin(async move { one.restore_state(&state).await }))
            .await
    }

    pub(crate) async fn start(&self) -> Result<()> {
        self.shared.hook("start", |one| Box::pin(one.start())).await?;
        self.shared.started.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) async fn on_message(&self, envelope: Envelope) -> Result<()> {
        self.shared.hook("on-message", |one| Box::pin(async move { one.on_message(&envelope).await })).await
    }

    /// The guest's state; none when there is no instance that has one, so that a guest that cannot be made anew can
    /// be replaced.
    pub(crate) async fn save_state(&self) -> Result<Option<SavedState>> {
        if self.shared.revived().await.is_none() {
            return Ok(None);
        }
        self.shared.hook("save-state", |one| Box::pin(one.save_state())).await
    }

    /// Answers a call. One that is inside goes on when this future is dropped.
    pub(crate) fn invoke(&self, method: &str, payload: Payload) -> Invocation<'_> {
        Invocation::new(&self.shared, method, payload)
    }

    /// Stops the guest. An instance that was lost has nothing to stop.
    pub(crate) async fn stop(&self) -> Result<()> {
        let deserted = self.shared.deserted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(call) = deserted {
            call.abort();
            call.await;
        }
        self.shared.started.store(false, Ordering::Relaxed);
        if self.shared.slot.lock().await.is_none() {
            return Ok(());
        }
        self.shared.hook("stop", |one| Box::pin(one.stop())).await
    }
}

fn engine(limits: &Limits) -> Result<Engine> {
    crate::engine::new(limits.stack)
        .map_err(|error| Error::new(error.root_cause()).context("wasmtime cannot be set up"))
}

/// The guest's code: from the cache, or compiled now and kept there.
fn compiled(engine: &Engine, config: &Config, guest: &[u8]) -> Result<Compiled> {
    let Some(kind) = Kind::of(guest) else {
        return Err(Error::new("it is no WASM: expected a component, or a core module of version 1"));
    };
    // A cache that cannot be used costs time and nothing else.
    let cache = config.cache.as_deref().and_then(|folder| {
        Cache::open(folder).inspect_err(|error| tracing::warn!("{}", crate::host::line(error))).ok()
    });
    let key = Key::new(engine, kind, guest);
    if let Some(cache) = &cache
        && let Some(kept) = cache.get(&key)
    {
        match Compiled::from_cache(engine, &kept) {
            Ok(compiled) => {
                tracing::debug!(guest = %config.name, "takes the compiled guest from the cache");
                return Ok(compiled);
            }
            Err(error) => {
                tracing::warn!(guest = %config.name, error = %error.root_cause(), "removes unusable code from the cache");
                cache.forget(&key);
            }
        }
    }
    tracing::debug!(guest = %config.name, bytes = guest.len(), "compiles the guest");
    let compiled = Compiled::new(engine, kind, guest)
        .map_err(|error| fault::with_causes(&error).context("it cannot be compiled"))?;
    if let Some(cache) = &cache
        && let Err(error) = cache.put(&key, &compiled)
    {
        tracing::warn!("the compiled guest was not kept: {}", crate::host::line(&error));
    }
    Ok(compiled)
}

impl Shared {
    /// The first instance: says what it is, and is configured.
    async fn begin(&self) -> Result<ModuleMetadata> {
        let mut instance = self.made().await?;
        let metadata = self.run(&mut instance, "metadata", |one| Box::pin(one.metadata())).await?;
        self.configure(&mut instance).await?;
        *self.slot.lock().await = Some(instance);
        Ok(metadata)
    }

    /// A fresh instance, and no more than that.
    async fn made(&self) -> Result<Instance> {
        let _at_work = self.ticker.at_work();
        let data = Data::new(&self.limits, self.tick, self.bus.get().cloned())?;
        let store = store::new(&self.engine, data);
        let made = self.inside(pin!(self.guest.instantiate(store))).await;
        made.map_err(|(mut store, fault)| {
            fault::error(&mut store, &fault, self.limits.stack).context("it cannot be instantiated")
        })
    }

    /// An instance that stands where the lost one stood: configured, and started if that one was.
    async fn anew(&self) -> Result<Instance> {
        let mut instance = self.made().await?;
        self.configure(&mut instance).await?;
        if self.started.load(Ordering::Relaxed) {
            self.run(&mut instance, "start", |one| Box::pin(one.start())).await?;
        }
        Ok(instance)
    }

    async fn configure(&self, instance: &mut Instance) -> Result<()> {
        let config = self.config.clone();
        self.run(instance, "configure", |one| Box::pin(async move { one.configure(&config).await })).await
    }

    /// Takes the instance out of its slot, or makes a fresh one.
    async fn taken(&self, slot: &mut Option<Instance>) -> Result<Instance> {
        match slot.take() {
            Some(instance) => Ok(instance),
            None => {
                // In a box: what is rare should not make every call's future larger.
                let anew = Box::pin(self.anew()).await;
                anew.map_err(|error| error.context("the guest was ended, and cannot be made anew"))
            }
        }
    }

    /// Whether there is an instance, be it a fresh one.
    async fn revived(&self) -> Option<()> {
        let mut slot = self.slot.lock().await;
        match self.taken(&mut slot).await {
            Ok(instance) => *slot = Some(instance),
            Err(error) => {
                tracing::warn!("there is no state to save: {}", crate::host::line(&error));
                return None;
            }
        }
        Some(())
    }

    /// Runs a hook on the instance.
    async fn hook<T>(
        &self,
        name: &str,
        hook: impl for<'a> FnOnce(&'a mut Instance) -> Boxed<'a, T> + Send,
    ) -> Result<T> {
        let mut slot = self.slot.lock().await;
        let mut instance = self.taken(&mut slot).await?;
        let _at_work = self.ticker.at_work();
        store::begin(instance.store());
        match self.inside(hook(&mut instance)).await {
            Ok(said) => {
                *slot = Some(instance);
                said
            }
            Err(fault) => Err(self.lost(&mut instance, name, &fault)),
        }
    }

    /// Runs a hook on an instance that is not in the slot yet.
    async fn run<T>(
        &self,
        instance: &mut Instance,
        name: &str,
        hook: impl for<'a> FnOnce(&'a mut Instance) -> Boxed<'a, T> + Send,
    ) -> Result<T> {
        let _at_work = self.ticker.at_work();
        store::begin(instance.store());
        let ended = self.inside(hook(instance)).await;
        ended.map_err(|fault| {
            let why = fault::error(instance.store(), &fault, self.limits.stack);
            Error::new(format_args!("the guest was ended in `{name}`: {why}"))
        })?
    }

    /// A call whose turn it is.
    pub(crate) fn call(self: Arc<Self>, mut turn: Turn, method: String, payload: Payload) -> Call {
        Box::pin(async move {
            let mut instance = match turn.take() {
                Some(instance) => instance,
                None => Box::pin(self.taken(&mut turn)).await?,
            };
            let _at_work = self.ticker.at_work();
            store::begin(instance.store());
            // In its place at once: passing a future on moves it, and this one is large.
            let ended = self.inside(pin!(instance.invoke(&method, payload.as_bytes()))).await;
            match ended {
                Ok(said) => {
                    *turn = Some(instance);
                    said.map(Payload::from)
                }
                Err(fault) => Err(self.lost(&mut instance, "invoke", &fault)),
            }
        })
    }

    /// Remembers a task that a call goes on in, for `stop`.
    pub(crate) fn goes_on_without_its_caller(&self, task: JoinHandle<()>) {
        *self.deserted.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Says what became of an instance that cannot go on.
    fn lost(&self, instance: &mut Instance, name: &str, fault: &wasmtime::Error) -> Error {
        let why = fault::error(instance.store(), fault, self.limits.stack);
        tracing::warn!(
            "the guest was ended in `{name}`: {why}; its state is lost, and the next call finds a fresh one"
        );
        Error::new(format_args!("the guest was ended in `{name}`: {why}; the next call finds a fresh one"))
    }

    /// Polls within the runtime that WASI needs, where there is one.
    #[cfg(feature = "wasi")]
    async fn inside<F: Future + Unpin>(&self, mut future: F) -> F::Output {
        let Some(runtime) = self.reactor.handle() else { return future.await };
        std::future::poll_fn(|context| {
            let _entered = runtime.enter();
            Pin::new(&mut future).poll(context)
        })
        .await
    }

    #[cfg(not(feature = "wasi"))]
    async fn inside<F: Future + Unpin>(&self, future: F) -> F::Output {
        future.await
    }
}
