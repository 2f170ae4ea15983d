//! The wall: opening libraries, the foreign object, its calls, and what is lent across.
//!
//! Everything that touches a raw pointer of a plugin's is in here. Nothing here chooses *which* plugin,
//! knows the bus, or knows a runtime.
#![allow(unsafe_code, reason = "the one room that opens libraries and touches what crosses")]

pub(crate) mod call;
pub(crate) mod failures;
pub(crate) mod frames;
pub(crate) mod future;
pub(crate) mod gate;
pub(crate) mod hold;
pub(crate) mod hooks;
pub(crate) mod lend;
pub(crate) mod lend_table;
pub(crate) mod lent_waker;
pub(crate) mod library;
pub(crate) mod log;
pub(crate) mod module;
pub(crate) mod residue;
pub(crate) mod seat;
mod sync;
pub(crate) mod waiting;
