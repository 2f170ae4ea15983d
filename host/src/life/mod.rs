//! A generation's life: its gate, its hooks on threads of the host's own, and its end.
//!
//! Knows no file names to choose from, no bus and no ids to look up.

pub(crate) mod burial;
pub(crate) mod coordinator;
pub(crate) mod flush;
pub(crate) mod generation;
pub(crate) mod hook;
pub(crate) mod loader;
pub(crate) mod object;
pub(crate) mod pool;
pub(crate) mod reaper;
mod residents;
pub(crate) mod undertaker;
