//! Futures that cross by themselves: host futures lent to a plugin, and a plugin's tasks.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering::SeqCst},
    task::{Context, Poll, Wake, Waker},
};

use async_ffi::{FfiFuture, FutureExt};
use parking_lot::Mutex;

use super::lend::{BoxFuture, Lending, Phase, Revocable, TaskControl};

/// Lends a host future to a plugin.
///
/// The host's future is polled with a waker of the host's own. The plugin's waker, whose code is in the
/// plugin, is kept in a slot that is emptied at the unload; `closed` is the answer from then on.
pub(crate) fn lend<T: Send + 'static>(
    lending: &Arc<Lending>,
    future: BoxFuture<T>,
    closed: fn() -> T,
) -> FfiFuture<T> {
    let lent = Arc::new(Lent {
        future: Mutex::new(Some(future)),
        slot: Arc::new(WakerSlot { lending: Arc::downgrade(lending), waker: Mutex::new(None) }),
    });
    let number = lending.add_future(&lent);
    LentFuture { lent, number, lending: lending.clone(), closed }.into_ffi()
}

struct Lent<T> {
    /// `None` once it has ended or was revoked.
    future: Mutex<Option<BoxFuture<T>>>,
    slot: Arc<WakerSlot>,
}

impl<T: Send> Revocable for Lent<T> {
    fn revoke(&self) {
        let future = self.future.lock().take();
        drop(future);
        let waker = self.slot.waker.lock().take();
        if let Some(waker) = waker {
            // So that a task of the plugin's that waits for it sees that it is closed.
            waker.wake();
        }
    }
}

struct LentFuture<T: Send + 'static> {
    lent: Arc<Lent<T>>,
    number: u64,
    lending: Arc<Lending>,
    closed: fn() -> T,
}

impl<T: Send> Future for LentFuture<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if self.lending.is_closed() {
            return Poll::Ready((self.closed)());
        }
        // The plugin's waker, cloned by plugin code while the plugin is polling us: its ticket is ours.
        let waker = context.waker().clone();
        let old = self.lent.slot.waker.lock().replace(waker);
        drop(old);
        let own = Waker::from(self.lent.slot.clone());
        let mut future = self.lent.future.lock();
        let Some(inner) = future.as_mut() else { return Poll::Ready((self.closed)()) };
        let polled = inner.as_mut().poll(&mut Context::from_waker(&own));
        if polled.is_ready() {
            *future = None;
        } else if self.lending.is_closed() {
            // Revoked while we were at it; the revoker may have missed the waker that we just put in.
            return Poll::Ready((self.closed)());
        }
        polled
    }
}

impl<T: Send + 'static> Drop for LentFuture<T> {
    fn drop(&mut self) {
        self.lending.remove_future(self.number);
        let future = self.lent.future.lock().take();
        drop(future);
        // Dropped by plugin code, so under its ticket.
        let waker = self.lent.slot.waker.lock().take();
        drop(waker);
    }
}

/// The host's own waker of a lent future: passes a wake on to the plugin's waker.
struct WakerSlot {
    lending: Weak<Lending>,
    waker: Mutex<Option<Waker>>,
}

impl WakerSlot {
    fn fire(&self, lending: &Arc<Lending>) {
        let Some(_ticket) = lending.ticket() else { return };
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            lending.within(|| waker.wake());
        }
    }
}

impl Wake for WakerSlot {
    fn wake(self: Arc<Self>) {
        let Some(lending) = self.lending.upgrade() else { return };
        if self.waker.lock().is_none() {
            return;
        }
        // Not here: whoever wakes may be a timer or a publisher that must not run plugin code.
        let services = lending.services.clone();
        services.run(Box::new(move || self.fire(&lending)));
    }
}

/// A plugin's task as the host's threads poll it: under a ticket, until it ends or is cancelled.
pub(crate) struct ForeignTask {
    future: Option<FfiFuture<()>>,
    lending: Arc<Lending>,
    number: u64,
    control: Arc<TaskControl>,
}

impl ForeignTask {
    /// Lists and starts a task; gives its number, 0 when the generation takes no more.
    pub(crate) fn spawn(lending: &Arc<Lending>, future: FfiFuture<()>, phase: Phase) -> u64 {
        let Some((number, control)) = lending.add_task(phase) else {
            drop(future);
            return 0;
        };
        let task = Self { future: Some(future), lending: lending.clone(), number, control };
        lending.services.spawn(Box::pin(task));
        number
    }

    fn end(&mut self) {
        if let Some(future) = self.future.take() {
            // A sealed generation's tasks are gone already, so there is a ticket.
            let ticket = self.lending.ticket();
            if ticket.is_some() {
                self.lending.within(|| drop(future));
            } else {
                std::mem::forget(future);
            }
            drop(ticket);
            self.lending.task_has_ended(self.number);
        }
    }
}

impl Future for ForeignTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        *this.control.waker.lock() = Some(context.waker().clone());
        let polled = match (&mut this.future, this.control.cancelled.load(SeqCst), this.lending.ticket()) {
            (Some(future), false, Some(_ticket)) => {
                let outer = TASK_PHASE.replace(Some(this.control.phase));
                let polled = this.lending.within(|| Pin::new(future).poll(context));
                TASK_PHASE.set(outer);
                polled
            }
            _ => Poll::Ready(()),
        };
        if polled.is_ready() {
            this.end();
        }
        polled
    }
}

impl Drop for ForeignTask {
    fn drop(&mut self) {
        self.end();
    }
}

thread_local! {
    /// The phase of the task that this thread is polling: what it spawns belongs to the same.
    static TASK_PHASE: std::cell::Cell<Option<Phase>> = const { std::cell::Cell::new(None) };
}

/// The phase that a task spawned now, on this thread, belongs to.
pub(crate) fn phase_of_spawn(lending: &Lending) -> Phase {
    TASK_PHASE.get().unwrap_or_else(|| lending.phase())
}
