//! What the host lends to a plugin: one table of functions, and a context that stands for the generation.
//!
//! Every function may be called on any thread and from any phase, also from threads that the plugin
//! started. After the generation is revoked they answer "closed"; the context stays valid until the library
//! is gone.

use std::sync::atomic::AtomicUsize;

use abi_stable::{StableAbi, std_types::RStr};
use async_ffi::FfiFuture;

use super::{bytes::FfiBytes, outcome::FfiOutcome};

/// The host's functions. Grows at its end.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostTableRef, prefix_fields = HostTablePrefix)))]
#[sabi(missing_field(panic))]
pub struct HostTable {
    /// Publishes an envelope (JSON); ready when every subscriber that makes publishers wait has room.
    pub publish: unsafe extern "C" fn(context: *const (), envelope: FfiBytes) -> FfiFuture<FfiOutcome>,
    /// Sends a command (JSON of an envelope) and waits for the event that answers it (JSON of an envelope).
    pub request: unsafe extern "C" fn(
        context: *const (),
        envelope: FfiBytes,
        timeout_millis: u64,
    ) -> FfiFuture<FfiOutcome>,
    /// Subscribes with a filter (JSON).
    pub subscribe: unsafe extern "C" fn(context: *const (), filter: FfiBytes) -> FfiSubscribed,
    /// The next message of a subscription (JSON of an envelope).
    pub receive: unsafe extern "C" fn(context: *const (), subscription: u64) -> FfiFuture<FfiOutcome>,
    /// How many messages a subscription has missed because it was full.
    pub missed: unsafe extern "C" fn(context: *const (), subscription: u64) -> u64,
    /// Ends a subscription.
    pub unsubscribe: unsafe extern "C" fn(context: *const (), subscription: u64),
    /// Runs a future on the host's threads until it ends or its phase does. Gives its number; 0 when the
    /// generation is closed and the future was dropped.
    pub spawn: unsafe extern "C" fn(context: *const (), task: FfiFuture<()>) -> u64,
    /// Ends a task at its next suspension.
    pub abort: unsafe extern "C" fn(context: *const (), task: u64),
    /// Ready after this many nanoseconds.
    pub sleep: unsafe extern "C" fn(context: *const (), nanos: u64) -> FfiFuture<()>,
    /// Where the host's present log level stands: 0 off, 1 error … 5 trace. Valid as long as the context.
    pub log_level: unsafe extern "C" fn(context: *const ()) -> *const AtomicUsize,
    /// Records an event.
    pub log: unsafe extern "C" fn(context: *const (), record: &LogRecord<'_>),
    /// Opens a span; 0 when nobody listens.
    pub span_open: unsafe extern "C" fn(context: *const (), record: &LogRecord<'_>) -> u64,
    /// Adds fields to a span.
    pub span_record: unsafe extern "C" fn(context: *const (), span: u64, record: &LogRecord<'_>),
    /// What happened to a span: one of [`span_step`].
    #[sabi(last_prefix_field)]
    pub span_step: unsafe extern "C" fn(context: *const (), span: u64, step: u8) -> u8,
}

/// What can happen to a span. Frozen.
pub mod span_step {
    /// This thread goes into it.
    pub const ENTER: u8 = 0;
    /// This thread comes out of it.
    pub const EXIT: u8 = 1;
    /// One more reference to it.
    pub const CLONE: u8 = 2;
    /// One reference fewer; answers 1 when that was the last.
    pub const CLOSE: u8 = 3;
}

/// What `subscribe` gave. Frozen.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiSubscribed {
    /// How it ended.
    pub outcome: FfiOutcome,
    /// The subscription's number, when `outcome` is ok.
    pub subscription: u64,
}

/// An event or a span, borrowed for the length of the call. Frozen.
#[repr(C)]
#[derive(StableAbi)]
pub struct LogRecord<'a> {
    /// 1 error … 5 trace.
    pub level: u8,
    /// 0: the span that the thread is in. 1: none. 2: `parent`.
    pub parent_kind: u8,
    /// The line, 0 when not known.
    pub line: u32,
    /// A span's number.
    pub parent: u64,
    /// The callsite's name.
    pub name: RStr<'a>,
    /// The target, usually a module path.
    pub target: RStr<'a>,
    /// The module path; may be empty.
    pub module_path: RStr<'a>,
    /// The file; may be empty.
    pub file: RStr<'a>,
    /// The first of the fields.
    pub fields: *const LogField<'a>,
    /// How many fields.
    pub field_count: usize,
}

/// One field of a record. Frozen.
#[repr(C)]
#[derive(StableAbi)]
pub struct LogField<'a> {
    /// Its name.
    pub name: RStr<'a>,
    /// One of [`field_kind`].
    pub kind: u8,
    /// The value's bits, for numbers and truth values.
    pub bits: u64,
    /// The value's text, for strings and everything else.
    pub text: RStr<'a>,
}

/// How a field's value is held. Frozen.
pub mod field_kind {
    /// Declared, without a value yet.
    pub const EMPTY: u8 = 0;
    /// `text` is a string.
    pub const STR: u8 = 1;
    /// `text` is what `Debug` or `Display` wrote.
    pub const DEBUG: u8 = 2;
    /// `bits` is an `i64`.
    pub const I64: u8 = 3;
    /// `bits` is a `u64`.
    pub const U64: u8 = 4;
    /// `bits` is an `f64`.
    pub const F64: u8 = 5;
    /// `bits` is 0 or 1.
    pub const BOOL: u8 = 6;
}
