//! The two traits an author implements, and what a module says about itself.

use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::{Envelope, Error, MessageBus, Payload, Result, SavedState};

/// What a module says about itself. It has these five fields for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleMetadata {
    /// The name the module is managed under: 1 to 128 bytes, no control characters, no `/`, no `-` at its
    /// beginning. `kernel` and `operator` are taken.
    pub id: String,
    /// A name for people.
    pub name: String,
    /// The module's own version, usually `env!("CARGO_PKG_VERSION")`.
    pub version: String,
    /// Native code, or a WASM guest.
    pub kind: ModuleKind,
    /// One line on what it does.
    pub description: Option<String>,
}

/// What runs a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleKind {
    /// Native code: a plugin, or a type of the host program.
    Native,
    /// A WASM guest, run by an engine that is itself a plugin.
    Wasm,
}

/// Where a module stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// Registered; `start` has not run yet.
    Loaded,
    /// `init` or `start` is running.
    Starting,
    /// It answers calls.
    Running,
    /// Its calls are drained and `stop` is running.
    Stopping,
    /// `stop` has run.
    Stopped,
    /// A hook failed, panicked or took too long.
    Failed,
}

impl std::fmt::Display for ModuleKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Wasm => "wasm",
        })
    }
}

impl std::fmt::Display for ModuleState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Loaded => "loaded",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

/// Writes one of the two traits; they differ in the name of one hook only.
macro_rules! module_trait {
    ($(#[$doc:meta])* $name:ident, $init:ident, $(#[$init_doc:meta])*) => {
        $(#[$doc])*
        pub trait $name: Send + Sync + 'static {
            /// Says what this module is. Called once, right after construction.
            fn metadata(&self) -> ModuleMetadata;

            /// Takes the configuration given at load (`null` when none was given). Runs before
            /// everything else.
            fn configure(
                &mut self,
                config: serde_json::Value,
            ) -> impl Future<Output = Result<()>> + Send {
                let _ = config;
                async { Ok(()) }
            }

            $(#[$init_doc])*
            fn $init(&mut self, bus: MessageBus) -> impl Future<Output = Result<()>> + Send {
                let _ = bus;
                async { Ok(()) }
            }

            /// Takes over what the previous build's `save_state` gave, in a swap: after `init`, before `start`,
            /// and only when there is a state. To fail is to refuse the swap, and costs nothing: the previous
            /// build goes on with the state it has. [`SavedState`] shows how versions are told apart.
            fn restore_state(&mut self, state: SavedState) -> impl Future<Output = Result<()>> + Send {
                let version = state.version;
                async move {
                    Err(Error::new(format_args!("this build cannot restore a state (version {version})")))
                }
            }

            /// Begins the module's work. After it the module is running and gets calls.
            fn start(&mut self) -> impl Future<Output = Result<()>> + Send;

            /// Answers one call. Many calls may run at once; blocking here costs the caller's thread.
            fn invoke(&self, method: &str, payload: Payload) -> impl Future<Output = Result<Payload>> + Send {
                let _ = payload;
                let error = Error::unknown_method(method);
                async move { Err(error) }
            }

            /// Takes one message addressed to this module: a custom event that carries its id and comes
            /// from somebody else. Delivered one after the other, while running.
            fn on_message(&self, envelope: Envelope) -> impl Future<Output = Result<()>> + Send {
                let _ = envelope;
                async { Ok(()) }
            }

            /// Gives the state that the next build should start from; `None` when there is none. Called in a
            /// swap with nobody inside, and before that once while calls go on, to learn whether there is a
            /// state at all: it copies, and takes nothing away. What it takes is how long callers wait.
            ///
            /// A state is given always, be it empty, or never: after `None` calls are not held, and what they
            /// change from then on stays in this build.
            fn save_state(&self) -> impl Future<Output = Result<Option<SavedState>>> + Send {
                async { Ok(None) }
            }

            /// Ends the module's work. No call is inside when it runs.
            fn stop(&mut self) -> impl Future<Output = Result<()>> + Send;
        }
    };
}

module_trait! {
    /// A native module: its hooks, in the order of a life. All but `metadata`, `start` and `stop` have
    /// defaults.
    ///
    /// The host polls hooks on threads of its own, one at a time per module (`invoke` excepted). A hook
    /// that panics, fails or takes longer than the host allows makes the module
    /// [`Failed`](ModuleState::Failed) and touches nobody else.
    Module, init,
    /// Takes the bus and prepares. Runs once in a generation's life, before the first `start`.
}

module_trait! {
    /// A WASM engine that runs one guest: the same life as [`Module`], with `instantiate` in place of `init`.
    WasmModule, instantiate,
    /// Takes the bus and instantiates the guest that `configure` was given. Runs once, before the first
    /// `start`.
}
