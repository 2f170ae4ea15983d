//! One call: from its turn to its end, with its caller or without.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_lock::MutexGuardArc;
use oxide_plugin_api::{Payload, Result, task, tracing};

use crate::{instance::Instance, life::Shared};

/// The instance's slot, for the one whose turn it is.
pub(crate) type Turn = MutexGuardArc<Option<Instance>>;

/// A call that is inside. It owns all it needs.
pub(crate) type Call = Pin<Box<dyn Future<Output = Result<Payload>> + Send>>;

/// What a caller polls: small, so that it lies where the host wants it to, and the call itself in a box.
///
/// When the caller goes away while the call is inside, that goes on without: a half-done call would cost the guest its
/// state, and a caller's patience must not.
pub(crate) struct Invocation<'a> {
    state: State,
    shared: &'a Arc<Shared>,
}

enum State {
    /// Somebody else is inside.
    Waiting {
        turn: Pin<Box<dyn Future<Output = Turn> + Send>>,
        method: String,
        payload: Payload,
    },
    /// It has not been polled yet.
    Ready(Call),
    Inside(Call),
    Ended,
}

impl<'a> Invocation<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, method: &str, payload: Payload) -> Self {
        let method = method.to_owned();
        let state = match shared.slot.try_lock_arc() {
            Some(turn) => State::Ready(shared.clone().call(turn, method, payload)),
            None => {
                let slot = shared.slot.clone();
                State::Waiting { turn: Box::pin(async move { slot.lock_arc().await }), method, payload }
            }
        };
        Self { state, shared }
    }
}

impl Future for Invocation<'_> {
    type Output = Result<Payload>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut call = match std::mem::replace(&mut self.state, State::Ended) {
            State::Waiting { mut turn, method, payload } => match turn.as_mut().poll(context) {
                Poll::Ready(turn) => self.shared.clone().call(turn, method, payload),
                Poll::Pending => {
                    self.state = State::Waiting { turn, method, payload };
                    return Poll::Pending;
                }
            },
            State::Ready(call) | State::Inside(call) => call,
            State::Ended => unreachable!("polled after its end"),
        };
        let polled = call.as_mut().poll(context);
        if polled.is_pending() {
            self.state = State::Inside(call);
        }
        polled
    }
}

impl Drop for Invocation<'_> {
    fn drop(&mut self) {
        let State::Inside(call) = std::mem::replace(&mut self.state, State::Ended) else { return };
        self.shared.goes_on_without_its_caller(task::spawn(async move {
            if let Err(error) = call.await {
                tracing::debug!("a call whose caller has gone away failed: {error}");
            }
        }));
    }
}
