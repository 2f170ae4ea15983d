//! A plugin that holds on to whatever it can get hold of: each method is one way of doing so.
//!
//! Its orders come in two ways: a call, whose method is the verb and whose payload its argument; and the
//! configuration, `{"id": …, "start": ["verb:argument", …], "stop": [… ], "drop": [… ]}`. What its library's
//! constructor and destructor do is said by variables of the process, and so is the id that it calls itself by.
#![allow(
    unsafe_code,
    reason = "signals, the dynamic loader and thread numbers have no safe functions in std"
)]

mod lends;
mod locals;
mod system;
mod threads;

use std::{fs::OpenOptions, io::Write, path::Path, thread, time::Duration};

use oxide_plugin_api::prelude::*;
use serde_json::Value;

/// How long it waits before it looks again whether it may go on.
pub(crate) const LOOK: Duration = Duration::from_millis(2);

/// The module.
#[derive(Default)]
struct Clinging {
    config: Value,
    bus: Option<MessageBus>,
}

/// Makes the file `<path>.<what>`, by which a test sees how far it is.
pub(crate) fn tell(path: &str, what: &str) {
    add_line(&format!("{path}.{what}"), "");
}

/// Adds a line to a file.
pub(crate) fn add_line(path: &str, line: &str) {
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// Waits until the test makes a file at the very path.
pub(crate) fn wait_for(path: &str) {
    tell(path, "inside");
    while !Path::new(path).exists() {
        thread::sleep(LOOK);
    }
    tell(path, "ended");
}

impl Clinging {
    fn deeds(&self, hook: &str) -> Vec<(String, String)> {
        let list = self.config[hook].as_array().cloned().unwrap_or_default();
        let split = |deed: &Value| {
            let deed = deed.as_str().unwrap_or_default();
            let (verb, argument) = deed.split_once(':').unwrap_or((deed, ""));
            (verb.to_owned(), argument.to_owned())
        };
        list.iter().map(split).collect()
    }

    async fn follow(&self, hook: &str) -> Result<()> {
        for (verb, argument) in self.deeds(hook) {
            self.perform(&verb, &argument).await?;
        }
        Ok(())
    }

    async fn perform(&self, verb: &str, argument: &str) -> Result<Payload> {
        let reply = now(verb, argument).or_else(|| threads::perform(verb, argument));
        if let Some(reply) = reply {
            return Ok(reply.into());
        }
        let bus = self.bus.as_ref().ok_or_else(|| Error::new("there is no bus before init"))?;
        lends::perform(bus, verb, argument).await
    }
}

/// The deeds that a destructor can do, too.
fn now(verb: &str, argument: &str) -> Option<String> {
    locals::perform(verb, argument).or_else(|| system::perform(verb, argument))
}

impl Module for Clinging {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: std::env::var("CLINGING_ID").unwrap_or_else(|_| "clinging".to_owned()),
            name: "Clinging".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn configure(&mut self, config: Value) -> Result<()> {
        self.config = config;
        Ok(())
    }

    async fn init(&mut self, bus: MessageBus) -> Result<()> {
        self.bus = Some(bus);
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        self.follow("start").await
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        let argument = std::str::from_utf8(payload.as_bytes())?.to_owned();
        self.perform(method, &argument).await
    }

    async fn stop(&mut self) -> Result<()> {
        self.follow("stop").await
    }
}

impl Drop for Clinging {
    fn drop(&mut self) {
        for (verb, argument) in self.deeds("drop") {
            now(&verb, &argument);
        }
    }
}

export_module!(Clinging);
