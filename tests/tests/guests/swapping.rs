//! A swap may change the guest, the engine, or the module's kind.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use oxide_host::{
    Host, LoadOptions, Probation, SwapOptions, SwapStep, bus::Event, error::KernelError, module::ModuleKind,
};
use oxide_tests::{
    Guest,
    guest::{core, with_engine},
    in_time,
    misbehave::{Changed, changed},
    next_event, plugin, told,
};
use serde_json::{Value, json};

async fn text(host: &Host, id: &str, method: &str) -> String {
    let reply = host.invoke(id, method, "").await.unwrap();
    String::from_utf8(reply.into_vec()).unwrap()
}

/// Another build of the engine, which does the same.
fn another_engine() -> Changed {
    let mut bytes = fs::read(plugin("engine")).unwrap();
    bytes.push(0);
    changed("engine", &bytes)
}

#[tokio::test]
async fn a_newer_guest_takes_the_state_over() {
    let host = with_engine().build().unwrap();
    host.load(&Guest::that_counts("hello", "1.0.0")).await.unwrap();
    for _ in 0..3 {
        host.invoke("hello", "increment", "").await.unwrap();
    }
    let newer = Guest::that_counts("hello", "2.0.0");
    let report = in_time(host.swap("hello", &newer)).await.unwrap();
    assert_eq!((report.from, report.to, report.state_moved), (1, 2, true));
    assert_eq!((report.from_version.as_str(), report.to_version.as_str()), ("1.0.0", "2.0.0"));
    assert_eq!(text(&host, "hello", "version").await, "2.0.0");
    assert_eq!(text(&host, "hello", "get").await, "3");
    let info = host.show("hello").await.unwrap();
    assert_eq!((info.kind, info.generation), (ModuleKind::Wasm, 2));
    assert_eq!(
        (info.path.as_deref(), info.engine.as_deref()),
        (Some(newer.as_ref()), Some(&*plugin("engine")))
    );
}

#[tokio::test]
async fn the_same_guest_in_the_same_engine_is_no_swap() {
    let host = with_engine().build().unwrap();
    let guest = Guest::new("hello", "1.0.0");
    host.load(&guest).await.unwrap();
    // The bytes are what counts, not the file.
    for same in [&guest, &Guest::new("hello", "1.0.0")] {
        let error = in_time(host.swap("hello", same)).await.unwrap_err();
        assert!(matches!(error, KernelError::SameBuild { generation: 1, .. }), "{error:?}");
    }
    let report = in_time(host.swap_with("hello", &guest, SwapOptions::new().force(true))).await.unwrap();
    assert_eq!(report.to, 2);
    in_time(host.swap("hello", &Guest::new("hello", "1.0.1"))).await.unwrap();
}

#[tokio::test]
async fn a_newer_engine_for_the_same_guest_is_a_swap_and_a_rollback_has_the_older_one_again() {
    let engine = another_engine();
    let older = fs::read(plugin("engine")).unwrap();
    let newer = fs::read(&engine).unwrap();
    fs::write(&engine, &older).unwrap();
    let host = Host::builder().wasm_engine(engine.as_ref()).build().unwrap();
    let guest = Guest::new("hello", "1.0.0");
    host.load(&guest).await.unwrap();
    in_time(host.swap("hello", &guest)).await.unwrap_err();
    fs::write(&engine, &newer).unwrap();
    in_time(host.swap("hello", &guest)).await.unwrap();
    let error = in_time(host.swap("hello", &guest)).await.unwrap_err();
    assert!(matches!(error, KernelError::SameBuild { generation: 2, .. }), "{error:?}");

    in_time(host.rollback("hello")).await.unwrap();
    // What is loaded is the older one: the newer is another build.
    in_time(host.swap("hello", &guest)).await.unwrap();
    in_time(host.rollback("hello")).await.unwrap();
    fs::write(&engine, &older).unwrap();
    let error = in_time(host.swap("hello", &guest)).await.unwrap_err();
    assert!(matches!(error, KernelError::SameBuild { generation: 5, .. }), "{error:?}");
}

#[tokio::test]
async fn a_rollback_has_the_guest_that_was_whatever_became_of_the_files() {
    let engine = another_engine();
    let host = Host::builder().wasm_engine(engine.as_ref()).build().unwrap();
    let guest = Guest::new("hello", "1.0.0");
    let first = fs::read(&guest).unwrap();
    let options = LoadOptions::new().config(json!({ "wasm": { "memory": 1 }, "a": 1 }));
    host.load_with(&guest, options).await.unwrap();
    guest.becomes(&core(&json!({ "id": "hello", "version": "2.0.0" })));
    let options = SwapOptions::new().config(json!({ "wasm": { "memory": 2 } }));
    in_time(host.swap_with("hello", &guest, options)).await.unwrap();
    let given = async || -> Value { host.invoke("hello", "given", "").await.unwrap().to_json().unwrap() };
    assert_eq!(given().await["wasm"], json!({ "memory": 2 }));

    guest.becomes(b"nothing of it is left");
    drop(engine);
    let report = in_time(host.rollback("hello")).await.unwrap();
    assert_eq!((report.from, report.to, report.downgrade), (2, 3, true));
    assert_eq!(text(&host, "hello", "version").await, "1.0.0");
    assert!(host.invoke("hello", "guest", "").await.unwrap().as_bytes() == first);
    assert_eq!(
        (given().await["wasm"].clone(), given().await["config"].clone()),
        (json!({ "memory": 1 }), json!({ "a": 1 }))
    );
    in_time(host.rollback("hello")).await.unwrap();
    assert_eq!(text(&host, "hello", "version").await, "2.0.0");
}

