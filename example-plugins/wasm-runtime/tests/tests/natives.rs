//! Guests beside native modules, and in their place: the host finds out which is which.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use oxide_host::module::ModuleKind;
use serde_json::json;
use wasm_runtime_tests::{House, engine, native, workspace};

/// A guest's file, as an operator would name it.
fn file(guest: &str) -> PathBuf {
    workspace().join("guests/built").join(format!("{guest}.wasm"))
}

fn house() -> House {
    House::with(|builder| builder.wasm_engine(engine()))
}

/// Waits for what the workers of the runtime were late with.
async fn only_one_is_mapped(house: &House) {
    while house.mapped() != 1 || !house.host.retained().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_echo_becomes_a_guest_and_back_while_its_callers_keep_calling() {
    let house = house();
    let echo = native("echo");
    house.host.load(&echo).await.unwrap();
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4_u8)
        .map(|number| {
            let module = house.host.module("echo").unwrap();
            let (over, answered) = (over.clone(), answered.clone());
            tokio::spawn(async move {
                for round in 0_u64.. {
                    if over.load(SeqCst) {
                        return;
                    }
                    let sent = [vec![number; 3], round.to_le_bytes().to_vec()].concat();
                    let reply = module.invoke("echo", sent.clone()).await.expect("no call fails");
                    assert_eq!(reply.as_bytes(), sent);
                    answered.fetch_add(1, SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let guest = file("echo");
    for round in 1..=10 {
        let (to, kind) =
            if round % 2 == 1 { (&guest, ModuleKind::Wasm) } else { (&echo, ModuleKind::Native) };
        let before = answered.load(SeqCst);
        let report = house.host.swap("echo", to).await.unwrap();
        assert_eq!((report.from, report.to, report.held_calls), (round, round + 1, 0), "{report:?}");
        let info = house.host.show("echo").await.unwrap();
        assert_eq!((info.kind, info.path.as_ref()), (kind, Some(to)));
        // Each build has its share of the calls.
        while answered.load(SeqCst) < before + 50 {
            tokio::task::yield_now().await;
        }
    }
    over.store(true, SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    only_one_is_mapped(&house).await;
    house.gone("echo").await;
}

#[tokio::test]
async fn a_count_goes_from_a_native_counter_to_a_guest_and_on_and_back() {
    let house = house();
    house.host.load(native("counter")).await.unwrap();
    assert_eq!(house.call("counter", "increment", "7").await, "7");
    let report = house.host.swap("counter", file("counter")).await.unwrap();
    assert!(report.state_moved && report.old.unmapped, "{report:?}");
    assert_eq!(house.call("counter", "increment", "2").await, "9");
    // The next native build saves another version, and gives along the one that the guest knows.
    let report = house.host.swap("counter", native("counter2")).await.unwrap();
    assert!(report.state_moved && report.old.unmapped, "{report:?}");
    assert_eq!(house.call("counter", "increment", "1").await, "10");
    let report = house.host.rollback("counter").await.unwrap();
    assert!(report.state_moved && report.old.unmapped, "{report:?}");
    assert_eq!(house.host.show("counter").await.unwrap().kind, ModuleKind::Wasm);
    assert_eq!(house.call("counter", "get", "").await, "10");
    house.gone("counter").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_module_and_a_guest_call_each_other_over_the_bus() {
    let house = house();
    house.host.load(native("misbehaving")).await.unwrap();
    house.host.load(file("caller")).await.unwrap();
    house.host.load(file("counter")).await.unwrap();
    // The guest calls the native module,
    let order = "misbehaving config null";
    assert_eq!(house.call("caller", "call", order).await, "null");
    // the native module the guest,
    assert_eq!(house.call("misbehaving", "invoke", &increment(5)).await, "5");
    // and the one the other, which calls a third.
    assert_eq!(house.call("caller", "call", &format!("misbehaving invoke {}", increment(2))).await, "7");
    for id in ["caller", "counter", "misbehaving"] {
        house.host.unload(id).await.unwrap();
    }
    while house.mapped() != 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the native module is told: whom to call.
fn increment(by: i64) -> String {
    json!({ "module": "counter", "method": "increment", "payload": by }).to_string()
}
