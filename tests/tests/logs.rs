//! What a plugin logs appears in the host's own subscriber, from its first hook on, with its module's name.
//!
//! In a test binary of its own: a subscriber is the whole process's.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, Once},
};

use oxide_host::{Host, LoadOptions};
use oxide_tests::{eventually, in_time, load_misbehaving, misbehave::options, misbehaving, ordered};
use serde_json::json;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
};

#[derive(Clone, Debug)]
struct Seen {
    level: Level,
    target: String,
    fields: BTreeMap<String, String>,
}

impl Seen {
    fn is(&self, field: &str, value: &str) -> bool {
        self.fields.get(field).is_some_and(|found| found == value)
    }
}

static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());

struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), format!("{value}u64"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), format!("{value}i64"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}"));
    }
}

struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let (level, target) = (*event.metadata().level(), event.metadata().target().to_owned());
        SEEN.lock().unwrap().push(Seen { level, target, fields: fields.0 });
    }
}

/// Everything down to "info" is kept.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(Keep);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

fn seen(wanted: impl Fn(&Seen) -> bool) -> Vec<Seen> {
    SEEN.lock().unwrap().iter().filter(|seen| wanted(seen)).cloned().collect()
}

#[tokio::test]
async fn events_arrive_from_the_first_hook_on_with_module_and_generation() {
    listen();
    let host = Host::new().unwrap();
    let file = ordered(&json!({ "constructor": "log:before all hooks" }));
    let hooks = json!({ "configure": "log:at once" });
    host.load_with(file, options("m", hooks).start(false)).await.unwrap();
    for text in ["before all hooks", "at once"] {
        check(&seen(|event| event.is("text", text)));
    }
}

fn check(events: &[Seen]) {
    let levels: Vec<Level> = events.iter().map(|event| event.level).collect();
    // Not the one below the host's level.
    assert_eq!(levels, [Level::ERROR, Level::INFO]);
    for event in events {
        assert!(event.is("module", "m"), "{event:?}");
        assert!(event.is("generation", "1u64"), "{event:?}");
        assert!(event.target.starts_with("misbehaving"), "{event:?}");
    }
    assert!(events[0].is("message", "an error"));
    assert!(events[1].is("message", "an info") && events[1].is("answer", "42i64"), "{:?}", events[1]);
}

#[tokio::test]
async fn events_of_calls_are_their_own_modules() {
    listen();
    let host = Host::new().unwrap();
    for id in ["one", "two"] {
        load_misbehaving(&host, id, json!({})).await.unwrap();
        host.invoke(id, "log", format!("{id} speaking")).await.unwrap();
        let events = seen(|event| event.is("text", &format!("{id} speaking")));
        assert_eq!(events.len(), 2);
        assert!(events.iter().all(|event| event.is("module", id)));
    }
}

#[tokio::test]
async fn the_panic_of_a_task_or_a_thread_is_in_the_log() {
    listen();
    let host = Host::new().unwrap();
    load_misbehaving(&host, "panicky", json!({})).await.unwrap();
    in_time(host.invoke("panicky", "spawn_panic", "")).await.unwrap();
    in_time(host.invoke("panicky", "thread_panic", "")).await.unwrap();
    for text in [
        "panic in a task: a task panicked as ordered",
        "panic in a thread of its own: a thread panicked as ordered",
    ] {
        let told = |event: &Seen| {
            event.level == Level::ERROR
                && event.is("module", "panicky")
                && event.fields.get("message").is_some_and(|message| message.starts_with(text))
        };
        eventually(text, || !seen(told).is_empty()).await;
    }
}

#[tokio::test]
async fn a_message_that_is_not_taken_well_is_in_the_log() {
    listen();
    let host = Host::new().unwrap();
    let config = json!({ "id": "clumsy", "on_message": "fail" });
    host.load_with(misbehaving(), LoadOptions::new().id("clumsy").config(config)).await.unwrap();
    let news = oxide_host::bus::Event::Custom {
        module_id: "clumsy".into(),
        kind: "news".into(),
        payload: json!(null),
    };
    host.bus().emit_event("test", news).await.unwrap();
    eventually("the failure is told", || {
        !seen(|event| event.level == Level::WARN && event.is("module", "clumsy")).is_empty()
    })
    .await;
}
