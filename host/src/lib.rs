//! The native plugin host as a library.

pub mod bus;
#[cfg(all(feature = "daemon", unix))]
#[doc(hidden)]
pub mod cli;
#[cfg(all(feature = "daemon", unix))]
pub mod config;
#[cfg(all(feature = "daemon", unix))]
pub mod daemon;
pub mod error;
pub mod host;
mod intake;
pub mod report;
mod sys;

pub use error::{KernelError, Result};
pub use host::{Host, HostBuilder, LoadOptions};
pub use intake::{Inspection, Refusal, RefusalReason, inspect};
