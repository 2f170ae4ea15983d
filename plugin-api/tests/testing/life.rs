//! The order of hooks, the states of a life, and what a hook's failure does.

use oxide_plugin_api::serde_json::json;

use super::*;

fn taken(trace: &Trace) -> Vec<String> {
    std::mem::take(&mut *trace.lock().unwrap())
}

#[test]
fn hooks_run_in_the_order_of_a_life() -> Result<()> {
    let trace = Trace::default();
    let mut probe = TestHost::new().load(Probe::traced(&trace));
    assert_eq!(probe.state(), ModuleState::Loaded);
    probe.restore_state(SavedState { version: 4, bytes: vec![] })?;
    probe.start()?;
    assert_eq!(probe.state(), ModuleState::Running);
    assert_eq!(probe.invoke("any", b"hi")?.as_bytes(), b"hi");
    probe.on_message(Envelope::new("me", custom("probe", "greeting")))?;
    assert_eq!(probe.save_state()?.unwrap().version, 9);
    probe.stop()?;
    assert_eq!(probe.state(), ModuleState::Stopped);
    let expected = [
        "configure",
        "init",
        "restore_state 4",
        "start",
        "any",
        "on_message greeting from me",
        "save_state",
        "stop",
    ];
    assert_eq!(taken(&trace), expected);
    Ok(())
}

#[test]
fn repeating_a_step_is_fine_and_runs_nothing() -> Result<()> {
    let trace = Trace::default();
    let mut probe = TestHost::new().load(Probe::traced(&trace));
    probe.init()?;
    probe.init()?;
    assert_eq!(probe.state(), ModuleState::Loaded);
    probe.start()?;
    probe.start()?;
    probe.stop()?;
    probe.stop()?;
    probe.start()?;
    assert_eq!(taken(&trace), ["configure", "init", "start", "stop", "start"]);
    Ok(())
}

#[test]
fn what_the_state_does_not_allow_is_an_error_that_names_it() -> Result<()> {
    let mut probe = TestHost::new().load(Probe::default());
    let says = |error: Error| error.to_string();
    assert_eq!(
        says(probe.invoke("a", b"").unwrap_err()),
        "module `probe` is loaded: a call needs a running one"
    );
    assert_eq!(says(probe.stop().unwrap_err()), "module `probe` is loaded: `stop` needs a running one");
    assert!(probe.save_state().is_err());
    assert!(probe.on_message(Envelope::new("me", custom("probe", "x"))).is_err());
    probe.start()?;
    assert!(says(probe.configure(json!({})).unwrap_err()).starts_with("module `probe` is running: "));
    assert!(probe.restore_state(SavedState { version: 1, bytes: vec![] }).is_err());
    probe.stop()?;
    assert!(says(probe.invoke("a", b"").unwrap_err()).starts_with("module `probe` is stopped: "));
    Ok(())
}

#[test]
fn a_failed_or_panicked_hook_fails_the_module_and_start_tries_again() {
    for (how, expected) in
        [("fail", "start failed"), ("panic", "`start` of module `probe` panicked: start lost its nerve")]
    {
        let trace = Trace::default();
        let host = TestHost::new();
        let mut probe = host.load(Probe::traced(&trace));
        probe.configure(json!({ "start": how })).unwrap();
        let error = probe.start().unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(probe.state(), ModuleState::Failed);
        assert!(probe.start().is_err());
        assert_eq!(taken(&trace), ["configure", "init", "start", "start"]);
        let failed = host.next_event(Filter::all().from_source("kernel").about("probe"), LONG);
        assert!(matches!(failed.unwrap().message, Message::Event(Event::ModuleLoaded { .. })));
        let failed = host.next_event(Filter::all().from_source("kernel").about("probe"), LONG);
        assert!(matches!(failed.unwrap().message, Message::Event(Event::ModuleFailed { .. })));
    }
}

