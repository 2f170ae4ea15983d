//! What the manager's tests share: a module whose hooks are written by the test, a journal of what ran, and
//! a watcher of the bus. Nothing here decides by a clock; the only one is a safety net, so that a bug is a
//! failure and not a hang.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(unreachable_pub, reason = "shared by several test programs")]

mod door;
mod watcher;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use async_trait::async_trait;
use oxide_host::{
    Limits, Payload,
    bus::{Command, Envelope, Event, MessageBus},
    error::{KernelError, Result},
    module::{Module, ModuleKind, ModuleManager, ModuleMetadata, ModuleState, WasmModule},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

#[allow(unused_imports, reason = "each test file uses its own part of this")]
pub use self::{
    door::{Door, OpenAtTheEnd},
    watcher::{Watcher, words},
};

/// How long anything may take before a test gives up. No verdict depends on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A deadline for hooks that never end.
pub const SHORT: Duration = Duration::from_millis(50);

pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Hook = Box<dyn FnMut() -> Boxed<Result<()>> + Send + Sync>;
type Init = Box<dyn FnMut(MessageBus) -> Boxed<Result<()>> + Send + Sync>;
type Answer = Box<dyn Fn(String, Payload) -> Boxed<Result<Payload>> + Send + Sync>;
type Taker = Box<dyn Fn(Envelope) -> Boxed<Result<()>> + Send + Sync>;

/// A module whose hooks are what the test says; those it says nothing of succeed, and `invoke` echoes.
pub struct Probe {
    metadata: ModuleMetadata,
    journal: Journal,
    on_init: Option<Init>,
    on_start: Option<Hook>,
    on_stop: Option<Hook>,
    on_invoke: Option<Answer>,
    on_message: Option<Taker>,
    on_drop: Option<Box<dyn FnOnce() + Send + Sync>>,
}

pub fn metadata(id: &str) -> ModuleMetadata {
    ModuleMetadata {
        id: id.into(),
        name: id.into(),
        version: "1.2.3".into(),
        kind: ModuleKind::Native,
        description: None,
    }
}

impl Probe {
    pub fn new(id: &str) -> Self {
        Self {
            metadata: metadata(id),
            journal: Journal::default(),
            on_init: None,
            on_start: None,
            on_stop: None,
            on_invoke: None,
            on_message: None,
            on_drop: None,
        }
    }

    pub fn journal(&self) -> Journal {
        self.journal.clone()
    }

    pub fn on_init<F: Future<Output = Result<()>> + Send + 'static>(
        mut self,
        mut hook: impl FnMut(MessageBus) -> F + Send + Sync + 'static,
    ) -> Self {
        self.on_init = Some(Box::new(move |bus| Box::pin(hook(bus))));
        self
    }

    pub fn on_start<F: Future<Output = Result<()>> + Send + 'static>(
        mut self,
        mut hook: impl FnMut() -> F + Send + Sync + 'static,
    ) -> Self {
        self.on_start = Some(Box::new(move || Box::pin(hook())));
        self
    }

    pub fn on_stop<F: Future<Output = Result<()>> + Send + 'static>(
        mut self,
        mut hook: impl FnMut() -> F + Send + Sync + 'static,
    ) -> Self {
        self.on_stop = Some(Box::new(move || Box::pin(hook())));
        self
    }

    pub fn on_invoke<F: Future<Output = Result<Payload>> + Send + 'static>(
        mut self,
        hook: impl Fn(String, Payload) -> F + Send + Sync + 'static,
    ) -> Self {
        self.on_invoke = Some(Box::new(move |method, payload| Box::pin(hook(method, payload))));
        self
    }

    pub fn on_message<F: Future<Output = Result<()>> + Send + 'static>(
        mut self,
        hook: impl Fn(Envelope) -> F + Send + Sync + 'static,
    ) -> Self {
        self.on_message = Some(Box::new(move |envelope| Box::pin(hook(envelope))));
        self
    }

    pub fn on_drop(mut self, hook: impl FnOnce() + Send + Sync + 'static) -> Self {
        self.on_drop = Some(Box::new(hook));
        self
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.journal.count("drop");
        if let Some(hook) = self.on_drop.take() {
            hook();
        }
    }
}

#[async_trait]
impl Module for Probe {
    fn metadata(&self) -> ModuleMetadata {
        self.metadata.clone()
    }

    async fn init(&mut self, bus: MessageBus) -> Result<()> {
        let _alone = self.journal.alone("init");
        match &mut self.on_init {
            Some(hook) => hook(bus).await,
            None => Ok(()),
        }
    }

    async fn start(&mut self) -> Result<()> {
        let _alone = self.journal.alone("start");
        match &mut self.on_start {
            Some(hook) => hook().await,
            None => Ok(()),
        }
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        let _together = self.journal.together("invoke");
        match &self.on_invoke {
            Some(hook) => hook(method.to_owned(), payload).await,
            None => Ok(payload),
        }
    }

