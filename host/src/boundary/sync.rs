//! What the gate, the seats and the calls are synchronised with: the real primitives, by name only.
//! `tests/loom` compiles those very files against a module of the same names that has loom's.

pub(crate) use std::{
    sync::{Arc, OnceLock, atomic},
    thread_local,
};

pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use tokio::sync::Notify;

/// How many slots a calls gate has: for so many threads but one, entering writes to a line of their own. A
/// model has fewer.
pub(crate) const CALL_SLOTS: usize = 33;

/// A `static` that holds primitives of this module, which loom's cannot: theirs begin anew with each
/// execution.
macro_rules! global {
    ($(#[$meta:meta])* static $name:ident: $type:ty = $init:expr;) => {
        $(#[$meta])*
        static $name: $type = $init;
    };
}
pub(crate) use global;
