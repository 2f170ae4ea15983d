//! Components of the world `oxide:module/module`.

mod imports;

use std::pin::pin;

use oxide_plugin_api::{
    Envelope, Error, ModuleKind, ModuleMetadata, Payload, Result, SavedState, serde_json,
};
use wasmtime::{
    Engine, Store,
    component::{Component, Linker},
};

use self::bindings::{Module, ModulePre, oxide::module::types};
use crate::{
    call::{Call, Said, in_place},
    config::Allow,
    fault,
    instance::{Ended, fill},
    store::{self, Data},
};

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "wasmtime writes it")]
    wasmtime::component::bindgen!({
        path: "../../plugin-api/wit",
        world: "module",
        imports: {
            "oxide:module/bus": async,
        },
        exports: { default: async },
    });
}

/// A guest that was compiled and whose imports are there.
pub(crate) struct Guest(ModulePre<Data>);

/// An instance of it.
pub(crate) struct Instance {
    pub(crate) store: Store<Data>,
    exports: Module,
    /// What the last call came to.
    pub(crate) ended: Option<Ended<Said>>,
}

impl Guest {
    /// Gives the guest what it imports, and looks whether it exports all of a module.
    ///
    /// # Errors
    /// When it imports what is not there or was not granted, or an export is missing.
    pub(crate) fn link(engine: &Engine, component: &Component, allow: &Allow) -> Result<Self> {
        imports::check(engine, component, allow)?;
        let mut linker = Linker::new(engine);
        let linked = imports::offer(&mut linker, allow)
            .and_then(|()| linker.instantiate_pre(component))
            .map_err(|error| fault::with_causes(&error).context("the guest's imports cannot be satisfied"))?;
        let exports = ModulePre::new(linked).map_err(|error| {
            fault::with_causes(&error).context("the guest is no component of the world `oxide:module/module`")
        })?;
        Ok(Self(exports))
    }

    /// A fresh instance.
    pub(crate) async fn instantiate(
        &self,
        mut store: Store<Data>,
    ) -> std::result::Result<Instance, (Store<Data>, wasmtime::Error)> {
        match self.0.instantiate_async(&mut store).await {
            Ok(exports) => Ok(Instance { store, exports, ended: None }),
            Err(error) => Err((store, error)),
        }
    }
}

impl Instance {
    pub(crate) async fn metadata(&mut self) -> Ended<ModuleMetadata> {
        let types::Metadata { id, name, version, description } =
            self.exports.call_metadata(&mut self.store).await?;
        Ok(Ok(ModuleMetadata { id, name, version, kind: ModuleKind::Wasm, description }))
    }

    pub(crate) async fn configure(&mut self, config: &str) -> Ended<()> {
        said(self.exports.call_configure(&mut self.store, &config.to_owned()).await)
    }

    pub(crate) async fn start(&mut self) -> Ended<()> {
        said(self.exports.call_start(&mut self.store).await)
    }

    pub(crate) async fn stop(&mut self) -> Ended<()> {
        said(self.exports.call_stop(&mut self.store).await)
    }

    /// Answers a call, and gives itself back.
    pub(crate) fn called(mut self: Box<Self>, method: &str, mut payload: Payload) -> Call {
        store::begin(&mut self.store);
        let method = method.to_owned();
        in_place!(async move {
            // In its place at once: passing a future on moves it, and this one is large.
            let reply = pin!(self.exports.call_invoke(&mut self.store, &method, payload.as_bytes())).await;
            let ended = said(reply).map(|said| {
                said.map(|reply| {
                    fill(&mut payload, &reply);
                    Said::Reply(payload)
                })
            });
            self.ended = Some(ended);
            Ok(crate::instance::Instance::Component(self))
        })
    }

    pub(crate) async fn on_message(&mut self, envelope: &Envelope) -> Ended<()> {
        let message = match serde_json::to_string(&envelope.message) {
            Ok(message) => message,
            Err(error) => return Ok(Err(error.into())),
        };
        let envelope = types::Envelope {
            id: envelope.id.to_string(),
            source: envelope.source.clone(),
            correlation_id: envelope.correlation_id.map(|id| id.to_string()),
            timestamp: envelope.timestamp.to_rfc3339(),
            message,
        };
        said(self.exports.call_on_message(&mut self.store, &envelope).await)
    }

    pub(crate) async fn save_state(&mut self) -> Ended<Option<SavedState>> {
        let saved = said(self.exports.call_save_state(&mut self.store).await)?;
        Ok(saved.map(|state| state.map(|types::SavedState { version, bytes }| SavedState { version, bytes })))
    }

    pub(crate) async fn restore_state(&mut self, state: &SavedState) -> Ended<()> {
        let state = types::SavedState { version: state.version, bytes: state.bytes.clone() };
        said(self.exports.call_restore_state(&mut self.store, &state).await)
    }
}

fn said<T>(ended: wasmtime::Result<Result<T, types::Error>>) -> Ended<T> {
    ended.map(|said| {
        said.map_err(|error| match error {
            types::Error::Failed(message) => Error::new(message),
            types::Error::UnknownMethod(method) => Error::unknown_method(method),
        })
    })
}
