//! The contract between a plugin and its host: implement [`Module`], add one line, build a `cdylib`.
//!
//! ```standalone_crate
//! #![forbid(unsafe_code)]
//! # fn main() {}
//! use oxide_plugin_api::prelude::*;
//!
//! #[derive(Default)]
//! struct Echo;
//!
//! impl Module for Echo {
//!     fn metadata(&self) -> ModuleMetadata {
//!         ModuleMetadata {
//!             id: "echo".into(),
//!             name: "Echo".into(),
//!             version: env!("CARGO_PKG_VERSION").into(),
//!             kind: ModuleKind::Native,
//!             description: None,
//!         }
//!     }
//!     async fn start(&mut self) -> Result<()> {
//!         Ok(())
//!     }
//!     async fn stop(&mut self) -> Result<()> {
//!         Ok(())
//!     }
//!     async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
//!         match method {
//!             "echo" => Ok(payload),
//!             other => Err(Error::unknown_method(other)),
//!         }
//!     }
//! }
//!
//! export_module!(Echo);
//! ```
//!
//! Features: `tokio` gives the plugin a tokio runtime of its own, entered around every hook; `testing`
//! gives its unit tests a small host.

mod bus;
mod error;
mod export;
#[doc(hidden)]
pub mod ffi;
mod log;
mod message;
mod module;
mod payload;
mod runtime;
mod shim;
mod state;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;

pub use bus::{MessageBus, Receiver, Subscription};
pub use error::{Error, ErrorKind, Result};
pub use message::{Command, Envelope, Event, Filter, Message, MessageClass};
pub use module::{Module, ModuleKind, ModuleMetadata, ModuleState, WasmModule};
pub use payload::Payload;
pub use serde;
pub use serde_json;
pub use state::SavedState;
pub use tracing;
pub use uuid::Uuid;

/// What a plugin imports.
pub mod prelude {
    pub use crate::{
        Command, Envelope, Error, Event, Filter, Message, MessageBus, Module, ModuleKind, ModuleMetadata,
        ModuleState, Payload, Result, SavedState, Subscription, WasmModule, export_module,
        export_wasm_module, serde_json, task,
    };
}

/// What the export macros name. Not part of the contract.
#[doc(hidden)]
pub mod __private {
    pub use abi_stable::library::LibHeader;

    #[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
    pub use crate::shim::services;
    pub use crate::{
        __join as join,
        ffi::{
            adapter::{Native, Wasm},
            describe::{API_VERSION, Description, RUSTC, SOURCE, TARGET, body_len, keys},
            entry::{entry, header},
            root::{Construct, PluginRootRef, Root},
        },
        shim::heap::Heap,
    };
}
