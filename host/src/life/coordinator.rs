//! The host's own tasks: verbs, actors, mailboxes. One of them runs at a time, and none runs plugin code or blocks.
//!
//! Their place is the kernel's thread. But a verb goes from hook to hook, and each change of threads takes longer than
//! most of them: so a life thread that has an answer for a task carries on with the task itself, and then with the hook
//! that this asks for. Whichever thread it is has [`ALONE`], so that tasks are to each other as on one thread.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use async_task::Runnable;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{hook::panic_message, loader, pool};
use crate::{boundary::gate, kernel};

/// Held by the thread that is at the tasks.
static ALONE: Mutex<()> = Mutex::new(());

/// So many steps of tasks a life thread takes in a row; then the others are the kernel's thread's.
const MOST: usize = 64;

/// Where a task that is woken on this thread goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// To the kernel's thread.
    Kernel,
    /// To a life thread that has nothing to do, if there is one.
    Idle,
    /// To this one, which has all but ended its work.
    Here,
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Kernel) };
    /// A life thread's.
    static HERE: RefCell<VecDeque<Runnable>> = const { RefCell::new(VecDeque::new()) };
    static CARRIES_ON: Cell<bool> = const { Cell::new(false) };
    static IN_STEP: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread looks for a life thread's work as soon as it has done its steps.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

/// Restores the place also when what is woken panics.
struct Placed(Place);

impl Placed {
    fn at(place: Place) -> Self {
        Self(PLACE.replace(place))
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        PLACE.set(self.0);
    }
}

/// Makes sure that the kernel's thread runs and that it has what the tasks need there.
pub(crate) fn ready() -> Result<(), String> {
    static PREPARED: Once = Once::new();
    kernel::ready()?;
    PREPARED.call_once(|| {
        kernel::run(gate::prepare_thread);
    });
    Ok(())
}

/// Makes this thread one that may carry on with tasks. Registers what it has in thread-locals, as
/// `kernel::prepare_thread` does.
pub(super) fn prepare_thread() {
    HERE.with_borrow(|_| ());
    CARRIES_ON.set(true);
}

/// Runs a future of the host's to its end, whoever waits for it or no longer does. A panic in it is logged, and whoever
/// waits told.
pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> oneshot::Receiver<T> {
    let (send, receive) = oneshot::channel();
    let work = async move {
        let _ = send.send(future.await);
    };
    let (runnable, task) = async_task::spawn(work, schedule);
    runnable.schedule();
    task.detach();
    receive
}

/// Does something that wakes tasks, from a thread that goes on with work of its own: `ask` something of an actor, begin
/// a verb.
pub(crate) fn asking<T>(wake: impl FnOnce() -> T) -> T {
    let _placed = (PLACE.get() == Place::Kernel).then(|| Placed::at(Place::Idle));
    wake()
}

/// Gives an answer, as the last that a job on a life thread does: the tasks that it wakes run here after the job.
pub(crate) fn answering<T>(wake: impl FnOnce() -> T) -> T {
    let _placed = CARRIES_ON.get().then(|| Placed::at(Place::Here));
    wake()
}

fn schedule(runnable: Runnable) {
    // As long as the loader is at work, who knows for how long, a life thread might have to wait for it: with its first
    // log entry, say. The kernel's thread has all that it needs.
    let place = if loader::is_at_work() { Place::Kernel } else { PLACE.get() };
    match place {
        Place::Here => HERE.with_borrow_mut(|here| here.push_back(runnable)),
        Place::Idle => {
            if let Err(runnable) = pool::offer(runnable) {
                kernel::run(move || step(runnable));
            }
        }
        Place::Kernel => kernel::run(move || step(runnable)),
    }
}

/// One step of a task, on the kernel's thread.
fn step(runnable: Runnable) {
    let _alone = ALONE.lock();
    run(runnable);
}

fn run(runnable: Runnable) {
    IN_STEP.set(true);
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| runnable.run())) {
        let message = panic_message(payload);
        tracing::error!(message, "a task of the host's panicked");
    }
    IN_STEP.set(false);
}

/// Whether the calling thread is at a task of the host's, and must not be kept.
pub(super) fn is_in_step() -> bool {
    IN_STEP.get()
}

/// Runs the tasks that were woken for this life thread; `first` is one that it was given. Tells whether a job waits for
/// it now, of which nobody else knows.
pub(super) fn carry_on(first: Option<Runnable>) -> bool {
    let _placed = Placed::at(Place::Here);
    LOOKS.set(true);
    let mut next = first;
    for _ in 0..MOST {
        let Some(runnable) = next.take().or_else(|| HERE.with_borrow_mut(VecDeque::pop_front)) else { break };
        match ALONE.try_lock() {
            Some(_alone) if !loader::is_at_work() => run(runnable),
            _ => kernel::run(move || step(runnable)),
        }
    }
    for runnable in HERE.take() {
        kernel::run(move || step(runnable));
    }
    !LOOKS.replace(false)
}

/// Whether the calling thread takes the next job of the life threads': then nobody needs to be woken for it. Asked once
/// for each job.
pub(super) fn takes_next_job() -> bool {
    LOOKS.replace(false)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering::SeqCst},
            mpsc,
        },
        thread,
        time::Duration,
    };

    use super::*;
    use crate::life::hook;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn tasks_run_one_at_a_time_wherever_they_are_woken() {
        static INSIDE: AtomicUsize = AtomicUsize::new(0);
        ready().unwrap();
        let tasks: Vec<_> = (0..30)
            .map(|_| {
                spawn(async {
                    for _ in 0..100 {
                        assert_eq!(INSIDE.fetch_add(1, SeqCst), 0);
                        thread::yield_now();
                        INSIDE.fetch_sub(1, SeqCst);
                        // Comes back on the thread that did it, or on the kernel's.
                        hook::run_blocking(LIMIT, || (), drop).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.blocking_recv().expect("it did not panic");
        }
    }

    #[test]
    fn who_waits_for_a_task_that_panics_is_told() {
        ready().unwrap();
        let task = spawn(async { panic!("in a task of the host's, on purpose") });
        let ended: Result<(), _> = task.blocking_recv();
        ended.unwrap_err();
        assert_eq!(spawn(async { 7 }).blocking_recv(), Ok(7));
    }

    #[test]
    fn a_job_that_goes_on_after_it_has_woken_a_task_does_not_hold_it_up() {
        ready().unwrap();
        let (wake, woken) = oneshot::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let task = spawn(woken);
        pool::run(move || {
            wake.send(7).unwrap();
            let _ = goes_on.recv();
        });
        assert_eq!(task.blocking_recv(), Ok(Ok(7)));
        go_on.send(()).unwrap();
    }
}
