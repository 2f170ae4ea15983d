//! The life of a loaded module: each step as a future. The blocking face is in `module.rs`.

use serde_json::{Value, json};

use super::{
    context::Phase,
    hook::{BoxFuture, Hooks, NativeHooks, WasmHooks, run},
    module::TestModule,
};
use crate::{Envelope, Error, Event, Module, ModuleState, Payload, Result, SavedState, WasmModule};

impl<M> TestModule<M> {
    fn illegal(&self, what: &str) -> Error {
        Error::new(format_args!("module `{}` is {}: {what}", self.metadata.id, self.state))
    }

    /// Runs a hook that has the module alone, `state` while it runs, and then `after`, if it went well.
    async fn alone(
        &mut self,
        phase: Phase,
        name: &'static str,
        (during, after): (ModuleState, ModuleState),
        hook: impl FnOnce(&mut dyn Hooks<M>) -> BoxFuture<'_, Result<()>>,
    ) -> Result<()> {
        self.state = during;
        let hooks = self.hooks.as_deref_mut().expect("only `unload` takes the module, and `self` with it");
        let mut ended = run(&self.context, phase, name, hook(hooks)).await;
        if during == ModuleState::Stopping || (name == "start" && ended.is_err()) {
            let tasks = self.context.end_tasks(false).await;
            ended = ended.and(tasks);
        }
        self.state = if ended.is_ok() { after } else { ModuleState::Failed };
        if let Err(error) = &ended {
            self.announce(Event::ModuleFailed { module_id: self.id(), reason: error.to_string() });
        }
        ended
    }

    /// What a dropped future of an `_async` method left half-way has failed.
    fn settle(&mut self) {
        if matches!(self.state, ModuleState::Starting | ModuleState::Stopping) {
            self.state = ModuleState::Failed;
        }
    }

    fn running(&self, what: &str) -> Result<()> {
        if self.state == ModuleState::Running {
            return Ok(());
        }
        Err(self.illegal(&format!("{what} needs a running one")))
    }

    /// [`TestModule::configure`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn configure_async(&mut self, config: Value) -> Result<()> {
        self.settle();
        if self.configured {
            return Err(self.illegal("it was configured already, which happens once, before `init`"));
        }
        self.config = config.clone();
        let states = (ModuleState::Starting, ModuleState::Loaded);
        self.alone(Phase::Life, "configure", states, |hooks| hooks.configure(config)).await?;
        self.configured = true;
        Ok(())
    }

    /// [`TestModule::init`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn init_async(&mut self) -> Result<()> {
        self.settle();
        if self.initialised {
            return Ok(());
        }
        if !self.configured {
            self.configure_async(self.config.clone()).await?;
        }
        let bus = self.bus();
        let states = (ModuleState::Starting, ModuleState::Loaded);
        self.alone(Phase::Life, "init", states, |hooks| hooks.init(bus)).await?;
        self.initialised = true;
        Ok(())
    }

    /// [`TestModule::restore_state`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn restore_state_async(&mut self, state: SavedState) -> Result<()> {
        self.settle();
        if self.state != ModuleState::Loaded {
            return Err(self.illegal("a state is restored before the first `start` only"));
        }
        self.init_async().await?;
        let states = (ModuleState::Starting, ModuleState::Loaded);
        self.alone(Phase::Running, "restore_state", states, |hooks| hooks.restore_state(state)).await
    }

    /// [`TestModule::start`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn start_async(&mut self) -> Result<()> {
        self.settle();
        if self.state == ModuleState::Running {
            return Ok(());
        }
        self.init_async().await?;
        let states = (ModuleState::Starting, ModuleState::Running);
        self.alone(Phase::Running, "start", states, |hooks| hooks.start()).await?;
        self.announce(Event::ModuleStarted { module_id: self.id() });
        Ok(())
    }

    /// [`TestModule::invoke`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn invoke_async(&self, method: &str, payload: impl Into<Payload> + Send) -> Result<Payload> {
        self.running("a call")?;
        let hook = self.hooks().invoke(method, payload.into());
        run(&self.context, Phase::Running, "invoke", hook).await
    }

    /// [`TestModule::on_message`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn on_message_async(&self, envelope: Envelope) -> Result<()> {
        self.running("a message")?;
        run(&self.context, Phase::Running, "on_message", self.hooks().on_message(envelope)).await
    }

    /// [`TestModule::deliver`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn deliver_async(&self) -> Result<usize> {
        self.running("a message")?;
        let mut delivered = 0;
        while let Some(envelope) = self.context.core().try_receive(self.mailbox) {
            self.on_message_async(envelope).await?;
            delivered += 1;
        }
        Ok(delivered)
    }

    /// [`TestModule::save_state`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn save_state_async(&self) -> Result<Option<SavedState>> {
        self.running("saving its state")?;
        run(&self.context, Phase::Running, "save_state", self.hooks().save_state()).await
    }

    /// [`TestModule::swap`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As [`TestHost::load`](super::TestHost::load).
    pub async fn swap_async<N: Module>(&mut self, new: N) -> Result<TestModule<N>> {
        let new = TestModule::make(self.host.clone(), Box::new(NativeHooks(new)));
        self.swap_to(new).await
    }

    /// [`TestModule::swap_wasm`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As [`TestHost::load`](super::TestHost::load).
    pub async fn swap_wasm_async<N: WasmModule>(&mut self, new: N) -> Result<TestModule<N>> {
        let new = TestModule::make(self.host.clone(), Box::new(WasmHooks(new)));
        self.swap_to(new).await
    }

    pub(super) async fn swap_to<N>(&mut self, mut new: TestModule<N>) -> Result<TestModule<N>> {
        self.settle();
        self.running("a swap")?;
        if new.metadata.id != self.metadata.id {
            return Err(self.illegal(&format!("`{}` is no build of it", new.metadata.id)));
        }
        new.generation = self.generation + 1;
        new.silent = true;
        new.configure_async(self.config.clone()).await?;
        new.init_async().await?;
        if let Some(state) = self.save_state_async().await? {
            new.restore_state_async(state).await?;
        }
        new.start_async().await?;
        new.silent = false;
        self.context.core().move_messages(self.mailbox, new.mailbox);
        let (from, to) = (self.generation, new.generation);
        self.announce(Event::ModuleSwapped { module_id: self.id(), from, to });
        self.silent = true;
        self.stop_async().await?;
        self.context.close();
        self.context.end_tasks(true).await?;
        Ok(new)
    }

    /// [`TestModule::stop`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn stop_async(&mut self) -> Result<()> {
        self.settle();
        if self.state == ModuleState::Stopped {
            return Ok(());
        }
        self.running("`stop`")?;
        let states = (ModuleState::Stopping, ModuleState::Stopped);
        self.alone(Phase::Running, "stop", states, |hooks| hooks.stop()).await?;
        self.announce(Event::ModuleStopped { module_id: self.id() });
        Ok(())
    }

    /// [`TestModule::unload`], for a test with an async runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn unload_async(mut self) -> Result<M> {
        self.settle();
        if self.state == ModuleState::Running {
            self.stop_async().await?;
        }
        self.context.close();
        self.context.end_tasks(true).await?;
        let receipt =
            json!({ "id": self.id(), "generation": self.generation, "unmapped": true, "retained_by": [] });
        self.announce(Event::ModuleUnloaded { module_id: self.id(), receipt });
        let hooks = self.hooks.take().expect("only `unload` takes the module, and `self` with it");
        Ok(hooks.into_module())
    }
}
