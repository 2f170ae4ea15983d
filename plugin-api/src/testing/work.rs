//! Waiting, time and tasks, without an async runtime: a thread blocks on a future, one thread keeps the
//! time, and each task has a thread of its own, so that a task that blocks holds up nobody.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Condvar, Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use async_ffi::FfiFuture;

use super::{
    context::{Context, Phase},
    lock,
};
use crate::shim::panic::guard;

/// Says that a future wants to be polled. Not the thread's own parking token, which a future that blocks
/// inside another would use up.
#[derive(Default)]
struct Signal {
    given: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn wait(&self) {
        let mut given = lock(&self.given);
        while !*given {
            given = self.changed.wait(given).unwrap_or_else(PoisonError::into_inner);
        }
        *given = false;
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *lock(&self.given) = true;
        self.changed.notify_one();
    }
}

/// Runs a future to its end on this thread.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let signal = Arc::new(Signal::default());
    let waker = Waker::from(signal.clone());
    loop {
        match future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => signal.wait(),
        }
    }
}

type Due = (Instant, u64);

/// Who is to be woken when.
static TIMERS: Mutex<BTreeMap<Due, Waker>> = Mutex::new(BTreeMap::new());
static TIMERS_CHANGED: Condvar = Condvar::new();

/// Ready after a time.
pub(crate) struct Sleep {
    due: Due,
}

impl Sleep {
    pub(crate) fn new(duration: Duration) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        const FAR_AWAY: Duration = Duration::from_secs(60 * 60 * 24 * 365);
        let now = Instant::now();
        let at = now.checked_add(duration).unwrap_or(now + FAR_AWAY);
        Self { due: (at, NEXT.fetch_add(1, Ordering::Relaxed)) }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        static CLOCK: Once = Once::new();
        if self.due.0 <= Instant::now() {
            return Poll::Ready(());
        }
        CLOCK.call_once(|| {
            thread::Builder::new()
                .name("oxide-test-clock".to_owned())
                .spawn(keep_time)
                .expect("a thread for the test host's clock");
        });
        let before = lock(&TIMERS).insert(self.due, context.waker().clone());
        TIMERS_CHANGED.notify_one();
        // A waker's drop may run anything, so not under the lock.
        drop(before);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let waker = lock(&TIMERS).remove(&self.due);
        drop(waker);
    }
}

fn keep_time() {
    let mut timers = lock(&TIMERS);
    loop {
        let now = Instant::now();
        timers = match timers.first_key_value().map(|(due, _)| due.0) {
            None => TIMERS_CHANGED.wait(timers).unwrap_or_else(PoisonError::into_inner),
            Some(at) if at > now => {
                TIMERS_CHANGED.wait_timeout(timers, at - now).unwrap_or_else(PoisonError::into_inner).0
            }
            Some(_) => {
                let due = timers.pop_first();
                drop(timers);
                if let Some((_, waker)) = due {
                    let _ = guard(|| waker.wake());
                }
                lock(&TIMERS)
            }
        };
    }
}

/// One task, as others see it.
struct Task {
    context: usize,
    phase: Phase,
    aborted: AtomicBool,
    signal: Arc<Signal>,
}

impl Task {
    fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
        self.signal.wake_by_ref();
    }
}

/// The tasks that have not ended.
static TASKS: Mutex<BTreeMap<u64, Arc<Task>>> = Mutex::new(BTreeMap::new());

/// Runs a task on a thread of its own; `None` when its module is closed.
pub(crate) fn spawn(context: &Arc<Context>, future: FfiFuture<()>) -> Option<u64> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let task = Arc::new(Task {
        context: context.number(),
        phase: context.phase(),
        aborted: AtomicBool::new(false),
        signal: Arc::default(),
    });
    {
        // Under the lock, so that whoever closes the context next finds the task here.
        let mut tasks = lock(&TASKS);
        if context.is_closed() {
            return None;
        }
        tasks.insert(id, task.clone());
    }
    let context = context.clone();
    let ended = Ended(id);
    let run = move || {
        let _ended = ended;
        let _entered = context.enter(task.phase);
        run(&task, future);
    };
    thread::Builder::new().name("oxide-test-task".to_owned()).spawn(run).ok().map(|_| id)
}

/// Polls the task until it ends or is ended.
fn run(task: &Task, mut future: FfiFuture<()>) {
    let waker = Waker::from(task.signal.clone());
    while !task.aborted.load(Ordering::Acquire)
        && Pin::new(&mut future).poll(&mut TaskContext::from_waker(&waker)).is_pending()
    {
        task.signal.wait();
    }
}

/// Strikes the task off the list, also when its thread never came to be.
struct Ended(u64);

impl Drop for Ended {
    fn drop(&mut self) {
        let task = lock(&TASKS).remove(&self.0);
        drop(task);
    }
}

/// Ends a task at its next suspension.
pub(crate) fn abort(id: u64) {
    let task = lock(&TASKS).get(&id).cloned();
    if let Some(task) = task {
        task.abort();
    }
}

/// Ends a module's tasks of these phases and waits for them; `Err` says how many are left.
pub(super) async fn end(
    context: usize,
    phases: impl Fn(Phase) -> bool,
    limit: Duration,
) -> Result<(), usize> {
    let begun = Instant::now();
    loop {
        // Looked up anew each time: a task that is being ended may have spawned another.
        let tasks: Vec<_> = lock(&TASKS)
            .values()
            .filter(|task| task.context == context && phases(task.phase))
            .cloned()
            .collect();
        if tasks.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > limit {
            return Err(tasks.len());
        }
        for task in &tasks {
            task.abort();
        }
        Sleep::new(Duration::from_millis(1)).await;
    }
}
