//! How often a generation has failed those who call it, so that one on probation can be sent back.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use oxide_plugin_api::ffi::outcome::status;
use tokio::sync::Notify;

/// Counts what went wrong in the calls and messages of one generation.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    panics: AtomicU64,
    errors: AtomicU64,
    more: Notify,
}

impl Failures {
    /// A call has ended with this [`status`]. A method that the module does not know is its caller's mistake.
    #[cold]
    pub(crate) fn call_ended(&self, ended: u8) {
        match ended {
            status::PANICKED => self.panicked(),
            status::FAILED => self.failed(),
            _ => {}
        }
    }

    /// Something of it panicked.
    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, SeqCst);
        self.more.notify_waiters();
    }

    /// Something of it returned an error, or took too long.
    pub(crate) fn failed(&self) {
        self.errors.fetch_add(1, SeqCst);
        self.more.notify_waiters();
    }

    /// Panics and errors so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.panics.load(SeqCst), self.errors.load(SeqCst))
    }

    /// Waits until anything has panicked or more than `errors` have failed; tells the counts.
    pub(crate) async fn beyond(&self, errors: u64) -> (u64, u64) {
        loop {
            let more = self.more.notified();
            let counts = self.counts();
            if counts.0 > 0 || counts.1 > errors {
                return counts;
            }
            more.await;
        }
    }
}