#[tokio::test]
async fn a_native_module_becomes_a_guest_and_goes_back() {
    let host = with_engine().build().unwrap();
    host.load(plugin("counter")).await.unwrap();
    for _ in 0..3 {
        host.invoke("counter", "increment", "").await.unwrap();
    }
    let guest = Guest::that_counts("counter", "9.0.0");
    let report = in_time(host.swap("counter", &guest)).await.unwrap();
    assert!(report.state_moved && report.old.unmapped, "{report:?}");
    let info = host.show("counter").await.unwrap();
    assert_eq!((info.kind, info.path.as_deref()), (ModuleKind::Wasm, Some(guest.as_ref())));
    assert!(info.engine.is_some());
    assert_eq!(text(&host, "counter", "increment").await, "4");

    let report = in_time(host.rollback("counter")).await.unwrap();
    assert!(report.state_moved && report.old.unmapped, "{report:?}");
    let info = host.show("counter").await.unwrap();
    assert_eq!((info.kind, info.path.as_deref()), (ModuleKind::Native, Some(&*plugin("counter"))));
    assert_eq!(info.engine, None);
    assert_eq!(text(&host, "counter", "increment").await, "5");
    in_time(host.rollback("counter")).await.unwrap();
    assert_eq!(text(&host, "counter", "version").await, "9.0.0");
    assert_eq!(text(&host, "counter", "get").await, "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_kind_loses_no_call() {
    let host = with_engine().build().unwrap();
    host.load(plugin("counter")).await.unwrap();
    let (over, counted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (counter, over, counted) = (host.module("counter").unwrap(), over.clone(), counted.clone());
            tokio::spawn(async move {
                while !over.load(SeqCst) {
                    counter.invoke("increment", "").await.unwrap();
                    counted.fetch_add(1, SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let guest = Guest::that_counts("counter", "1.0.0");
    for _ in 0..10 {
        in_time(host.swap("counter", &guest)).await.unwrap();
        let report = in_time(host.swap("counter", plugin("counter"))).await.unwrap();
        assert!(report.state_moved && report.old.unmapped, "{report:?}");
    }
    over.store(true, SeqCst);
    for caller in callers {
        in_time(caller).await.unwrap();
    }
    let count: u64 = host.invoke("counter", "get", "").await.unwrap().to_json().unwrap();
    assert_eq!(count, counted.load(SeqCst));
}

#[tokio::test]
async fn a_swap_that_fails_leaves_the_guest_that_was() {
    let engine = another_engine();
    let host = Host::builder().wasm_engine(engine.as_ref()).build().unwrap();
    host.load(&Guest::new("hello", "1.0.0")).await.unwrap();
    let mut steps = Vec::new();
    let mut fails = async |guest: &Guest| {
        let error = in_time(host.swap("hello", guest)).await.unwrap_err();
        let KernelError::SwapFailed { step, source, generation: 1, .. } = error else { panic!("{error:?}") };
        assert_eq!(text(&host, "hello", "version").await, "1.0.0");
        steps.push((step, source.code()));
        told(&source)
    };
    fails(&Guest::of("hello.wasm", b"\0asm")).await;
    fails(&Guest::that(&json!({ "id": "hello", "version": "2", "refuse": "no" }))).await;
    let other = fails(&Guest::new("goodbye", "2.0.0")).await;
    assert!(other.contains("this is a build of module `goodbye`, expected one of `hello`"), "{other}");
    drop(engine);
    fails(&Guest::new("hello", "2.0.0")).await;
    assert_eq!(
        steps,
        [
            (SwapStep::Inspect, "damaged"),
            (SwapStep::Configure, "hook_failed"),
            (SwapStep::Metadata, "other_module"),
            (SwapStep::Inspect, "no_wasm_engine"),
        ]
    );
}

#[tokio::test]
async fn a_guest_on_probation_goes_back() {
    let host = with_engine().build().unwrap();
    let mut events = host.bus().subscribe().await;
    host.load(&Guest::new("hello", "1.0.0")).await.unwrap();
    let options = SwapOptions::new().probation(Probation::new(Duration::from_secs(3600)));
    in_time(host.swap_with("hello", &Guest::new("hello", "2.0.0"), options)).await.unwrap();
    host.invoke("hello", "panic", "").await.unwrap_err();
    let (_, event) = next_event(&mut events, |event| {
        matches!(event, Event::ModuleRolledBack { .. } | Event::RollbackFailed { .. })
    })
    .await;
    assert!(matches!(event, Event::ModuleRolledBack { from: 2, to: 3, .. }), "{event:?}");
    assert_eq!(text(&host, "hello", "version").await, "1.0.0");
}
