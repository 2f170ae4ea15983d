//! Recorded by a subscriber of the test's own, on the test's own thread.

use std::{
    fmt::{self, Write},
    mem, ptr,
    sync::{
        MutexGuard,
        atomic::{AtomicBool, AtomicUsize},
    },
    thread,
};

use oxide_plugin_api::ffi::host_table::{field_kind, span_step};
use parking_lot::Mutex;
use tracing_core::{
    Dispatch, Interest, Metadata, Subscriber,
    field::{Field, Visit},
    span::Id,
};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use super::*;

mod callsites;
mod spans;

/// What the host saw, a line for each thing.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    fn take(&self) -> Vec<String> {
        mem::take(&mut self.0.lock())
    }

    fn dispatch(&self) -> Dispatch {
        Dispatch::new(Registry::default().with(self.clone()))
    }
}

struct Line(String);

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let _ = write!(self.0, " {}=f64:{value}", field.name());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        let _ = write!(self.0, " {}=i64:{value}", field.name());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        let _ = write!(self.0, " {}=u64:{value}", field.name());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        let _ = write!(self.0, " {}=bool:{value}", field.name());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {}=str:{value}", field.name());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}=debug:{value:?}", field.name());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Line("event".to_owned());
        for span in context.event_scope(event).into_iter().flatten() {
            let _ = write!(line.0, " <{}", span.name());
        }
        event.record(&mut line);
        self.0.lock().push(line.0);
    }
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut line = Line("open".to_owned());
        for span in context.span_scope(id).into_iter().flatten() {
            let _ = write!(line.0, " <{}", span.name());
        }
        attributes.record(&mut line);
        self.0.lock().push(line.0);
    }
    fn on_record(&self, _: &Id, record: &Record<'_>, _: Context<'_, S>) {
        let mut line = Line("record".to_owned());
        record.record(&mut line);
        self.0.lock().push(line.0);
    }
    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.0.lock().push(format!("enter {}", context.span(id).expect("it is open").name()));
    }
    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.0.lock().push(format!("exit {}", context.span(id).expect("it is open").name()));
    }
    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.0.lock().push(format!("close {}", context.span(&id).expect("it is open").name()));
    }
}

/// One test at a time: `tracing` keeps its level and its callsites' interest for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn sink() -> LogSink {
    LogSink::new("echo".into(), 7)
}

/// Runs the body where a recorder listens.
fn recorded(body: impl FnOnce(&LogSink, &Recorder)) {
    let _alone = alone();
    let recorder = Recorder::default();
    dispatcher::with_default(&recorder.dispatch(), || body(&sink(), &recorder));
}

fn field<'a>(name: &'a str, kind: u8, bits: u64, text: &'a str) -> LogField<'a> {
    LogField { name: name.into(), kind, bits, text: text.into() }
}

fn record<'a>(name: &'a str, fields: &'a [LogField<'a>]) -> LogRecord<'a> {
    LogRecord {
        level: 3,
        parent_kind: 0,
        line: 12,
        parent: 0,
        name: name.into(),
        target: "echo::net".into(),
        module_path: "echo::net::tcp".into(),
        file: "src/net.rs".into(),
        fields: fields.as_ptr(),
        field_count: fields.len(),
    }
}

fn event(sink: &LogSink, record: &LogRecord<'_>) {
    // SAFETY: the tests' records come from slices.
    unsafe { sink.event(record) }
}

fn open(sink: &LogSink, record: &LogRecord<'_>) -> u64 {
    // SAFETY: the tests' records come from slices.
    unsafe { sink.span_open(record) }
}

fn named(sink: &LogSink, name: &str) -> u64 {
    open(sink, &record(name, &[]))
}

fn hung<'a>(mut record: LogRecord<'a>, parent_kind: u8, parent: u64) -> LogRecord<'a> {
    record.parent_kind = parent_kind;
    record.parent = parent;
    record
}

#[test]
fn fields_arrive_with_their_names_and_types() {
    recorded(|sink, seen| {
        let text = String::from("two words");
        let fields = [
            field("message", field_kind::DEBUG, 0, "hello"),
            field("str", field_kind::STR, 0, &text),
            field("i64", field_kind::I64, (-5_i64).cast_unsigned(), ""),
            field("u64", field_kind::U64, u64::MAX, ""),
            field("f64", field_kind::F64, 1.5_f64.to_bits(), ""),
            field("yes", field_kind::BOOL, 1, ""),
            field("none", field_kind::EMPTY, 0, ""),
            field("later.kind", 99, 0, "text"),
        ];
        event(sink, &record("types", &fields));
        assert_eq!(
            seen.take(),
            [format!(
                "event message=debug:hello str=str:two words i64=i64:-5 u64=u64:{} f64=f64:1.5 yes=bool:true \
                 later.kind=debug:text module=str:echo generation=u64:7",
                u64::MAX
            )]
        );
    });
}

