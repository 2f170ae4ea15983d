//! Calling a module: a handle that follows it through swaps, and the call's future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use oxide_plugin_api::{Payload, ffi::outcome::status};
use pin_project_lite::pin_project;

use super::registry::Entry;
use crate::{
    boundary::{
        call::{CallEnd, TicketedCall},
        frames::{self, Frame},
        lend::BoxFuture,
        seat::Inside,
    },
    error::{KernelError, Result},
    life::{generation::Generation, object::Object},
};

/// A cheap handle to a module. It follows the module through swaps; after an unload its calls fail.
#[derive(Clone)]
pub struct ModuleHandle {
    entry: Arc<Entry>,
}

impl fmt::Debug for ModuleHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleHandle").field("id", &self.entry.id).finish_non_exhaustive()
    }
}

impl ModuleHandle {
    pub(crate) fn new(entry: Arc<Entry>) -> Self {
        Self { entry }
    }

    /// The module's id.
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// Calls the module, on the thread that polls the call. A module that blocks in `invoke` blocks its
    /// caller and nobody else.
    ///
    /// # Errors
    /// [`KernelError::NotRunning`], [`KernelError::UnknownModule`] after an unload,
    /// [`KernelError::UnknownMethod`], [`KernelError::HookFailed`], [`KernelError::HookPanicked`], and
    /// [`KernelError::Cancelled`] when the module is unloaded while the call waits.
    #[inline]
    pub fn invoke(&self, method: &str, payload: impl Into<Payload>) -> Invoke<'_> {
        Invoke::of(EntryRef::Borrowed(&self.entry), method, payload.into())
    }
}

/// Where a call finds its module: the handle's, or its own.
enum EntryRef<'a> {
    Borrowed(&'a Arc<Entry>),
    Owned(Arc<Entry>),
}

impl EntryRef<'_> {
    #[inline]
    fn get(&self) -> &Entry {
        match self {
            Self::Borrowed(entry) => entry,
            Self::Owned(entry) => entry,
        }
    }
}

pin_project! {
    /// A call. It goes into the module when it is made, so a shut gate is told at once, and comes out when
    /// it has ended or is dropped.
    #[must_use = "a call does nothing until it is polled"]
    pub struct Invoke<'a> {
        entry: EntryRef<'a>,
        #[pin]
        call: Call,
    }
}

pin_project! {
    #[project = CallProjection]
    enum Call {
        Foreign { #[pin] call: TicketedCall<Generation> },
        InProcess { method: String, ticket: Option<Inside<Generation>>, future: BoxFuture<Result<Payload>> },
        Refused { error: Option<KernelError> },
    }
}

impl fmt::Debug for Invoke<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invoke").field("module", &self.entry.get().id).finish_non_exhaustive()
    }
}

impl Invoke<'static> {
    /// A call that keeps its own reference to the module.
    pub(crate) fn new(entry: Arc<Entry>, method: &str, payload: Payload) -> Self {
        Self::of(EntryRef::Owned(entry), method, payload)
    }
}

impl<'a> Invoke<'a> {
    #[inline]
    fn of(entry: EntryRef<'a>, method: &str, payload: Payload) -> Self {
        let call = match enter(entry.get()) {
            Some(ticket) => match TicketedCall::new(ticket, method, payload) {
                Ok(call) => Call::Foreign { call },
                Err((ticket, payload)) => in_process(entry.get(), ticket, method, payload),
            },
            None => Call::Refused { error: Some(refusal(entry.get())) },
        };
        Self { entry, call }
    }
}

#[inline]
fn enter(entry: &Entry) -> Option<Inside<Generation>> {
    entry.route.enter().or_else(|| come_back(entry))
}

/// A call that comes back to the module from inside one of its own calls may enter while it drains.
#[cold]
fn come_back(entry: &Entry) -> Option<Inside<Generation>> {
    let outer = frames::find(|frame| frame.module == entry.number && frame.shard.is_some())?;
    entry.route.enter_nested(outer.shard?, |generation| generation.unique == outer.generation)
}

#[cold]
fn refusal(entry: &Entry) -> KernelError {
    if entry.route.seat().is_none() {
        return KernelError::UnknownModule(entry.id.as_ref().to_owned());
    }
    entry.not_running()
}

#[cold]
fn in_process(entry: &Entry, ticket: Inside<Generation>, method: &str, payload: Payload) -> Call {
    let frame = Frame { module: entry.number, generation: ticket.unique, shard: Some(ticket.shard()) };
    let future = match &ticket.object {
        Object::InProcess(module) => module.invoke(method.to_owned(), payload, frame),
        Object::Foreign(_) => return Call::Refused { error: Some(entry.not_running()) },
    };
    Call::InProcess { method: method.to_owned(), ticket: Some(ticket), future }
}

impl Future for Invoke<'_> {
    type Output = Result<Payload>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Payload>> {
        let this = self.project();
        match this.call.project() {
            CallProjection::Foreign { call } => {
                let mut call = call;
                match call.as_mut().poll(context) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(CallEnd::Reply(payload)) => Poll::Ready(Ok(payload)),
                    Poll::Ready(end) => Poll::Ready(Err(failure(this.entry.get(), call.method(), end))),
                }
            }
            CallProjection::InProcess { method, ticket, future } => {
                let polled = poll_in_process(future, context);
                let Poll::Ready(result) = polled else { return Poll::Pending };
                // What the call owns goes before the ticket that keeps its module.
                *future = Box::pin(std::future::pending());
                *ticket = None;
                Poll::Ready(result.map_err(|error| name(error, this.entry.get(), method)))
            }
            CallProjection::Refused { error } => {
                Poll::Ready(Err(error.take().unwrap_or(KernelError::ShuttingDown)))
            }
        }
    }
}

fn poll_in_process(
    future: &mut BoxFuture<Result<Payload>>,
    context: &mut Context<'_>,
) -> Poll<Result<Payload>> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.as_mut().poll(context)));
    caught.unwrap_or_else(|payload| {
        let message = crate::life::hook::panic_message(payload);
        Poll::Ready(Err(KernelError::HookPanicked { module: String::new(), hook: "invoke", message }))
    })
}

/// Writes the module's name into an error that does not know it.
fn name(error: KernelError, entry: &Entry, method: &str) -> KernelError {
    let module = entry.id.as_ref().to_owned();
    match error {
        KernelError::UnknownMethod { .. } => KernelError::UnknownMethod { module, method: method.to_owned() },
        KernelError::HookPanicked { hook, message, .. } => {
            KernelError::HookPanicked { module, hook, message }
        }
        other => other,
    }
}

#[cold]
fn failure(entry: &Entry, method: &str, end: CallEnd) -> KernelError {
    let module = entry.id.as_ref().to_owned();
    match end {
        CallEnd::Failed(status::UNKNOWN_METHOD, _) => {
            KernelError::UnknownMethod { module, method: method.to_owned() }
        }
        CallEnd::Failed(status::PANICKED, error) => {
            KernelError::HookPanicked { module, hook: "invoke", message: error.message().to_owned() }
        }
        CallEnd::Failed(_, error) => KernelError::HookFailed {
            module,
            hook: "invoke",
            message: error.message().to_owned(),
            chain: error.chain().to_vec(),
        },
        CallEnd::Cancelled | CallEnd::Reply(_) => {
            KernelError::Cancelled { module, method: method.to_owned() }
        }
    }
}
