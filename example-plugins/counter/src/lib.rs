//! A plugin with a state: it counts, and a swap takes the count along.
//!
//! - `increment` adds 1, or the JSON number it is given; `get` adds nothing. Both reply the count as JSON.
//! - The configuration `{"start": N}` says where to begin.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};

use oxide_plugin_api::prelude::*;

/// The format of the saved state: the count in eight bytes, little-endian.
const STATE_VERSION: u32 = 1;

/// The module. Many calls may be inside at once, hence the atomic.
#[derive(Default)]
struct Counter {
    count: AtomicI64,
}

impl Counter {
    /// Adds and gives the new count. A sum that no longer fits is refused and changes nothing.
    fn add(&self, amount: i64) -> Result<i64> {
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(amount))
            .map(|before| before + amount)
            .map_err(|count| Error::new(format_args!("{count} + {amount} does not fit into 64 bits")))
    }
}

impl Module for Counter {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "counter".into(),
            name: "Counter".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn configure(&mut self, config: serde_json::Value) -> Result<()> {
        if let Some(start) = config.get("start") {
            let start = start
                .as_i64()
                .ok_or_else(|| Error::new(format_args!("`start` is {start}, expected a whole number")))?;
            *self.count.get_mut() = start;
        }
        Ok(())
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        if state.version != STATE_VERSION {
            return Err(Error::new(format_args!(
                "the state has version {}, expected {STATE_VERSION}",
                state.version
            )));
        }
        let bytes =
            state.bytes.as_slice().try_into().map_err(|_| {
                Error::new(format_args!("the state has {} bytes, expected 8", state.bytes.len()))
            })?;
        *self.count.get_mut() = i64::from_le_bytes(bytes);
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        let count = match method {
            "increment" if payload.is_empty() => self.add(1)?,
            "increment" => match payload.to_json()? {
                // A call over the bus that has nothing to say says `null`.
                None => self.add(1)?,
                Some(amount) => self.add(amount)?,
            },
            "get" => self.count.load(Ordering::Relaxed),
            other => return Err(Error::unknown_method(other)),
        };
        Payload::json(&count)
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        let bytes = self.count.load(Ordering::Relaxed).to_le_bytes().to_vec();
        Ok(Some(SavedState { version: STATE_VERSION, bytes }))
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(Counter);
