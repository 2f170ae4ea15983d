//! The test host's table: the same functions that the real host lends, over `testing`'s safe parts.
//!
//! A context is a number here, not an address: every function looks it up, so one that outlives its
//! module (a clone of its bus, say) finds "closed" and nothing dangles. Number 0 stands for whichever
//! module the calling thread works for.

use std::{
    ptr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use abi_stable::prefix_type::WithMetadata;
use async_ffi::{FfiFuture, FutureExt};

use super::{
    bytes::FfiBytes,
    host::{Host, attach},
    host_table::{FfiSubscribed, HostTable, HostTableRef, LogField, LogRecord, field_kind},
    outcome::FfiOutcome,
};
use crate::{
    Envelope, Payload, Result,
    shim::panic::guard,
    testing::{
        context::{self, Context},
        logs::LogLine,
        work::{Sleep, abort as abort_task, spawn as spawn_task},
    },
};

struct Table;

impl Table {
    abi_stable::staticref! {
        const TABLE: WithMetadata<HostTable> = WithMetadata::new(HostTable {
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
            log,
            span_open,
            span_record,
            span_step,
        });
    }
}

/// Everything is recorded.
static LEVEL: AtomicUsize = AtomicUsize::new(5);

/// The host as the module with this context number sees it; 0 is the thread's own.
pub(crate) fn host(number: usize) -> Host {
    // SAFETY: the table is a constant of this image and takes any number as a context.
    unsafe { Host::new(HostTableRef(Table::TABLE.as_prefix()), ptr::without_provenance(number)) }
}

/// Makes `task` and the log bridge work in this process.
pub(crate) fn attach_process() {
    attach(host(0));
}

fn find(context: *const ()) -> Option<Arc<Context>> {
    context::find(context.addr())
}

/// Runs what may run the test's own code, its answers; a panic there must not unwind into the caller.
fn outcome(body: impl FnOnce() -> Result<Payload>) -> FfiOutcome {
    guard(body).map_or_else(FfiOutcome::panicked, FfiOutcome::from_result)
}

extern "C" fn publish(context: *const (), envelope: FfiBytes) -> FfiFuture<FfiOutcome> {
    let context = find(context);
    async move {
        let Some(context) = context.filter(|context| !context.is_closed()) else {
            return FfiOutcome::closed();
        };
        outcome(|| {
            let mut envelope: Envelope = Payload::from_ffi(envelope).to_json()?;
            context.source().clone_into(&mut envelope.source);
            context.core().publish(envelope);
            Ok(Payload::empty())
        })
    }
    .into_ffi()
}

extern "C" fn request(context: *const (), envelope: FfiBytes, timeout_millis: u64) -> FfiFuture<FfiOutcome> {
    let context = find(context);
    async move {
        let Some(context) = context.filter(|context| !context.is_closed()) else {
            return FfiOutcome::closed();
        };
        let answer = async {
            let mut envelope: Envelope = Payload::from_ffi(envelope).to_json()?;
            context.source().clone_into(&mut envelope.source);
            context.core().request(&context, envelope, Duration::from_millis(timeout_millis)).await
        };
        FfiOutcome::from_result(answer.await.and_then(|answer| Payload::json(&answer)))
    }
    .into_ffi()
}

extern "C" fn subscribe(context: *const (), filter: FfiBytes) -> FfiSubscribed {
    let Some(context) = find(context) else {
        return FfiSubscribed { outcome: FfiOutcome::closed(), subscription: 0 };
    };
    match Payload::from_ffi(filter).to_json() {
        Ok(filter) => FfiSubscribed {
            outcome: FfiOutcome::ok(Payload::empty()),
            subscription: context.core().subscribe(context.number(), filter),
        },
        Err(error) => FfiSubscribed { outcome: FfiOutcome::failed(&error), subscription: 0 },
    }
}

extern "C" fn receive(context: *const (), subscription: u64) -> FfiFuture<FfiOutcome> {
    let context = find(context);
    async move {
        let Some(context) = context else { return FfiOutcome::closed() };
        match context.core().receive(subscription).await {
            Some(envelope) => FfiOutcome::from_result(Payload::json(&envelope)),
            None => FfiOutcome::closed(),
        }
    }
    .into_ffi()
}

extern "C" fn missed(context: *const (), subscription: u64) -> u64 {
    find(context).map_or(0, |context| context.core().missed(subscription))
}

extern "C" fn unsubscribe(context: *const (), subscription: u64) {
    if let Some(context) = find(context) {
        context.core().unsubscribe(subscription);
    }
}

extern "C" fn spawn(context: *const (), task: FfiFuture<()>) -> u64 {
    find(context).and_then(|context| spawn_task(&context, task)).unwrap_or(0)
}

extern "C" fn abort(_: *const (), task: u64) {
    abort_task(task);
}

extern "C" fn sleep(_: *const (), nanos: u64) -> FfiFuture<()> {
    Sleep::new(Duration::from_nanos(nanos)).into_ffi()
}

extern "C" fn log_level(_: *const ()) -> *const AtomicUsize {
    &raw const LEVEL
}

/// # Safety
/// `record.fields` points to `record.field_count` fields that live through the call.
unsafe extern "C" fn log(context: *const (), record: &LogRecord<'_>) {
    let fields = if record.field_count == 0 {
        &[]
    } else {
        // SAFETY: the caller promises it.
        unsafe { std::slice::from_raw_parts(record.fields, record.field_count) }
    };
    let fields = fields
        .iter()
        .filter(|field| field.kind != field_kind::EMPTY)
        .map(|field| (field.name.to_string(), text_of(field)));
    let line = LogLine::new(record.level, record.target.to_string(), fields.collect());
    context::log(find(context).as_deref(), line);
}

fn text_of(field: &LogField<'_>) -> String {
    match field.kind {
        field_kind::I64 => field.bits.cast_signed().to_string(),
        field_kind::U64 => field.bits.to_string(),
        field_kind::F64 => f64::from_bits(field.bits).to_string(),
        field_kind::BOOL => (field.bits != 0).to_string(),
        _ => field.text.to_string(),
    }
}

// Nobody listens to spans here.

extern "C" fn span_open(_: *const (), _: &LogRecord<'_>) -> u64 {
    0
}

extern "C" fn span_record(_: *const (), _: u64, _: &LogRecord<'_>) {}

extern "C" fn span_step(_: *const (), _: u64, _: u8) -> u8 {
    0
}
