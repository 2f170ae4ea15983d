//! The host's own files, and what they stand on: under the names that they know, loom's primitives and the
//! least of the wall that a call needs.
#![allow(dead_code, reason = "not every function of the host's is modelled")]

#[path = "../../../../host/src/boundary/call.rs"]
pub(crate) mod call;
#[path = "../../../../host/src/boundary/gate.rs"]
pub(crate) mod gate;
#[path = "../../../../host/src/boundary/hold.rs"]
pub(crate) mod hold;
#[path = "../../../../host/src/boundary/lent_waker.rs"]
pub(crate) mod lent_waker;
#[path = "../../../../host/src/boundary/seat.rs"]
pub(crate) mod seat;
#[path = "../../../../host/src/boundary/waiting.rs"]
pub(crate) mod waiting;

pub(crate) mod module;
pub(crate) mod sync;

/// Whose code runs is of no matter here, and the host's chain of frames is a real thread-local, which loom's
/// threads would share.
pub(crate) mod frames {
    #[derive(Clone, Copy)]
    pub(crate) struct Frame;

    pub(crate) fn within<R>(_: Frame, body: impl FnOnce() -> R) -> R {
        body()
    }
}

/// Nothing is logged.
pub(crate) mod log {
    pub(crate) fn refresh_level() {}
}

/// Nobody is unloaded but by the models.
pub(crate) mod residue {
    pub(crate) mod threads {
        pub(crate) fn flush_if_asked() {}
    }
}
