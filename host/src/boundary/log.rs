//! A plugin's events and spans, emitted again into the host's own `tracing` subscriber.
//!
//! They arrive there as if the host had a macro for each of them: with their level, target, place, field
//! names and typed values, and two more fields, `module` and `generation`. Everything is copied; nothing
//! that a subscriber may keep points into the plugin.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use oxide_plugin_api::ffi::host_table::{LogField, LogRecord};
use parking_lot::RwLock;
use tracing_core::{
    Event, Level, LevelFilter, dispatcher,
    span::{Attributes, Record},
    subscriber::NoSubscriber,
};

use self::{
    callsite::{Callsite, Callsites, Origin, Shape},
    spans::{OpenSpan, SpanTable},
};

mod callsite;
mod spans;
#[cfg(test)]
mod tests;
mod values;

/// A record with more fields than this is cut: nobody writes so many, and the pointer is not ours.
const MAX_READ: usize = 1024;

static LEVEL: AtomicUsize = AtomicUsize::new(0);

/// Where the host's present log level stands: 0 off, 1 error … 5 trace. Plugins read it before they cross.
pub(crate) fn level() -> &'static AtomicUsize {
    refresh_level();
    &LEVEL
}

/// Copies the most that any subscriber of the host wants into [`level`]. Cheap; to be called often.
#[inline]
pub(crate) fn refresh_level() {
    let now = LevelFilter::current().into_level().map_or(0, number);
    if LEVEL.load(Ordering::Relaxed) != now {
        LEVEL.store(now, Ordering::Relaxed);
    }
}

