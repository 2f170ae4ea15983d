//! A loaded module and its life.

use std::{fmt, sync::Arc};

use serde_json::Value;

use super::{
    TestHost,
    bus::KERNEL,
    context::{Context, Phase},
    hook::{Hooks, NativeHooks, WasmHooks},
    work::block_on,
};
use crate::{
    Envelope, Event, MessageBus, Module, ModuleMetadata, ModuleState, Payload, Result, SavedState,
    WasmModule, shim::panic::guard,
};

/// A module in a [`TestHost`]. Its methods run hooks in the order of a real life and answer in its states:
///
/// - `init` runs `configure` first (with `null`), and `start` runs `init`, where that has not been done;
/// - a repeated `init`, `start` or `stop` is Ok and runs nothing;
/// - a hook that fails or panics gives its error, and the module is [`Failed`](ModuleState::Failed), from
///   where `start` tries again;
/// - what the present state does not allow is an error that names it.
///
/// Dropping it ends its tasks and closes its bus without running `stop`; [`TestModule::unload`] runs it.
///
/// A future of an `_async` method that is dropped half-way leaves the module failed.
pub struct TestModule<M> {
    pub(super) host: TestHost,
    pub(super) context: Arc<Context>,
    /// `None` only after `unload`.
    pub(super) hooks: Option<Box<dyn Hooks<M>>>,
    pub(super) metadata: ModuleMetadata,
    pub(super) state: ModuleState,
    /// What `configure` was given last; it is given this again where it has to be repeated.
    pub(super) config: Value,
    pub(super) configured: bool,
    pub(super) initialised: bool,
    /// Where messages for `on_message` wait.
    pub(super) mailbox: u64,
    /// How many builds there have been, this one included.
    pub(super) generation: u64,
    /// Whether nothing of it is announced: in a swap there are two of one id, and one of them is no module yet, or
    /// none any more.
    pub(super) silent: bool,
}

impl<M> TestModule<M> {
    #[track_caller]
    pub(super) fn load(host: TestHost, hooks: Box<dyn Hooks<M>>) -> Self {
        let module = Self::make(host, hooks);
        module.announce(Event::ModuleLoaded { module_id: module.id() });
        module
    }

