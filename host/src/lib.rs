//! The native plugin host as a library: loads plugins built on `oxide-plugin-api`, drives them through their
//! lives, calls them at native speed, and lets them go.
//!
//! Begin with [`Host`]. Modules of the host program's own implement [`module::Module`] and live behind the
//! same [`module::ModuleManager`].

mod boundary;
pub mod bus;
#[cfg(all(feature = "daemon", unix))]
#[doc(hidden)]
pub mod cli;
#[cfg(all(feature = "daemon", unix))]
pub mod config;
#[cfg(all(feature = "daemon", unix))]
pub mod daemon;
pub mod error;
mod host;
mod intake;
mod kernel;
mod life;
mod manager;
pub mod module;
pub mod report;
mod sys;

pub use error::KernelError;
pub use host::{Host, HostBuilder, come_by};
pub use intake::*;
pub use manager::{Invoke, Limits, LoadOptions, ModuleHandle, Probation, SwapOptions};
pub use oxide_plugin_api::{Payload, SavedState};
pub use report::{ModuleInfo, Receipt, SwapReport, SwapStep};

/// The names of `oxide_plugin_api::prelude` for in-process modules, and the host's own.
pub mod prelude {
    pub use async_trait::async_trait;
    pub use oxide_plugin_api::{Payload, SavedState, serde_json};

    pub use crate::{
        Host,
        bus::{Command, Envelope, Event, Filter, Message, MessageBus, Subscription},
        error::{KernelError, KernelError as Error, Result},
        module::{Module, ModuleKind, ModuleManager, ModuleMetadata, ModuleState, WasmModule},
    };
}
