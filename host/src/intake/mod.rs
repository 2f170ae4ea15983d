//! From a path to bytes we are willing to open. Nothing here runs plugin code.

mod refusal;

pub use refusal::{Refusal, RefusalReason};
