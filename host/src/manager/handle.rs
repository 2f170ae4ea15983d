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
        call::{ForeignCall, Step},
        frames::{self, Frame},
        gate,
        hold::{Entered, Hold},
        lend::BoxFuture,
        seat::Inside,
    },
    error::{KernelError, Result},
    kernel,
    life::{generation::Generation, object::Object},
};

/// Makes this thread one whose calls go on while a library is being opened or closed: see `kernel::prepare_thread`.
#[cfg_attr(
    not(all(feature = "daemon", unix)),
    expect(dead_code, reason = "only the program has such threads")
)]
pub(crate) fn prepare_caller() {
    kernel::prepare_thread();
    gate::prepare_thread();
}

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
    pub fn invoke<'a>(&'a self, method: &'a str, payload: impl Into<Payload>) -> Invoke<'a> {
        Invoke::new(&self.entry, method, payload.into())
    }
}

pin_project! {
    /// A call. It goes into the module when it is first polled, and comes out when it has ended or is
    /// dropped.
    #[project = InvokeProjection]
    #[must_use = "a call does nothing until it is polled"]
    pub struct Invoke<'a> {
        entry: &'a Entry,
        method: &'a str,
        apart: Apart<'a>,
        #[pin]
        foreign: ForeignCall,
    }
}

/// What a call has besides the foreign one, where it is not the usual call.
enum Apart<'a> {
    Nothing,
    InProcess(InProcessCall),
    Held(Held<'a>),
}

/// A call's place in the row while a swap holds it. Given up by being dropped.
struct Held<'a> {
    hold: &'a Hold,
    place: Option<u64>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.hold.leave(place);
        }
    }
}

/// A call of a module of the host program's own. What it owns goes before the ticket that keeps its module.
struct InProcessCall {
    future: BoxFuture<Result<Payload>>,
    _ticket: Inside<Generation>,
}

impl fmt::Debug for Invoke<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invoke").field("module", &self.entry.id).finish_non_exhaustive()
    }
}

impl<'a> Invoke<'a> {
    #[inline]
    pub(crate) fn new(entry: &'a Entry, method: &'a str, payload: Payload) -> Self {
        Self { entry, method, apart: Apart::Nothing, foreign: ForeignCall::new(payload) }
    }

    /// Whether a swap holds it: it has been polled, and has not begun.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.apart, Apart::Held(_))
    }
}

/// A call that comes back to the module from inside one of its own calls may enter while it drains.
#[cold]
fn come_back(entry: &Entry) -> Option<Inside<Generation>> {
    let outer = frames::find(|frame| frame.module == entry.number && frame.is_call)?;
    entry.route.enter_nested(|generation| generation.unique == outer.generation)
}

/// A call that found the gate shut: it comes back, or is held, or is refused.
#[cold]
fn turned_away<'a>(
    entry: &'a Entry,
    apart: &mut Apart<'a>,
    context: &Context<'_>,
) -> Poll<Result<Inside<Generation>>> {
    let mut held = match std::mem::replace(apart, Apart::Nothing) {
        Apart::Held(held) => held,
        _ => Held { hold: &entry.hold, place: None },
    };
    let enter = || entry.route.enter().or_else(|| come_back(entry));
    match entry.hold.enter_or_wait(&mut held.place, context.waker(), enter) {
        Entered::In(ticket) => Poll::Ready(Ok(ticket)),
        Entered::Held => {
            *apart = Apart::Held(held);
            Poll::Pending
        }
        Entered::Refused => Poll::Ready(Err(refusal(entry))),
    }
}

#[cold]
fn refusal(entry: &Entry) -> KernelError {
    if entry.route.seat().is_none() {
        return KernelError::UnknownModule(entry.id.as_ref().to_owned());
    }
    entry.not_running()
}

