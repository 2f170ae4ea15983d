//! Has the living threads run what they owe a generation that is leaving: each by itself, nobody's thread held
//! up for it.
//!
//! Life threads come by when they are told to. Whoever waits for a verb runs what its own
//! thread owes ([`attend`]). Threads of a tokio runtime, of which there is one wherever a plugin's future was
//! polled by somebody's worker, get short tasks; all others come by with their next call.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Notify,
};

use super::{coordinator, hook::panic_message, pool};
use crate::{
    boundary::residue::{CHANGED, Nudge, Residue, threads},
    kernel,
};

/// The pause after the first round of nudges; it doubles from round to round.
const PAUSE: Duration = Duration::from_micros(500);
/// Short: of the idle threads of a blocking pool each job reaches the one that has been idle for longest, and the
/// one that is meant may be the last of many.
const LONGEST_PAUSE: Duration = Duration::from_millis(3);

/// So much later it is tried with jobs for blocking pools, which may have to make threads for them.
const BLOCKING_AFTER: Duration = Duration::from_millis(2);

/// The longest that a nudge keeps a worker, so that another worker takes the next one.
const KEPT: Duration = Duration::from_micros(200);

/// Tells those who wait for a verb that threads are asked to come by, or that the end is near.
static ATTENDED: Notify = Notify::const_new();

/// How long whoever waits for a verb waits awake, when its end is said to be near.
const NEAR_END: Duration = Duration::from_micros(200);

/// How many wait for a verb.
static ATTENDING: AtomicUsize = AtomicUsize::new(0);

/// The end of what the only one waits for is near.
static NEAR: AtomicBool = AtomicBool::new(false);

/// Has all threads run what they owe, for at most `patience`; tells whether nothing is owed any more. Who has
/// not come by is still asked to.
pub(crate) async fn flush(residue: &Arc<Residue>, patience: Duration) -> bool {
    if residue.locals() == 0 {
        return true;
    }
    residue.ask();
    let since = Instant::now();
    let mut pause = PAUSE;
    let mut errands = HashMap::new();
    loop {
        nudge(residue, pause >= BLOCKING_AFTER, &mut errands);
        let left = patience.saturating_sub(since.elapsed());
        if kernel::within(pause.min(left), nothing_owed(residue)).await.is_some() {
            return true;
        }
        if left.is_zero() {
            return false;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// `errands` are those of earlier rounds: a runtime that has not done its last one yet gets no other, which might
/// make it start threads.
fn nudge(residue: &Arc<Residue>, blocking: bool, errands: &mut HashMap<u64, Weak<()>>) {
    let debtors = residue.debtors();
    let numbers: Vec<u32> = debtors.threads.iter().map(|(number, _)| *number).collect();
    pool::sweep(&numbers);
    ATTENDED.notify_waiters();
    for (nudge, threads) in debtors.nudges {
        let last = errands.entry(nudge.identity()).or_default();
        if last.strong_count() > 0 {
            continue;
        }
        let errand = Arc::new(());
        // tokio panics when the system gives it no thread for blocking work.
        let nudged = catch_unwind(AssertUnwindSafe(|| nudge.nudge(threads, blocking, &errand)));
        if let Err(payload) = nudged {
            let message = panic_message(payload);
            tracing::warn!(message, "a runtime's threads cannot be asked to come by");
        }
        *last = Arc::downgrade(&errand);
    }
}

async fn nothing_owed(residue: &Residue) {
    loop {
        let changed = CHANGED.notified();
        if residue.locals() == 0 {
            return;
        }
        changed.await;
    }
}

/// Waits for `future`, and meanwhile runs what the thread that waits owes. When the end is near, it waits awake.
pub(crate) async fn attend<T>(future: impl Future<Output = T>) -> T {
    let _attending = Attending::begin();
    let owing = async {
        loop {
            let told = ATTENDED.notified();
            threads::flush_if_asked();
            told.await;
        }
    };
    let mut future = pin!(future);
    let awake = poll_fn(|context| {
        let mut polled = future.as_mut().poll(context);
        if polled.is_pending() && !coordinator::is_in_step() && NEAR.swap(false, SeqCst) {
            kernel::stay_awake(NEAR_END, || {
                threads::flush_if_asked();
                polled = future.as_mut().poll(context);
                polled.is_ready()
            });
        }
        polled
    });
    tokio::select! {
        biased;
        result = awake => result,
        () = owing => unreachable!("a loop without an end"),
    }
}

/// Somebody who waits for a verb, and not within another one.
struct Attending(bool);

impl Attending {
    fn begin() -> Self {
        let counts = !coordinator::is_in_step();
        if counts && ATTENDING.fetch_add(1, SeqCst) == 0 {
            // What was said of the last one may have come too late.
            NEAR.store(false, SeqCst);
        }
        Self(counts)
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        if self.0 {
            ATTENDING.fetch_sub(1, SeqCst);
        }
    }
}

/// Wakes the one who waits for a verb, a moment before its end: waking takes as long as what is left to do. Nobody is
/// told where several wait, since nobody knows for whom it is.
pub(crate) fn end_is_near() {
    if ATTENDING.load(SeqCst) == 1 {
        NEAR.store(true, SeqCst);
        ATTENDED.notify_waiters();
    }
}

/// Runs what the calling thread owes.
pub(crate) fn come_by() {
    threads::flush_if_asked();
}

/// A runtime whose threads have run plugin code.
struct Runtime(Handle);

/// The runtime that the calling thread is in.
pub(crate) fn present_runtime() -> Option<Arc<dyn Nudge>> {
    Some(Arc::new(Runtime(Handle::try_current().ok()?)))
}

impl Nudge for Runtime {
    fn nudge(&self, threads: usize, blocking: bool, errand: &Arc<()>) {
        if self.0.runtime_flavor() == RuntimeFlavor::CurrentThread {
            let errand = errand.clone();
            self.0.spawn(async move {
                let _errand = errand;
                threads::flush_if_asked();
            });
        } else {
            let workers = self.0.metrics().num_workers();
            let present = Arc::new(AtomicUsize::new(0));
            for _ in 0..workers {
                let (present, errand) = (present.clone(), errand.clone());
                self.0.spawn(async move {
                    let _errand = errand;
                    occupy(&present, workers);
                });
            }
        }
        if !blocking {
            return;
        }
        // Not its workers, or they are busy: one job for each thread of its blocking pool that may owe something.
        let present = Arc::new(AtomicUsize::new(0));
        for _ in 0..threads {
            let (present, errand) = (present.clone(), errand.clone());
            self.0.spawn_blocking(move || {
                let _errand = errand;
                occupy(&present, threads);
            });
        }
    }

    fn identity(&self) -> u64 {
        // Of the form `Id(7)`; there is no number to be had.
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&self.0.id(), &mut hasher);
        std::hash::Hasher::finish(&hasher)
    }
}

/// Runs what this thread owes, and keeps it a moment so that the next of `wanted` tasks goes to another one.
fn occupy(present: &AtomicUsize, wanted: usize) {
    threads::flush_if_asked();
    present.fetch_add(1, SeqCst);
    let since = Instant::now();
    while present.load(SeqCst) < wanted && since.elapsed() < KEPT {
        std::thread::yield_now();
    }
}
