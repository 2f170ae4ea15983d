//! How long things may take, and how much may wait.

use std::time::Duration;

use crate::life::undertaker::Patience;

/// The deadlines and bounds of a manager. The defaults are those of the documentation of each.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// For the constructor, `metadata`, `configure` and `init`, each: 30 s.
    pub init: Duration,
    /// For `start`: 30 s.
    pub start: Duration,
    /// For `stop`: 10 s.
    pub stop: Duration,
    /// For the calls inside to come out by themselves, before those that wait are cancelled: 10 s.
    pub drain: Duration,
    /// For the threads that a module started to end by themselves, at its unload: 5 s.
    pub threads: Duration,
    /// For the threads on which a module left thread-locals to come by and destroy them, before these are
    /// left undestroyed for good: 10 s.
    pub locals: Duration,
    /// For the dynamic loader to open or close a library, and with it for the library's constructors and
    /// destructors: 30 s. Loading is refused as long as one takes longer.
    pub loader: Duration,
    /// For a swap to hold a module's calls while it hands the state over, before it is given up: 10 s. Longer than
    /// this no call is held.
    pub hold: Duration,
    /// How many calls a swap may hold, before it is given up: 16,384.
    pub held: usize,
    /// How many bytes a state that is handed over in a swap may have: 64 MiB.
    pub state: usize,
    /// How many generations of one module may be retained, before its swaps are refused: 16.
    pub retained: usize,
    /// For one `on_message`: 30 s.
    pub message: Duration,
    /// How many messages may wait in a module's mailbox: 1,024.
    pub mailbox: usize,
    /// How long a publisher waits for room in a full mailbox before it gets an error: 10 s.
    pub mailbox_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            init: Duration::from_secs(30),
            start: Duration::from_secs(30),
            stop: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            threads: Duration::from_secs(5),
            locals: Duration::from_secs(10),
            loader: Duration::from_secs(30),
            hold: Duration::from_secs(10),
            held: 16_384,
            state: 64 << 20,
            retained: 16,
            message: Duration::from_secs(30),
            mailbox: 1024,
            mailbox_wait: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// How patient an unload is.
    pub(crate) fn patience(&self) -> Patience {
        Patience::of_an_unload(self.threads, self.locals, self.loader)
    }
}
