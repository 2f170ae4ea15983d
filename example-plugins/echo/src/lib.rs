//! The smallest plugin: it answers what it was sent.
//!
//! - `echo` gives the payload back, the same buffer, uncopied;
//! - `upper` gives the text back in capitals.
#![forbid(unsafe_code)]

use oxide_plugin_api::prelude::*;

/// The module.
#[derive(Default)]
struct Echo;

impl Module for Echo {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "echo".into(),
            name: "Echo".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        match method {
            "echo" => Ok(payload),
            "upper" => Ok(std::str::from_utf8(payload.as_bytes())?.to_uppercase().into()),
            other => Err(Error::unknown_method(other)),
        }
    }
}

export_module!(Echo);
