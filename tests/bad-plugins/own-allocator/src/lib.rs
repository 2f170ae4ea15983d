//! A plugin with a global allocator of its own. `work` allocates and frees on the caller's thread, and leaks as
//! many bytes as its argument says.
#![forbid(unsafe_code)]

use oxide_plugin_api::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The module.
#[derive(Default)]
struct OwnAllocator;

impl Module for OwnAllocator {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "own-allocator".into(),
            name: "Own allocator".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        match method {
            "work" => {
                let leaked: usize = std::str::from_utf8(payload.as_bytes())?.parse()?;
                let words: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
                std::mem::forget(vec![1_u8; leaked]);
                Ok(words.concat().into())
            }
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(OwnAllocator, allocator = none);
