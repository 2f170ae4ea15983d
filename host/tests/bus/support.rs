//! What the bus's tests share.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use oxide_host::bus::{Envelope, Event, Message};
use serde_json::json;

/// An event that can be told apart: the `number`th of `source`.
pub(crate) fn numbered(source: &str, number: u64) -> Envelope {
    let event =
        Event::Custom { module_id: source.to_owned(), kind: "count".to_owned(), payload: json!(number) };
    Envelope::new(source, event)
}

/// The number of a [`numbered`] event.
pub(crate) fn number(envelope: &Envelope) -> u64 {
    match &envelope.message {
        Message::Event(Event::Custom { payload, .. }) => payload.as_u64().expect("a numbered event"),
        other => panic!("not a numbered event: {other:?}"),
    }
}

/// Polls once, on behalf of nobody.
pub(crate) fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The smallest executor there is: no tokio, no timer, one thread that parks.
pub(crate) fn block_on_plain_thread<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Asserts that each source's numbers go up, and counts the messages of each.
#[derive(Default)]
pub(crate) struct OrderCheck(HashMap<String, (u64, u64)>);

impl OrderCheck {
    pub(crate) fn see(&mut self, envelope: &Envelope) {
        let number = number(envelope);
        let (count, next) = self.0.entry(envelope.source.clone()).or_default();
        assert!(number >= *next, "{} sent {number} before {next}", envelope.source);
        *next = number + 1;
        *count += 1;
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }
}
