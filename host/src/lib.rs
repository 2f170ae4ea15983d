//! The native plugin host as a library.

mod boundary;
pub mod error;
mod intake;
pub mod report;

pub use intake::{Refusal, RefusalReason};
