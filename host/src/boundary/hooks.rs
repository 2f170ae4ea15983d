//! A lifecycle hook of a foreign module as the host polls it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use async_ffi::FfiFuture;
use oxide_plugin_api::{
    Error, ErrorKind, Payload, SavedState,
    ffi::outcome::{FfiOutcome, FfiState, status},
};

use super::lend::WorkTicket;

/// How a hook ended, copied into host memory.
#[derive(Debug)]
pub(crate) enum HookEnd<T> {
    /// It said yes.
    Ok(T),
    /// It said no.
    Failed(Error),
    /// It panicked; the message says where.
    Panicked(String),
}

/// What `save_state` gave.
#[derive(Debug)]
pub(crate) enum Saved {
    /// The module has no state.
    Nothing,
    State(SavedState),
    /// More bytes than are allowed; they were not copied.
    TooLarge(usize),
}

/// A foreign hook: made on its first poll, polled and dropped under one ticket.
pub(crate) struct ForeignHook<R, C> {
    state: State<R>,
    /// Copies into host memory, while the ticket still keeps the plugin's.
    copy: C,
    ticket: WorkTicket,
}

enum State<R> {
    Unmade(Box<dyn FnOnce() -> FfiFuture<R> + Send>),
    Running(FfiFuture<R>),
    Ended,
}

impl<R, C> ForeignHook<R, C> {
    pub(crate) fn new(
        ticket: WorkTicket,
        copy: C,
        make: impl FnOnce() -> FfiFuture<R> + Send + 'static,
    ) -> Self {
        Self { state: State::Unmade(Box::new(make)), copy, ticket }
    }
}

impl<R, T, C: FnMut(R) -> T + Unpin> Future for ForeignHook<R, C> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let lending = this.ticket.lending().clone();
        lending.within(|| {
            if let State::Unmade(_) = this.state
                && let State::Unmade(make) = std::mem::replace(&mut this.state, State::Ended)
            {
                this.state = State::Running(make());
            }
            let State::Running(future) = &mut this.state else { return Poll::Pending };
            let polled = Pin::new(future).poll(context);
            if polled.is_ready() {
                this.state = State::Ended;
            }
            polled.map(&mut this.copy)
        })
    }
}

impl<R, C> Drop for ForeignHook<R, C> {
    fn drop(&mut self) {
        let lending = self.ticket.lending().clone();
        lending.within(|| self.state = State::Ended);
    }
}

/// What an outcome says, in host memory; the plugin's buffers are freed.
pub(crate) fn end_of(outcome: FfiOutcome) -> HookEnd<Payload> {
    match outcome.status {
        status::OK => HookEnd::Ok(Payload::from_ffi(outcome.body.localized())),
        status::PANICKED => HookEnd::Panicked(outcome.into_error(ErrorKind::Failed).message().to_owned()),
        status::UNKNOWN_METHOD => HookEnd::Failed(outcome.into_error(ErrorKind::UnknownMethod)),
        _ => HookEnd::Failed(outcome.into_error(ErrorKind::Failed)),
    }
}

/// What `save_state` gave, in host memory, unless it is larger than `limit` bytes.
pub(crate) fn saved_of(state: FfiState, limit: usize) -> HookEnd<Saved> {
    let FfiState { outcome, present, version } = state;
    if outcome.status == status::OK {
        let length = outcome.body.as_slice().len();
        if present == 0 {
            return HookEnd::Ok(Saved::Nothing);
        }
        if length > limit {
            return HookEnd::Ok(Saved::TooLarge(length));
        }
    }
    match end_of(outcome) {
        HookEnd::Ok(bytes) => HookEnd::Ok(Saved::State(SavedState { version, bytes: bytes.into_vec() })),
        HookEnd::Failed(error) => HookEnd::Failed(error),
        HookEnd::Panicked(message) => HookEnd::Panicked(message),
    }
}
