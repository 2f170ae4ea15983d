//! The life threads: where hooks, tasks and everything else that runs plugin code of its own accord is run.
//!
//! The pool grows whenever all of its threads are busy, so code that blocks holds up nobody else. It
//! belongs to the process, not to a host: work begun here is finished here, whoever is dropped meanwhile.

use std::{
    cell::Cell,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use async_task::Runnable;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{coordinator, hook::panic_message, loader};
use crate::{
    boundary::{gate, residue::threads},
    kernel, sys,
};

/// How long an idle thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// So many threads may be busy or blocked at once; more work than that waits.
const MOST: usize = 512;

/// What a life thread does next.
enum Job {
    /// Runs something that may block.
    Work(Box<dyn FnOnce() + Send>),
    /// Carries on with a task of the host's.
    Step(Runnable),
}

/// A thread that has nothing to do.
struct Sleeper {
    /// The thread's number in the system.
    number: u32,
    work: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    /// How many of them a thread that is about to look for work looks for.
    expected: usize,
    idle: usize,
    /// Those that are at something of the host's own, and will be back.
    back_soon: usize,
    /// Those of the idle ones that sleep. The last is woken first: what it used last is still in its processor's caches, and
    /// those that are not needed get to end.
    sleepers: Vec<Arc<Sleeper>>,
    threads: usize,
    named: u64,
    /// Counts the sweeps.
    sweeps: u64,
    /// One of the idle ones does not sleep yet.
    lingers: bool,
}

impl State {
    fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
        QUEUED.store(self.jobs.len(), SeqCst);
    }

    /// Counts one more thread, and names it.
    fn next_name(&mut self) -> String {
        self.threads += 1;
        self.named += 1;
        format!("oxide-life-{}", self.named)
    }

    /// Whether there is an idle thread for each job that none looks for, and for as many `more`.
    fn has_idle(&self, more: usize) -> bool {
        self.idle + self.expected >= self.jobs.len() + more
    }

    /// Tells an idle thread of a new job.
    fn tell(&mut self) {
        // One that lingers looks at the queue before it sleeps.
        if (!self.lingers || self.jobs.len() > 1)
            && let Some(sleeper) = self.sleepers.pop()
        {
            sleeper.work.notify_one();
        }
    }
}

/// How many jobs wait, for those who look without the lock.
static QUEUED: AtomicUsize = AtomicUsize::new(0);

static STATE: Mutex<State> = Mutex::new(State {
    jobs: VecDeque::new(),
    expected: 0,
    idle: 0,
    back_soon: 0,
    sleepers: Vec::new(),
    threads: 0,
    named: 0,
    sweeps: 0,
    lingers: false,
});

/// Runs `job` on a life thread, soon.
pub(crate) fn run(job: impl FnOnce() + Send + 'static) {
    let mut state = STATE.lock();
    state.push(Job::Work(Box::new(job)));
    if coordinator::takes_next_job() {
        state.expected += 1;
        return;
    }
    if state.has_idle(0) {
        state.tell();
        return;
    }
    if state.threads >= MOST {
        return;
    }
    let name = state.next_name();
    drop(state);
    start(name, || {
        prepare_thread();
        serve();
    });
}

fn start(name: String, serve: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name).spawn(serve) {
        STATE.lock().threads -= 1;
        tracing::error!(%error, "no thread for a module's work; it waits for one of the others");
    }
}

fn prepare_thread() {
    kernel::prepare_thread();
    gate::prepare_thread();
    coordinator::prepare_thread();
}

/// Does something of the host's own on this life thread, which takes no more than the disk takes for it.
pub(super) fn back_soon<R>(work: impl FnOnce() -> R) -> R {
    struct Back;

    impl Drop for Back {
        fn drop(&mut self) {
            STATE.lock().back_soon -= 1;
        }
    }

    STATE.lock().back_soon += 1;
    // Also when the work panics: else no thread would be made ready any more.
    let _back = Back;
    work()
}

/// Makes sure that there is another life thread, which has nothing to do or is back soon, unless there are too many already.
pub(super) fn ready_another() {
    let mut state = STATE.lock();
    if state.has_idle(1_usize.saturating_sub(state.back_soon)) || state.threads >= MOST {
        return;
    }
    let name = state.next_name();
    drop(state);
    let (ready, is_ready) = mpsc::channel::<()>();
    start(name, move || {
        prepare_thread();
        drop(ready);
        serve();
    });
    // Nothing is sent: it is over when the thread, or the attempt to start one, has dropped its end.
    let _ = is_ready.recv();
}

/// Runs `job` on a life thread that has nothing to do, if another has nothing to do either; tells whether it does.
pub(super) fn run_if_calm(job: impl FnOnce() + Send + 'static) -> bool {
    let mut state = STATE.lock();
    if !state.has_idle(2) {
        return false;
    }
    state.push(Job::Work(Box::new(job)));
    state.tell();
    true
}

