//! Waiting for what will happen. The clock is there only so that a test that fails ends too.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use oxide_host::bus::{Event, Message, Subscription};

/// Nothing in these tests takes so long, on any machine.
const FAR_TOO_LONG: Duration = Duration::from_secs(60);

/// The time between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// The output of `future`.
///
/// # Panics
/// When it does not end.
pub async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(FAR_TOO_LONG, future).await.expect("it ends, and long before this")
}

/// Waits until `is_so`.
///
/// # Panics
/// When it never is.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < FAR_TOO_LONG, "waited in vain until {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits on this very thread until `is_so`.
///
/// # Panics
/// When it never is.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < FAR_TOO_LONG, "waited in vain until {what}");
        thread::sleep(LOOK);
    }
}

/// The next event that `wanted` takes; what comes before it is dropped.
///
/// # Panics
/// When it does not come.
pub async fn next_event(
    subscription: &mut Subscription,
    mut wanted: impl FnMut(&Event) -> bool,
) -> (oxide_host::bus::Envelope, Event) {
    in_time(async {
        loop {
            let envelope = subscription.receiver.recv().await.expect("the bus is there");
            if let Message::Event(event) = &envelope.message
                && wanted(event)
            {
                let event = event.clone();
                return (envelope, event);
            }
        }
    })
    .await
}

/// Runs a future without any runtime: this thread polls it and sleeps in between.
///
/// # Panics
/// When it does not end.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let began = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        assert!(began.elapsed() < FAR_TOO_LONG, "the future never ends");
        thread::park_timeout(FAR_TOO_LONG);
    }
}
