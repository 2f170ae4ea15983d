//! What the host lent it, or what belongs to a call, kept where nobody will ever look.

use std::{
    future::{Future, pending, poll_fn},
    mem,
    path::Path,
    pin::Pin,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use oxide_plugin_api::{prelude::*, tracing};
use serde_json::json;
use tokio::sync::mpsc as tokio_mpsc;

use crate::{LOOK, tell};

/// Nobody waits for so long.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

type Kept<T> = Mutex<(T, mpsc::Receiver<String>)>;

static CHANNEL: OnceLock<Kept<mpsc::Sender<String>>> = OnceLock::new();
static TOKIO_CHANNEL: OnceLock<tokio_mpsc::Sender<String>> = OnceLock::new();
static WAITING: Mutex<Vec<Pin<Box<dyn Future<Output = ()> + Send>>>> = Mutex::new(Vec::new());
static WAKERS: Mutex<Vec<Waker>> = Mutex::new(Vec::new());
static SPAN: OnceLock<tracing::Span> = OnceLock::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls a future once, with the waker of whoever calls, and keeps it for good.
async fn poll_and_forget<F: Future + Send + 'static>(future: F) {
    let mut future = Box::pin(future);
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending(), "there was nothing to wait for");
        Poll::Ready(())
    })
    .await;
    mem::forget(future);
}

/// Polls a future once, and keeps it where the library's statics are.
async fn poll_and_keep(future: impl Future<Output = ()> + Send + 'static) {
    let mut future: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(future);
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await;
    lock(&WAITING).push(future);
}

/// Wakes all kept wakers again and again, until the test makes a file at `path`.
pub(crate) fn wake_until(path: &str) {
    tell(path, "inside");
    while !Path::new(path).exists() {
        lock(&WAKERS).iter().for_each(Waker::wake_by_ref);
        thread::sleep(LOOK / 20);
    }
    // Clones of all, so that some are dropped here and some stay for good.
    let clones = lock(&WAKERS).clone();
    clones.into_iter().for_each(Waker::wake);
    tell(path, "ended");
}

pub(crate) async fn perform(bus: &MessageBus, verb: &str, argument: &str) -> Result<Payload> {
    let of_nobody =
        || Command::Invoke { module_id: argument.to_owned(), method: "hang".to_owned(), payload: json!("") };
    match verb {
        "hang" => {
            tell(argument, "inside");
            pending::<()>().await;
        }
        "keep_waker" => {
            tell(argument, "inside");
            poll_fn::<(), _>(|context| {
                lock(&WAKERS).push(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
        "forget_subscription" => {
            let mut subscription = bus.subscribe(Filter::default()).await?;
            mem::forget(bus.subscribe(Filter::default()).await?);
            poll_and_forget(async move { while subscription.receiver.recv().await.is_some() {} }).await;
        }
        "forget_task" => {
            mem::forget(task::spawn(pending::<()>()));
            poll_and_forget(task::spawn(pending::<()>())).await;
        }
        "forget_timer" => {
            mem::forget(task::sleep(FOR_EVER));
            poll_and_forget(task::sleep(FOR_EVER)).await;
        }
        "forget_reply" => {
            let bus = bus.clone();
            let request = of_nobody();
            poll_and_forget(async move { bus.request_within(request, FOR_EVER).await }).await;
        }
        "forget_bus" => mem::forget((bus.clone(), Box::new(bus.clone()))),
        "channels" => {
            let (send, receive) = mpsc::channel();
            send.send("never received".repeat(100))?;
            let (sender, mut receiver) = tokio_mpsc::channel::<String>(4);
            let _ = CHANNEL.set(Mutex::new((send, receive)));
            let _ = TOKIO_CHANNEL.set(sender);
            // Waits for a message with the waker of this call.
            poll_and_keep(async move { while receiver.recv().await.is_some() {} }).await;
        }
        "span" => {
            let span = SPAN.get_or_init(|| tracing::error_span!("kept", argument));
            mem::forget(span.enter());
            mem::forget(tracing::error_span!("forgotten", argument).entered());
        }
        other => return Err(Error::unknown_method(other)),
    }
    Ok(Payload::empty())
}
