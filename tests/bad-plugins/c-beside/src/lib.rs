//! A plugin that needs a library: the dynamic loader opens it with the plugin, and once for all plugins that need it.
#![allow(unsafe_code, reason = "calls a C library, as this plugin is there to do")]

use std::ffi::c_int;

use oxide_plugin_api::prelude::*;

unsafe extern "C" {
    safe fn beside_calls() -> c_int;
}

/// The module.
#[derive(Default)]
struct CBeside;

impl Module for CBeside {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "c-beside".into(),
            name: "C beside".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, _: Payload) -> Result<Payload> {
        match method {
            // How often it has been called, by whomever.
            "count" => Ok(beside_calls().to_string().into_bytes().into()),
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(CBeside);
