//! `run`.

use std::path::PathBuf;

use super::{Context, Exit, Failure, foreground, input};
use crate::{config::Config, manager::LoadOptions};

/// What `run` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// A configuration file, in TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Plugins and WASM guests to load, after those of the configuration
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Run {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        let mut wanted = Vec::new();
        for module in &config.modules {
            wanted.push((input::absolute(&module.path)?, module.options()));
        }
        for path in &self.paths {
            wanted.push((input::absolute(path)?, LoadOptions::new()));
        }
        let endpoint = context.endpoint(config.socket.as_ref());
        let claim = foreground::claim(endpoint)?;
        foreground::serve(context, claim, config.builder(), wanted, foreground::Report::None).await
    }
}
