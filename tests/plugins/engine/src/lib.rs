//! A plugin that exports a `WasmModule`: the shape of an engine, without one in it.
#![forbid(unsafe_code)]

use oxide_plugin_api::prelude::*;

/// The module.
#[derive(Default)]
struct Engine {
    problem: Option<String>,
    instantiated: bool,
}

impl WasmModule for Engine {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "engine".into(),
            name: "Engine".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Wasm,
            description: None,
        }
    }

    async fn configure(&mut self, config: serde_json::Value) -> Result<()> {
        self.problem = config.as_str().map(str::to_owned);
        Ok(())
    }

    async fn instantiate(&mut self, _: MessageBus) -> Result<()> {
        match self.problem.take() {
            Some(problem) => Err(Error::new(problem)),
            None => {
                self.instantiated = true;
                Ok(())
            }
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, _: Payload) -> Result<Payload> {
        match method {
            "instantiated" => Payload::json(&self.instantiated),
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_wasm_module!(Engine);
