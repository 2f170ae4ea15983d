//! STAND-IN, replaced when the branches are merged.
#![allow(missing_docs, clippy::unused_async)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use oxide_plugin_api::{
    Command, Envelope, Event, Filter, Message, ModuleKind, ModuleMetadata, ModuleState, Payload,
};
use parking_lot::Mutex;

use crate::{
    KernelError, Result,
    bus::{MessageBus, SubscribeOptions},
    intake::described,
    report::{DropOutcome, ModuleInfo, Receipt, Retained, StopOutcome},
};

#[derive(Clone)]
pub struct Host {
    modules: Arc<Mutex<BTreeMap<String, ModuleInfo>>>,
    bus: MessageBus,
}

#[derive(Default)]
pub struct HostBuilder;

impl HostBuilder {
    pub fn staging_dir(self, _: PathBuf) -> Self {
        self
    }
    pub fn init_timeout(self, _: Duration) -> Self {
        self
    }
    pub fn start_timeout(self, _: Duration) -> Self {
        self
    }
    pub fn stop_timeout(self, _: Duration) -> Self {
        self
    }
    pub fn drain_timeout(self, _: Duration) -> Self {
        self
    }
    pub fn allow_foreign_libraries(self, _: bool) -> Self {
        self
    }
    pub fn build(self) -> Result<Host> {
        let host = Host { modules: Arc::default(), bus: MessageBus::new() };
        let actor = host.clone();
        tokio::spawn(async move {
            let options = SubscribeOptions::new().filter(Filter::commands());
            let mut commands = actor.bus.subscribe_with(options).await;
            while let Some(envelope) = commands.receiver.recv().await {
                let event = actor.act(&envelope.message).await;
                let _ = actor.bus.publish(Envelope::new("kernel", event).answering(envelope.id)).await;
            }
        });
        Ok(host)
    }
}

#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    pub id: Option<String>,
    pub config: serde_json::Value,
    pub start: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { id: None, config: serde_json::Value::Null, start: true }
    }
}

impl LoadOptions {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }
    pub fn config(mut self, config: serde_json::Value) -> Self {
        self.config = config;
        self
    }
    pub fn start(mut self, start: bool) -> Self {
        self.start = start;
        self
    }
}

impl Host {
    pub fn new() -> Result<Host> {
        Self::builder().build()
    }
    pub fn builder() -> HostBuilder {
        HostBuilder
    }
    pub async fn load(&self, path: impl AsRef<Path>) -> Result<ModuleInfo> {
        self.load_with(path, LoadOptions::new()).await
    }
    pub async fn load_with(&self, path: impl AsRef<Path>, options: LoadOptions) -> Result<ModuleInfo> {
        let (id, _) = described(path.as_ref())?;
        let id = options.id.unwrap_or(id);
        if id.is_empty() || id.len() > 128 || id.contains('/') {
            return Err(KernelError::InvalidId { id, problem: "it is absurd".into() });
        }
        let metadata = ModuleMetadata {
            id: id.clone(),
            name: "Fake".into(),
            version: "0.1.0".into(),
            kind: ModuleKind::Native,
            description: Some("Answers what it was asked".into()),
        };
        let state = if options.start { ModuleState::Running } else { ModuleState::Loaded };
        let mut info = ModuleInfo::new(metadata, state, 1);
        info.path = Some(path.as_ref().to_owned());
        {
            let mut modules = self.modules.lock();
            if modules.contains_key(&id) {
                return Err(KernelError::DuplicateModule(id));
            }
            modules.insert(id.clone(), info.clone());
        }
        self.bus.emit_event("kernel", Event::ModuleLoaded { module_id: id.clone() }).await?;
        if options.start {
            self.bus.emit_event("kernel", Event::ModuleStarted { module_id: id }).await?;
        }
        Ok(info)
    }
    pub async fn unload(&self, id: &str) -> Result<Receipt> {
        let info = self.modules.lock().remove(id).ok_or_else(|| KernelError::UnknownModule(id.into()))?;
        Ok(Receipt {
            id: info.id,
            generation: 1,
            unmapped: true,
            retained_by: vec![],
            drained: 0,
            cancelled: 0,
            stop: StopOutcome::Ok,
            drop: DropOutcome::Ok,
            leaked_bytes: 0,
            revoked: 0,
        })
    }
    fn set(&self, id: &str, state: ModuleState) -> Result<()> {
        let mut modules = self.modules.lock();
        modules.get_mut(id).ok_or_else(|| KernelError::UnknownModule(id.into()))?.state = state;
        Ok(())
    }
    pub async fn start(&self, id: &str) -> Result<()> {
        self.set(id, ModuleState::Running)?;
        self.bus.emit_event("kernel", Event::ModuleStarted { module_id: id.into() }).await.map(drop)
    }
    pub async fn stop(&self, id: &str) -> Result<()> {
        self.set(id, ModuleState::Stopped)?;
        self.bus.emit_event("kernel", Event::ModuleStopped { module_id: id.into() }).await.map(drop)
    }
    pub async fn invoke(&self, id: &str, method: &str, payload: impl Into<Payload>) -> Result<Payload> {
        let info = self.show(id).await?;
        if info.state != ModuleState::Running {
            return Err(KernelError::NotRunning { module: id.into(), state: info.state });
        }
        match method {
            "echo" => Ok(payload.into()),
            _ => Err(KernelError::UnknownMethod { module: id.into(), method: method.into() }),
        }
    }
    pub async fn shutdown(&self) -> Vec<Receipt> {
        let ids: Vec<_> = self.modules.lock().keys().cloned().collect();
        let mut receipts = vec![];
        for id in ids {
            receipts.extend(self.unload(&id).await);
        }
        receipts
    }
    pub async fn list(&self) -> Vec<ModuleInfo> {
        self.modules.lock().values().cloned().collect()
    }
    pub async fn show(&self, id: &str) -> Result<ModuleInfo> {
        self.modules.lock().get(id).cloned().ok_or_else(|| KernelError::UnknownModule(id.into()))
    }
    pub fn retained(&self) -> Vec<Retained> {
        Vec::new()
    }
    pub fn bus(&self) -> &MessageBus {
        &self.bus
    }
    async fn act(&self, message: &Message) -> Event {
        let Message::Command(command) = message else { unreachable!("the filter") };
        let outcome = match command {
            Command::Start { module_id } => {
                self.start(module_id).await.map(|()| Event::ModuleStarted { module_id: module_id.clone() })
            }
            Command::Stop { module_id } => {
                self.stop(module_id).await.map(|()| Event::ModuleStopped { module_id: module_id.clone() })
            }
            Command::Invoke { module_id, method, payload } => {
                let payload = serde_json::to_vec(payload).expect("JSON");
                self.invoke(module_id, method, payload).await.map(|reply| Event::InvokeCompleted {
                    module_id: module_id.clone(),
                    payload: reply.to_json().unwrap_or_default(),
                })
            }
            _ => Ok(Event::Pong { from: "kernel".into() }),
        };
        outcome.unwrap_or_else(|error| Event::CommandFailed {
            module_id: command.module_id().map(Into::into),
            error: error.to_string(),
        })
    }
}
