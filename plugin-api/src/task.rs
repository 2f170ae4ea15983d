//! Work beside the hooks, on the host's threads.
//!
//! A task belongs to the phase that spawned it: one spawned in `configure` or `init` (or by such a task)
//! lives until the unload, any other until `stop`. The host ends it at its next suspension.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::ffi::{
    future::Lent,
    host::{Host, attached, no_host},
};

/// Runs `future` on the host's threads. Dropping the handle lets it run on by itself.
///
/// # Panics
/// When no host is attached.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let host = attached().unwrap_or_else(|| panic!("{}", no_host()));
    let shared = Arc::new(Shared(Mutex::new(Slot { output: None, ended: false, waker: None })));
    // The guard tells the handle also when the task panics, or is dropped before it has ended.
    let guard = EndGuard(shared.clone());
    let result = shared.clone();
    let task = async move {
        let output = future.await;
        result.lock().output = Some(output);
    };
    let id = host.spawn(task, guard);
    JoinHandle { host, id, shared }
}

/// Ready after `duration`, kept by the host's clock.
///
/// # Panics
/// When no host is attached.
pub fn sleep(duration: Duration) -> Sleep {
    let host = attached().unwrap_or_else(|| panic!("{}", no_host()));
    Sleep(host.sleep(duration))
}

/// What [`sleep`] gives.
pub struct Sleep(Lent<()>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sleep")
    }
}

/// A task's handle: a future of its output, `None` when the task was ended or panicked.
pub struct JoinHandle<T> {
    host: Host,
    id: Option<u64>,
    shared: Arc<Shared<T>>,
}

impl<T> JoinHandle<T> {
    /// Ends the task at its next suspension.
    pub fn abort(&self) {
        if let Some(id) = self.id {
            self.host.abort(id);
        }
    }

    /// Whether it has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.shared.lock().ended
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.shared.lock();
        if slot.ended {
            return Poll::Ready(slot.output.take());
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

struct Shared<T>(Mutex<Slot<T>>);

struct Slot<T> {
    output: Option<T>,
    ended: bool,
    waker: Option<Waker>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct EndGuard<T>(Arc<Shared<T>>);

impl<T> Drop for EndGuard<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.0.lock();
            slot.ended = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
