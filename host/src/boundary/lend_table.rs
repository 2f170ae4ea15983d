//! The functions that a plugin is lent: thin, never unwinding, each answering "closed" after the unload.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use abi_stable::prefix_type::WithMetadata;
use async_ffi::FfiFuture;
use oxide_plugin_api::{
    Envelope, Error, Filter, Payload,
    ffi::{
        bytes::FfiBytes,
        host_table::{FfiSubscribed, HostTable, HostTableRef, LogRecord},
        outcome::FfiOutcome,
    },
};

use super::{
    future::{ForeignTask, lend, phase_of_spawn},
    lend::Lending,
    log,
};
use crate::error::KernelError;

struct Table;

impl Table {
    abi_stable::staticref! {
        const VALUE: WithMetadata<HostTable> = WithMetadata::new(HostTable {
            publish,
            request,
            subscribe,
            receive,
            missed,
            unsubscribe,
            spawn,
            abort,
            sleep,
            log_level,
            log: log_event,
            span_open,
            span_record,
            span_step,
        })
    }
}

/// The table that every plugin gets.
pub(crate) const HOST_TABLE: HostTableRef = HostTableRef(Table::VALUE.as_prefix());

/// The context that goes with the table: a borrowed pointer to `lending`, which must live as long as the
/// library.
pub(crate) fn context(lending: &Arc<Lending>) -> *const () {
    Arc::as_ptr(lending).cast()
}

/// # Safety
/// `context` came from [`context`], and its `Lending` lives.
unsafe fn lending(context: *const ()) -> Arc<Lending> {
    let pointer = context.cast::<Lending>();
    // SAFETY: as the caller promises; the count goes up for the `Arc` that is made.
    unsafe {
        Arc::increment_strong_count(pointer);
        Arc::from_raw(pointer)
    }
}

/// Runs a table function's body; a panic in it, which would be a bug of ours, must not reach the plugin.
fn calmly<R>(body: impl FnOnce() -> R, otherwise: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        tracing::error!("a function lent to a plugin panicked; this is a bug of the host's");
        otherwise()
    })
}

fn failed(error: &KernelError) -> FfiOutcome {
    FfiOutcome::failed(&Error::new(error))
}

fn outcome_of<T: serde::Serialize>(result: Result<T, KernelError>) -> FfiOutcome {
    match result {
        Ok(value) => FfiOutcome::from_result(Payload::json(&value)),
        Err(error) => failed(&error),
    }
}

fn ready(lending: &Arc<Lending>, outcome: FfiOutcome) -> FfiFuture<FfiOutcome> {
    lend(lending, Box::pin(std::future::ready(outcome)), FfiOutcome::closed)
}

/// Reads an envelope and writes the module's own id into it.
fn envelope_from(lending: &Lending, json: FfiBytes) -> Result<Envelope, FfiOutcome> {
    let mut envelope: Envelope =
        Payload::from_ffi(json).to_json().map_err(|error| FfiOutcome::failed(&error))?;
    envelope.source = lending.module().as_ref().to_owned();
    Ok(envelope)
}

unsafe extern "C" fn publish(context: *const (), json: FfiBytes) -> FfiFuture<FfiOutcome> {
    // SAFETY: the plugin passes the context that it was given.
    let lending = unsafe { lending(context) };
    match envelope_from(&lending, json) {
        Ok(envelope) => {
            let sent = lending.services.publish(envelope);
            lend(&lending, Box::pin(async move { outcome_of(sent.await) }), FfiOutcome::closed)
        }
        Err(outcome) => ready(&lending, outcome),
    }
}

unsafe extern "C" fn request(context: *const (), json: FfiBytes, millis: u64) -> FfiFuture<FfiOutcome> {
    // SAFETY: the plugin passes the context that it was given.
    let lending = unsafe { lending(context) };
    match envelope_from(&lending, json) {
        Ok(envelope) => {
            let answer = lending.services.request(envelope, Duration::from_millis(millis));
            lend(&lending, Box::pin(async move { outcome_of(answer.await) }), FfiOutcome::closed)
        }
        Err(outcome) => ready(&lending, outcome),
    }
}

