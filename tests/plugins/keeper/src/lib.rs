//! A plugin that keeps what it is given: `put` replaces it and `get` gives it back; in a swap it is the state.
#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use oxide_plugin_api::prelude::*;

/// The module.
#[derive(Default)]
struct Keeper {
    kept: Mutex<Vec<u8>>,
}

impl Keeper {
    fn kept(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Module for Keeper {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "keeper".into(),
            name: "Keeper".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: None,
        }
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        *self.kept.get_mut().unwrap_or_else(PoisonError::into_inner) = state.bytes;
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        match method {
            "put" => {
                *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = payload.into_vec();
                Ok(Payload::empty())
            }
            "get" => Ok(self.kept().into()),
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        Ok(Some(SavedState { version: 1, bytes: self.kept() }))
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(Keeper);