#[cold]
fn in_process(
    entry: &Entry,
    ticket: Inside<Generation>,
    method: &str,
    payload: Payload,
) -> Result<InProcessCall> {
    let frame = Frame { module: entry.number, generation: ticket.unique, is_call: true };
    match &ticket.object {
        Object::InProcess(module) => {
            let future = module.invoke(method.to_owned(), payload, frame);
            Ok(InProcessCall { future, _ticket: ticket })
        }
        Object::Foreign(_) => Err(entry.not_running()),
    }
}

impl Future for Invoke<'_> {
    type Output = Result<Payload>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Payload>> {
        let mut this = self.project();
        if !this.foreign.is_new() {
            return poll_again(this, context);
        }
        let ticket = match this.entry.route.enter() {
            // One that was held gives its place up in `turned_away`.
            Some(ticket) if matches!(this.apart, Apart::Nothing) => ticket,
            entered => {
                drop(entered);
                match std::task::ready!(turned_away(this.entry, this.apart, context)) {
                    Ok(ticket) => ticket,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        };
        match this.foreign.as_mut().begin(ticket, this.method, context) {
            Ok(Step::Replied) => Poll::Ready(Ok(this.foreign.take_reply())),
            Ok(Step::Pending) => Poll::Pending,
            Ok(step) => Poll::Ready(Err(failure(this.entry, this.method, step))),
            Err(ticket) => begin_in_process(this, ticket, context),
        }
    }
}

#[cold]
fn begin_in_process(
    mut this: InvokeProjection<'_, '_>,
    ticket: Inside<Generation>,
    context: &mut Context<'_>,
) -> Poll<Result<Payload>> {
    let payload = this.foreign.as_mut().take_payload().unwrap_or_default();
    match in_process(this.entry, ticket, this.method, payload) {
        Ok(call) => {
            *this.apart = Apart::InProcess(call);
            poll_again(this, context)
        }
        Err(error) => Poll::Ready(Err(error)),
    }
}

/// Polls a call that has begun.
#[cold]
fn poll_again(mut this: InvokeProjection<'_, '_>, context: &mut Context<'_>) -> Poll<Result<Payload>> {
    let Apart::InProcess(call) = this.apart else {
        return match this.foreign.as_mut().poll(context) {
            Step::Pending => Poll::Pending,
            Step::Replied => Poll::Ready(Ok(this.foreign.take_reply())),
            step => Poll::Ready(Err(failure(this.entry, this.method, step))),
        };
    };
    let polled = poll_in_process(&mut call.future, context);
    let Poll::Ready(result) = polled else { return Poll::Pending };
    *this.apart = Apart::Nothing;
    Poll::Ready(result.map_err(|error| name(error, this.entry, this.method)))
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
fn name(mut error: KernelError, entry: &Entry, called: &str) -> KernelError {
    match &mut error {
        // One with a name comes from a module that this one called.
        KernelError::UnknownMethod { module, method } | KernelError::Cancelled { module, method }
            if module.is_empty() =>
        {
            entry.id.as_ref().clone_into(module);
            called.clone_into(method);
        }
        KernelError::HookPanicked { module, .. } if module.is_empty() => {
            entry.id.as_ref().clone_into(module);
        }
        _ => {}
    }
    error
}

#[cold]
fn failure(entry: &Entry, method: &str, step: Step) -> KernelError {
    let module = entry.id.as_ref().to_owned();
    match step {
        Step::Failed(status::UNKNOWN_METHOD, _) => {
            KernelError::UnknownMethod { module, method: method.to_owned() }
        }
        Step::Failed(status::PANICKED, error) => {
            KernelError::HookPanicked { module, hook: "invoke", message: error.message().to_owned() }
        }
        Step::Failed(_, error) => KernelError::HookFailed {
            module,
            hook: "invoke",
            message: error.message().to_owned(),
            chain: error.chain().to_vec(),
        },
        Step::Cancelled | Step::Pending | Step::Replied => {
            KernelError::Cancelled { module, method: method.to_owned() }
        }
    }
}