#[test]
fn a_panic_in_a_call_costs_that_call_only() -> Result<()> {
    let mut probe = TestHost::new().load(Probe::default());
    probe.configure(json!({ "bad": "panic" }))?;
    probe.start()?;
    let error = probe.invoke("bad", b"").unwrap_err();
    assert!(
        error.to_string().starts_with("`invoke` of module `probe` panicked: bad lost its nerve"),
        "{error}"
    );
    assert_eq!(probe.state(), ModuleState::Running);
    assert_eq!(probe.invoke("good", b"x")?.as_bytes(), b"x");
    Ok(())
}

#[test]
fn a_hook_that_never_ends_is_given_up() {
    let host = TestHost::builder().hook_deadline(Duration::from_millis(20)).build();
    let mut probe = host.load(Probe::default());
    probe.configure(json!({ "start": "hang" })).unwrap();
    assert_eq!(probe.start().unwrap_err().to_string(), "`start` of module `probe` did not end within 20ms");
    assert_eq!(probe.state(), ModuleState::Failed);
}

#[test]
fn every_step_is_announced_once_after_it_is_true() -> Result<()> {
    let host = TestHost::new();
    let mut probe = host.load_and_start(Probe::default())?;
    probe.start()?;
    probe.stop()?;
    probe.stop()?;
    assert!(probe.unload()?.bus.is_some());
    let steps: Vec<_> = host
        .published_by("kernel")
        .into_iter()
        .map(|envelope| match envelope.message {
            Message::Event(Event::ModuleLoaded { .. }) => "loaded",
            Message::Event(Event::ModuleStarted { .. }) => "started",
            Message::Event(Event::ModuleStopped { .. }) => "stopped",
            Message::Event(Event::ModuleUnloaded { .. }) => "unloaded",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(steps, ["loaded", "started", "stopped", "unloaded"]);
    Ok(())
}

#[test]
fn unload_stops_and_a_failed_stop_is_told() -> Result<()> {
    let trace = Trace::default();
    TestHost::new().load_and_start(Probe::traced(&trace))?.unload()?;
    assert_eq!(taken(&trace), ["configure", "init", "start", "stop"]);

    let mut probe = TestHost::new().load(Probe::default());
    probe.configure(json!({ "stop": "fail" }))?;
    probe.start()?;
    let error = probe.unload().map(drop).unwrap_err();
    assert_eq!((error.message(), error.chain()), ("stop failed", &["the cause".to_owned()][..]));
    Ok(())
}

#[test]
fn a_dropped_async_step_leaves_the_module_failed() {
    let mut probe = TestHost::new().load(Probe::default());
    probe.configure(json!({ "start": "hang" })).unwrap();
    {
        let mut start = std::pin::pin!(probe.start_async());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(start.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(probe.stop().unwrap_err().to_string(), "module `probe` is failed: `stop` needs a running one");
}

#[test]
#[should_panic(expected = "an id has 1 to 128 bytes")]
fn a_bad_id_is_refused() {
    TestHost::new().load(Probe::named("a/b"));
}

#[test]
fn a_wasm_module_is_instantiated_in_place_of_init() -> Result<()> {
    #[derive(Default)]
    struct Engine {
        instantiated: bool,
    }
    impl WasmModule for Engine {
        fn metadata(&self) -> ModuleMetadata {
            ModuleMetadata { kind: ModuleKind::Wasm, ..Probe::named("guest").metadata() }
        }
        async fn instantiate(&mut self, bus: MessageBus) -> Result<()> {
            bus.emit_event("", custom("guest", "ready")).await?;
            self.instantiated = true;
            Ok(())
        }
        async fn start(&mut self) -> Result<()> {
            Ok(())
        }
        async fn stop(&mut self) -> Result<()> {
            Ok(())
        }
    }
    let host = TestHost::new();
    let mut guest = host.load_wasm(Engine::default());
    guest.start()?;
    assert!(guest.module().instantiated);
    assert_eq!(host.published_by("guest").len(), 1);
    assert!(guest.invoke("main", b"").is_err());
    guest.unload().map(drop)
}
