//! What the engine takes through `configure`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use oxide_plugin_api::prelude::*;
use serde::Deserialize;
use serde_json::Value;

/// The configuration as it comes: what the host found out about a `.wasm` file, and what the operator said about it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The guest's bytes, in base64.
    guest: String,
    /// What to call it in messages: its file's name.
    #[serde(default)]
    pub(crate) name: String,
    /// What the guest's own `configure` gets.
    #[serde(default)]
    pub(crate) config: Value,
    /// Its limits, and what it may reach.
    #[serde(default)]
    pub(crate) wasm: Limits,
    /// Where compiled code is kept, if it is.
    #[serde(default)]
    pub(crate) cache: Option<PathBuf>,
}

/// What a guest may use, and reach. What is left out has the default that stands here.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Bytes of linear memory, all memories of an instance together.
    pub(crate) memory: usize,
    /// Milliseconds of work of one call or hook. Waiting for the bus is not work.
    pub(crate) call_time: u64,
    /// Elements of tables, all together.
    pub(crate) table_elements: usize,
    /// Core instances, and as many memories and tables.
    pub(crate) instances: usize,
    /// Bytes of stack.
    pub(crate) stack: usize,
    /// What it may reach of the machine.
    pub(crate) allow: Allow,
}

/// What a guest may reach of the machine. Nothing, by default: not even WASI is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Allow {
    /// Folders.
    pub(crate) dirs: Option<Vec<Folder>>,
    /// Variables of its environment.
    pub(crate) env: Option<BTreeMap<String, String>>,
    /// Hosts that it may connect to, each `name:port`.
    pub(crate) network: Option<Vec<String>>,
}

/// A folder that a guest sees.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Folder {
    /// Which one.
    pub(crate) host: PathBuf,
    /// What the guest calls it.
    pub(crate) guest: String,
    /// Whether it may change what is in there.
    #[serde(default)]
    pub(crate) write: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            call_time: 5_000,
            table_elements: 1 << 16,
            instances: 32,
            stack: 512 << 10,
            allow: Allow::default(),
        }
    }
}

impl Config {
    /// Reads the configuration and the guest in it.
    ///
    /// # Errors
    /// When it has another shape, or a limit makes no sense.
    pub(crate) fn read(config: Value) -> Result<(Self, Vec<u8>)> {
        if config.is_null() {
            return Err(Error::new(
                "no guest was given: this plugin is the engine that runs WASM guests, so load a `.wasm` file \
                 and not this one",
            ));
        }
        let mut config: Self = serde_json::from_value(config)
            .map_err(|error| Error::from(error).context("the engine cannot read its configuration"))?;
        let guest = BASE64_STANDARD
            .decode(std::mem::take(&mut config.guest))
            .map_err(|error| Error::from(error).context("`guest` is not base64"))?;
        config.wasm.check()?;
        Ok((config, guest))
    }

    /// The guest's file's name without its end: the id of a guest that does not say one.
    pub(crate) fn stem(&self) -> &str {
        Path::new(&self.name).file_stem().and_then(|stem| stem.to_str()).unwrap_or("guest")
    }
}

impl Limits {
    const STACK: std::ops::RangeInclusive<usize> = 16 << 10..=64 << 20;

    fn check(&self) -> Result<()> {
        if self.call_time == 0 {
            return Err(Error::new("`wasm.call_time` is 0, expected a number of milliseconds"));
        }
        if !Self::STACK.contains(&self.stack) {
            return Err(Error::new(format_args!(
                "`wasm.stack` is {}, expected {} to {} bytes",
                self.stack,
                Self::STACK.start(),
                Self::STACK.end()
            )));
        }
        for folder in self.allow.dirs.iter().flatten() {
            if !folder.host.is_absolute() {
                return Err(Error::new(format_args!(
                    "`wasm.allow.dirs` has `{}`, expected an absolute path",
                    folder.host.display()
                )));
            }
        }
        Ok(())
    }

    /// How long a call may work.
    pub(crate) fn call_time(&self) -> Duration {
        Duration::from_millis(self.call_time)
    }
}

impl Allow {
    /// Whether anything was granted, be it nothing to speak of.
    pub(crate) fn any(&self) -> bool {
        self.dirs.is_some() || self.env.is_some() || self.network.is_some()
    }
}
