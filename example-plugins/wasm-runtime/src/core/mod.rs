//! Plain core modules: pointers and lengths. docs/wasm.md has their side of it.

mod abi;
mod imports;

use std::future::ready;

use oxide_plugin_api::{
    Envelope, Error, ModuleKind, ModuleMetadata, Payload, Result, SavedState, serde_json,
};
use serde::Deserialize;
use wasmtime::{Engine, InstancePre, Linker, Module, Store};

use self::abi::{Abi, Outcome};
use crate::{
    call::{Answered, Call, Said, in_place},
    fault::{self, Broken},
    instance::Ended,
    store::{self, Data},
};

/// A guest that was compiled and whose imports are there.
pub(crate) struct Guest {
    linked: InstancePre<Data>,
    /// Its imports are such that every call has to stand on a stack of its own.
    only_async: bool,
    /// How much of the stack it may use.
    stack: usize,
    /// What it is called when it does not say.
    stem: String,
}

/// An instance of it.
pub(crate) struct Instance {
    pub(crate) store: Store<Data>,
    abi: Abi,
    stem: String,
    /// What the last call came to.
    pub(crate) ended: Option<Ended<Said>>,
}

/// What `oxide_metadata` gives, in JSON. What it leaves out, the file's name says.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    id: Option<String>,
    name: Option<String>,
    version: Option<String>,
    description: Option<String>,
}

impl Guest {
    /// Gives the guest what it imports.
    ///
    /// # Errors
    /// When it imports what is not there.
    pub(crate) fn link(engine: &Engine, module: &Module, stem: &str, stack: usize) -> Result<Self> {
        let mut linker = Linker::new(engine);
        imports::offer(&mut linker)?;
        imports::check(module)?;
        let linked = linker
            .instantiate_pre(module)
            .map_err(|error| fault::with_causes(&error).context("the guest's imports cannot be satisfied"))?;
        Ok(Self { linked, only_async: imports::waits(module), stack, stem: stem.to_owned() })
    }

    /// A fresh instance; its start function has run.
    pub(crate) async fn instantiate(
        &self,
        mut store: Store<Data>,
    ) -> std::result::Result<Instance, (Store<Data>, wasmtime::Error)> {
        let abi = match self.linked.instantiate_async(&mut store).await {
            Ok(instance) => Abi::of(&instance, &mut store, self.only_async, self.stack),
            Err(error) => Err(error),
        };
        match abi {
            Ok(abi) => Ok(Instance { store, abi, stem: self.stem.clone(), ended: None }),
            Err(error) => Err((store, error)),
        }
    }
}

impl Instance {
    pub(crate) async fn metadata(&mut self) -> Ended<ModuleMetadata> {
        let said = match self.abi.hook(&mut self.store, "oxide_metadata", &[]).await? {
            None => Metadata::default(),
            Some(Outcome::Bytes(json)) => match serde_json::from_slice(&json) {
                Ok(metadata) => metadata,
                Err(error) => {
                    return Ok(Err(
                        Error::from(error).context("what `oxide_metadata` gives is not as expected")
                    ));
                }
            },
            Some(Outcome::Nothing) => return Ok(Err(missing("oxide_metadata"))),
            Some(Outcome::Failed) => return Ok(Err(self.failure())),
        };
        let id = said.id.unwrap_or_else(|| self.stem.clone());
        Ok(Ok(ModuleMetadata {
            name: said.name.unwrap_or_else(|| id.clone()),
            id,
            version: said.version.unwrap_or_else(|| "0.0.0".to_owned()),
            kind: ModuleKind::Wasm,
            description: said.description,
        }))
    }

    pub(crate) async fn configure(&mut self, config: &str) -> Ended<()> {
        self.optional("oxide_configure", &[config.as_bytes()]).await
    }

    pub(crate) async fn start(&mut self) -> Ended<()> {
        self.optional("oxide_start", &[]).await
    }

    pub(crate) async fn stop(&mut self) -> Ended<()> {
        self.optional("oxide_stop", &[]).await
    }

