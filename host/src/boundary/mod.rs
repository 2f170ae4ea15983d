//! Where the host touches what belongs to a plugin.
#![allow(unsafe_code, reason = "the boundary: tables, objects and records that cross from plugins")]

pub(crate) mod log;
