//! The shape of a WASM engine, without one in it: it takes a guest as engines do, and then does what the guest's custom
//! section `oxide-test` says. Nothing of a guest is run. Without a guest it is a module of its own.
#![forbid(unsafe_code)]

mod section;

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use oxide_plugin_api::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

/// The module.
#[derive(Default)]
struct Engine {
    /// The hooks that have run, in their order.
    hooks: Mutex<Vec<&'static str>>,
    problem: Option<String>,
    guest: Option<Guest>,
    count: AtomicI64,
}

/// What `configure` was given for a guest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    guest: String,
    name: String,
    config: Value,
    wasm: Value,
    cache: Option<String>,
}

struct Guest {
    bytes: Vec<u8>,
    given: Given,
    says: Says,
}

/// What a guest's section says of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Says {
    id: String,
    version: String,
    description: Option<String>,
    /// Why it is refused.
    refuse: Option<String>,
    /// The only configuration that it takes, if it is particular.
    wants: Option<Value>,
    /// Whether it has a state: the count, as the plugin `counter` saves it.
    #[serde(default)]
    counts: bool,
}

impl Engine {
    fn ran(&self, hook: &'static str) {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(hook);
    }
}

impl Guest {
    fn take(config: Value) -> Result<Self> {
        let given: Given = serde_json::from_value(config)?;
        let bytes = STANDARD.decode(&given.guest)?;
        let text =
            section::custom(&bytes, "oxide-test").ok_or_else(|| Error::new("the guest says nothing"))?;
        let says: Says = serde_json::from_slice(text)?;
        if let Some(problem) = says.refuse {
            return Err(Error::new(problem));
        }
        if says.wants.as_ref().is_some_and(|wanted| *wanted != given.config) {
            return Err(Error::new(format_args!("the configuration is {}", given.config)));
        }
        Ok(Self { bytes, given, says })
    }
}

impl WasmModule for Engine {
    fn metadata(&self) -> ModuleMetadata {
        self.ran("metadata");
        let (id, version, description) = match &self.guest {
            Some(Guest { says, .. }) => (says.id.clone(), says.version.clone(), says.description.clone()),
            None => ("engine".into(), env!("CARGO_PKG_VERSION").into(), None),
        };
        ModuleMetadata { name: "Engine".into(), id, version, kind: ModuleKind::Wasm, description }
    }

    async fn configure(&mut self, config: Value) -> Result<()> {
        self.ran("configure");
        if config.get("guest").is_some() {
            self.guest = Some(Guest::take(config)?);
        } else {
            self.problem = config.as_str().map(str::to_owned);
        }
        Ok(())
    }

    async fn instantiate(&mut self, _: MessageBus) -> Result<()> {
        self.ran("instantiate");
        self.problem.take().map_or(Ok(()), |problem| Err(Error::new(problem)))
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        *self.count.get_mut() = state.read(1)?;
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        self.ran("start");
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        match (method, &self.guest) {
            ("hooks", _) => Payload::json(&*self.hooks.lock().unwrap_or_else(PoisonError::into_inner)),
            ("echo", _) => Ok(payload),
            ("increment", _) => Payload::json(&(self.count.fetch_add(1, Ordering::Relaxed) + 1)),
            ("get", _) => Payload::json(&self.count.load(Ordering::Relaxed)),
            ("panic", _) => panic!("on purpose"),
            ("guest", Some(guest)) => Ok(guest.bytes.as_slice().into()),
            ("version", Some(guest)) => Ok(guest.says.version.clone().into()),
            ("given", Some(Guest { given, .. })) => Payload::json(&json!({
                "name": given.name, "config": given.config, "wasm": given.wasm, "cache": given.cache,
            })),
            (other, _) => Err(Error::unknown_method(other)),
        }
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        let counts = self.guest.as_ref().is_some_and(|guest| guest.says.counts);
        let state = SavedState::of(1, &self.count.load(Ordering::Relaxed))?;
        Ok(counts.then_some(state))
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_wasm_module!(Engine);