#[test]
fn the_place_and_the_level_arrive() {
    struct Places(Mutex<Vec<&'static Metadata<'static>>>);
    impl Subscriber for Places {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, attributes: &Attributes<'_>) -> Id {
            self.0.lock().push(attributes.metadata());
            Id::from_u64(1)
        }
        fn event(&self, event: &Event<'_>) {
            self.0.lock().push(event.metadata());
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }
    let _alone = alone();
    let dispatch = Dispatch::new(Places(Mutex::default()));
    dispatcher::with_default(&dispatch, || {
        let sink = sink();
        for level in 1..=5 {
            event(&sink, &LogRecord { level, ..record("place", &[]) });
        }
        assert_ne!(named(&sink, "place"), 0);
        event(&sink, &LogRecord { line: 0, file: "".into(), module_path: "".into(), ..record("place", &[]) });
    });
    let places = dispatch.downcast_ref::<Places>().unwrap().0.lock();
    let levels: Vec<Level> = places[..5].iter().map(|place| *place.level()).collect();
    assert_eq!(levels, [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE]);
    for place in &places[..6] {
        assert_eq!(place.name(), "place");
        assert_eq!(place.target(), "echo::net");
        assert_eq!(place.module_path(), Some("echo::net::tcp"));
        assert_eq!(place.file(), Some("src/net.rs"));
        assert_eq!(place.line(), Some(12));
    }
    assert!(places[4].is_event() && places[5].is_span());
    assert_eq!((places[6].module_path(), places[6].file(), places[6].line()), (None, None, None));
}

#[test]
fn a_plugin_cannot_speak_as_another_module() {
    recorded(|sink, seen| {
        let fields =
            [field("module", field_kind::STR, 0, "bank"), field("generation", field_kind::U64, 1, "")];
        event(sink, &record("forged", &fields));
        assert_eq!(
            seen.take(),
            ["event plugin.module=str:bank plugin.generation=u64:1 module=str:echo generation=u64:7"]
        );
    });
}

#[test]
fn fields_beyond_thirty_are_folded_into_one() {
    recorded(|sink, seen| {
        let names: Vec<String> = (0..33).map(|n| format!("n{n}")).collect();
        let mut fields: Vec<_> = names.iter().map(|name| field(name, field_kind::U64, 1, "")).collect();
        fields[32] = field("n32", field_kind::STR, 0, "last");
        event(sink, &record("thirty", &fields[..30]));
        event(sink, &record("many", &fields));
        let lines = seen.take();
        assert!(lines[0].ends_with(" n29=u64:1 module=str:echo generation=u64:7"), "{}", lines[0]);
        let folded = " n28=u64:1 more=debug:n29=1 n30=1 n31=1 n32=\"last\" module=str:echo generation=u64:7";
        assert!(lines[1].ends_with(folded), "{}", lines[1]);
    });
}

#[test]
fn the_text_of_folded_fields_is_cut() {
    recorded(|sink, seen| {
        let long = "é".repeat(100_000);
        let fields: Vec<_> = (0..2000).map(|_| field("same", field_kind::STR, 0, &long)).collect();
        let mut other = record("long", &fields);
        event(sink, &other);
        other.fields = ptr::null();
        event(sink, &other);
        assert_eq!(seen.take().len(), 2);
        let mut more = values::More::default();
        for _ in 0..3 {
            more.add("x", &values::Held::Str(&long));
        }
        assert!(more.as_str().ends_with('…'));
        assert!(more.as_str().len() < 8 * 1024 + 4);
    });
}

#[test]
fn the_hosts_level_is_respected_and_told() {
    let _alone = alone();
    let seen = Recorder::default();
    let quiet = Dispatch::new(Registry::default().with(seen.clone()).with(LevelFilter::INFO));
    dispatcher::with_default(&quiet, || {
        let sink = sink();
        event(&sink, &LogRecord { level: 4, ..record("debug", &[]) });
        assert_eq!(open(&sink, &LogRecord { level: 5, ..record("trace", &[]) }), 0);
        event(&sink, &LogRecord { level: 2, ..record("warn", &[]) });
    });
    assert_eq!(seen.take(), ["event module=str:echo generation=u64:7"]);
    let loud = seen.dispatch();
    assert_eq!(level().load(Ordering::Relaxed), 5);
    drop((quiet, loud));
    let numbers = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE].map(number);
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
}

