//! The host as this plugin sees it: its table and the context that stands for this generation.

use std::{
    future::Future,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_ffi::FfiFuture;

use super::{
    future::{Lent, guarded_task},
    host_table::{HostTableRef, LogRecord},
    outcome::{FfiOutcome, status},
};
use crate::{Envelope, Error, Filter, Payload, Result};

/// The host's table with this generation's context. Plain pointers: a copy more or less holds nothing.
#[derive(Clone, Copy)]
pub(crate) struct Host {
    table: HostTableRef,
    context: *const (),
}

// SAFETY: every function of the table may be called on any thread (its documentation), and the context
// stays valid until the library is gone.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

static ATTACHED: OnceLock<Host> = OnceLock::new();

/// Remembers the host for the life of this library.
pub(crate) fn attach(host: Host) {
    // A second attach could only come from a second host in one test process; the first one stays.
    let _ = ATTACHED.set(host);
}

/// The host that opened this library, if one did.
pub(crate) fn attached() -> Option<Host> {
    ATTACHED.get().copied()
}

impl Host {
    /// # Safety
    /// `context` belongs to `table`, and both are valid until this library is gone.
    pub(crate) unsafe fn new(table: HostTableRef, context: *const ()) -> Self {
        Self { table, context }
    }

    /// Publishes an envelope; the host writes the source.
    pub(crate) fn publish(self, envelope: &Envelope) -> impl Future<Output = Result<()>> + Send + 'static {
        let sent = Payload::json(envelope).map(|json| {
            // SAFETY: the context belongs to the table (`Host::new`).
            Lent::new(unsafe { (self.table.publish())(self.context, json.into_ffi()) })
        });
        async move { sent?.await.into_result().map(drop) }
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn request(
        self,
        envelope: &Envelope,
        timeout: Duration,
    ) -> impl Future<Output = Result<Envelope>> + Send + 'static {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let sent = Payload::json(envelope).map(|json| {
            // SAFETY: the context belongs to the table (`Host::new`).
            Lent::new(unsafe { (self.table.request())(self.context, json.into_ffi(), millis) })
        });
        async move { sent?.await.into_result()?.to_json() }
    }

    /// Subscribes; gives the subscription's number.
    pub(crate) fn subscribe(self, filter: &Filter) -> Result<u64> {
        let filter = Payload::json(filter)?.into_ffi();
        // SAFETY: the context belongs to the table (`Host::new`).
        let subscribed = unsafe { (self.table.subscribe())(self.context, filter) };
        subscribed.outcome.into_result().map(|_| subscribed.subscription)
    }

    /// The next message of a subscription; `None` when it is closed.
    pub(crate) fn receive(
        self,
        subscription: u64,
    ) -> impl Future<Output = Option<Envelope>> + Send + 'static {
        // SAFETY: the context belongs to the table (`Host::new`).
        let next = Lent::new(unsafe { (self.table.receive())(self.context, subscription) });
        async move {
            let outcome: FfiOutcome = next.await;
            if outcome.status != status::OK {
                return None;
            }
            Payload::from_ffi(outcome.body).to_json().ok()
        }
    }

    pub(crate) fn missed(self, subscription: u64) -> u64 {
        // SAFETY: the context belongs to the table (`Host::new`).
        unsafe { (self.table.missed())(self.context, subscription) }
    }

    pub(crate) fn unsubscribe(self, subscription: u64) {
        // SAFETY: the context belongs to the table (`Host::new`).
        unsafe { (self.table.unsubscribe())(self.context, subscription) }
    }

    /// Hands a task to the host; `None` when it takes no more. `end` is dropped when the task has ended, in
    /// whatever way.
    pub(crate) fn spawn(
        self,
        task: impl Future<Output = ()> + Send + 'static,
        end: impl Send + Unpin + 'static,
    ) -> Option<u64> {
        // SAFETY: the context belongs to the table (`Host::new`).
        let id = unsafe { (self.table.spawn())(self.context, guarded_task(task, end)) };
        (id != 0).then_some(id)
    }

    pub(crate) fn abort(self, task: u64) {
        // SAFETY: the context belongs to the table (`Host::new`).
        unsafe { (self.table.abort())(self.context, task) }
    }

    pub(crate) fn sleep(self, duration: Duration) -> Lent<()> {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: the context belongs to the table (`Host::new`).
        let sleep: FfiFuture<()> = unsafe { (self.table.sleep())(self.context, nanos) };
        Lent::new(sleep)
    }

    /// The host's present log level, 0 to 5, without crossing.
    #[inline]
    pub(crate) fn log_level_cell(self) -> *const AtomicUsize {
        // SAFETY: the context belongs to the table (`Host::new`).
        unsafe { (self.table.log_level())(self.context) }
    }

    pub(crate) fn log(self, record: &LogRecord<'_>) {
        // SAFETY: the context belongs to the table (`Host::new`); the record lives through the call.
        unsafe { (self.table.log())(self.context, record) }
    }

    pub(crate) fn span_open(self, record: &LogRecord<'_>) -> u64 {
        // SAFETY: the context belongs to the table (`Host::new`); the record lives through the call.
        unsafe { (self.table.span_open())(self.context, record) }
    }

    pub(crate) fn span_record(self, span: u64, record: &LogRecord<'_>) {
        // SAFETY: the context belongs to the table (`Host::new`); the record lives through the call.
        unsafe { (self.table.span_record())(self.context, span, record) }
    }

    pub(crate) fn span_step(self, span: u64, step: u8) -> u8 {
        // SAFETY: the context belongs to the table (`Host::new`).
        unsafe { (self.table.span_step())(self.context, span, step) }
    }
}

/// Reads a host's level without crossing: one relaxed load.
#[derive(Clone, Copy)]
pub(crate) struct LogLevel(*const AtomicUsize);

// SAFETY: it only ever loads an atomic of the host's that lives as long as the context.
unsafe impl Send for LogLevel {}
// SAFETY: as above.
unsafe impl Sync for LogLevel {}

impl LogLevel {
    pub(crate) fn of(host: Host) -> Self {
        Self(host.log_level_cell())
    }

    #[inline]
    pub(crate) fn get(self) -> usize {
        // SAFETY: the host keeps the cell as long as the context (`HostTable::log_level`).
        unsafe { (*self.0).load(Ordering::Relaxed) }
    }
}

/// The error of a plugin function that needs a host, where there is none.
pub(crate) fn no_host() -> Error {
    Error::new("no host is attached: in a unit test, use `oxide_plugin_api::testing::TestHost`")
}
