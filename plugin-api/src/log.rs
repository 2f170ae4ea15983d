//! The plugin's `tracing` and `log` events and spans, brought to the host's subscriber.
//!
//! The host's level is one atomic of the host's, so a disabled event does not cross.

use std::{
    fmt::{self, Write},
    num::NonZeroU64,
    ptr,
};

use abi_stable::std_types::RStr;
use tracing_core::{
    Event, Interest, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::ffi::{
    host::{Host, LogLevel, attached},
    host_table::{LogField, LogRecord, field_kind, span_step},
};

/// Where the parent of an event or span is to be found; see [`LogRecord::parent_kind`].
const PARENT_CURRENT: u8 = 0;
const PARENT_NONE: u8 = 1;
const PARENT_GIVEN: u8 = 2;

/// Makes the host the default subscriber and logger of this library.
pub(crate) fn install() {
    let Some(host) = attached() else { return };
    let bridge = Bridge { host, level: LogLevel::of(host) };
    // A plugin whose constructors set a subscriber of their own keeps it.
    let _ = tracing::subscriber::set_global_default(bridge);
    static LOGGER: LogBridge = LogBridge;
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
}

/// Tells of a panic that has no caller to be returned to.
pub(crate) fn report_panic(place: &str, message: &str) {
    let text = format!("panic in {place}: {message}");
    let Some(host) = attached() else {
        eprintln!("{text}");
        return;
    };
    let field = LogField {
        name: RStr::from_str("message"),
        kind: field_kind::DEBUG,
        bits: 0,
        text: RStr::from_str(&text),
    };
    host.log(&LogRecord {
        level: 1,
        parent_kind: PARENT_CURRENT,
        line: 0,
        parent: 0,
        name: RStr::from_str("panic"),
        target: RStr::from_str("oxide_plugin_api::panic"),
        module_path: RStr::from_str(""),
        file: RStr::from_str(""),
        fields: &raw const field,
        field_count: 1,
    });
}

struct Bridge {
    host: Host,
    level: LogLevel,
}

fn number(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

impl Bridge {
    fn with_record<R>(
        metadata: &Metadata<'_>,
        parent: (u8, u64),
        values: &Values,
        body: impl FnOnce(&LogRecord<'_>) -> R,
    ) -> R {
        let fields: Vec<LogField<'_>> = values.0.iter().map(Value::lend).collect();
        body(&LogRecord {
            level: number(metadata.level()),
            parent_kind: parent.0,
            line: metadata.line().unwrap_or(0),
            parent: parent.1,
            name: metadata.name().into(),
            target: metadata.target().into(),
            module_path: metadata.module_path().unwrap_or("").into(),
            file: metadata.file().unwrap_or("").into(),
            fields: if fields.is_empty() { ptr::null() } else { fields.as_ptr() },
            field_count: fields.len(),
        })
    }
}

impl Subscriber for Bridge {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change at any time, so every event asks.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        usize::from(number(metadata.level())) <= self.level.get()
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut values = Values::default();
        for field in attributes.metadata().fields() {
            values.0.push(Value::new(field.name(), field_kind::EMPTY, 0, String::new()));
        }
        attributes.record(&mut values);
        let parent = match attributes.parent() {
            Some(parent) => (PARENT_GIVEN, parent.into_u64()),
            None if attributes.is_root() => (PARENT_NONE, 0),
            None => (PARENT_CURRENT, 0),
        };
        let id =
            Self::with_record(attributes.metadata(), parent, &values, |record| self.host.span_open(record));
        // A span that nobody listens to still needs a number; the host ignores this one.
        Id::from_non_zero_u64(NonZeroU64::new(id).unwrap_or(NonZeroU64::MAX))
    }

    fn record(&self, span: &Id, record: &Record<'_>) {
        let mut values = Values::default();
        record.record(&mut values);
        let fields: Vec<LogField<'_>> = values.0.iter().map(Value::lend).collect();
        self.host.span_record(
            span.into_u64(),
            &LogRecord {
                level: 0,
                parent_kind: PARENT_NONE,
                line: 0,
                parent: 0,
                name: RStr::from_str(""),
                target: RStr::from_str(""),
                module_path: RStr::from_str(""),
                file: RStr::from_str(""),
                fields: fields.as_ptr(),
                field_count: fields.len(),
            },
        );
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut values = Values::default();
        event.record(&mut values);
        let parent = match event.parent() {
            Some(parent) => (PARENT_GIVEN, parent.into_u64()),
            None if event.is_root() => (PARENT_NONE, 0),
            None => (PARENT_CURRENT, 0),
        };
        Self::with_record(event.metadata(), parent, &values, |record| self.host.log(record));
    }

    fn enter(&self, span: &Id) {
        self.host.span_step(span.into_u64(), span_step::ENTER);
    }

    fn exit(&self, span: &Id) {
        self.host.span_step(span.into_u64(), span_step::EXIT);
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.host.span_step(span.into_u64(), span_step::CLONE);
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        self.host.span_step(span.into_u64(), span_step::CLOSE) == 1
    }
}

struct LogBridge;

impl log::Log for LogBridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        attached().is_some_and(|host| metadata.level() as usize <= LogLevel::of(host).get())
    }

    fn log(&self, record: &log::Record<'_>) {
        let (true, Some(host)) = (self.enabled(record.metadata()), attached()) else { return };
        let message = Value::new("message", field_kind::DEBUG, 0, record.args().to_string());
        let field = message.lend();
        host.log(&LogRecord {
            level: record.level() as u8,
            parent_kind: PARENT_CURRENT,
            line: record.line().unwrap_or(0),
            parent: 0,
            name: RStr::from_str("log record"),
            target: record.target().into(),
            module_path: record.module_path().unwrap_or("").into(),
            file: record.file().unwrap_or("").into(),
            fields: &raw const field,
            field_count: 1,
        });
    }

    fn flush(&self) {}
}

/// The fields of one event, as they will cross.
#[derive(Default)]
struct Values(Vec<Value>);

struct Value {
    name: &'static str,
    kind: u8,
    bits: u64,
    text: String,
}

impl Value {
    fn new(name: &'static str, kind: u8, bits: u64, text: String) -> Self {
        Self { name, kind, bits, text }
    }

    fn lend(&self) -> LogField<'_> {
        LogField { name: self.name.into(), kind: self.kind, bits: self.bits, text: self.text.as_str().into() }
    }
}

impl Values {
    fn put(&mut self, field: &Field, kind: u8, bits: u64, text: String) {
        let value = Value::new(field.name(), kind, bits, text);
        match self.0.iter_mut().find(|known| known.name == field.name()) {
            Some(known) => *known = value,
            None => self.0.push(value),
        }
    }
}

impl Visit for Values {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, field_kind::F64, value.to_bits(), String::new());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, field_kind::I64, value.cast_unsigned(), String::new());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, field_kind::U64, value, String::new());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, field_kind::BOOL, u64::from(value), String::new());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, field_kind::STR, 0, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.put(field, field_kind::DEBUG, 0, text);
    }
}
