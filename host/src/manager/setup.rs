//! From a constructed module to an initialised one: what it says about itself, `configure`, `init`.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use oxide_plugin_api::{ModuleKind, ModuleMetadata};
use serde_json::Value;

use super::{
    guest::Material,
    lifecycle::run_hook,
    load::{Failure, error_of},
    registry::Shared,
};
use crate::{
    boundary::{call::Callee, hooks::HookEnd, module::ForeignModule},
    error::{KernelError, Result},
    life::{generation::Generation, hook, object::Object},
    report::SwapStep,
};

/// A generation that is being set up.
pub(crate) struct Setup<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) generation: &'a Arc<Generation>,
    pub(crate) material: &'a Material,
    pub(crate) config: &'a Value,
}

impl Setup<'_> {
    /// The module.
    pub(crate) fn foreign(&self) -> Result<&ForeignModule> {
        self.generation.foreign().ok_or(KernelError::ShuttingDown)
    }

    /// What the build says about itself, and its file where it says nothing. An engine knows its guest only once it is
    /// configured, so for a guest that comes first.
    pub(crate) async fn metadata(&self) -> Result<ModuleMetadata, Failure> {
        let at_metadata = Failure::at(SwapStep::Metadata);
        let module = self.foreign().map_err(&at_metadata)?.lending().module();
        if self.material.guest.is_some() {
            self.configure(&module).await?;
        }
        let mut metadata = self.ask_metadata(&module).await.map_err(&at_metadata)?;
        let description = self.material.library.description();
        metadata.kind = description.kind;
        // The engine's would be no description of a guest.
        if metadata.description.is_none()
            && self.material.guest.is_none()
            && !description.description.is_empty()
        {
            metadata.description = Some(description.description.clone());
        }
        Ok(metadata)
    }

    /// `configure`, where that was not before, and `init`.
    pub(crate) async fn finish(&self, id: &str, kind: ModuleKind) -> Result<(), Failure> {
        let at_init = Failure::at(SwapStep::Init);
        if self.material.guest.is_none() {
            self.configure(id).await?;
        }
        let init = match kind {
            ModuleKind::Native => "init",
            ModuleKind::Wasm => "instantiate",
        };
        let foreign = self.foreign().map_err(&at_init)?;
        let limit = self.shared.limits.init;
        run_hook(id, init, limit, self.generation, || foreign.init()).await.map_err(&at_init)?;
        self.generation.initialised.store(true, SeqCst);
        Ok(())
    }

    async fn configure(&self, id: &str) -> Result<(), Failure> {
        let configured = async {
            let foreign = self.foreign()?;
            let config = self.material.configuration(self.config).await?;
            let limit = self.shared.limits.init;
            run_hook(id, "configure", limit, self.generation, || foreign.configure(config)).await
        };
        configured.await.map(drop).map_err(Failure::at(SwapStep::Configure))
    }

    async fn ask_metadata(&self, module: &str) -> Result<ModuleMetadata> {
        let limit = self.shared.limits.init;
        let timed_out =
            || KernelError::HookTimedOut { module: module.to_owned(), hook: "metadata", after: limit };
        let lease = self.generation.alone(limit).await.ok_or_else(timed_out)?;
        let asked = self.generation.clone();
        let metadata = hook::run_blocking(
            limit,
            move || {
                let _lease = lease;
                match &asked.object {
                    Object::Foreign(foreign) => foreign.metadata(),
                    Object::InProcess(_) => HookEnd::Panicked("not a foreign module".to_owned()),
                }
            },
            drop,
        )
        .await
        .ok_or_else(timed_out)?;
        match metadata {
            HookEnd::Ok(metadata) => Ok(metadata),
            end => Err(error_of(module, "metadata", &end)),
        }
    }
}
