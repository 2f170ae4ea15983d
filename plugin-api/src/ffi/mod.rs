//! What crosses the wall: `#[repr(C)]` and abi_stable types only.
#![allow(unsafe_code, reason = "the FFI room: the types that cross and the thunks behind them")]

pub mod bytes;
pub mod describe;
