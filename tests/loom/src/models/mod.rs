//! The models, one function each.

pub mod call;
pub mod gate;
mod plugin;
pub mod seat;
