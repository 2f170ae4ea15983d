//! A plugin that works in the background: every 100 ms it says `tick` on the bus.
//!
//! - While it runs it publishes custom events of kind `tick` with `{"count": n}`;
//! - `count` replies how many there were, as a JSON number.
#![forbid(unsafe_code)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use oxide_plugin_api::prelude::*;

/// The module's id, and the source of its events.
const ID: &str = "ticker";

/// The time between two ticks.
const PERIOD: Duration = Duration::from_millis(100);

/// The module.
#[derive(Default)]
struct Ticker {
    bus: Option<MessageBus>,
    count: Arc<AtomicU64>,
}

/// Ticks until the host ends it, which it does at `stop`: the task was spawned by `start`.
async fn tick(bus: MessageBus, count: Arc<AtomicU64>) -> Result<()> {
    loop {
        task::sleep(PERIOD).await;
        let count = count.fetch_add(1, Ordering::Relaxed) + 1;
        let payload = serde_json::json!({ "count": count });
        let event = Event::Custom { module_id: ID.into(), kind: "tick".into(), payload };
        bus.emit_event(ID, event).await?;
    }
}

impl Module for Ticker {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: ID.into(),
            name: "Ticker".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn init(&mut self, bus: MessageBus) -> Result<()> {
        self.bus = Some(bus);
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        let bus = self.bus.clone().ok_or_else(|| Error::new("started before it was given the bus"))?;
        drop(task::spawn(tick(bus, self.count.clone())));
        Ok(())
    }

    async fn invoke(&self, method: &str, _: Payload) -> Result<Payload> {
        match method {
            "count" => Payload::json(&self.count.load(Ordering::Relaxed)),
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(Ticker);

#[cfg(test)]
mod tests {
    use oxide_plugin_api::testing::{TestHost, TestModule};

    use super::*;

    fn count(ticker: &TestModule<Ticker>) -> Result<u64> {
        ticker.invoke("count", b"")?.to_json()
    }

    /// The counts that it has told of so far.
    fn told(host: &TestHost) -> Vec<u64> {
        host.published_by(ID)
            .into_iter()
            .filter_map(|envelope| match envelope.message {
                Message::Event(Event::Custom { kind, payload, .. }) if kind == "tick" => {
                    payload["count"].as_u64()
                }
                _ => None,
            })
            .collect()
    }

    #[test]
    fn ticks_while_it_runs() -> Result<()> {
        let host = TestHost::new();
        let ticker = host.load_and_start(Ticker::default())?;
        assert_eq!(count(&ticker)?, 0);
        for _ in 0..3 {
            assert!(host.next_event(Filter::all().kind("tick").about(ID), Duration::from_secs(10)).is_some());
        }
        assert!(count(&ticker)? >= 3);
        assert!(ticker.invoke("reset", b"").is_err());
        Ok(())
    }

    #[test]
    fn stops_ticking_at_stop_and_goes_on_at_start() -> Result<()> {
        let host = TestHost::new();
        let mut ticker = host.load_and_start(Ticker::default())?;
        host.next_event(Filter::all().kind("tick"), Duration::from_secs(10)).expect("a tick");
        ticker.stop()?;
        let before = told(&host);
        std::thread::sleep(3 * PERIOD);
        assert_eq!(told(&host), before);

        ticker.start()?;
        while told(&host).len() < before.len() + 2 {
            host.next_event(Filter::all().kind("tick"), Duration::from_secs(10)).expect("another tick");
        }
        let told = told(&host);
        assert!(told.is_sorted_by(|one, next| one < next), "{told:?}");
        Ok(())
    }
}
