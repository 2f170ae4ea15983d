//! The one thread that opens and closes libraries.
//!
//! Constructors and destructors run under the dynamic loader's lock: one that blocks stops every other
//! load in the process. So there is one queue, watched by a clock: a job that is late is reported, and
//! loading is refused until it returns.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{error::KernelError, kernel};

/// How long an open or a close may take.
const WATCHDOG: Duration = Duration::from_secs(30);

type Job = Box<dyn FnOnce() + Send>;

struct Loader {
    jobs: Mutex<mpsc::Sender<Job>>,
    /// What the thread is at, since when.
    present: Mutex<Option<(String, Instant)>>,
}

static LOADER: LazyLock<Loader> = LazyLock::new(|| {
    let (send, receive) = mpsc::channel::<Job>();
    let spawned = thread::Builder::new().name("oxide-loader".to_owned()).spawn(move || {
        for job in receive {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("work on the loader thread panicked; the thread goes on");
            }
            *LOADER.present.lock() = None;
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "the loader thread cannot be started");
    }
    Loader { jobs: Mutex::new(send), present: Mutex::new(None) }
});

/// Runs `job` on the loader thread. `what` names it for the report of a stuck one.
///
/// # Errors
/// [`KernelError::LoaderStuck`] when this job, or the one before it, does not end in time. A late result is
/// given to `late`.
pub(crate) async fn run<T: Send + 'static>(
    what: String,
    job: impl FnOnce() -> T + Send + 'static,
    late: impl FnOnce(T) + Send + 'static,
) -> Result<T, KernelError> {
    if let Some(stuck) = stuck() {
        return Err(stuck);
    }
    let (send, receive) = oneshot::channel();
    let name = what.clone();
    let job: Job = Box::new(move || {
        *LOADER.present.lock() = Some((name, Instant::now()));
        let result = job();
        if let Err(result) = send.send(result) {
            late(result);
        }
    });
    if LOADER.jobs.lock().send(job).is_err() {
        return Err(KernelError::ShuttingDown);
    }
    match kernel::within(WATCHDOG, receive).await {
        Some(Ok(result)) => Ok(result),
        Some(Err(_)) => Err(KernelError::Setup(format!("{what} ended without a result"))),
        None => Err(stuck().unwrap_or(KernelError::LoaderStuck(what))),
    }
}

/// The error for a loader thread that has been at one job for too long.
fn stuck() -> Option<KernelError> {
    let present = LOADER.present.lock();
    let (what, since) = present.as_ref()?;
    (since.elapsed() >= WATCHDOG).then(|| {
        KernelError::LoaderStuck(format!("{what} has not ended for {} s", since.elapsed().as_secs()))
    })
}
