//! From a `.wasm` file to a module and back.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use oxide_host::{
    LoadOptions,
    bus::{Command, Event},
    error::KernelError,
    module::{ModuleKind, ModuleState},
};
use oxide_tests::{
    Guest, House, child,
    guest::{component, core, with_engine},
    plugin, told,
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_guest_is_a_module_like_any_other() {
    let host = with_engine().build().unwrap();
    let guest = Guest::that(&json!({ "id": "hello", "version": "1.2.3", "description": "Says hello" }));
    let info = host.load(&guest).await.unwrap();
    assert_eq!((info.id.as_str(), info.version.as_str()), ("hello", "1.2.3"));
    assert_eq!((info.kind, info.state, info.generation), (ModuleKind::Wasm, ModuleState::Running, 1));
    assert_eq!(info.path.as_deref(), Some(guest.as_ref()));
    assert_eq!(info.engine.as_deref(), Some(&*plugin("engine")));
    assert_eq!(info.description.as_deref(), Some("Says hello"));
    assert_eq!(host.show("hello").await.unwrap(), info);
    assert_eq!(host.list().await, [info]);

    assert_eq!(host.invoke("hello", "echo", "over here").await.unwrap().as_bytes(), b"over here");
    let command = Command::Invoke { module_id: "hello".into(), method: "get".into(), payload: Value::Null };
    let answer = host.bus().request("test", command, Duration::from_secs(60)).await.unwrap();
    let Event::InvokeCompleted { module_id, payload } = answer else { panic!("{answer:?}") };
    assert_eq!((module_id.as_str(), payload), ("hello", json!(0)));
    host.stop("hello").await.unwrap();
    host.start("hello").await.unwrap();
    assert_eq!(host.invoke("hello", "echo", "again").await.unwrap().as_bytes(), b"again");
    let receipt = host.unload("hello").await.unwrap();
    assert_eq!((receipt.id.as_str(), receipt.generation), ("hello", 1));
    assert!(host.list().await.is_empty());
}

#[tokio::test]
async fn what_an_engine_says_of_itself_is_no_description_of_its_guest() {
    let host = with_engine().build().unwrap();
    assert_eq!(host.load(&Guest::new("hello", "1.0.0")).await.unwrap().description, None);
    // By itself it is a module, whose description is its package's.
    let engine = host.load(plugin("engine")).await.unwrap();
    assert!(engine.description.is_some_and(|said| said.contains("engine")));
    assert_eq!(engine.engine, None);
}

#[tokio::test]
async fn an_engine_is_configured_before_it_is_asked_what_it_is() {
    let host = with_engine().build().unwrap();
    host.load(&Guest::new("hello", "1.0.0")).await.unwrap();
    let hooks: Vec<String> = host.invoke("hello", "hooks", "").await.unwrap().to_json().unwrap();
    assert_eq!(hooks, ["configure", "metadata", "instantiate", "start"]);
}

#[tokio::test]
async fn the_engine_gets_the_guest_and_what_the_operator_wrote() {
    let host = with_engine().build().unwrap();
    let says = json!({ "id": "hello", "version": "1.0.0" });
    // Small, of either sort, and one that is read in another way.
    let long = json!({ "id": "hello", "version": "1.0.0", "description": "x".repeat(5 << 20) });
    for bytes in [core(&says), component(&says), core(&long)] {
        let guest = Guest::of("a guest.wasm", &bytes);
        host.load(&guest).await.unwrap();
        assert!(host.invoke("hello", "guest", "").await.unwrap().as_bytes() == bytes);
        host.unload("hello").await.unwrap();
    }

    let guest = Guest::of("a guest.wasm", &core(&says));
    let limits = json!({ "memory": 1, "allow": { "dirs": ["/srv"] } });
    for (config, own, wasm) in [
        (Value::Null, Value::Null, json!({})),
        (json!("text"), json!("text"), json!({})),
        (json!({}), json!({}), json!({})),
        (json!({ "a": [1, "ü"] }), json!({ "a": [1, "ü"] }), json!({})),
        (json!({ "wasm": limits }), Value::Null, limits.clone()),
        (json!({ "wasm": limits, "a": 1 }), json!({ "a": 1 }), limits.clone()),
    ] {
        host.load_with(&guest, LoadOptions::new().config(config)).await.unwrap();
        let given: Value = host.invoke("hello", "given", "").await.unwrap().to_json().unwrap();
        assert_eq!(given, json!({ "name": "a guest.wasm", "config": own, "wasm": wasm, "cache": null }));
        host.unload("hello").await.unwrap();
    }
}

#[tokio::test]
async fn the_cache_is_a_folder_of_the_users_own() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache/wasm");
    let host = with_engine().wasm_cache(Some(cache.clone())).build().unwrap();
    let told = async |id: &str| {
        host.load_with(&Guest::new("hello", "1.0.0"), LoadOptions::new().id(id)).await.unwrap();
        let given: Value = host.invoke(id, "given", "").await.unwrap().to_json().unwrap();
        given["cache"].clone()
    };
    assert_eq!(
        told("one").await,
        *fs::canonicalize(folder.path()).unwrap().join("cache/wasm").to_string_lossy()
    );
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    // What somebody else may have put in there must not be run.
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(told("two").await, Value::Null);
}

