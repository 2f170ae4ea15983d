//! A swap in the test host: the hooks of two builds, in the order of a real one.

use std::future::Future;

use oxide_plugin_api::serde_json::json;

use super::*;

/// Counts, and says in which format it saves: what it was built with, and the one before.
struct Tally {
    format: u32,
    total: i64,
}

impl Tally {
    fn saving(format: u32) -> Self {
        Self { format, total: 0 }
    }
}

impl Module for Tally {
    fn metadata(&self) -> ModuleMetadata {
        Probe::named("tally").metadata()
    }

    async fn configure(&mut self, config: serde_json::Value) -> Result<()> {
        self.total = config["from"].as_i64().unwrap_or_default();
        Ok(())
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        let state = state.upgrade_from(1, |total: i64| Ok([total]))?;
        let [total]: [i64; 1] = if self.format == 1 { [state.read(1)?] } else { state.read(2)? };
        self.total = total;
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, _: &str, _: Payload) -> Result<Payload> {
        Payload::json(&self.total)
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        let total = self.total;
        Ok(Some(match self.format {
            1 => SavedState::of(1, &total)?,
            2 => SavedState::of(2, &[total])?.also(1, &total)?,
            other => SavedState::of(other, "nobody knows this")?,
        }))
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

fn taken(trace: &Trace) -> Vec<String> {
    std::mem::take(&mut *trace.lock().unwrap())
}

fn announced(host: &TestHost) -> Vec<Event> {
    let kernel = host.published_by("kernel").into_iter();
    kernel
        .filter_map(|envelope| match envelope.message {
            Message::Event(event) => Some(event),
            Message::Command(_) => None,
        })
        .collect()
}

#[test]
fn the_hooks_of_both_run_in_the_order_of_a_swap() -> Result<()> {
    let (host, old_trace, new_trace) = (TestHost::new(), Trace::default(), Trace::default());
    let mut old = host.load(Probe::traced(&old_trace));
    old.configure(json!({ "some": "thing" }))?;
    old.start()?;
    let new = old.swap(Probe::traced(&new_trace))?;
    assert_eq!(taken(&old_trace), ["configure", "init", "start", "save_state", "stop"]);
    assert_eq!(taken(&new_trace), ["configure", "init", "restore_state 9", "start"]);
    assert_eq!(new.module().config, json!({ "some": "thing" }));
    assert_eq!((old.state(), new.state()), (ModuleState::Stopped, ModuleState::Running));
    drop(old.unload()?);

    let id = || "probe".to_owned();
    let expected = [
        Event::ModuleLoaded { module_id: id() },
        Event::ModuleStarted { module_id: id() },
        Event::ModuleSwapped { module_id: id(), from: 1, to: 2 },
    ];
    assert_eq!(announced(&host), expected);
    drop(new.unload()?);
    let Some(Event::ModuleUnloaded { receipt, .. }) = announced(&host).pop() else { panic!() };
    assert_eq!(receipt["generation"], 2);
    Ok(())
}

#[test]
fn a_state_goes_up_and_down_the_versions() -> Result<()> {
    let mut first = TestHost::new().load(Tally::saving(1));
    first.configure(json!({ "from": 7 }))?;
    first.start()?;
    let mut second = first.swap(Tally::saving(2))?;
    assert_eq!(second.invoke("", b"")?.as_bytes(), b"7");
    let back = second.swap(Tally::saving(1))?;
    assert_eq!(back.invoke("", b"")?.as_bytes(), b"7");
    Ok(())
}

#[test]
fn a_refused_state_leaves_the_old_one_running() -> Result<()> {
    let host = TestHost::new();
    let mut old = host.load(Tally::saving(3));
    old.configure(json!({ "from": 5 }))?;
    old.start()?;
    let before = announced(&host);
    let error = old.swap(Tally::saving(2)).unwrap_err();
    assert!(
        error.to_string().starts_with("the state has version 3, this build reads version 2: "),
        "{error}"
    );
    assert_eq!(old.invoke("", b"")?.as_bytes(), b"5");
    assert_eq!(announced(&host), before);

    for (hook, expected) in [("configure", 1), ("init", 2), ("restore_state 9", 3), ("start", 4)] {
        let (host, old_trace, new_trace) = (TestHost::new(), Trace::default(), Trace::default());
        let mut old = host.load_and_start(Probe::traced(&old_trace))?;
        // The old one ran with this, unharmed.
        old.invoke("a call", b"")?;
        let new = Failing { probe: Probe::traced(&new_trace), hook };
        let error = old.swap(new).unwrap_err();
        assert_eq!(error.to_string(), format!("{hook} failed"));
        assert_eq!(taken(&new_trace).len(), expected);
        assert_eq!(old.state(), ModuleState::Running);
        old.stop()?;
    }
    Ok(())
}

/// A probe one of whose hooks fails whatever its configuration says.
struct Failing {
    probe: Probe,
    hook: &'static str,
}

impl Failing {
    fn fails_at(&mut self, hook: &str) {
        if self.hook == hook {
            self.probe.config = json!({ hook: "fail" });
        }
    }
}

impl Module for Failing {
    fn metadata(&self) -> ModuleMetadata {
        self.probe.metadata()
    }

    async fn configure(&mut self, _: serde_json::Value) -> Result<()> {
        self.fails_at("configure");
        self.probe.step("configure").await
    }

    async fn init(&mut self, bus: MessageBus) -> Result<()> {
        self.fails_at("init");
        self.probe.init(bus).await
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        self.fails_at("restore_state 9");
        self.probe.restore_state(state).await
    }

    async fn start(&mut self) -> Result<()> {
        self.fails_at("start");
        self.probe.start().await
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn messages_that_wait_go_over_to_the_new_one() -> Result<()> {
    let (host, trace) = (TestHost::new(), Trace::default());
    let mut old = host.load_and_start(Probe::default())?;
    host.publish(Envelope::new("me", custom("probe", "before")));
    let new = old.swap(Probe::traced(&trace))?;
    host.publish(Envelope::new("me", custom("probe", "after")));
    taken(&trace);
    assert_eq!(new.deliver()?, 2);
    assert_eq!(taken(&trace), ["on_message before from me", "on_message after from me"]);
    Ok(())
}

#[test]
fn only_a_running_module_is_swapped_and_only_to_a_build_of_it() -> Result<()> {
    let host = TestHost::new();
    let mut old = host.load(Probe::default());
    let error = old.swap(Probe::default()).unwrap_err();
    assert_eq!(error.to_string(), "module `probe` is loaded: a swap needs a running one");
    old.start()?;
    let error = old.swap(Tally::saving(1)).unwrap_err();
    assert_eq!(error.to_string(), "module `probe` is running: `tally` is no build of it");
    assert_eq!(old.invoke("any", b"x")?.as_bytes(), b"x");
    Ok(())
}

#[test]
fn the_bus_of_the_old_one_is_closed() -> Result<()> {
    let host = TestHost::new();
    let mut old = host.load_and_start(Probe::default())?;
    let bus = old.bus();
    let new = old.swap(Probe::default())?;
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let closed = std::pin::pin!(bus.emit_event("", custom("probe", "x"))).poll(&mut context);
    assert!(matches!(closed, std::task::Poll::Ready(Err(_))));
    assert!(new.invoke("any", b"").is_ok());
    Ok(())
}
