//! A small host for unit tests: a module's hooks run in plain `cargo test`, without `oxide-host`.
//!
//! Turn it on for tests only, in `Cargo.toml`:
//!
//! ```toml
//! [dev-dependencies]
//! oxide-plugin-api = { version = "…", features = ["testing"] }
//! ```
//!
//! Then load a module and drive it. The methods block, so a test needs no async runtime; each has a twin
//! that ends in `_async` for tests that have one.
//!
//! ```
//! use std::time::Duration;
//!
//! use oxide_plugin_api::{prelude::*, testing::TestHost};
//!
//! #[derive(Default)]
//! struct Greeter(Option<MessageBus>);
//!
//! impl Module for Greeter {
//! #   fn metadata(&self) -> ModuleMetadata {
//! #       ModuleMetadata {
//! #           id: "greeter".into(),
//! #           name: "Greeter".into(),
//! #           version: "1.0.0".into(),
//! #           kind: ModuleKind::Native,
//! #           description: None,
//! #       }
//! #   }
//!     // metadata, stop …
//!     async fn init(&mut self, bus: MessageBus) -> Result<()> {
//!         self.0 = Some(bus);
//!         Ok(())
//!     }
//!     async fn start(&mut self) -> Result<()> {
//!         Ok(())
//!     }
//!     async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
//!         let Some(bus) = &self.0 else { return Err(Error::new("no bus")) };
//!         let name: String = payload.to_json()?;
//!         let (module_id, kind) = ("greeter".into(), "greeted".into());
//!         bus.emit_event("greeter", Event::Custom { module_id, kind, payload: name.into() }).await?;
//!         Ok(method.into())
//!     }
//! #   async fn stop(&mut self) -> Result<()> {
//! #       Ok(())
//! #   }
//! }
//!
//! // #[test]
//! fn greets() -> Result<()> {
//!     let host = TestHost::new();
//!     let mut greeter = host.load_and_start(Greeter::default())?;
//!
//!     assert_eq!(greeter.invoke("hello", r#""Ada""#)?.as_bytes(), b"hello");
//!     assert!(host.next_event(Filter::all().kind("greeted"), Duration::from_secs(1)).is_some());
//!
//!     greeter.stop()
//! }
//! # greets().unwrap();
//! ```
//!
//! What is real: the order of hooks and the states of a life, the guard against panics, the bus, `task`,
//! and with the feature `tokio` the runtime around every hook; bus, tasks and logs go through the same table
//! of functions as in a real host. What is not: nothing is loaded or unmapped, a swap
//! ([`TestModule::swap`]) is its hooks and nobody calls meanwhile, spans are not
//! recorded, and there is no manager: commands are answered by [`TestHost::answer`] only
//! ([`Command::Ping`] excepted).
//!
//! A thread that a module starts by itself belongs to no [`TestHost`]: what it logs is printed, not
//! recorded, and a task that it spawns runs until the process ends.

mod bus;
pub(crate) mod context;
mod hook;
mod life;
pub(crate) mod logs;
mod module;
pub(crate) mod work;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
    time::Duration,
};

pub use logs::LogLine;
pub use module::TestModule;

use self::{
    bus::Core,
    context::Context,
    hook::{NativeHooks, WasmHooks},
};
use crate::{
    Command, Envelope, Event, Filter, MessageBus, MessageClass, Module, Result, WasmModule, ffi::test_table,
};

/// A host for unit tests: a bus of its own, and the modules loaded into it. A clone is the same host.
#[derive(Clone)]
pub struct TestHost {
    inner: Arc<Inner>,
}

/// The host's end closes the test's own context; the modules close theirs.
struct Inner {
    core: Arc<Core>,
    test: Arc<Context>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.test.close();
    }
}

/// What a [`Builder`] sets.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    capacity: usize,
    hook_deadline: Duration,
    task_deadline: Duration,
    record_logs: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            capacity: 1024,
            hook_deadline: Duration::from_secs(60),
            task_deadline: Duration::from_secs(5),
            record_logs: true,
        }
    }
}

/// Sets up a [`TestHost`].
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    settings: Settings,
}

impl Builder {
    /// How many messages a subscription holds before it drops its oldest: 1024 unless said otherwise.
    pub fn subscription_capacity(mut self, messages: usize) -> Self {
        self.settings.capacity = messages.max(1);
        self
    }

    /// How long a hook may wait before it is given up: 60 s unless said otherwise. A hook that blocks its
    /// thread cannot be given up.
    pub fn hook_deadline(mut self, limit: Duration) -> Self {
        self.settings.hook_deadline = limit;
        self
    }

