//! What crosses the wall: `#[repr(C)]` and abi_stable types only, and the thunks behind them.
//!
//! Nothing here is part of the authors' contract. "Frozen" types never change within plugin ABI 1; tables
//! grow at their end.
#![allow(unsafe_code, reason = "the FFI room: the types that cross and the thunks behind them")]

pub mod adapter;
pub mod bytes;
pub mod call;
pub mod describe;
pub mod entry;
pub(crate) mod future;
pub(crate) mod host;
pub mod host_table;
pub mod outcome;
pub mod root;
pub mod shim_table;
#[cfg(feature = "testing")]
pub(crate) mod test_table;

/// The symbol of a plugin's one export.
pub const ENTRY: &str = "_1as_0lib_1header_0root_bmodule_bloader";