    async fn on_message(&self, envelope: Envelope) -> Result<()> {
        let _together = self.journal.together("on_message");
        match &self.on_message {
            Some(hook) => hook(envelope).await,
            None => Ok(()),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        let _alone = self.journal.alone("stop");
        match &mut self.on_stop {
            Some(hook) => hook().await,
            None => Ok(()),
        }
    }
}

/// The same module as a WASM engine.
pub struct WasmProbe(pub Probe);

#[async_trait]
impl WasmModule for WasmProbe {
    fn metadata(&self) -> ModuleMetadata {
        Module::metadata(&self.0)
    }

    async fn instantiate(&mut self, bus: MessageBus) -> Result<()> {
        self.0.init(bus).await
    }

    async fn start(&mut self) -> Result<()> {
        Module::start(&mut self.0).await
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        Module::invoke(&self.0, method, payload).await
    }

    async fn stop(&mut self) -> Result<()> {
        Module::stop(&mut self.0).await
    }
}

/// What ran in a module, and whether anything ran beside a hook that must be alone.
#[derive(Clone, Default)]
pub struct Journal(Arc<Recorded>);

#[derive(Default)]
struct Recorded {
    counts: Mutex<BTreeMap<&'static str, usize>>,
    alone: AtomicUsize,
    together: AtomicUsize,
    overlaps: Mutex<Vec<String>>,
}

pub struct Entered(Arc<Recorded>, bool);

impl Drop for Entered {
    fn drop(&mut self) {
        let counter = if self.1 { &self.0.alone } else { &self.0.together };
        counter.fetch_sub(1, SeqCst);
    }
}

impl Journal {
    fn count(&self, hook: &'static str) {
        *self.0.counts.lock().unwrap().entry(hook).or_default() += 1;
    }

    fn alone(&self, hook: &'static str) -> Entered {
        self.count(hook);
        let (alone, together) = (self.0.alone.fetch_add(1, SeqCst), self.0.together.load(SeqCst));
        if alone + together > 0 {
            self.0
                .overlaps
                .lock()
                .unwrap()
                .push(format!("{hook}: {alone} hooks and {together} calls inside"));
        }
        Entered(self.0.clone(), true)
    }

    fn together(&self, hook: &'static str) -> Entered {
        self.count(hook);
        self.0.together.fetch_add(1, SeqCst);
        let alone = self.0.alone.load(SeqCst);
        if alone > 0 {
            self.0.overlaps.lock().unwrap().push(format!("{hook}: {alone} hooks inside"));
        }
        Entered(self.0.clone(), false)
    }

    /// How often a hook began (or the module was dropped).
    pub fn times(&self, hook: &'static str) -> usize {
        self.0.counts.lock().unwrap().get(hook).copied().unwrap_or(0)
    }

    /// (init, start, stop).
    pub fn hooks(&self) -> (usize, usize, usize) {
        (self.times("init"), self.times("start"), self.times("stop"))
    }

    #[track_caller]
    pub fn assert_never_overlapped(&self) {
        let overlaps = self.0.overlaps.lock().unwrap().clone();
        assert!(overlaps.is_empty(), "{overlaps:?}");
    }
}

/// A manager on a bus of its own, with a watcher that was there from the start.
pub async fn manager() -> (ModuleManager, MessageBus, Watcher) {
    manager_with(Limits::default()).await
}

pub async fn manager_with(limits: Limits) -> (ModuleManager, MessageBus, Watcher) {
    let bus = MessageBus::new();
    let watcher = Watcher::of(&bus).await;
    let manager = ModuleManager::with_limits(bus.clone(), limits).unwrap();
    (manager, bus, watcher)
}

/// Waits, but not for ever.
pub async fn patiently<F: Future>(future: F) -> F::Output {
    // Not tokio's clock alone: some tests poll this on no runtime at all.
    tokio::time::timeout(PATIENCE, future).await.expect("it takes far too long")
}

/// Waits on this thread until `condition` holds.
#[track_caller]
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "it takes far too long");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits in a task until `condition` holds.
pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    patiently(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub async fn until_state(manager: &ModuleManager, id: &str, state: ModuleState) {
    until(async || manager.state(id).await == Some(state)).await;
}

/// Polls a future once, on behalf of nobody.
pub fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The smallest executor there is: no runtime, one thread that parks.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

pub fn invoke_command(id: &str, method: &str, payload: Value) -> Command {
    Command::Invoke { module_id: id.into(), method: method.into(), payload }
}

pub fn custom(id: &str, kind: &str, payload: Value) -> Event {
    Event::Custom { module_id: id.into(), kind: kind.into(), payload }
}

pub fn start_command(id: &str) -> Command {
    Command::Start { module_id: id.into() }
}

pub fn stop_command(id: &str) -> Command {
    Command::Stop { module_id: id.into() }
}

/// An error that a hook returns.
pub fn refusal(message: &str) -> KernelError {
    KernelError::new(message)
}

/// Silences what a panic on purpose would print.
pub fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let on_purpose = text.is_some_and(|text| text.contains("on purpose"));
            if !on_purpose {
                usual(info);
            }
        }));
    });
}

/// Something that is told once and can be waited for.
pub type Bell = Arc<Notify>;

pub fn nothing() -> Value {
    json!(null)
}