    pub(crate) async fn on_message(&mut self, envelope: &Envelope) -> Ended<()> {
        let json = match serde_json::to_vec(envelope) {
            Ok(json) => json,
            Err(error) => return Ok(Err(error.into())),
        };
        self.optional("oxide_on_message", &[&json]).await
    }

    pub(crate) async fn save_state(&mut self) -> Ended<Option<SavedState>> {
        match self.abi.hook(&mut self.store, "oxide_save_state", &[]).await? {
            None | Some(Outcome::Nothing) => Ok(Ok(None)),
            Some(Outcome::Bytes(bytes)) => {
                let version = self.abi.state_version(&mut self.store).await?;
                Ok(Ok(Some(SavedState { version, bytes })))
            }
            Some(Outcome::Failed) => Ok(Err(self.failure())),
        }
    }

    pub(crate) async fn restore_state(&mut self, state: &SavedState) -> Ended<()> {
        match self.abi.restore(&mut self.store, state).await? {
            None => Ok(Err(Error::new(
                "the guest exports no `oxide_restore_state`, so it cannot take a state over",
            ))),
            Some(outcome) => Ok(self.nothing("oxide_restore_state", outcome)),
        }
    }

    /// Answers a call, and gives itself back.
    pub(crate) fn called(mut self: Box<Self>, method: &str, mut payload: Payload) -> Call {
        store::begin(&mut self.store);
        match self.abi.give(&mut self.store, method, payload.as_bytes()) {
            // The usual case, with as little as possible in the box.
            Ok(true) => {
                in_place!(async move {
                    let outcome = self.abi.invoke(&mut self.store, &mut payload).await;
                    self.ended(outcome, payload)
                })
            }
            Ok(false) => {
                let method = method.to_owned();
                Box::pin(async move {
                    let given = self.abi.give_all(&mut self.store, &method, payload.as_bytes()).await;
                    let outcome = match given {
                        Ok(()) => self.abi.invoke(&mut self.store, &mut payload).await,
                        Err(fault) => Err(fault),
                    };
                    self.ended(outcome, payload)
                })
            }
            Err(fault) => Box::pin(ready(self.ended(Err(fault), payload))),
        }
    }

    /// Keeps what a call came to.
    fn ended(mut self: Box<Self>, outcome: wasmtime::Result<Outcome<()>>, reply: Payload) -> Answered {
        self.ended = Some(match outcome {
            Ok(Outcome::Bytes(())) => Ok(Ok(Said::Reply(reply))),
            Ok(Outcome::Nothing) => Ok(Ok(Said::NoSuchMethod)),
            Ok(Outcome::Failed) => Ok(Err(self.failure())),
            Err(fault) => Err(fault),
        });
        Ok(crate::instance::Instance::Core(self))
    }

    async fn optional(&mut self, name: &'static str, arguments: &[&[u8]]) -> Ended<()> {
        Ok(match self.abi.hook(&mut self.store, name, arguments).await? {
            None => Ok(()),
            Some(outcome) => self.nothing(name, outcome),
        })
    }

    /// The outcome of a hook whose bytes nobody wants.
    fn nothing(&mut self, name: &str, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Bytes(_) => Ok(()),
            Outcome::Nothing => Err(missing(name)),
            Outcome::Failed => Err(self.failure()),
        }
    }

    /// Why it failed, in its own words if it had any.
    fn failure(&mut self) -> Error {
        let said = self.store.data_mut().failure.take();
        Error::new(
            said.unwrap_or_else(|| "the guest failed without saying why (`oxide.fail` is for that)".into()),
        )
    }
}

fn missing(name: &str) -> Error {
    Error::new(format_args!("`{name}` said that there is nothing (-1), which has no meaning there"))
}

/// A broken promise of the guest's, as wasmtime's error.
fn broken(text: impl std::fmt::Display) -> wasmtime::Error {
    Broken(text.to_string()).into()
}
