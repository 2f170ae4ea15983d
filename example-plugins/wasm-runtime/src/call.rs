//! One call: from its turn to its end, with its caller or without.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use oxide_plugin_api::{Error, Payload, Result, task, tracing};

use crate::{
    instance::Instance,
    life::Shared,
    turns::{Turn, Turns, Wait},
};

/// A call that is inside. It owns all it needs.
pub(crate) type Call = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// Gives the instance back, which has what the call came to; an error when there was none and none could be made.
pub(crate) type Answered = std::result::Result<Instance, Box<Error>>;

/// `Box::pin` of a future that is large and empty yet: it is made in its box, which is there before it, and not copied
/// there.
macro_rules! in_place {
    ($future:expr) => {{
        let boxed = Box::write(Box::new_uninit(), $future);
        Box::into_pin(boxed)
    }};
}
pub(crate) use in_place;

/// What a guest said to a call.
pub(crate) enum Said {
    Reply(Payload),
    /// Without its name, which the caller has.
    NoSuchMethod,
}

/// What a caller polls: small, so that it lies where the host wants it to, and the call itself in a box.
///
/// When the caller goes away while the call is inside, that goes on without: a half-done call would cost the guest its
/// state, and a caller's patience must not.
pub(crate) struct Invocation<'a, 'm>(State<'a, 'm>);

enum State<'a, 'm> {
    /// It is to be polled for the first time.
    New {
        shared: &'a Arc<Shared>,
        method: &'m str,
        payload: Payload,
    },
    /// Somebody else is inside.
    Waiting {
        wait: Wait<'a, Instance>,
        shared: &'a Arc<Shared>,
        method: &'m str,
        payload: Payload,
    },
    Inside {
        call: Call,
        turn: Turn<Instance, &'a Turns<Instance>>,
        shared: &'a Arc<Shared>,
        method: &'m str,
    },
    /// There is no guest.
    Refused(Error),
    Ended,
}

impl<'a, 'm> Invocation<'a, 'm> {
    pub(crate) fn new(shared: &'a Arc<Shared>, method: &'m str, payload: Payload) -> Self {
        Self(State::New { shared, method, payload })
    }

    pub(crate) fn refused(why: Error) -> Self {
        Self(State::Refused(why))
    }

    /// Polls a call that is inside.
    #[inline(always)]
    fn inside(
        &mut self,
        shared: &'a Arc<Shared>,
        method: &'m str,
        mut turn: Turn<Instance, &'a Turns<Instance>>,
        mut call: Call,
        context: &mut Context<'_>,
    ) -> Poll<Result<Payload>> {
        match shared.within(|| call.as_mut().poll(context)) {
            Poll::Ready(ended) => Poll::Ready(match shared.ended(&mut turn.kept, ended) {
                Ok(Said::Reply(reply)) => Ok(reply),
                Ok(Said::NoSuchMethod) => Err(Error::unknown_method(method)),
                Err(why) => Err(why),
            }),
            Poll::Pending => {
                self.0 = State::Inside { call, turn, shared, method };
                Poll::Pending
            }
        }
    }
}

impl Future for Invocation<'_, '_> {
    type Output = Result<Payload>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.0, State::Ended) {
            State::New { shared, method, payload } => match shared.turns.now() {
                Some(mut turn) => {
                    let call = Shared::call(shared, turn.kept.take(), method, payload);
                    self.inside(shared, method, turn, call, context)
                }
                None => {
                    let wait = shared.turns.wait();
                    self.0 = State::Waiting { wait, shared, method, payload };
                    self.poll(context)
                }
            },
            State::Waiting { mut wait, shared, method, payload } => match Pin::new(&mut wait).poll(context) {
                Poll::Ready(mut turn) => {
                    let call = Shared::call(shared, turn.kept.take(), method, payload);
                    self.inside(shared, method, turn, call, context)
                }
                Poll::Pending => {
                    self.0 = State::Waiting { wait, shared, method, payload };
                    Poll::Pending
                }
            },
            State::Inside { call, turn, shared, method } => self.inside(shared, method, turn, call, context),
            State::Refused(why) => Poll::Ready(Err(why)),
            State::Ended => unreachable!("polled after its end"),
        }
    }
}

impl Drop for Invocation<'_, '_> {
    fn drop(&mut self) {
        if matches!(self.0, State::Inside { .. }) {
            self.desert();
        }
    }
}

impl Invocation<'_, '_> {
    #[cold]
    fn desert(&mut self) {
        let State::Inside { call, turn, shared, .. } = std::mem::replace(&mut self.0, State::Ended) else {
            return;
        };
        let kept = shared.clone();
        // Where it is ended in the middle, the call goes before the turn does.
        let mut inside = (call, turn.owned(shared.turns.clone()));
        shared.goes_on_without_its_caller(task::spawn(async move {
            let (call, turn) = &mut inside;
            let ended = poll_fn(|context| kept.within(|| call.as_mut().poll(context))).await;
            if let Err(error) = kept.ended(&mut turn.kept, ended) {
                tracing::debug!("a call whose caller has gone away failed: {error}");
            }
        }));
    }
}
