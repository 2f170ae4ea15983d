//! The public contract, spelled out: outside code is built against these names and shapes. If this file does
//! not compile, neither does theirs.

use std::{path::Path, sync::Arc};

use oxide_host::{
    Host, ModuleHandle, ModuleInfo, Payload, Receipt, SavedState,
    bus::{Command, Envelope, Event, Message, MessageBus, Subscription},
    error::{KernelError, Result},
    module::{Module, ModuleKind, ModuleManager, ModuleMetadata, ModuleState, WasmModule},
};

struct Seed;

#[oxide_host::prelude::async_trait]
impl Module for Seed {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "seed".into(),
            name: "Seed".into(),
            version: "1.0.0".into(),
            kind: ModuleKind::Native,
            description: None,
        }
    }
    async fn start(&mut self) -> Result<()> {
        Ok(())
    }
    async fn stop(&mut self) -> Result<()> {
        Err(KernelError::Module("it would rather not".to_owned()))
    }
}

struct Guest;

#[oxide_host::prelude::async_trait]
impl WasmModule for Guest {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata { id: "guest".into(), kind: ModuleKind::Wasm, ..Seed.metadata() }
    }
    async fn instantiate(&mut self, bus: MessageBus) -> Result<()> {
        bus.emit_event("guest", custom("guest")).await.map(drop)
    }
    async fn start(&mut self) -> Result<()> {
        Ok(())
    }
    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
    async fn save_state(&self) -> Result<Option<SavedState>> {
        Ok(Some(SavedState { version: 1, bytes: Vec::new() }))
    }
    async fn invoke(&self, _method: &str, payload: Payload) -> Result<Payload> {
        Ok(payload)
    }
}

fn custom(module: &str) -> Event {
    Event::Custom { module_id: module.into(), kind: "hello".into(), payload: serde_json::json!({"a": 1}) }
}

#[tokio::test]
async fn the_managers_contract_is_as_it_is_written() {
    let bus = MessageBus::new();
    let manager: ModuleManager = ModuleManager::new(bus.clone());
    let Subscription { mut receiver, .. } = bus.subscribe().await;
    assert_eq!(bus.subscriber_count().await, 1);
    manager.register_native(Seed).await.unwrap();
    manager.register_wasm(Guest).await.unwrap();
    manager.init("guest").await.unwrap();
    manager.start("seed").await.unwrap();
    assert_eq!(manager.state("seed").await, Some(ModuleState::Running));
    assert_eq!(manager.state("nobody").await, None);
    let listed: Vec<(ModuleMetadata, ModuleState)> = manager.list().await;
    assert_eq!(listed.len(), 2);
    let seen = loop {
        let Envelope { source, message, .. } = receiver.recv().await.unwrap();
        if let Message::Event(Event::ModuleStarted { module_id }) = message {
            break (source, module_id == "seed");
        }
    };
    assert_eq!(seen, ("kernel".to_owned(), true));
    let id = bus.send_command("me", Command::Ping).await.unwrap();
    let answer = loop {
        let envelope = receiver.recv().await.unwrap();
        if envelope.correlation_id == Some(id) {
            break envelope.message;
        }
    };
    assert!(matches!(answer, Message::Event(Event::Pong { .. })));
    bus.send_command(
        "me",
        Command::Invoke { module_id: "guest".into(), method: "x".into(), payload: serde_json::Value::Null },
    )
    .await
    .unwrap();
    bus.send_command("me", Command::Start { module_id: "guest".into() }).await.unwrap();
    let error = manager.stop("seed").await.unwrap_err();
    assert!(error.to_string().contains("it would rather not"), "{error}");
    assert_eq!(manager.state("seed").await, Some(ModuleState::Failed));
    let receipt: Receipt = manager.unload("guest").await.unwrap();
    assert!(receipt.unmapped);
    assert!(
        matches!(manager.register_native(Seed).await, Err(KernelError::DuplicateModule(id)) if id == "seed")
    );
    assert!(matches!(manager.start("nobody").await, Err(KernelError::UnknownModule(_))));
}

#[tokio::test]
async fn the_hosts_contract_is_as_it_is_written() {
    fn shareable<T: Clone + Send + Sync + 'static>(_: &T) {}
    let host: Host = Host::builder().build().unwrap();
    shareable(&host);
    let path = oxide_tests::plugin("echo");
    let info = host.load(&path).await.unwrap();
    let ModuleInfo { id, name, version, kind, state, generation, path: from, .. } = info;
    assert_eq!((id.as_str(), name.as_str(), version.as_str()), ("echo", "Echo", env!("CARGO_PKG_VERSION")));
    assert_eq!((kind, state, generation), (ModuleKind::Native, ModuleState::Running, 1));
    assert_eq!(from.as_deref(), Some(Path::new(&path)));
    let handle: ModuleHandle = host.module("echo").unwrap();
    shareable(&handle);
    for reply in [
        host.invoke("echo", "echo", "hi").await.unwrap(),
        host.invoke("echo", "echo", b"hi").await.unwrap(),
        handle.invoke("echo", b"hi".to_vec()).await.unwrap(),
        handle.invoke("echo", &b"hi"[..]).await.unwrap(),
        handle.invoke("echo", Payload::from("hi".to_owned())).await.unwrap(),
    ] {
        assert_eq!(reply.as_bytes(), b"hi");
        assert_eq!(reply.into_vec(), b"hi".to_vec());
    }
    host.stop("echo").await.unwrap();
    host.start("echo").await.unwrap();
    assert_eq!(host.modules().list().await.len(), 1);
    assert_eq!(host.bus().subscriber_count().await, 0);
    // A call may go to another thread, and outlive the function that asked for the handle.
    let handle = Arc::new(handle);
    let reply = tokio::spawn(async move { handle.invoke("upper", "x").await }).await.unwrap().unwrap();
    assert_eq!(reply.as_bytes(), b"X");
    let Receipt { unmapped: _, retained_by: _, stop: _, drained: _, cancelled: _, .. } =
        host.unload("echo").await.unwrap();
    let receipts: Vec<Receipt> = host.shutdown().await;
    assert!(receipts.is_empty());
}

#[test]
fn what_is_shown_as_json_keeps_its_names() {
    let metadata = serde_json::to_value(Seed.metadata()).unwrap();
    let expected = serde_json::json!({
        "id": "seed", "name": "Seed", "version": "1.0.0", "kind": "native", "description": null
    });
    assert_eq!(metadata, expected);
    for (state, text) in [
        (ModuleState::Loaded, "loaded"),
        (ModuleState::Starting, "starting"),
        (ModuleState::Running, "running"),
        (ModuleState::Stopping, "stopping"),
        (ModuleState::Stopped, "stopped"),
        (ModuleState::Failed, "failed"),
    ] {
        assert_eq!(serde_json::to_value(state).unwrap(), text);
    }
}
