//! What ends a guest that works too long: a task that advances wasmtime's epoch while a guest is at work.
//!
//! Compiled code looks at the epoch at every loop and function. Whoever is at work looks at the count of ticks then
//! (`store.rs`), so a guest that loops on its caller's thread is ended by a task on one of the host's. No thread of the
//! engine's own is needed, and at rest nothing ticks.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Poll, Waker},
    time::Duration,
};

use oxide_plugin_api::task::{self, JoinHandle};
use wasmtime::Engine;

/// A tick is a tenth of the time that a call may work, within these bounds.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(50);

/// How many ticks without a guest at work it waits before it rests. Waking it costs a call some microseconds, so it
/// does not rest between the calls of a module that is in use.
const PATIENCE: u32 = 40;

/// The task; it ends with this.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    at_work: AtomicUsize,
    resting: AtomicBool,
    /// The task's, while it rests.
    waker: Mutex<Option<Waker>>,
}

/// Somebody is at work.
pub(crate) struct AtWork<'a>(&'a Shared);

impl Ticker {
    /// The length of a tick where one call may work for `call_time`.
    pub(crate) fn tick(call_time: Duration) -> Duration {
        (call_time / 10).clamp(SHORTEST, LONGEST)
    }

    /// Starts the task.
    pub(crate) fn new(engine: &Engine, tick: Duration) -> Self {
        let shared = Arc::new(Shared {
            at_work: AtomicUsize::new(0),
            resting: AtomicBool::new(false),
            waker: Mutex::default(),
        });
        let task = task::spawn(run(engine.clone(), shared.clone(), tick));
        Self { shared, task }
    }

    /// Ticks as long as this is held.
    pub(crate) fn at_work(&self) -> AtWork<'_> {
        self.shared.at_work.fetch_add(1, SeqCst);
        // The task says that it rests before it looks whether anybody is at work; here it is the other way round.
        if self.shared.resting.load(SeqCst) {
            let waker = self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        AtWork(&self.shared)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(engine: Engine, shared: Arc<Shared>, tick: Duration) {
    let mut idle = 0;
    loop {
        task::sleep(tick).await;
        if shared.at_work.load(SeqCst) > 0 {
            engine.increment_epoch();
            idle = 0;
            continue;
        }
        idle += 1;
        if idle < PATIENCE {
            continue;
        }
        poll_fn(|context| {
            let waker = context.waker().clone();
            *shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
            shared.resting.store(true, SeqCst);
            if shared.at_work.load(SeqCst) == 0 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        shared.resting.store(false, SeqCst);
        idle = 0;
    }
}
