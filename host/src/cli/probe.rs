//! `probe`: the process in which a host tries a build out. Not for people: it takes its order on stdin.

use std::{fs, io};

use super::{Context, Exit, Failure};
use crate::{
    daemon::{ErrorReport, ProbeOrder, ProbeReply},
    host::Host,
    manager::Probed,
    sys,
};

/// What `probe` takes: nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Probe {}

impl Probe {
    pub(super) async fn run(self, _: &Context) -> Result<Exit, Failure> {
        let order: ProbeOrder = serde_json::from_reader(io::stdin().lock()).map_err(|error| {
            Failure::usage(format!("`probe` is for hosts, and this is no order: {error}"))
        })?;
        let mut builder = Host::builder();
        if let Some(engine) = &order.wasm_engine {
            builder = builder.wasm_engine(engine);
        }
        if let Some(staging) = &order.staging {
            builder = builder.staging_dir(staging);
        }
        let host = builder
            .wasm_cache(order.wasm_cache)
            .allow_foreign_libraries(order.allow_foreign_libraries)
            .init_timeout(order.init_timeout)
            .loader_timeout(order.loader_timeout)
            .build()?;
        let reply = match host.probe(&order.path, &order.config).await {
            Ok(Probed { metadata, configured, retained_by }) => {
                ProbeReply::Passed { metadata, configured, retained_by }
            }
            Err(failure) => {
                ProbeReply::Failed { step: failure.step, error: Box::new(ErrorReport::from(&failure.error)) }
            }
        };
        host.remove_copies();
        let reply = serde_json::to_vec(&reply)
            .map_err(|error| Failure::usage(format!("the reply cannot be written: {error}")))?;
        fs::write(&order.reply, reply).map_err(|error| Failure::io("write the reply", &error))?;
        // As any host: not under threads that the build may have left.
        sys::exit_now(Exit::Done.code().into())
    }
}
