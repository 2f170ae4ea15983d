//! The module that the host sees: before `configure` the engine, after it the guest.

use oxide_plugin_api::prelude::*;
use serde_json::Value;

use crate::{call::Invocation, config::Config, life::Life};

/// The engine, and the guest it was given.
#[derive(Default)]
pub(crate) struct WasmRuntime {
    guest: Option<Life>,
}

impl WasmRuntime {
    fn guest(&self) -> Result<&Life> {
        self.guest.as_ref().ok_or_else(|| Error::new("the engine was not configured: it has no guest"))
    }
}

impl WasmModule for WasmRuntime {
    fn metadata(&self) -> ModuleMetadata {
        match &self.guest {
            Some(guest) => guest.metadata().clone(),
            None => ModuleMetadata {
                id: "wasm-runtime".into(),
                name: "WASM runtime".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                kind: ModuleKind::Wasm,
                description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
            },
        }
    }

    async fn configure(&mut self, config: Value) -> Result<()> {
        let (config, guest) = Config::read(config)?;
        self.guest = Some(Life::new(config, &guest).await?);
        Ok(())
    }

    async fn instantiate(&mut self, bus: MessageBus) -> Result<()> {
        self.guest()?.connect(bus).await
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        self.guest()?.restore_state(state).await
    }

    async fn start(&mut self) -> Result<()> {
        self.guest()?.start().await
    }

    fn invoke(&self, method: &str, payload: Payload) -> impl Future<Output = Result<Payload>> + Send {
        match self.guest() {
            Ok(guest) => guest.invoke(method, payload),
            Err(why) => Invocation::refused(why),
        }
    }

    async fn on_message(&self, envelope: Envelope) -> Result<()> {
        self.guest()?.on_message(envelope).await
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        self.guest()?.save_state().await
    }

    async fn stop(&mut self) -> Result<()> {
        self.guest()?.stop().await
    }
}