    #[track_caller]
    pub(super) fn make(host: TestHost, hooks: Box<dyn Hooks<M>>) -> Self {
        let metadata = guard(|| {
            let _runtime = crate::runtime::enter();
            hooks.metadata()
        });
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(message) => panic!("`metadata` panicked: {message}"),
        };
        let id = &metadata.id;
        assert!(
            (1..=128).contains(&id.len()) && !id.contains(|c: char| c.is_control() || c == '/'),
            "the module's id is {id:?}: an id has 1 to 128 bytes, no control characters and no `/`"
        );
        let context = Context::open(host.inner.core.clone(), id.clone());
        let mailbox = context.core().add_mailbox(context.number(), id);
        Self {
            host,
            context,
            hooks: Some(hooks),
            metadata,
            state: ModuleState::Loaded,
            config: Value::Null,
            configured: false,
            initialised: false,
            mailbox,
            generation: 1,
            silent: false,
        }
    }

    /// The module itself, to look at its fields.
    pub fn module(&self) -> &M {
        self.hooks().module()
    }

    /// What it says about itself.
    pub fn metadata(&self) -> &ModuleMetadata {
        &self.metadata
    }

    /// Where it stands in its life.
    pub fn state(&self) -> ModuleState {
        self.state
    }

    /// The host it was loaded into.
    pub fn host(&self) -> &TestHost {
        &self.host
    }

    /// The bus as this module sees it: the one that `init` is given.
    pub fn bus(&self) -> MessageBus {
        self.context.bus()
    }

    pub(super) fn id(&self) -> String {
        self.metadata.id.clone()
    }

    pub(super) fn hooks(&self) -> &dyn Hooks<M> {
        self.hooks.as_deref().expect("only `unload` takes the module, and `self` with it")
    }

    pub(super) fn announce(&self, event: Event) {
        if !self.silent {
            self.host.publish(Envelope::new(KERNEL, event));
        }
    }

    /// Runs `configure`: once, before `init`.
    ///
    /// # Errors
    /// The hook's own, or that it was configured already.
    pub fn configure(&mut self, config: Value) -> Result<()> {
        block_on(self.configure_async(config))
    }

    /// Runs `init` (of a `WasmModule`: `instantiate`).
    ///
    /// # Errors
    /// The hook's own.
    pub fn init(&mut self) -> Result<()> {
        block_on(self.init_async())
    }

    /// Runs `restore_state`, as a swap does it: between `init` and `start`.
    ///
    /// # Errors
    /// The hook's own, or that the module was started already.
    pub fn restore_state(&mut self, state: SavedState) -> Result<()> {
        block_on(self.restore_state_async(state))
    }

    /// Runs `start`.
    ///
    /// # Errors
    /// The hook's own.
    pub fn start(&mut self) -> Result<()> {
        block_on(self.start_async())
    }

    /// Calls a running module. Many threads may call at once.
    ///
    /// # Errors
    /// The module's own, or that it is not running.
    pub fn invoke(&self, method: &str, payload: impl Into<Payload> + Send) -> Result<Payload> {
        block_on(self.invoke_async(method, payload))
    }

    /// Hands a message to `on_message`, whoever it is for.
    ///
    /// # Errors
    /// The hook's own, or that the module is not running.
    pub fn on_message(&self, envelope: Envelope) -> Result<()> {
        block_on(self.on_message_async(envelope))
    }

    /// Hands to `on_message`, one after the other, what came over the bus for this module: custom events
    /// that carry its id and come from somebody else. A real host does so by itself. Gives how many there were.
    ///
    /// # Errors
    /// That of the first message whose hook failed, or that the module is not running.
    pub fn deliver(&self) -> Result<usize> {
        block_on(self.deliver_async())
    }

    /// Runs `save_state`, as a swap does it: while running, before `stop`.
    ///
    /// # Errors
    /// The hook's own, or that the module is not running.
    pub fn save_state(&self) -> Result<Option<SavedState>> {
        block_on(self.save_state_async())
    }

    /// Replaces this running module by another build of it, hook by hook as a swap does: `configure` as this one
    /// was, `init`, this one's `save_state`, `restore_state` if there is a state, `start`, this one's `stop`. The new
    /// one gets the messages that wait. This one is there for a last look only.
    ///
    /// ```
    /// # use oxide_plugin_api::{prelude::*, testing::{TestHost, TestModule}};
    /// # #[derive(Default)]
    /// # struct Counter(i64);
    /// # impl Module for Counter {
    /// #   fn metadata(&self) -> ModuleMetadata {
    /// #       let (id, name, version) = ("counter".into(), "Counter".into(), "1.0.0".into());
    /// #       ModuleMetadata { id, name, version, kind: ModuleKind::Native, description: None }
    /// #   }
    /// #   async fn restore_state(&mut self, state: SavedState) -> Result<()> {
    /// #       self.0 = state.read(1)?;
    /// #       Ok(())
    /// #   }
    /// #   async fn start(&mut self) -> Result<()> {
    /// #       Ok(())
    /// #   }
    /// #   async fn invoke(&self, _: &str, _: Payload) -> Result<Payload> {
    /// #       Payload::json(&self.0)
    /// #   }
    /// #   async fn save_state(&self) -> Result<Option<SavedState>> {
    /// #       Ok(Some(SavedState::of(1, &self.0)?))
    /// #   }
    /// #   async fn stop(&mut self) -> Result<()> {
    /// #       Ok(())
    /// #   }
    /// # }
    /// # fn example() -> Result<()> {
    /// let mut old = TestHost::new().load_and_start(Counter(7))?;
    /// let new = old.swap(Counter::default())?;
    /// assert_eq!(new.invoke("get", b"")?.to_json::<i64>()?, 7);
    /// # Ok(()) }
    /// # example().unwrap();
    /// ```
    ///
    /// # Errors
    /// That of the first hook that failed; or that this module does not run, or the new one has another id. Up to
    /// the new one's `start` this one then goes on as if nothing had happened. A `stop` that fails after it gives
    /// its error here, where a real host has it in the receipt.
    ///
    /// # Panics
    /// As [`TestHost::load`].
    #[track_caller]
    pub fn swap<N: Module>(&mut self, new: N) -> Result<TestModule<N>> {
        let new = TestModule::make(self.host.clone(), Box::new(NativeHooks(new)));
        block_on(self.swap_to(new))
    }

    /// The same for a [`WasmModule`].
    ///
    /// # Errors
    /// As [`TestModule::swap`].
    ///
    /// # Panics
    /// As [`TestHost::load`].
    #[track_caller]
    pub fn swap_wasm<N: WasmModule>(&mut self, new: N) -> Result<TestModule<N>> {
        let new = TestModule::make(self.host.clone(), Box::new(WasmHooks(new)));
        block_on(self.swap_to(new))
    }

    /// Runs `stop`, then ends the tasks that were spawned since `init`.
    ///
    /// # Errors
    /// The hook's own; or that a task did not end; or that the module never ran.
    pub fn stop(&mut self) -> Result<()> {
        block_on(self.stop_async())
    }

    /// Runs `stop` if the module is running, ends all of its tasks, closes its bus, and gives the module back
    /// for a last look.
    ///
    /// # Errors
    /// Those of `stop`; or that a task did not end.
    pub fn unload(self) -> Result<M> {
        block_on(self.unload_async())
    }
}

impl<M> Drop for TestModule<M> {
    fn drop(&mut self) {
        self.context.close();
        if let Err(error) = block_on(self.context.end_tasks(true)) {
            eprintln!("{error}");
        }
        let hooks = self.hooks.take();
        let dropped = guard(|| {
            let _entered = self.context.enter(Phase::Running);
            let _runtime = crate::runtime::enter();
            drop(hooks);
        });
        if let Err(message) = dropped {
            eprintln!("the drop of module `{}` panicked: {message}", self.metadata.id);
        }
    }
}

impl<M> fmt::Debug for TestModule<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestModule")
            .field("id", &self.metadata.id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
