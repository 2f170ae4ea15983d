//! A plugin logs at the level that its host has at that moment.
//!
//! One test, in a test binary of its own: the level is the whole process's.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use oxide_host::Host;
use oxide_tests::load_misbehaving;
use serde_json::json;
use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    reload,
};

#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for Count {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("misbehaving") {
            self.0.fetch_add(1, SeqCst);
        }
    }
}

#[tokio::test]
async fn a_change_of_the_hosts_level_is_one_of_the_plugins() {
    let count = Count::default();
    let (filter, level) = reload::Layer::new(LevelFilter::OFF);
    let subscriber = tracing_subscriber::registry().with(filter).with(count.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let host = Host::new().unwrap();
    load_misbehaving(&host, "m", json!({})).await.unwrap();
    // The plugin says one thing each at error, info and trace.
    let levels = [
        (LevelFilter::OFF, 0),
        (LevelFilter::TRACE, 3),
        (LevelFilter::INFO, 2),
        (LevelFilter::ERROR, 1),
        (LevelFilter::DEBUG, 2),
        (LevelFilter::OFF, 0),
    ];
    for (filter, events) in levels {
        level.reload(filter).unwrap();
        let before = count.0.load(SeqCst);
        host.invoke("m", "log", "x").await.unwrap();
        assert_eq!(count.0.load(SeqCst) - before, events, "at {filter}");
    }
}
