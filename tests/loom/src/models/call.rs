//! Calls that wait, with a plugin's wakers on other threads and an unload that cancels: the whole way, from
//! the route to the receipt of the ticket.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, Wake, Waker},
};

use loom::{
    future::block_on,
    sync::{Arc, Notify},
    thread::{self, JoinHandle, ThreadId},
};
use oxide_plugin_api::Payload;

use super::plugin::Plugin;
use crate::boundary::{
    call::{Callee, ForeignCall, Step},
    module::ForeignModule,
    seat::{Route, Seat, Seats},
};

/// A generation of a foreign module.
struct Generation(ForeignModule);

impl Callee for Generation {
    fn foreign(&self) -> Option<&ForeignModule> {
        Some(&self.0)
    }
}

/// A module that is running.
struct Module {
    seats: Seats<Generation>,
    seat: &'static Seat<Generation>,
    route: Arc<Route<Generation>>,
    generation: Arc<Generation>,
    plugin: std::sync::Arc<Plugin>,
}

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    TurnedAway,
    Replied,
    Cancelled,
}

impl Module {
    fn start(plugin: std::sync::Arc<Plugin>) -> Self {
        let generation = Arc::new(Generation(ForeignModule::new(plugin.target())));
        let seats = Seats::new();
        let seat = seats.take(generation.clone());
        seat.gate().open();
        let route = Arc::new(Route::to(seat));
        // Deals the main thread's slot.
        assert!(route.enter().is_some());
        Self { seats, seat, route, generation, plugin }
    }

    fn caller<R: 'static + Send>(
        &self,
        body: impl FnOnce(&Route<Generation>) -> R + 'static + Send,
    ) -> JoinHandle<R> {
        let route = self.route.clone();
        thread::spawn(move || body(&route))
    }

    /// A thread of the plugin's that finishes its calls.
    fn finisher(&self) -> JoinHandle<()> {
        let plugin = self.plugin.clone();
        thread::spawn(move || finish(&plugin))
    }

    /// Shuts the gate, cancels what waits, and waits for the drain.
    fn cancel(&self) {
        self.seat.gate().shut();
        let calls = self.generation.0.waiting_calls();
        calls.cancel_all(calls.run());
        block_on(self.seat.gate().drained());
    }

    /// What follows a drain: the generation goes, and with it the library.
    fn unload(&self) {
        self.route.close();
        assert!(self.seats.give_back(self.seat), "it is drained");
        self.generation.0.goes();
        self.plugin.goes();
    }
}

/// Has the plugin's call end, and wakes whom it must.
fn finish(plugin: &Plugin) {
    plugin.get_ready();
    if let Some(kept) = plugin.take_kept() {
        kept.wake_by_ref();
    }
}

/// One poll of a call, as the handle does it.
fn poll(mut call: Pin<&mut ForeignCall>, route: &Route<Generation>, context: &mut Context<'_>) -> Poll<End> {
    let step = if call.is_new() {
        let Some(inside) = route.enter() else { return Poll::Ready(End::TurnedAway) };
        call.as_mut().begin(inside, "m", context).unwrap_or(Step::Cancelled)
    } else {
        call.as_mut().poll(context)
    };
    match step {
        Step::Pending => Poll::Pending,
        Step::Replied => {
            drop(call.take_reply());
            Poll::Ready(End::Replied)
        }
        Step::Cancelled => Poll::Ready(End::Cancelled),
        Step::Failed(..) => unreachable!("this plugin never fails"),
    }
}

fn invoke(route: &Route<Generation>) -> impl Future<Output = End> + '_ {
    let mut call = Box::pin(ForeignCall::new(Payload::empty()));
    poll_fn(move |context| poll(call.as_mut(), route, context))
}

/// The plugin wakes from another thread, at any moment of the call: the call ends.
pub fn woken_from_elsewhere() {
    let module = Module::start(Plugin::new(false));
    let caller = module.caller(|route| block_on(invoke(route)));
    finish(&module.plugin);
    assert_eq!(caller.join().expect("it does not panic"), End::Replied);
    module.cancel();
    module.unload();
    drop(module.plugin.take_kept());
}

/// The waker of the first poll is cloned on two threads at once: both have the same slot, and each wakes.
pub fn cloned_on_two_threads() {
    let module = Module::start(Plugin::new(true));
    let caller = module.caller(|route| block_on(invoke(route)));
    finish(&module.plugin);
    assert_eq!(caller.join().expect("it does not panic"), End::Replied);
    module.cancel();
    module.unload();
    drop(module.plugin.take_kept());
}