/// Has a life thread that has nothing to do carry on with a task; gives it back when there is none.
pub(super) fn offer(task: Runnable) -> Result<(), Runnable> {
    let mut state = STATE.lock();
    if !state.has_idle(1) {
        return Err(task);
    }
    state.push(Job::Step(task));
    state.tell();
    Ok(())
}

/// Polls `future` on life threads until it ends.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    let (runnable, task) = async_task::spawn(future, |runnable: Runnable| {
        run(move || {
            runnable.run();
        });
    });
    runnable.schedule();
    task.detach();
}

/// Has each life thread run what it owes to generations that are leaving: of `debtors` (their numbers in the system) the
/// idle ones at once, the others when they are done with their work. Whoever owes nothing sleeps on: to wake all would make
/// all of them the one that slept last in turn, and those that are not needed would never end.
pub(crate) fn sweep(debtors: &[u32]) {
    let mut state = STATE.lock();
    state.sweeps += 1;
    for sleeper in state.sleepers.extract_if(.., |sleeper| debtors.contains(&sleeper.number)) {
        sleeper.work.notify_one();
    }
}

thread_local! {
    static LATER: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Has this life thread do something after the task that waits for its present work, unless that goes on with more: then
/// another one does it.
pub(super) fn later(work: fn()) {
    LATER.set(Some(work));
}

fn serve() {
    let own = Arc::new(Sleeper { number: sys::threads::own_number(), work: Condvar::new() });
    let (mut swept, mut is_expected) = (0, false);
    loop {
        let mut lingered = false;
        let job = {
            let mut state = STATE.lock();
            state.expected -= usize::from(is_expected);
            loop {
                if let Some(job) = state.jobs.pop_front() {
                    QUEUED.store(state.jobs.len(), SeqCst);
                    break Some(job);
                }
                if state.sweeps != swept {
                    swept = state.sweeps;
                    break None;
                }
                state.idle += 1;
                if !lingered && !state.lingers {
                    lingered = true;
                    state.lingers = true;
                    MutexGuard::unlocked(&mut state, || kernel::linger(|| QUEUED.load(SeqCst) > 0));
                    state.lingers = false;
                    state.idle -= 1;
                    continue;
                }
                state.sleepers.push(own.clone());
                let timed_out = own.work.wait_for(&mut state, IDLE).timed_out();
                state.idle -= 1;
                state.sleepers.retain(|sleeper| !Arc::ptr_eq(sleeper, &own));
                // As long as the loader is at work, who knows for how long, a new thread may have to wait for it.
                if timed_out && state.jobs.is_empty() && !loader::is_at_work() {
                    state.threads -= 1;
                    return;
                }
            }
        };
        is_expected = match job {
            Some(Job::Work(work)) => {
                run_work(work);
                coordinator::carry_on(None)
            }
            Some(Job::Step(task)) => coordinator::carry_on(Some(task)),
            None => false,
        };
        while let Some(work) = LATER.take() {
            if is_expected {
                run(work);
            } else {
                run_work(work);
                is_expected = coordinator::carry_on(None);
            }
        }
        // Destructors may take their time, and nobody else has been told of the job that waits.
        if !is_expected {
            threads::flush_if_asked();
        }
    }
}

fn run_work(work: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
        // The payload's own drop may panic, too: it must not take the thread along.
        let message = panic_message(payload);
        tracing::error!(message, "work on a life thread panicked; the thread goes on");
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    #[test]
    fn work_that_blocks_holds_up_nobody() {
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = std::sync::Arc::new(Mutex::new(blocked));
        let (done, ended) = mpsc::channel();
        for _ in 0..20 {
            let blocked = blocked.clone();
            run(move || {
                let _ = blocked.lock().recv();
            });
        }
        run(move || done.send(()).unwrap());
        ended.recv().unwrap();
        drop(release);
    }

    #[test]
    fn who_is_back_soon_is_counted_no_longer_when_the_work_panics() {
        for panics in [false, true] {
            run_work(|| {
                back_soon(|| {
                    assert!(STATE.lock().back_soon > 0);
                    assert!(!panics, "on purpose");
                });
            });
        }
        // Those of other tests come back, too.
        let since = Instant::now();
        while STATE.lock().back_soon > 0 {
            assert!(since.elapsed() < Duration::from_secs(60), "somebody never comes back");
            thread::yield_now();
        }
    }

    #[test]
    fn a_panic_whose_payload_panics_when_it_is_dropped_does_not_end_the_thread() {
        struct Evil;
        impl Drop for Evil {
            fn drop(&mut self) {
                panic!("the payload's drop, on purpose");
            }
        }
        run_work(|| std::panic::panic_any(Evil));
    }

    #[test]
    fn a_future_is_polled_again_when_it_is_woken() {
        let (send, receive) = tokio::sync::oneshot::channel();
        let (done, ended) = mpsc::channel();
        spawn(async move { done.send(receive.await.unwrap()).unwrap() });
        send.send(5).unwrap();
        assert_eq!(ended.recv().unwrap(), 5);
    }
}