unsafe extern "C" fn subscribe(context: *const (), filter: FfiBytes) -> FfiSubscribed {
    // SAFETY: the plugin passes the context that it was given.
    let lending = unsafe { lending(context) };
    let closed = || FfiSubscribed { outcome: FfiOutcome::closed(), subscription: 0 };
    calmly(
        || {
            let filter: Filter = match Payload::from_ffi(filter).to_json() {
                Ok(filter) => filter,
                Err(error) => {
                    return FfiSubscribed { outcome: FfiOutcome::failed(&error), subscription: 0 };
                }
            };
            if lending.is_closed() {
                return closed();
            }
            let subscription = lending.services.subscribe(filter);
            lending.add_subscription(subscription).map_or_else(closed, |subscription| FfiSubscribed {
                outcome: FfiOutcome::ok(Payload::empty()),
                subscription,
            })
        },
        closed,
    )
}

unsafe extern "C" fn receive(context: *const (), subscription: u64) -> FfiFuture<FfiOutcome> {
    // SAFETY: the plugin passes the context that it was given.
    let lending = unsafe { lending(context) };
    let Some(subscription) = lending.subscription(subscription) else {
        return ready(&lending, FfiOutcome::closed());
    };
    let next = subscription.receive();
    let outcome = async move {
        match next.await {
            Some(envelope) => FfiOutcome::from_result(Payload::json(&envelope)),
            None => FfiOutcome::closed(),
        }
    };
    lend(&lending, Box::pin(outcome), FfiOutcome::closed)
}

unsafe extern "C" fn missed(context: *const (), subscription: u64) -> u64 {
    // SAFETY: the plugin passes the context that it was given.
    let lending = unsafe { lending(context) };
    lending.subscription(subscription).map_or(0, |subscription| subscription.missed())
}

unsafe extern "C" fn unsubscribe(context: *const (), subscription: u64) {
    // SAFETY: the plugin passes the context that it was given.
    let lending = unsafe { lending(context) };
    calmly(|| lending.end_subscription(subscription), || ());
}

unsafe extern "C" fn spawn(context: *const (), task: FfiFuture<()>) -> u64 {
    // SAFETY: the plugin passes the context that it was given.
    let lending = unsafe { lending(context) };
    let phase = phase_of_spawn(&lending);
    calmly(|| ForeignTask::spawn(&lending, task, phase), || 0)
}

unsafe extern "C" fn abort(context: *const (), task: u64) {
    // SAFETY: the plugin passes the context that it was given.
    let lending = unsafe { lending(context) };
    if let Some(control) = lending.task(task) {
        calmly(|| control.cancel(), || ());
    }
}

unsafe extern "C" fn sleep(context: *const (), nanos: u64) -> FfiFuture<()> {
    // SAFETY: the plugin passes the context that it was given.
    let lending = unsafe { lending(context) };
    // Making a clock panics on a thread that is ending; then there is nothing to wait for.
    let sleep =
        calmly(|| lending.services.sleep(Duration::from_nanos(nanos)), || Box::pin(std::future::ready(())));
    lend(&lending, sleep, || ())
}

unsafe extern "C" fn log_level(_: *const ()) -> *const AtomicUsize {
    log::level()
}

unsafe extern "C" fn log_event(context: *const (), record: &LogRecord<'_>) {
    // SAFETY: the plugin passes the context that it was given, and a record that lives through the call.
    unsafe { lending(context).log.event(record) };
}

unsafe extern "C" fn span_open(context: *const (), record: &LogRecord<'_>) -> u64 {
    // SAFETY: the plugin passes the context that it was given, and a record that lives through the call.
    unsafe { lending(context).log.span_open(record) }
}

unsafe extern "C" fn span_record(context: *const (), span: u64, record: &LogRecord<'_>) {
    // SAFETY: the plugin passes the context that it was given, and a record that lives through the call.
    unsafe { lending(context).log.span_record(span, record) };
}

unsafe extern "C" fn span_step(context: *const (), span: u64, step: u8) -> u8 {
    // SAFETY: the plugin passes the context that it was given.
    unsafe { lending(context) }.log.span_step(span, step)
}