fn number(level: Level) -> usize {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

fn level_of(record: &LogRecord<'_>) -> Level {
    match record.level {
        1 => Level::ERROR,
        2 => Level::WARN,
        3 => Level::INFO,
        4 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

/// Runs what may reach an embedder's subscriber. A panic in it ends here, whatever its payload does.
fn guarded<R>(body: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(body))
        .map_err(|payload| {
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                mem::forget(second);
            }
        })
        .ok()
}

/// Where one generation's events and spans go. `[any thread, any phase]`
pub(crate) struct LogSink {
    module: RwLock<Arc<str>>,
    generation: u64,
    callsites: &'static Callsites,
    spans: SpanTable,
}

/// Where an event or a span hangs.
enum Parent {
    Current,
    Root,
    Given(Arc<OpenSpan>),
}

impl LogSink {
    /// The sink of one generation of a module.
    pub(crate) fn new(module: Arc<str>, generation: u64) -> Self {
        Self {
            module: RwLock::new(module),
            generation,
            callsites: Callsites::of_process(),
            spans: SpanTable::default(),
        }
    }

    /// The module's id is known now: what is recorded from here on carries it.
    pub(crate) fn rename(&self, module: Arc<str>) {
        *self.module.write() = module;
    }

    /// Records an event.
    ///
    /// # Safety
    /// `record.fields` is null, or the first of `record.field_count` fields that live as long as the call.
    pub(crate) unsafe fn event(&self, record: &LogRecord<'_>) {
        guarded(|| {
            // SAFETY: the caller's duty is the same.
            let shape = unsafe { Self::read(record, false) };
            self.under(&self.parent(record), |parent| self.emit(&shape, parent));
        });
    }

    /// Opens a span; 0 when nobody listens.
    ///
    /// # Safety
    /// As for [`LogSink::event`].
    pub(crate) unsafe fn span_open(&self, record: &LogRecord<'_>) -> u64 {
        guarded(|| {
            // SAFETY: the caller's duty is the same.
            let shape = unsafe { Self::read(record, true) };
            let span = self.under(&self.parent(record), |parent| self.open(&shape, parent))?;
            self.spans.add(span)
        })
        .flatten()
        .unwrap_or(0)
    }

    /// Adds values to a span's fields.
    ///
    /// # Safety
    /// As for [`LogSink::event`].
    pub(crate) unsafe fn span_record(&self, span: u64, record: &LogRecord<'_>) {
        guarded(|| {
            // SAFETY: the caller's duty is the same.
            let fields = unsafe { fields(record) };
            let Some(span) = self.spans.get(span).filter(|_| !fields.is_empty()) else { return };
            span.within(|dispatch, id| {
                span.callsite().with_values(fields, None, |values| dispatch.record(id, &Record::new(values)));
            });
        });
    }

    /// What happened to a span: one of [`span_step`](oxide_plugin_api::ffi::host_table::span_step). Answers
    /// 1 when a close was the last one, else 0. Steps that make no sense are dropped.
    pub(crate) fn span_step(&self, span: u64, step: u8) -> u8 {
        guarded(|| self.spans.step(span, step)).unwrap_or(0)
    }

    /// How many spans are open.
    pub(crate) fn open_spans(&self) -> usize {
        self.spans.count()
    }

    /// Ends the sink: all its spans are closed, and from now on nothing is recorded. Says how many were open.
    ///
    /// A span that another thread is inside cannot be left from here; it is closed as soon as that thread
    /// leaves it, or with the sink.
    pub(crate) fn revoke(&self) -> usize {
        guarded(|| self.spans.revoke()).unwrap_or(0)
    }

    /// # Safety
    /// As for [`LogSink::event`].
    unsafe fn read<'a>(record: &'a LogRecord<'a>, span: bool) -> Shape<'a> {
        // SAFETY: the caller's duty is the same.
        let fields = unsafe { fields(record) };
        Shape {
            span,
            level: level_of(record),
            line: record.line,
            name: text(&record.name),
            target: text(&record.target),
            module_path: text(&record.module_path),
            file: text(&record.file),
            fields,
        }
    }

    fn parent(&self, record: &LogRecord<'_>) -> Parent {
        match record.parent_kind {
            0 => Parent::Current,
            // As in `tracing`, what hangs on a disabled span is a root.
            2 => self.spans.get(record.parent).map_or(Parent::Root, Parent::Given),
            _ => Parent::Root,
        }
    }

    /// Runs `body` where `parent` is known: a span's number means nothing to any other dispatcher.
    fn under<R>(&self, parent: &Parent, body: impl FnOnce(&Parent) -> R) -> R {
        match parent {
            Parent::Given(span) => span.within(|_, _| body(parent)),
            Parent::Current | Parent::Root => body(parent),
        }
    }

    /// The callsite, when this thread's subscriber may want what comes from it.
    fn callsite(&self, shape: &Shape<'_>) -> Option<&'static Callsite> {
        refresh_level();
        // A callsite must not be registered from a thread without a subscriber: with just one dispatcher in
        // the process tracing-core asks that thread's, and "never" would be kept for all others.
        if self.spans.is_revoked()
            || shape.level > LevelFilter::current()
            || dispatcher::get_default(|dispatch| dispatch.is::<NoSubscriber>())
        {
            return None;
        }
        let callsite = self.callsites.find(shape);
        callsite.register();
        (!callsite.is_never()).then_some(callsite)
    }

    fn origin<'a>(&self, module: &'a str, shape: &Shape<'a>) -> Origin<'a> {
        Origin { module, generation: self.generation, name: shape.name, target: shape.target }
    }

    fn emit(&self, shape: &Shape<'_>, parent: &Parent) {
        let Some(callsite) = self.callsite(shape) else { return };
        let metadata = callsite.metadata();
        dispatcher::get_default(|dispatch| {
            if !callsite.is_wanted(dispatch) {
                return;
            }
            let module = self.module.read().clone();
            callsite.with_values(shape.fields, Some(&self.origin(&module, shape)), |values| {
                dispatch.event(&match parent {
                    Parent::Current => Event::new(metadata, values),
                    Parent::Root => Event::new_child_of(None, metadata, values),
                    Parent::Given(span) => Event::new_child_of(span.id(), metadata, values),
                });
            });
        });
    }

    fn open(&self, shape: &Shape<'_>, parent: &Parent) -> Option<OpenSpan> {
        if self.spans.is_full() {
            return None;
        }
        let callsite = self.callsite(shape)?;
        let metadata = callsite.metadata();
        dispatcher::get_default(|dispatch| {
            if !callsite.is_wanted(dispatch) {
                return None;
            }
            let module = self.module.read().clone();
            let id = callsite.with_values(shape.fields, Some(&self.origin(&module, shape)), |values| {
                dispatch.new_span(&match parent {
                    Parent::Current => Attributes::new(metadata, values),
                    Parent::Root => Attributes::new_root(metadata, values),
                    Parent::Given(span) => Attributes::child_of(span.id(), metadata, values),
                })
            });
            Some(OpenSpan::new(dispatch.clone(), id, callsite))
        })
    }
}

/// The fields of a record.
///
/// # Safety
/// As for [`LogSink::event`].
unsafe fn fields<'a>(record: &'a LogRecord<'a>) -> &'a [LogField<'a>] {
    if record.fields.is_null() || !record.fields.is_aligned() {
        return &[];
    }
    // SAFETY: not null and aligned; that many fields, or more, live as long as the borrow of the record, says
    // the caller, and the plugin does not change them while its call lasts.
    unsafe { slice::from_raw_parts(record.fields, record.field_count.min(MAX_READ)) }
}

/// A text of the plugin's. It says that it is UTF-8; looking costs little.
fn text(foreign: &str) -> &str {
    str::from_utf8(foreign.as_bytes()).unwrap_or("\u{fffd}")
}
