//! Who opens and closes libraries: one life thread at a time.
//!
//! Constructors and destructors run under the dynamic loader's lock: one that blocks stops every other
//! load in the process. So there is one queue, watched by a clock: a job that is late is reported, and
//! loading is refused until it returns. Another life thread is ready, or will be soon, before a library is
//! opened or closed, since one that is new has to wait for that lock.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{coordinator, hook::panic_message, pool};
use crate::{
    error::KernelError,
    intake::{NextCopy, StagedFile},
    kernel,
};

/// How long after a load there is time for what nobody waits for.
const CALM: Duration = Duration::from_millis(10);

struct Job {
    /// Whether a library is opened or closed in it.
    loads: bool,
    /// May have a file made ahead, when somebody else can be the loader.
    work: Box<dyn FnOnce() -> Option<NextCopy> + Send>,
}

/// What is being done.
struct Present {
    what: String,
    since: Instant,
    limit: Duration,
    number: u64,
    /// Whoever waited for it has given up.
    late: bool,
}

struct Loader {
    jobs: VecDeque<Job>,
    /// A life thread is at the jobs, or is to be.
    served: bool,
}

static LOADER: Mutex<Loader> = Mutex::new(Loader { jobs: VecDeque::new(), served: false });

static PRESENT: Mutex<Option<Present>> = Mutex::new(None);

/// Whether there is something in [`PRESENT`], for those who look often.
static AT_WORK: AtomicBool = AtomicBool::new(false);

fn set_present(present: Option<Present>) {
    let mut now = PRESENT.lock();
    AT_WORK.store(present.is_some(), SeqCst);
    *now = present;
}

fn submit(job: Job) {
    let mut loader = LOADER.lock();
    loader.jobs.push_back(job);
    if !std::mem::replace(&mut loader.served, true) {
        drop(loader);
        pool::run(serve);
    }
}

/// Does the next job, on a life thread. One at a time: who waits for it carries on here first.
fn serve() {
    let job = LOADER.lock().jobs.pop_front();
    let next = job.and_then(|Job { loads, work }| {
        let work = || catch_unwind(AssertUnwindSafe(work));
        let done = if loads {
            pool::ready_another();
            work()
        } else {
            pool::back_soon(work)
        };
        done.unwrap_or_else(|payload| {
            set_present(None);
            let message = panic_message(payload);
            tracing::error!(message, "work of the loader panicked");
            None
        })
    });
    let mut loader = LOADER.lock();
    loader.served = !loader.jobs.is_empty();
    if loader.served {
        drop(loader);
        if let Some(next) = next.filter(NextCopy::is_unready) {
            // Else the next job that leaves something has it made.
            ready_if_calm(&next);
        }
        pool::later(serve);
    } else if let Some(next) = next {
        drop(loader);
        // Here, where its pages are in the processor's caches when the next copy is made.
        pool::back_soon(|| next.ready());
    }
}

/// Lets go of a copy or of what has one, later, after the jobs up to now, since the disk may take its time. Then a file is
/// made ahead for the `next` one.
pub(crate) fn leave(left: impl Send + 'static, next: Option<NextCopy>) {
    let work = move || {
        drop(left);
        next
    };
    submit(Job { loads: false, work: Box::new(work) });
}

/// Has a file made ahead for the next copy, unless there is one, when there is time for it: a thread that is made for it
/// stays, with what it has touched.
pub(crate) async fn ready_when_calm(next: NextCopy) {
    /// How often that is tried before it is done all the same.
    const TRIES: usize = 100;

    for _ in 0..TRIES {
        kernel::sleep(CALM).await;
        if !next.is_unready() || ready_if_calm(&next) {
            return;
        }
    }
    pool::run(move || pool::back_soon(|| next.ready()));
}

fn ready_if_calm(next: &NextCopy) -> bool {
    let next = next.clone();
    pool::run_if_calm(move || pool::back_soon(|| next.ready()))
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

/// Waits until what was left to do after the jobs up to now is done, too; not if one of them is stuck.
pub(crate) async fn settled(limit: Duration) {
    let is_idle = !LOADER.lock().served;
    if !is_idle {
        let _ = run("settling".to_owned(), limit, || ((), None), drop).await;
    }
}

/// Runs `job` as the loader, which may take until `limit`. `what` names it for the report of a stuck one. The
/// copy that it gives is left, before the next one.
///
/// # Errors
/// [`KernelError::LoaderStuck`] when this job, or the one before it, does not end in time. A late result is
/// given to `late`.
pub(crate) async fn run<T: Send + 'static>(
    what: String,
    limit: Duration,
    job: impl FnOnce() -> (T, Option<StagedFile>) + Send + 'static,
    late: impl FnOnce(T) + Send + 'static,
) -> Result<T, NotRun> {
    if let Some(stuck) = stuck() {
        return Err(NotRun::Refused(stuck));
    }
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    let (send, receive) = oneshot::channel();
    let name = what.clone();
    let work = move || {
        set_present(Some(Present { what: name, since: Instant::now(), limit, number, late: false }));
        let (result, left) = job();
        // Whoever carries on with the result must not take us for being at it.
        set_present(None);
        if let Some(copy) = left {
            let next = copy.next();
            leave(copy, Some(next));
        }
        if let Err(result) = coordinator::answering(|| send.send(result)) {
            late(result);
        }
        None
    };
    submit(Job { loads: true, work: Box::new(work) });
    match kernel::answer(limit, receive).await {
        Some(Ok(result)) => Ok(result),
        Some(Err(_)) => Err(NotRun::Refused(KernelError::Setup(format!("{what} ended without a result")))),
        None => {
            if let Some(present) = PRESENT.lock().as_mut().filter(|present| present.number == number) {
                present.late = true;
            }
            Err(NotRun::Late(stuck().unwrap_or(KernelError::LoaderStuck(what))))
        }
    }
}

/// Whether a library is being opened or closed.
pub(crate) fn is_at_work() -> bool {
    AT_WORK.load(SeqCst)
}

/// The error for a job that has been going on for too long.
pub(crate) fn stuck() -> Option<KernelError> {
    let present = PRESENT.lock();
    let Present { what, since, limit, late, .. } = present.as_ref()?;
    (*late || since.elapsed() >= *limit).then(|| {
        KernelError::LoaderStuck(format!("{what} has not ended for {} s", since.elapsed().as_secs()))
    })
}
