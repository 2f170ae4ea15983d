//! A build of `counter` that came of no migration: it takes what the first build saved, and gives nothing along that
//! any other build could read.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};

use oxide_plugin_api::prelude::*;

/// What nobody else knows.
const STATE_VERSION: u32 = 9;

/// The module.
#[derive(Default)]
struct FutureCounter {
    count: AtomicI64,
}

impl Module for FutureCounter {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "counter".into(),
            name: "Counter".into(),
            version: "9.0.0".into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        let count = if state.version == STATE_VERSION {
            let [count, _] = state.read::<[i64; 2]>(STATE_VERSION)?;
            count
        } else {
            state.read(1)?
        };
        *self.count.get_mut() = count;
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, _: Payload) -> Result<Payload> {
        match method {
            "increment" => Payload::json(&(self.count.fetch_add(1, Ordering::Relaxed) + 1)),
            "get" => Payload::json(&self.count.load(Ordering::Relaxed)),
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        let count = self.count.load(Ordering::Relaxed);
        Ok(Some(SavedState::of(STATE_VERSION, &[count, count])?))
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(FutureCounter);
