//! The life of a guest: its instance, who is inside, and what becomes of it when a call ends badly.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex as StdMutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use oxide_plugin_api::{
    Envelope, Error, MessageBus, ModuleMetadata, Payload, Result, SavedState, task::JoinHandle, tracing,
};
use wasmtime::Engine;

#[cfg(feature = "wasi")]
use crate::wasi::Reactor;
use crate::{
    cache::{Cache, Key},
    call::{Answered, Call, Invocation, Said},
    compiled::{Compiled, Kind},
    config::{Config, Limits},
    fault,
    instance::{Ended, Guest, Instance},
    store::{self, Data},
    ticker::Ticker,
    turns::Turns,
};

/// A guest under management.
pub(crate) struct Life {
    shared: Arc<Shared>,
    metadata: ModuleMetadata,
}

/// What a call needs, also one whose caller has gone away.
pub(crate) struct Shared {
    /// The instance, and who is inside.
    pub(crate) turns: Arc<Turns<Instance>>,
    /// The call that goes on without its caller.
    deserted: StdMutex<Option<JoinHandle<()>>>,
    guest: Guest,
    engine: Engine,
    _ticker: Ticker,
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
        let turns = Arc::<Turns<Instance>>::default();
        let shared = Shared {
            deserted: StdMutex::default(),
            guest: linked,
            _ticker: Ticker::new(&engine, tick, turns.clone()),
            turns,
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
        let mut turn = self.shared.turns.wait().await;
        if let Some(instance) = turn.kept.as_mut() {
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
    pub(crate) fn invoke<'a, 'm>(&'a self, method: &'m str, payload: Payload) -> Invocation<'a, 'm> {
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
        if self.shared.turns.wait().await.kept.is_none() {
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
        let mut turn = self.turns.wait().await;
        let mut instance = self.made().await?;
        let metadata = self.run(&mut instance, "metadata", |one| Box::pin(one.metadata())).await?;
        self.configure(&mut instance).await?;
        turn.kept = Some(instance);
        Ok(metadata)
    }

    /// A fresh instance, and no more than that.
    async fn made(&self) -> Result<Instance> {
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
        let mut turn = self.turns.wait().await;
        match self.taken(&mut turn.kept).await {
            Ok(instance) => turn.kept = Some(instance),
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
        let mut turn = self.turns.wait().await;
        let mut instance = self.taken(&mut turn.kept).await?;
        store::begin(instance.store());
        match self.inside(hook(&mut instance)).await {
            Ok(said) => {
                turn.kept = Some(instance);
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
        store::begin(instance.store());
        let ended = self.inside(hook(instance)).await;
        ended.map_err(|fault| {
            let why = fault::error(instance.store(), &fault, self.limits.stack);
            Error::new(format_args!("the guest was ended in `{name}`: {why}"))
        })?
    }

    /// A call whose turn it is.
    pub(crate) fn call(self: &Arc<Self>, instance: Option<Instance>, method: &str, payload: Payload) -> Call {
        match instance {
            Some(instance) => instance.called(method, payload),
            None => {
                let (shared, method) = (self.clone(), method.to_owned());
                Box::pin(async move {
                    let instance = shared.taken(&mut None).await.map_err(Box::new)?;
                    instance.called(&method, payload).await
                })
            }
        }
    }

    /// Puts the instance back after a call, unless it cannot go on; gives what was said.
    #[inline(always)]
    pub(crate) fn ended(&self, place: &mut Option<Instance>, answered: Answered) -> Result<Said> {
        let mut instance = answered.map_err(|why| *why)?;
        match instance.take_ended() {
            Some(Ok(said)) => {
                *place = Some(instance);
                said
            }
            Some(Err(fault)) => Err(self.lost(&mut instance, "invoke", &fault)),
            None => unreachable!("a call that has ended says so"),
        }
    }

    /// Remembers a task that a call goes on in, for `stop`.
    pub(crate) fn goes_on_without_its_caller(&self, task: JoinHandle<()>) {
        *self.deserted.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Says what became of an instance that cannot go on.
    #[cold]
    fn lost(&self, instance: &mut Instance, name: &str, fault: &wasmtime::Error) -> Error {
        let why = fault::error(instance.store(), fault, self.limits.stack);
        tracing::warn!(
            "the guest was ended in `{name}`: {why}; its state is lost, and the next call finds a fresh one"
        );
        Error::new(format_args!("the guest was ended in `{name}`: {why}; the next call finds a fresh one"))
    }

    /// Polls within the runtime that WASI needs, where there is one.
    async fn inside<F: Future + Unpin>(&self, mut future: F) -> F::Output {
        poll_fn(|context| self.within(|| Pin::new(&mut future).poll(context))).await
    }

    #[cfg(feature = "wasi")]
    #[inline]
    pub(crate) fn within<T>(&self, poll: impl FnOnce() -> T) -> T {
        let _entered = self.reactor.handle().map(tokio::runtime::Handle::enter);
        poll()
    }

    #[cfg(not(feature = "wasi"))]
    pub(crate) fn within<T>(&self, poll: impl FnOnce() -> T) -> T {
        poll()
    }
}