#[tokio::test]
async fn each_guest_has_a_generation_of_its_own() {
    let host = with_engine().build().unwrap();
    host.load(&Guest::that_counts("one", "1.0.0")).await.unwrap();
    host.load(&Guest::that_counts("two", "1.0.0")).await.unwrap();
    for _ in 0..3 {
        host.invoke("one", "increment", "").await.unwrap();
    }
    assert_eq!(host.invoke("one", "get", "").await.unwrap().as_bytes(), b"3");
    assert_eq!(host.invoke("two", "get", "").await.unwrap().as_bytes(), b"0");
    host.unload("one").await.unwrap();
    assert_eq!(host.invoke("two", "echo", "there").await.unwrap().as_bytes(), b"there");
}

#[tokio::test]
async fn an_id_is_taken_once() {
    let host = with_engine().build().unwrap();
    host.load(plugin("echo")).await.unwrap();
    let guest = Guest::new("echo", "1.0.0");
    let error = host.load(&guest).await.unwrap_err();
    assert!(matches!(&error, KernelError::DuplicateModule(id) if id == "echo"), "{error}");
    let error = host.load_with(&guest, LoadOptions::new().id("echo")).await.unwrap_err();
    assert!(matches!(&error, KernelError::DuplicateModule(id) if id == "echo"), "{error}");
    assert_eq!(host.load_with(&guest, LoadOptions::new().id("other")).await.unwrap().id, "other");
    assert_eq!(host.list().await.len(), 2);
    // Of its own choosing, an absurd one is refused as a plugin's is.
    let error =
        host.load(&Guest::of("x.wasm", &core(&json!({ "id": "a/b", "version": "1" })))).await.unwrap_err();
    assert!(matches!(error, KernelError::InvalidId { .. }), "{error}");
}

#[tokio::test]
async fn a_guest_that_its_engine_refuses_leaves_nothing() {
    let host = with_engine().build().unwrap();
    let guest = Guest::that(&json!({ "id": "bad", "version": "1.0.0", "refuse": "it imports the moon" }));
    let error = host.load(&guest).await.unwrap_err();
    assert_eq!(
        told(&error),
        "error[hook_failed]: configure of module `bad.wasm` failed: it imports the moon"
    );
    let error = host.load_with(&guest, LoadOptions::new().id("mine")).await.unwrap_err();
    assert_eq!(told(&error), "error[hook_failed]: configure of module `mine` failed: it imports the moon");
    assert!(host.list().await.is_empty());
    host.load_with(&Guest::new("bad", "1.0.0"), LoadOptions::new().id("mine")).await.unwrap();
}

#[test]
fn an_unload_is_as_real_as_any() {
    child(&["engine"]).run(|| {
        oxide_tests::block_on(async {
            let mut house = House::with(|builder| builder.wasm_engine(plugin("engine"))).await;
            let guest = Guest::new("hello", "1.0.0");
            for number in 0..5 {
                house.load_file(guest.as_ref(), "hello", Value::Null).await.unwrap();
                assert!(house.is_mapped("hello"));
                assert_eq!(house.call("hello", "echo", &number.to_string()).await, number.to_string());
                let receipt = house.unload("hello").await;
                assert!(receipt.unmapped, "{receipt:?}");
            }
            let refused = Guest::that(&json!({ "id": "hello", "version": "1", "refuse": "no" }));
            house.load_file(refused.as_ref(), "hello", Value::Null).await.unwrap_err();
            assert!(!house.is_mapped("hello"));
        });
    });
}
