//! The native plugin host as a library.

pub mod bus;
pub mod error;
mod intake;
pub mod report;

pub use intake::{Refusal, RefusalReason};
