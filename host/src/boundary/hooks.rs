//! A lifecycle hook of a foreign module as the host polls it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use async_ffi::FfiFuture;
use oxide_plugin_api::{
    Error, ErrorKind, Payload,
    ffi::outcome::{FfiOutcome, status},
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

/// A foreign hook: made on its first poll, polled and dropped under one ticket.
pub(crate) struct ForeignHook<R, T> {
    state: State<R>,
    /// Copies into host memory, while the ticket still keeps the plugin's.
    copy: fn(R) -> T,
    ticket: WorkTicket,
}

enum State<R> {
    Unmade(Box<dyn FnOnce() -> FfiFuture<R> + Send>),
    Running(FfiFuture<R>),
    Ended,
}

impl<R, T> ForeignHook<R, T> {
    pub(crate) fn new(
        ticket: WorkTicket,
        copy: fn(R) -> T,
        make: impl FnOnce() -> FfiFuture<R> + Send + 'static,
    ) -> Self {
        Self { state: State::Unmade(Box::new(make)), copy, ticket }
    }
}

impl<R, T> Future for ForeignHook<R, T> {
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
            polled.map(this.copy)
        })
    }
}

impl<R, T> Drop for ForeignHook<R, T> {
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
