//! Runs one hook on a life thread, with a deadline.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{coordinator, pool};
use crate::{
    boundary::{hooks::HookEnd, lend::BoxFuture},
    kernel,
};

/// How a hook ended, or that it did not.
#[derive(Debug)]
pub(crate) enum HookRun<T> {
    /// In time.
    Ended(HookEnd<T>),
    /// It did not end within its deadline; it was dropped, or will be when it suspends.
    TimedOut,
}

/// The right to have a module's object alone. It goes with the hook, and is free when the hook's future has
/// been dropped.
pub(crate) type Lease = OwnedSemaphorePermit;

/// Runs `hook` on a life thread for at most `limit`. `keep` (a lease, or a ticket) is held until its future
/// is gone, however late that is. Dropped before the end, this gives the hook up as the deadline does.
pub(crate) async fn run<T: Send + 'static>(
    keep: impl Send + Unpin + 'static,
    limit: Duration,
    hook: BoxFuture<HookEnd<T>>,
) -> HookRun<T> {
    let (send, receive) = oneshot::channel();
    let cancel = Arc::new(Cancel::default());
    let _given_up = GiveUp(cancel.clone());
    pool::spawn(Running { hook: Some(hook), cancel, send: Some(send), _keep: keep });
    match kernel::answer(limit, receive).await {
        Some(Ok(end)) => HookRun::Ended(end),
        Some(Err(_)) => HookRun::Ended(HookEnd::Panicked("the hook's thread gave no answer".to_owned())),
        None => HookRun::TimedOut,
    }
}

/// Nobody waits for the hook any more: it ends when it suspends, unless it has ended.
struct GiveUp(Arc<Cancel>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs blocking work on a life thread for at most `limit`; `None` when it is late. What it gives then goes
/// to `late`.
pub(crate) async fn run_blocking<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
    late: impl FnOnce(T) + Send + 'static,
) -> Option<T> {
    let (send, receive) = oneshot::channel();
    pool::run(move || {
        let result = work();
        if let Err(result) = coordinator::answering(|| send.send(result)) {
            late(result);
        }
    });
    kernel::answer(limit, receive).await.and_then(Result::ok)
}

#[derive(Default)]
struct Cancel {
    asked: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Cancel {
    fn cancel(&self) {
        self.asked.store(true, SeqCst);
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Running<T, K> {
    hook: Option<BoxFuture<HookEnd<T>>>,
    cancel: Arc<Cancel>,
    send: Option<oneshot::Sender<HookEnd<T>>>,
    /// Last: given back when the hook is gone.
    _keep: K,
}

impl<T, K: Unpin> Future for Running<T, K> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        *this.cancel.waker.lock() = Some(context.waker().clone());
        if this.cancel.asked.load(SeqCst) {
            this.hook = None;
            return Poll::Ready(());
        }
        let Some(hook) = &mut this.hook else { return Poll::Ready(()) };
        // A foreign hook never unwinds; an in-process one may.
        let end = match catch_unwind(AssertUnwindSafe(|| hook.as_mut().poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(end)) => end,
            Err(payload) => HookEnd::Panicked(panic_message(payload)),
        };
        let hook = this.hook.take();
        // What a hook owns may panic when it is dropped, too.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(hook))) {
            drop(panic_message(payload));
        }
        if let Some(send) = this.send.take() {
            let _ = coordinator::answering(|| send.send(end));
        }
        Poll::Ready(())
    }
}

/// A panic's message; a payload whose own drop panics is left alone.
pub(crate) fn panic_message(payload: Box<dyn std::any::Any + Send>) -> String {
    let message = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    };
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    message
}