/// An unload while a call waits that would never end: it is cancelled, whatever it is doing, and nothing of
/// it is left when the plugin goes.
pub fn cancelled() {
    let module = Module::start(Plugin::new(false));
    let caller = module.caller(|route| block_on(invoke(route)));
    module.cancel();
    module.unload();
    assert_ne!(caller.join().expect("it does not panic"), End::Replied);
    drop(module.plugin.take_kept());
}

/// The same, while the plugin finishes the call on a thread of its own: it ends one way or the other.
pub fn cancelled_and_woken() {
    let module = Module::start(Plugin::new(false));
    let caller = module.caller(|route| {
        block_on(invoke(route));
    });
    let finisher = module.finisher();
    module.cancel();
    module.unload();
    let _ = (caller.join(), finisher.join());
    drop(module.plugin.take_kept());
}

/// An unload while the caller drops a call that it has polled once or twice.
pub fn cancelled_and_dropped() {
    let module = Module::start(Plugin::new(false));
    let caller = module.caller(|route| {
        let mut call = Box::pin(invoke(route));
        let mut context = Context::from_waker(Waker::noop());
        let _ = call.as_mut().poll(&mut context).is_ready() || call.as_mut().poll(&mut context).is_ready();
    });
    module.cancel();
    module.unload();
    let _ = caller.join();
    drop(module.plugin.take_kept());
}

/// A caller that polls its call twice and then forgets it holds up no unload; when it is dropped after all,
/// nothing of the plugin is touched.
pub fn cancelled_and_forgotten() {
    let module = Module::start(Plugin::new(false));
    let caller = module.caller(|route| {
        let mut call = Box::pin(ForeignCall::new(Payload::empty()));
        let mut context = Context::from_waker(Waker::noop());
        if poll(call.as_mut(), route, &mut context).is_pending() {
            let _ = poll(call.as_mut(), route, &mut context);
        }
        call
    });
    module.cancel();
    module.unload();
    drop(caller.join().expect("it does not panic"));
    drop(module.plugin.take_kept());
}

/// A cancelling that was asked for in the last run and comes late cancels nothing of the next.
pub fn cancelling_late() {
    let module = Module::start(Plugin::new(false));
    let run = module.generation.0.waiting_calls().run();
    module.seat.gate().shut();
    block_on(module.seat.gate().drained());
    let generation = module.generation.clone();
    let late = thread::spawn(move || {
        generation.0.waiting_calls().cancel_all(run);
    });
    module.generation.0.waiting_calls().reopen();
    module.seat.gate().open();
    let caller = module.caller(|route| block_on(invoke(route)));
    finish(&module.plugin);
    assert_eq!(caller.join().expect("it does not panic"), End::Replied);
    let _ = late.join();
    module.cancel();
    module.unload();
    drop(module.plugin.take_kept());
}

/// A caller's task: what wakes it, and on which thread its wakers may be dropped.
struct Task {
    woken: Notify,
    thread: ThreadId,
}

impl Wake for Task {
    fn wake(self: std::sync::Arc<Self>) {
        self.woken.notify();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.woken.notify();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.thread, "dropped by another than the caller");
    }
}

/// A call that moves from one task to another between two polls, while the plugin finishes it and drops its
/// waker: the present task is woken, the caller alone drops its wakers, and none is left after the end.
pub fn moved_to_another_task() {
    let module = Module::start(Plugin::new(false));
    let caller = module.caller(|route| {
        let thread = thread::current().id();
        let [first, second] = [(); 2].map(|()| std::sync::Arc::new(Task { woken: Notify::new(), thread }));
        let mut call = Box::pin(ForeignCall::new(Payload::empty()));
        let waker = Waker::from(first.clone());
        let mut end = poll(call.as_mut(), route, &mut Context::from_waker(&waker));
        drop(waker);
        let waker = Waker::from(second.clone());
        while end.is_pending() {
            end = poll(call.as_mut(), route, &mut Context::from_waker(&waker));
            if end.is_pending() {
                assert_eq!(std::sync::Arc::strong_count(&first), 1, "the old task is still kept");
                second.woken.wait();
            }
        }
        drop(waker);
        for task in [first, second] {
            assert_eq!(std::sync::Arc::strong_count(&task), 1, "a task is kept although its call has ended");
        }
    });
    finish(&module.plugin);
    let _ = caller.join();
    module.cancel();
    module.unload();
    drop(module.plugin.take_kept());
}
