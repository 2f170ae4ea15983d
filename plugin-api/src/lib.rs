//! The contract between a plugin and its host.

mod bus;
mod error;
#[doc(hidden)]
pub mod ffi;
mod message;
mod module;
mod payload;

pub use bus::MessageBus;
pub use error::{Error, ErrorKind, Result};
pub use message::{Command, Envelope, Event, Filter, Message, MessageClass};
pub use module::{Module, ModuleKind, ModuleMetadata, ModuleState, WasmModule};
pub use payload::{Payload, SavedState};
pub use serde_json;
