//! The one thread that opens and closes libraries.
//!
//! Constructors and destructors run under the dynamic loader's lock: one that blocks stops every other
//! load in the process. So there is one queue, watched by a clock: a job that is late is reported, and
//! loading is refused until it returns.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        LazyLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::coordinator;
use crate::{boundary::residue::threads, error::KernelError, kernel, sys};

type Job = Box<dyn FnOnce() + Send>;

/// What the thread is at.
struct Present {
    what: String,
    since: Instant,
    limit: Duration,
    number: u64,
    /// Whoever waited for it has given up.
    late: bool,
}

struct Loader {
    jobs: Mutex<mpsc::Sender<Job>>,
    present: Mutex<Option<Present>>,
}

/// The loader thread's number in the system.
static NUMBER: AtomicU32 = AtomicU32::new(0);

static LOADER: LazyLock<Loader> = LazyLock::new(|| {
    let (send, receive) = mpsc::channel::<Job>();
    let spawned = thread::Builder::new().name("oxide-loader".to_owned()).spawn(move || {
        NUMBER.store(sys::threads::own_number(), Relaxed);
        while let Some(job) = next(&receive) {
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

/// The next job; `None` when there will be none.
fn next(jobs: &mpsc::Receiver<Job>) -> Option<Job> {
    let mut job = None;
    kernel::linger(|| {
        job = jobs.try_recv().ok();
        job.is_some()
    });
    job.or_else(|| jobs.recv().ok())
}

/// Why a job has no result.
#[derive(Debug)]
pub(crate) enum NotRun {
    /// It will never run.
    Refused(KernelError),
    /// It has not ended in time; its result is given to `late`.
    Late(KernelError),
}

impl From<NotRun> for KernelError {
    fn from(not_run: NotRun) -> Self {
        match not_run {
            NotRun::Refused(error) | NotRun::Late(error) => error,
        }
    }
}

/// Whether the system's thread of this number is the loader thread.
pub(crate) fn is_thread(number: u32) -> bool {
    NUMBER.load(Relaxed) == number
}

/// Has the loader thread run what it owes to generations that are leaving.
pub(crate) fn visit() {
    let job: Job = Box::new(threads::flush_if_asked);
    let _ = LOADER.jobs.lock().send(job);
}

/// Waits until what was left to do after the jobs up to now is done, too; not if the thread is stuck.
pub(crate) async fn settled(limit: Duration) {
    if NUMBER.load(Relaxed) != 0 {
        let _ = run("settling".to_owned(), limit, || ((), ()), drop).await;
    }
}

/// Runs `job` on the loader thread, where it may take until `limit`. `what` names it for the report of a stuck
/// one. The second that it gives is dropped there after the first has been handed over.
///
/// # Errors
/// [`KernelError::LoaderStuck`] when this job, or the one before it, does not end in time. A late result is
/// given to `late`.
pub(crate) async fn run<T: Send + 'static, A>(
    what: String,
    limit: Duration,
    job: impl FnOnce() -> (T, A) + Send + 'static,
    late: impl FnOnce(T) + Send + 'static,
) -> Result<T, NotRun> {
    if let Some(stuck) = stuck() {
        return Err(NotRun::Refused(stuck));
    }
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    let (send, receive) = oneshot::channel();
    let name = what.clone();
    let job: Job = Box::new(move || {
        *LOADER.present.lock() =
            Some(Present { what: name, since: Instant::now(), limit, number, late: false });
        let (result, _afterwards) = job();
        // Whoever carries on with the result must not take us for being at it.
        *LOADER.present.lock() = None;
        if let Err(result) = coordinator::asking(|| send.send(result)) {
            late(result);
        }
    });
    if LOADER.jobs.lock().send(job).is_err() {
        return Err(NotRun::Refused(KernelError::ShuttingDown));
    }
    match kernel::answer(limit, receive).await {
        Some(Ok(result)) => Ok(result),
        Some(Err(_)) => Err(NotRun::Refused(KernelError::Setup(format!("{what} ended without a result")))),
        None => {
            if let Some(present) = LOADER.present.lock().as_mut().filter(|present| present.number == number) {
                present.late = true;
            }
            Err(NotRun::Late(stuck().unwrap_or(KernelError::LoaderStuck(what))))
        }
    }
}

/// Whether the loader thread is at a job.
pub(crate) fn is_at_work() -> bool {
    LOADER.present.lock().is_some()
}

/// The error for a loader thread that has been at one job for too long.
pub(crate) fn stuck() -> Option<KernelError> {
    let present = LOADER.present.lock();
    let Present { what, since, limit, late, .. } = present.as_ref()?;
    (*late || since.elapsed() >= *limit).then(|| {
        KernelError::LoaderStuck(format!("{what} has not ended for {} s", since.elapsed().as_secs()))
    })
}
