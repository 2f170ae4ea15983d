//! The test host: what it promises to authors who test against it.
#![forbid(unsafe_code)]

mod bus;
mod life;
mod swap;
mod tasks;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use oxide_plugin_api::{prelude::*, testing::TestHost};

/// Longer than anything here takes, shorter than patience.
const LONG: Duration = Duration::from_secs(10);

/// What the hooks did, in order.
type Trace = Arc<Mutex<Vec<String>>>;

/// A module whose hooks do what their configuration says: `{"hook": "fail" | "panic" | "hang"}`.
#[derive(Default)]
struct Probe {
    id: Option<String>,
    trace: Trace,
    config: serde_json::Value,
    bus: Option<MessageBus>,
}

impl Probe {
    fn named(id: &str) -> Self {
        Self { id: Some(id.into()), ..Self::default() }
    }

    fn traced(trace: &Trace) -> Self {
        Self { trace: trace.clone(), ..Self::default() }
    }

    async fn step(&self, hook: &str) -> Result<()> {
        self.trace.lock().unwrap().push(hook.to_owned());
        match self.config[hook].as_str() {
            Some("fail") => Err(Error::new("the cause").context(format_args!("{hook} failed"))),
            Some("panic") => panic!("{hook} lost its nerve"),
            Some("hang") => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

impl Module for Probe {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: self.id.clone().unwrap_or_else(|| "probe".into()),
            name: "Probe".into(),
            version: "1.0.0".into(),
            kind: ModuleKind::Native,
            description: None,
        }
    }

    async fn configure(&mut self, config: serde_json::Value) -> Result<()> {
        self.config = config;
        self.step("configure").await
    }

    async fn init(&mut self, bus: MessageBus) -> Result<()> {
        self.bus = Some(bus);
        self.step("init").await
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        self.step(&format!("restore_state {}", state.version)).await
    }

    async fn start(&mut self) -> Result<()> {
        self.step("start").await
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        self.step(method).await?;
        Ok(payload)
    }

    async fn on_message(&self, envelope: Envelope) -> Result<()> {
        let Message::Event(Event::Custom { kind, .. }) = envelope.message else { return Ok(()) };
        self.step(&format!("on_message {kind} from {}", envelope.source)).await
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        self.step("save_state").await?;
        Ok(Some(SavedState { version: 9, bytes: vec![] }))
    }

    async fn stop(&mut self) -> Result<()> {
        self.step("stop").await
    }
}

fn custom(module_id: &str, kind: &str) -> Event {
    Event::Custom { module_id: module_id.into(), kind: kind.into(), payload: serde_json::Value::Null }
}

#[test]
fn what_a_module_logs_is_recorded_for_its_host() -> Result<()> {
    struct Talker;
    impl Module for Talker {
        fn metadata(&self) -> ModuleMetadata {
            Probe::named("talker").metadata()
        }
        async fn start(&mut self) -> Result<()> {
            oxide_plugin_api::tracing::debug!(count = 3, ready = true, who = "me", ratio = 0.5, "starting");
            task::spawn(async { oxide_plugin_api::tracing::warn!("in a task") }).await;
            Ok(())
        }
        async fn stop(&mut self) -> Result<()> {
            Ok(())
        }
    }
    let (host, other) = (TestHost::new(), TestHost::new());
    host.load_and_start(Talker)?;
    let logs = host.logs();
    assert_eq!(logs.len(), 2, "{logs:?}");
    assert_eq!(logs[0].to_string(), "DEBUG testing: starting count=3 ready=true who=me ratio=0.5");
    assert_eq!(logs[0].field("count"), Some("3"));
    assert_eq!(
        (logs[1].level, logs[1].message.as_str()),
        (oxide_plugin_api::tracing::Level::WARN, "in a task")
    );
    assert!(other.logs().is_empty());

    let silent = TestHost::builder().record_logs(false).build();
    silent.load_and_start(Talker)?;
    assert!(silent.logs().is_empty());
    Ok(())
}
