//! What one generation has been lent, and by whom: the context behind the table that a plugin gets.
//!
//! Everything lent is listed: subscriptions, tasks, host futures, spans. Revoking closes all of it; after
//! that every function of the table answers "closed".

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use oxide_plugin_api::{Envelope, Filter};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::{
    frames::{self, Frame},
    gate::{Gate, Pass},
    log::LogSink,
};
use crate::error::Result;

/// A future of the host's that is lent or run.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the host does for a plugin. The rooms above implement it; the boundary knows neither bus nor
/// runtime.
pub(crate) trait Services: Send + Sync {
    /// Publishes; the envelope's source is already the module's id.
    fn publish(&self, envelope: Envelope) -> BoxFuture<Result<()>>;
    /// Sends a command and waits for its answer.
    fn request(&self, envelope: Envelope, limit: Duration) -> BoxFuture<Result<Envelope>>;
    /// Subscribes.
    fn subscribe(&self, filter: Filter) -> Arc<dyn LentSubscription>;
    /// Ready after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<()>;
    /// Runs a future on the host's own threads.
    fn spawn(&self, task: BoxFuture<()>);
    /// Runs a short piece of work on a thread that may run plugin code.
    fn run(&self, work: Box<dyn FnOnce() + Send>);
}

/// A subscription that a plugin reads from.
pub(crate) trait LentSubscription: Send + Sync {
    /// The next message; `None` when it is closed.
    fn receive(&self) -> BoxFuture<Option<Envelope>>;
    /// How many messages it missed.
    fn missed(&self) -> u64;
    /// Ends it; a waiting `receive` gives `None`.
    fn close(&self);
}

/// Something lent that can be taken back.
pub(crate) trait Revocable: Send + Sync {
    /// Takes it back. Called under a ticket, on a thread that may run plugin code.
    fn revoke(&self);
}

/// In which phase of its life a generation is, as far as its tasks are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// `configure` and `init`: tasks live until the unload.
    Init = 0,
    /// From `start` on: tasks live until `stop`.
    Run = 1,
}

/// The context that a plugin's table comes with. It lives as long as the library is mapped.
pub(crate) struct Lending {
    /// The module's id: the package's name until the module has said its own.
    module: RwLock<Arc<str>>,
    /// The module's number, as in [`Frame`].
    pub(crate) module_number: u64,
    /// The generation's number, as in [`Frame`].
    pub(crate) generation: u64,
    pub(crate) services: Arc<dyn Services>,
    pub(crate) log: LogSink,
    /// Counts everything inside but calls: hooks, polls of tasks, wakers, drops.
    pub(crate) work: Gate<1>,
    phase: AtomicU8,
    closed: AtomicBool,
    next: AtomicU64,
    subscriptions: Mutex<HashMap<u64, Arc<dyn LentSubscription>>>,
    tasks: Mutex<HashMap<u64, Arc<TaskControl>>>,
    futures: Mutex<HashMap<u64, Weak<dyn Revocable>>>,
    /// Told whenever a task has ended.
    task_ended: Notify,
}

/// A ticket for anything but a call.
pub(crate) struct WorkTicket {
    lending: Arc<Lending>,
    pass: Pass,
}

impl WorkTicket {
    pub(crate) fn lending(&self) -> &Arc<Lending> {
        &self.lending
    }
}

impl Drop for WorkTicket {
    fn drop(&mut self) {
        self.lending.work.leave(self.pass);
    }
}

/// One task of a plugin's.
pub(crate) struct TaskControl {
    pub(crate) phase: Phase,
    pub(crate) cancelled: AtomicBool,
    /// Wakes the task so that it sees that it is cancelled.
    pub(crate) waker: Mutex<Option<std::task::Waker>>,
}

