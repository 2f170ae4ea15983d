//! What ends a guest that works too long: a task that advances wasmtime's epoch while a guest is at work.
//!
//! Compiled code looks at the epoch at every loop and function. Whoever is at work looks at the count of ticks then
//! (`store.rs`), so a guest that loops on its caller's thread is ended by a task on one of the host's. No thread of the
//! engine's own is needed, and at rest nothing ticks.

use std::{future::poll_fn, sync::Arc, time::Duration};

use oxide_plugin_api::task::{self, JoinHandle};
use wasmtime::Engine;

use crate::{instance::Instance, turns::Turns};

/// A tick is a tenth of the time that a call may work, within these bounds.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(50);

/// How many ticks without a guest at work it waits before it rests. Waking it costs a call some microseconds, so it
/// does not rest between the calls of a module that is in use.
const PATIENCE: u32 = 40;

/// The task; it ends with this.
pub(crate) struct Ticker(JoinHandle<()>);

impl Ticker {
    /// The length of a tick where one call may work for `call_time`.
    pub(crate) fn tick(call_time: Duration) -> Duration {
        (call_time / 10).clamp(SHORTEST, LONGEST)
    }

    /// Starts the task, which ticks as long as somebody has the turn.
    pub(crate) fn new(engine: &Engine, tick: Duration, turns: Arc<Turns<Instance>>) -> Self {
        Self(task::spawn(run(engine.clone(), turns, tick)))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(engine: Engine, turns: Arc<Turns<Instance>>, tick: Duration) {
    let mut idle = 0;
    loop {
        task::sleep(tick).await;
        if turns.taken() {
            engine.increment_epoch();
            idle = 0;
            continue;
        }
        idle += 1;
        if idle < PATIENCE {
            continue;
        }
        poll_fn(|context| turns.poll_taken(context)).await;
        idle = 0;
    }
}
