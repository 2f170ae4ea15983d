//! What a guest logs is in the host's own log, with its module's name.
//!
//! In a test binary of its own: a subscriber is the whole process's.

use std::{collections::BTreeMap, fmt, sync::Mutex};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use wasm_runtime_tests::{Given, House};

type Fields = BTreeMap<String, String>;

static SEEN: Mutex<Vec<(Level, Fields)>> = Mutex::new(Vec::new());

struct Reads(Fields);

impl Visit for Reads {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

/// Keeps every event.
struct Keeps;

impl Subscriber for Keeps {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let mut reads = Reads(Fields::new());
        event.record(&mut reads);
        SEEN.lock().unwrap().push((*event.metadata().level(), reads.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn what_a_component_and_a_core_module_log_carries_their_modules_names() {
    tracing::subscriber::set_global_default(Keeps).unwrap();
    let house = House::new();
    house.load("counter", &Given::guest("counter")).await;
    house.gone("counter").await;
    house.load("shout", &Given::guest("shout")).await;
    house.gone("shout").await;

    let seen = SEEN.lock().unwrap();
    for (module, text) in
        [("counter", "counts from 0"), ("counter", "counted up to 0"), ("shout", "ready to shout")]
    {
        let found = seen.iter().any(|(level, fields)| {
            let of_it = fields.get("module").is_some_and(|found| found == module);
            let says = fields.get("message").is_some_and(|found| found == text);
            *level == Level::INFO && of_it && says
        });
        assert!(found, "{module}: {text} in {seen:#?}");
    }
}