#[test]
fn filters_by_target_are_respected_also_after_they_change() {
    let _alone = alone();
    let seen = Recorder::default();
    let targets = |level| Targets::new().with_target("echo::net", level).with_default(LevelFilter::TRACE);
    let (filter, handle) = tracing_subscriber::reload::Layer::new(targets(LevelFilter::OFF));
    let dispatch = Dispatch::new(Registry::default().with(seen.clone().with_filter(filter)));
    dispatcher::with_default(&dispatch, || {
        let sink = sink();
        event(&sink, &record("net", &[]));
        assert_eq!(seen.take(), [""; 0]);
        event(&sink, &LogRecord { target: "echo".into(), ..record("net", &[]) });
        assert_eq!(seen.take().len(), 1);
        handle.reload(targets(LevelFilter::TRACE)).unwrap();
        event(&sink, &record("net", &[]));
        assert_eq!(seen.take().len(), 1);
        handle.reload(targets(LevelFilter::OFF)).unwrap();
        event(&sink, &record("net", &[]));
        assert_eq!(seen.take(), [""; 0]);
    });
}

#[test]
fn nobody_is_asked_again_who_said_never() {
    struct Never(Arc<AtomicUsize>);
    impl Subscriber for Never {
        fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
            if metadata.name() == "never" { Interest::never() } else { Interest::sometimes() }
        }
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            false
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn event(&self, _: &Event<'_>) {}
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }
    let _alone = alone();
    let asked = Arc::new(AtomicUsize::new(0));
    dispatcher::with_default(&Dispatch::new(Never(asked.clone())), || {
        let sink = sink();
        event(&sink, &record("never", &[]));
        assert_eq!(named(&sink, "never"), 0);
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        event(&sink, &record("sometimes", &[]));
        event(&sink, &record("sometimes", &[]));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_thread_without_a_subscriber_spoils_no_callsite() {
    recorded(|_, seen| {
        let deaf = sink();
        thread::scope(|scope| {
            scope.spawn(|| {
                event(&deaf, &record("deaf first", &[]));
                assert_eq!(named(&deaf, "deaf first"), 0);
            });
        });
        event(&deaf, &record("deaf first", &[]));
        assert_eq!(seen.take().len(), 1);
    });
}

#[test]
fn a_panic_of_the_hosts_subscriber_ends_here() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("and again");
        }
    }
    struct Angry(AtomicBool);
    impl Angry {
        fn maybe(&self) {
            if self.0.load(Ordering::Relaxed) {
                std::panic::panic_any(Bomb);
            }
        }
    }
    impl Subscriber for Angry {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            self.maybe();
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            self.maybe();
            Id::from_u64(1)
        }
        fn event(&self, _: &Event<'_>) {
            self.maybe();
        }
        fn record(&self, _: &Id, _: &Record<'_>) {
            self.maybe();
        }
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {
            self.maybe();
        }
        fn exit(&self, _: &Id) {
            self.maybe();
        }
        fn try_close(&self, _: Id) -> bool {
            self.maybe();
            true
        }
    }
    let _alone = alone();
    let dispatch = Dispatch::new(Angry(AtomicBool::new(false)));
    dispatcher::with_default(&dispatch, || {
        let sink = sink();
        let spans = [named(&sink, "angry"), named(&sink, "angry"), named(&sink, "angry")];
        sink.span_step(spans[0], span_step::ENTER);
        dispatch.downcast_ref::<Angry>().unwrap().0.store(true, Ordering::Relaxed);
        event(&sink, &record("angry", &[]));
        assert_eq!(named(&sink, "angry"), 0);
        // SAFETY: the record comes from a slice.
        unsafe { sink.span_record(spans[0], &record("", &[field("a", field_kind::U64, 1, "")])) };
        sink.span_step(spans[0], span_step::ENTER);
        sink.span_step(spans[0], span_step::EXIT);
        assert_eq!(sink.span_step(spans[1], span_step::CLOSE), 1);
        assert_eq!(sink.revoke(), 2);
    });
}
