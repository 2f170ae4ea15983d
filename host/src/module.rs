//! In-process modules: the same two traits for types of the host program itself, and the manager.

use async_trait::async_trait;
use oxide_plugin_api::{Envelope, Payload, SavedState};

pub use oxide_plugin_api::{ModuleKind, ModuleMetadata, ModuleState};

pub use crate::manager::ModuleManager;
use crate::{
    bus::MessageBus,
    error::{KernelError, Result},
};

macro_rules! in_process_trait {
    ($(#[$doc:meta])* $name:ident, $init:ident) => {
        $(#[$doc])*
        #[async_trait]
        pub trait $name: Send + Sync + 'static {
            /// Says what this module is.
            fn metadata(&self) -> ModuleMetadata;

            /// Takes the configuration given at registration, if any.
            async fn configure(&mut self, config: serde_json::Value) -> Result<()> {
                let _ = config;
                Ok(())
            }

            /// Takes the bus and prepares. Runs once, before the first `start`.
            async fn $init(&mut self, bus: MessageBus) -> Result<()> {
                let _ = bus;
                Ok(())
            }

            /// Takes over what the previous one's `save_state` gave, in a swap.
            async fn restore_state(&mut self, state: SavedState) -> Result<()> {
                let version = state.version;
                Err(KernelError::new(format_args!("this build cannot restore a state (version {version})")))
            }

            /// Begins the module's work. After it the module is running and gets calls.
            async fn start(&mut self) -> Result<()>;

            /// Answers one call. Many calls may run at once, on their callers' threads.
            async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
                let _ = payload;
                Err(KernelError::unknown_method(method))
            }

            /// Takes one message addressed to this module, while running.
            async fn on_message(&self, envelope: Envelope) -> Result<()> {
                let _ = envelope;
                Ok(())
            }

            /// Gives the state that the next one should start from.
            async fn save_state(&self) -> Result<Option<SavedState>> {
                Ok(None)
            }

            /// Ends the module's work. No call is inside when it runs.
            async fn stop(&mut self) -> Result<()>;
        }

        #[async_trait]
        impl<M: $name + ?Sized> $name for Box<M> {
            fn metadata(&self) -> ModuleMetadata {
                (**self).metadata()
            }

            async fn configure(&mut self, config: serde_json::Value) -> Result<()> {
                (**self).configure(config).await
            }

            async fn $init(&mut self, bus: MessageBus) -> Result<()> {
                (**self).$init(bus).await
            }

            async fn restore_state(&mut self, state: SavedState) -> Result<()> {
                (**self).restore_state(state).await
            }

            async fn start(&mut self) -> Result<()> {
                (**self).start().await
            }

            async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
                (**self).invoke(method, payload).await
            }

            async fn on_message(&self, envelope: Envelope) -> Result<()> {
                (**self).on_message(envelope).await
            }

            async fn save_state(&self) -> Result<Option<SavedState>> {
                (**self).save_state().await
            }

            async fn stop(&mut self) -> Result<()> {
                (**self).stop().await
            }
        }
    };
}

in_process_trait! {
    /// A native module of the host program: the shape of
    /// [`oxide_plugin_api::Module`], with `#[async_trait]`.
    ///
    /// Its hooks run on threads of the host's own, with the caller's tokio runtime entered where there is
    /// one; calls run where their caller is.
    Module, init
}

in_process_trait! {
    /// A WASM engine of the host program that runs one guest: as [`Module`], with `instantiate` in place of
    /// `init`.
    WasmModule, instantiate
}

/// Either of the two, behind one set of hooks.
pub(crate) enum AnyModule {
    Native(Box<dyn Module>),
    Wasm(Box<dyn WasmModule>),
}

/// Calls a hook of the same name on whichever it is.
macro_rules! either {
    ($this:expr, $module:ident => $body:expr) => {
        match $this {
            AnyModule::Native($module) => $body,
            AnyModule::Wasm($module) => $body,
        }
    };
}

impl AnyModule {
    pub(crate) fn metadata(&self) -> ModuleMetadata {
        either!(self, module => module.metadata())
    }

    pub(crate) async fn init(&mut self, bus: MessageBus) -> Result<()> {
        match self {
            Self::Native(module) => module.init(bus).await,
            Self::Wasm(module) => module.instantiate(bus).await,
        }
    }

    pub(crate) async fn save_state(&self) -> Result<Option<SavedState>> {
        either!(self, module => module.save_state().await)
    }

    pub(crate) async fn start(&mut self) -> Result<()> {
        either!(self, module => module.start().await)
    }

    pub(crate) async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        either!(self, module => module.invoke(method, payload).await)
    }

    pub(crate) async fn on_message(&self, envelope: Envelope) -> Result<()> {
        either!(self, module => module.on_message(envelope).await)
    }

    pub(crate) async fn stop(&mut self) -> Result<()> {
        either!(self, module => module.stop().await)
    }
}
