//! Futures that cross by themselves: lifecycle hooks and tasks (plugin to host), and host futures lent to
//! plugins. async-ffi aborts on a panicking drop or waker, so ours are guarded first.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use async_ffi::{FfiFuture, FutureExt};

use super::{call::report_drop, outcome::FfiOutcome};
use crate::shim::panic::guard;

// What crosses of async-ffi's is not in our sources, of which `describe::SOURCE` is the fingerprint. Of abi_stable, the
// library's header has the version.
const _: () = assert!(async_ffi::ABI_VERSION == 2);

/// A plugin's future that can be polled and dropped by the host: panics become outcomes.
///
/// `R` is what the host gets; `panicked` makes one of a panic's message.
pub(crate) struct Guarded<F, R> {
    /// `None` once it has ended.
    future: Option<Pin<Box<F>>>,
    panicked: fn(String) -> R,
}

impl<F: Future<Output = R>, R> Future for Guarded<F, R> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        let Some(future) = self.future.as_mut() else {
            return Poll::Ready((self.panicked)("polled after it had ended".to_owned()));
        };
        let polled = guard(|| {
            let _runtime = crate::runtime::enter();
            future.as_mut().poll(context)
        });
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => {
                self.release();
                Poll::Ready(value)
            }
            Err(message) => {
                self.release();
                Poll::Ready((self.panicked)(message))
            }
        }
    }
}

impl<F, R> Guarded<F, R> {
    pub(crate) fn new(future: F, panicked: fn(String) -> R) -> Self {
        Self { future: Some(Box::pin(future)), panicked }
    }

    fn release(&mut self) {
        if let Some(future) = self.future.take() {
            report_drop(guard(|| {
                let _runtime = crate::runtime::enter();
                drop(future);
            }));
        }
    }
}

impl<F, R> Drop for Guarded<F, R> {
    fn drop(&mut self) {
        self.release();
    }
}

/// A hook of the plugin's as the host polls it.
pub(crate) fn guarded<R: Send + 'static>(
    future: impl Future<Output = R> + Send + 'static,
    panicked: fn(String) -> R,
) -> FfiFuture<R> {
    Guarded::new(future, panicked).into_ffi()
}

/// A task of the plugin's as the host polls it; a panic goes to the log. `end` is dropped last of all: after
/// the task's own future, and after its panic was told.
pub(crate) fn guarded_task(
    future: impl Future<Output = ()> + Send + 'static,
    end: impl Send + Unpin + 'static,
) -> FfiFuture<()> {
    let task = Guarded::new(future, |message| crate::log::report_panic("a task", &message));
    GuardedTask { task: Some(task), end: Some(end) }.into_ffi()
}

struct GuardedTask<F, E> {
    task: Option<Guarded<F, ()>>,
    end: Option<E>,
}

impl<F: Future<Output = ()>, E: Unpin> Future for GuardedTask<F, E> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(task) = &mut self.task
            && Pin::new(task).poll(context).is_pending()
        {
            return Poll::Pending;
        }
        self.release();
        Poll::Ready(())
    }
}

impl<F, E> GuardedTask<F, E> {
    fn release(&mut self) {
        self.task = None;
        let Some(end) = self.end.take() else { return };
        report_drop(guard(|| {
            let _runtime = crate::runtime::enter();
            drop(end);
        }));
    }
}

impl<F, E> Drop for GuardedTask<F, E> {
    fn drop(&mut self) {
        self.release();
    }
}

/// A future of the host's, lent to this plugin.
pub(crate) struct Lent<T> {
    future: FfiFuture<T>,
    /// The waker last given to the host, in its guarded form, so that a poll with the same waker makes no new one.
    waker: Option<(Waker, Waker)>,
}

impl<T> Lent<T> {
    pub(crate) fn new(future: FfiFuture<T>) -> Self {
        Self { future, waker: None }
    }
}

impl<T> Future for Lent<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let known = this.waker.take().filter(|(original, _)| original.will_wake(context.waker()));
        let (_, guarded) = this.waker.insert(known.unwrap_or_else(|| {
            let original = context.waker().clone();
            (original.clone(), Waker::from(Arc::new(GuardedWaker(Some(original)))))
        }));
        Pin::new(&mut this.future).poll(&mut Context::from_waker(guarded))
    }
}

/// A waker that the host may wake and drop: whatever the plugin's own waker does, it does not unwind.
struct GuardedWaker(Option<Waker>);

impl Wake for GuardedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(waker) = &self.0 {
            report_wake(guard(|| waker.wake_by_ref()));
        }
    }
}

impl Drop for GuardedWaker {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take() {
            report_wake(guard(|| drop(waker)));
        }
    }
}

fn report_wake(woken: Result<(), String>) {
    if let Err(message) = woken {
        crate::log::report_panic("a waker", &message);
    }
}

/// The outcome of a hook that panicked.
pub(crate) fn outcome_of_panic(message: String) -> FfiOutcome {
    FfiOutcome::panicked(message)
}