impl TaskControl {
    /// Ends the task at its next suspension.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, SeqCst);
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Lending {
    pub(crate) fn new(
        module: Arc<str>,
        module_number: u64,
        generation: u64,
        number: u64,
        services: Arc<dyn Services>,
    ) -> Arc<Self> {
        let work = Gate::shut_from_the_start();
        work.open();
        Arc::new(Self {
            log: LogSink::new(module.clone(), number),
            module: RwLock::new(module),
            module_number,
            generation,
            services,
            work,
            phase: AtomicU8::new(Phase::Init as u8),
            closed: AtomicBool::new(false),
            next: AtomicU64::new(1),
            subscriptions: Mutex::default(),
            tasks: Mutex::default(),
            futures: Mutex::default(),
            task_ended: Notify::new(),
        })
    }

    /// The module's id.
    pub(crate) fn module(&self) -> Arc<str> {
        self.module.read().clone()
    }

    /// The id is known now.
    pub(crate) fn set_module(&self, module: Arc<str>) {
        self.log.rename(module.clone());
        *self.module.write() = module;
    }

    /// A ticket to run this generation's code; `None` once it is sealed.
    pub(crate) fn ticket(self: &Arc<Self>) -> Option<WorkTicket> {
        self.work.enter().map(|pass| WorkTicket { lending: self.clone(), pass })
    }

    /// Runs plugin code of this generation, under the caller's ticket, so that it is known whose it is.
    pub(crate) fn within<R>(&self, body: impl FnOnce() -> R) -> R {
        super::log::refresh_level();
        frames::within(
            Frame { module: self.module_number, generation: self.generation, is_call: false },
            body,
        )
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.phase.load(SeqCst) == Phase::Init as u8 { Phase::Init } else { Phase::Run }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, SeqCst);
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, SeqCst)
    }

    pub(crate) fn add_subscription(&self, subscription: Arc<dyn LentSubscription>) -> Option<u64> {
        let number = self.number();
        self.subscriptions.lock().insert(number, subscription);
        // Revoked in between: whoever closed may have looked before we inserted.
        if self.is_closed() {
            self.end_subscription(number);
            return None;
        }
        Some(number)
    }

    pub(crate) fn subscription(&self, number: u64) -> Option<Arc<dyn LentSubscription>> {
        self.subscriptions.lock().get(&number).cloned()
    }

    pub(crate) fn end_subscription(&self, number: u64) {
        let ended = self.subscriptions.lock().remove(&number);
        if let Some(subscription) = ended {
            subscription.close();
        }
    }

    /// Lists a task; `None` when the generation takes no more.
    pub(crate) fn add_task(&self, phase: Phase) -> Option<(u64, Arc<TaskControl>)> {
        let control =
            Arc::new(TaskControl { phase, cancelled: AtomicBool::new(false), waker: Mutex::new(None) });
        let number = self.number();
        self.tasks.lock().insert(number, control.clone());
        if self.is_closed() {
            // Whoever ends the tasks may have seen this one, and waits for its end.
            self.task_has_ended(number);
            return None;
        }
        Some((number, control))
    }

    pub(crate) fn task(&self, number: u64) -> Option<Arc<TaskControl>> {
        self.tasks.lock().get(&number).cloned()
    }

    pub(crate) fn task_has_ended(&self, number: u64) {
        self.tasks.lock().remove(&number);
        self.task_ended.notify_waiters();
    }

    /// Ends the tasks of `phase` (and of later phases) and waits until they are gone.
    pub(crate) async fn end_tasks(&self, phase: Phase) -> usize {
        let of_phase = |control: &TaskControl| control.phase as u8 >= phase as u8;
        let mut cancelled = 0;
        loop {
            let ended = self.task_ended.notified();
            // Each time anew: a task may have spawned another before it saw that it is to end.
            let left: Vec<_> = {
                let tasks = self.tasks.lock();
                tasks.values().filter(|control| of_phase(control)).cloned().collect()
            };
            if left.is_empty() {
                return cancelled;
            }
            for control in left.iter().filter(|control| !control.cancelled.load(SeqCst)) {
                control.cancel();
                cancelled += 1;
            }
            ended.await;
        }
    }

    pub(crate) fn add_future(&self, future: &Arc<impl Revocable + 'static>) -> u64 {
        let number = self.number();
        let weak: Weak<dyn Revocable> = Arc::downgrade(&(future.clone() as Arc<dyn Revocable>));
        self.futures.lock().insert(number, weak);
        number
    }

    pub(crate) fn remove_future(&self, number: u64) {
        self.futures.lock().remove(&number);
    }

    /// From now on the table answers "closed".
    pub(crate) fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Takes back everything but tasks; tells how many things were still out. To be called after `close`,
    /// under a ticket, on a thread that may run plugin code.
    pub(crate) fn revoke(&self) -> usize {
        let subscriptions: Vec<_> = self.subscriptions.lock().drain().collect();
        for (_, subscription) in &subscriptions {
            subscription.close();
        }
        let futures: Vec<_> = self.futures.lock().drain().collect();
        let futures: Vec<_> = futures.iter().filter_map(|(_, future)| future.upgrade()).collect();
        for future in &futures {
            future.revoke();
        }
        subscriptions.len() + futures.len() + self.log.revoke()
    }

    /// Whether nothing is out that taking back could run plugin code for.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding() == (0, 0) && self.log.open_spans() == 0
    }

    /// What is still out, as (tasks, subscriptions and futures).
    pub(crate) fn outstanding(&self) -> (usize, usize) {
        (self.tasks.lock().len(), self.subscriptions.lock().len() + self.futures.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Wake, Waker},
    };

    use super::*;

    struct Nothing;

    impl Services for Nothing {
        fn publish(&self, _: Envelope) -> BoxFuture<Result<()>> {
            Box::pin(std::future::pending())
        }
        fn request(&self, _: Envelope, _: Duration) -> BoxFuture<Result<Envelope>> {
            Box::pin(std::future::pending())
        }
        fn subscribe(&self, _: Filter) -> Arc<dyn LentSubscription> {
            unreachable!("no test subscribes")
        }
        fn sleep(&self, _: Duration) -> BoxFuture<()> {
            Box::pin(std::future::pending())
        }
        fn spawn(&self, _: BoxFuture<()>) {}
        fn run(&self, _: Box<dyn FnOnce() + Send>) {}
    }

    /// A task that, told to end, spawns another and then ends.
    struct SpawnsAnother {
        lending: Arc<Lending>,
        number: u64,
        spawned: Mutex<Option<(u64, Arc<TaskControl>)>>,
    }

    impl Wake for SpawnsAnother {
        fn wake(self: Arc<Self>) {
            *self.spawned.lock() = self.lending.add_task(Phase::Run);
            self.lending.task_has_ended(self.number);
        }
    }

    #[test]
    fn a_task_that_an_ending_task_has_spawned_is_ended_too() {
        let lending = Lending::new("one".into(), 1, 2, 1, Arc::new(Nothing));
        let (number, control) = lending.add_task(Phase::Run).unwrap();
        let spawner = Arc::new(SpawnsAnother { lending: lending.clone(), number, spawned: Mutex::new(None) });
        *control.waker.lock() = Some(Waker::from(spawner.clone()));

        let mut end = pin!(lending.end_tasks(Phase::Run));
        let mut poll = || end.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let _ = poll();
        let (number, another) = spawner.spawned.lock().take().unwrap();
        assert!(another.cancelled.load(SeqCst));
        lending.task_has_ended(number);
        assert_eq!(poll(), Poll::Ready(2));
    }

    /// A task that comes too late is not listed, and nobody waits for it.
    #[test]
    fn a_task_refused_because_all_is_closed_keeps_nobody_waiting() {
        let lending = Lending::new("one".into(), 1, 2, 1, Arc::new(Nothing));
        let told = lending.task_ended.notified();
        lending.close();
        assert!(lending.add_task(Phase::Init).is_none());
        let mut told = pin!(told);
        assert!(told.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(lending.outstanding(), (0, 0));
    }
}
