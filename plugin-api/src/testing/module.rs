//! A loaded module and its life.

use std::{fmt, sync::Arc};

use serde_json::Value;

use super::{
    TestHost,
    bus::KERNEL,
    context::{Context, Phase},
    hook::Hooks,
    work::block_on,
};
use crate::{
    Envelope, Event, MessageBus, ModuleMetadata, ModuleState, Payload, Result, SavedState, shim::panic::guard,
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
}

impl<M> TestModule<M> {
    #[track_caller]
    pub(super) fn load(host: TestHost, hooks: Box<dyn Hooks<M>>) -> Self {
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
        let module = Self {
            host,
            context,
            hooks: Some(hooks),
            metadata,
            state: ModuleState::Loaded,
            config: Value::Null,
            configured: false,
            initialised: false,
            mailbox,
        };
        module.announce(Event::ModuleLoaded { module_id: module.id() });
        module
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
        self.host.publish(Envelope::new(KERNEL, event));
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
