//! In the place of the foreign module: its calls that wait, and where calls go.

use super::{call::CallTarget, frames::Frame, waiting::WaitingCalls};
use crate::watched::Watched;

pub(crate) struct ForeignModule {
    target: CallTarget,
    waiting: WaitingCalls,
    there: Watched,
}

// SAFETY: as for the host's; the models' objects are `Sync`.
unsafe impl Send for ForeignModule {}
// SAFETY: as above.
unsafe impl Sync for ForeignModule {}

impl ForeignModule {
    pub(crate) fn new(target: CallTarget) -> Self {
        Self { target, waiting: WaitingCalls::default(), there: Watched::default() }
    }

    pub(crate) fn target(&self) -> CallTarget {
        self.there.used();
        self.target
    }

    /// It is freed: nobody may use it any more.
    pub(crate) fn goes(&self) {
        self.there.goes();
    }

    pub(crate) fn frame(&self) -> Frame {
        Frame
    }

    pub(crate) fn waiting_calls(&self) -> &WaitingCalls {
        self.there.used();
        &self.waiting
    }

    pub(crate) fn failures(&self) -> &Failures {
        self.there.used();
        &Failures
    }
}

/// Nobody counts them.
pub(crate) struct Failures;

impl Failures {
    pub(crate) fn call_ended(&self, _: u8) {}
}