    /// How long `stop` and `unload` wait for the tasks that they end: 5 s unless said otherwise.
    pub fn task_deadline(mut self, limit: Duration) -> Self {
        self.settings.task_deadline = limit;
        self
    }

    /// Whether this host records what modules log: yes unless said otherwise. Recording sets the process's
    /// default subscriber of `tracing` and its logger, where there is none; say no in a test that sets its own.
    pub fn record_logs(mut self, record: bool) -> Self {
        self.settings.record_logs = record;
        self
    }

    /// Makes the host.
    ///
    /// # Panics
    /// With the feature `tokio`, when its runtime cannot be built.
    pub fn build(self) -> TestHost {
        static LOGS: Once = Once::new();
        test_table::attach_process();
        if self.settings.record_logs {
            LOGS.call_once(crate::log::install);
        }
        if let Err(error) = crate::runtime::build() {
            panic!("the plugin's tokio runtime cannot be built: {error}");
        }
        let core = Arc::new(Core::new(self.settings));
        let test = Context::open(core.clone(), "test".to_owned());
        TestHost { inner: Arc::new(Inner { core, test }) }
    }
}

impl TestHost {
    /// A host with the usual settings.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// For other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Takes a module; no hook but `metadata` has run.
    ///
    /// Several modules may be loaded into one host: they share its bus.
    ///
    /// # Panics
    /// When `metadata` panics, or gives an id that a real host would refuse.
    #[track_caller]
    pub fn load<M: Module>(&self, module: M) -> TestModule<M> {
        TestModule::load(self.clone(), Box::new(NativeHooks(module)))
    }

    /// The same for a [`WasmModule`], whose `instantiate` then runs as its `init`.
    ///
    /// # Panics
    /// As [`TestHost::load`].
    #[track_caller]
    pub fn load_wasm<M: WasmModule>(&self, module: M) -> TestModule<M> {
        TestModule::load(self.clone(), Box::new(WasmHooks(module)))
    }

    /// Takes a module and runs `configure` (with `null`), `init` and `start`.
    ///
    /// # Errors
    /// That of the first hook that failed or panicked.
    ///
    /// # Panics
    /// As [`TestHost::load`].
    #[track_caller]
    pub fn load_and_start<M: Module>(&self, module: M) -> Result<TestModule<M>> {
        let mut loaded = self.load(module);
        loaded.start()?;
        Ok(loaded)
    }

    /// The bus for the test itself, as a module called `test` would see it.
    pub fn bus(&self) -> MessageBus {
        self.inner.test.bus()
    }

    /// Publishes a message as it is: a test may speak for anybody.
    pub fn publish(&self, envelope: Envelope) {
        self.inner.core.publish(envelope);
    }

    /// Everything that was published so far, in order, and by whomever: modules, the test, and `kernel`
    /// with its announcements and answers.
    pub fn published(&self) -> Vec<Envelope> {
        self.inner.core.all_published()
    }

    /// What this source published so far, in order.
    pub fn published_by(&self, source: &str) -> Vec<Envelope> {
        self.published().into_iter().filter(|envelope| envelope.source == source).collect()
    }

    /// The first event that matches and was not given here before. Waits for it, at most `timeout`.
    ///
    /// It also looks at what was published before the call, so nothing slips through between the two.
    pub fn next_event(&self, filter: Filter, timeout: Duration) -> Option<Envelope> {
        self.inner.core.next(MessageClass::Event, &filter, timeout)
    }

    /// The same for commands, for a test that answers them by hand:
    /// `host.publish(Envelope::new("kernel", event).answering(command.id))`.
    pub fn next_command(&self, filter: Filter, timeout: Duration) -> Option<Envelope> {
        self.inner.core.next(MessageClass::Command, &filter, timeout)
    }

    /// Answers commands from now on: the event that `answer` gives is published as the command's answer.
    /// `None` leaves it to the answers added after this one, and if there are none, unanswered.
    ///
    /// It runs on the thread of whoever sends the command. If it panics, the command has failed.
    pub fn answer(&self, answer: impl Fn(&Command) -> Option<Event> + Send + Sync + 'static) {
        self.inner.core.add_answer(Arc::new(answer));
    }

    /// What the modules of this host logged so far, at every level. Lines from `info` up are also printed,
    /// where `cargo test` shows them when the test fails.
    pub fn logs(&self) -> Vec<LogLine> {
        self.inner.core.logs()
    }
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestHost").field("settings", self.inner.core.settings()).finish_non_exhaustive()
    }
}

/// Locks; a panic elsewhere while it was locked changes nothing here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
