//! A plugin that computes on the global pool of rayon, whose threads wait for more work as long as the process
//! lives. `sum` adds the numbers below its argument.
#![forbid(unsafe_code)]

use oxide_plugin_api::prelude::*;
use rayon::prelude::*;

/// The module.
#[derive(Default)]
struct RayonUser;

impl Module for RayonUser {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "rayon-user".into(),
            name: "Rayon user".into(),
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
            "sum" => {
                let below: u64 = std::str::from_utf8(payload.as_bytes())?.parse()?;
                Ok((0..below).into_par_iter().sum::<u64>().to_string().into())
            }
            "threads" => Ok(rayon::current_num_threads().to_string().into()),
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(RayonUser);
