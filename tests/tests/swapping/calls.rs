//! Calls while a module is swapped: those that are held keep their order, those that come back pass, and those that
//! take longer than a drain may are left alone.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use oxide_host::{
    Host, Payload, SavedState, SwapOptions, SwapReport,
    error::{KernelError, Result},
    module::{Module, ModuleKind, ModuleMetadata},
    report::{Holder, StopOutcome},
};
use oxide_tests::{Flag, SHORT, child, eventually, in_time, misbehave::options, misbehaving, ordered};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::scene::{Scene, another_build, hooks};

type Swap = JoinHandle<Result<SwapReport>>;

fn swapping(scene: &Scene, hooks: Value) -> Swap {
    let host = scene.host.clone();
    let options = SwapOptions::new().force(true).config(hooks);
    tokio::spawn(async move {
        let file = another_build();
        in_time(host.swap_with("m", &file, options)).await
    })
}

/// Whether a fresh call of `id` has to wait at this moment.
fn holds(host: &Host, id: &str) -> bool {
    let module = host.module(id).unwrap();
    let call = pin!(module.invoke("echo", ""));
    matches!(call.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

async fn held(host: &Host) {
    eventually("fresh calls are held", || holds(host, "m")).await;
}

fn calling(
    host: &Host,
    id: &str,
    method: &'static str,
    argument: impl Into<Payload>,
) -> JoinHandle<Result<Payload>> {
    let (module, argument) = (host.module(id).unwrap(), argument.into());
    tokio::spawn(async move { in_time(module.invoke(method, argument)).await })
}

/// Has a module call `method` of another one over the bus.
fn over_the_bus(module: &str, method: &str, payload: Value) -> String {
    format!("invoke:{}", json!({ "module": module, "method": method, "payload": payload }))
}

#[tokio::test]
async fn held_calls_are_let_go_in_the_order_in_which_they_came() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let there = Flag::new();
    let swap = swapping(&scene, hooks("new", json!({ "restore_state": there.deed("wait") })));
    there.inside().await;
    // Each checks that its answer is the next number, and they are tasks apart, so that their wakes decide.
    let calls: Vec<_> = (0..100).map(|_| scene.call()).collect();
    // The runtime gets round to as many of its tasks as it sees fit at a time, and all must have come.
    for _ in &calls {
        tokio::task::yield_now().await;
    }
    assert!(holds(&scene.host, "m"));
    there.go_on();
    for call in calls {
        in_time(call).await.unwrap().unwrap();
    }
    let report = swap.await.unwrap().unwrap();
    assert!(report.held_calls >= 100, "{report:?}");
    assert!(report.hold_micros > 0);
    scene.is_well(2, "new").await;
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_is_held_is_never_made() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let there = Flag::new();
    let swap = swapping(&scene, hooks("new", json!({ "restore_state": there.deed("wait") })));
    there.inside().await;
    let dropped = calling(&scene.host, "m", "add", "1000");
    let stays = scene.call();
    tokio::task::yield_now().await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    there.go_on();
    in_time(stays).await.unwrap().unwrap();
    swap.await.unwrap().unwrap();
    scene.is_well(2, "new").await;
}

/// A call that one swap has let go meets the next one before it is inside.
#[tokio::test]
async fn a_call_may_be_held_by_one_swap_after_the_other() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let (first, second) = (Flag::new(), Flag::new());
    let swap = swapping(&scene, hooks("new", json!({ "restore_state": first.deed("wait") })));
    first.inside().await;
    let module = scene.host.module("m").unwrap();
    let mut call = pin!(module.invoke("echo", "here I am"));
    let mut poll = || call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    first.go_on();
    swap.await.unwrap().unwrap();
    // It was let go, and has not been polled since.
    let swap = swapping(&scene, hooks("third", json!({ "restore_state": second.deed("wait") })));
    second.inside().await;
    assert!(poll().is_pending());
    second.go_on();
    let report = swap.await.unwrap().unwrap();
    assert_eq!(report.held_calls, 1);
    let Poll::Ready(reply) = poll() else { panic!("it is over") };
    assert_eq!(reply.unwrap().as_bytes(), b"here I am");
    scene.is_well(3, "third").await;
}

#[tokio::test]
async fn a_call_that_comes_back_passes_while_the_module_drains() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    in_time(scene.host.load_with(misbehaving(), options("other", json!({})))).await.unwrap();
    // To itself, and by way of another module.
    let add = over_the_bus("m", "add", json!("1000"));
    let by_way_of = over_the_bus("other", "do", json!(json!([add]).to_string()));
    for (deed, count) in [(add, 1004), (by_way_of, 2005)] {
        let inside = Flag::new();
        let deeds = json!([inside.deed("wait"), deed]).to_string();
        let outer = calling(&scene.host, "m", "do", deeds);
        inside.inside().await;
        let swap = swapping(&scene, hooks("new", json!({})));
        held(&scene.host).await;
        inside.go_on();
        let answer: Value = in_time(outer).await.unwrap().unwrap().to_json().unwrap();
        assert_eq!(answer, count - 1);
        let report = swap.await.unwrap().unwrap();
        assert!(report.state_moved && report.old.unmapped, "{report:?}");
        let count_now = in_time(scene.host.invoke("m", "add", "1")).await.unwrap();
        assert_eq!(count_now.to_json::<i64>().unwrap(), count);
        scene.sets_count(count);
    }
    scene.is_well(3, "new").await;
}

/// A message is inside as a call is.
#[tokio::test]
async fn a_message_whose_handler_calls_its_own_module_passes_while_it_drains() {
    let inside = Flag::new();
    let deeds = [inside.deed("wait"), over_the_bus("m", "add", json!("1000"))];
    // It waits in the first message and is told to go on for good.
    let builder = Host::builder();
    let mut scene = Scene::new(builder, json!({ "on_message": deeds })).await;
    inside.inside().await;
    let swap = swapping(&scene, hooks("new", json!({})));
    held(&scene.host).await;
    inside.go_on();
    let report = swap.await.unwrap().unwrap();
    assert!(report.state_moved && report.old.unmapped, "{report:?}");
    scene.sets_count(1003);
    scene.is_well(2, "new").await;
}

/// In a swap without a state nobody is cancelled and nobody waits: who is inside stays in the old generation.
#[test]
fn a_call_that_takes_longer_than_the_drain_goes_on_in_the_old_generation() {
    // In a process of its own: the list of what is retained is the process's.
    child(&["misbehaving"]).run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(a_call_that_takes_longer());
    });
}

async fn a_call_that_takes_longer() {
    let builder = Host::builder().drain_timeout(SHORT);
    let mut scene = Scene::new(builder, json!({ "state": null })).await;
    let inside = Flag::new();
    let says_old = json!([inside.deed("wait"), "config"]).to_string();
    let long = calling(&scene.host, "m", "do", says_old);
    inside.inside().await;
    let report = scene.swap(another_build(), hooks("new", json!({ "state": null }))).await.unwrap();
    assert_eq!((report.from, report.to, report.state_moved, report.held_calls), (1, 2, false, 0));
    let old = &report.old;
    assert_eq!((old.generation, old.unmapped, old.stop, old.cancelled), (1, false, StopOutcome::Skipped, 0));
    assert_eq!(old.retained_by.len(), 1, "{old:?}");
    assert_eq!((old.retained_by[0].holder, old.retained_by[0].count), (Holder::Call, 1));
    let listed = scene.host.retained();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&*listed[0].id, listed[0].generation), ("m", 1));
    assert_eq!(listed[0].retained_by, old.retained_by);
    assert_eq!(scene.mapped(), 2);
    assert_eq!(
        in_time(scene.host.invoke("m", "config", "")).await.unwrap().to_json::<Value>().unwrap()["build"],
        "new"
    );
    assert!(!long.is_finished());

    inside.go_on();
    let answer: Value = long.await.unwrap().unwrap().to_json().unwrap();
    assert_eq!(answer["build"], "old", "it ran wholly in the generation in which it began");
    eventually("the old one is gone", || scene.mapped() == 1).await;
    eventually("it is off the list", || scene.host.retained().is_empty()).await;
    let mut told = scene.announced();
    while told.len() < 2 {
        tokio::task::yield_now().await;
        told.extend(scene.announced());
    }
    assert_eq!(told, ["swapped 1 2", "unmapped 1"]);
}

/// Unloading the module does not wait for such a call for ever, either.
#[tokio::test]
async fn a_call_that_is_left_in_an_old_generation_is_cancelled_when_the_module_is_unloaded() {
    let builder = Host::builder().drain_timeout(SHORT);
    let scene = Scene::new(builder, json!({ "state": null })).await;
    let inside = Flag::new();
    let long = calling(&scene.host, "m", "hang", inside.argument());
    inside.inside().await;
    let report = scene.swap(another_build(), hooks("new", json!({ "state": null }))).await.unwrap();
    assert!(!report.old.unmapped);
    let receipts = in_time(scene.host.shutdown()).await;
    assert_eq!(receipts.len(), 1);
    assert!(receipts[0].unmapped, "{receipts:?}");
    let error = long.await.unwrap().unwrap_err();
    assert!(matches!(error, KernelError::Cancelled { .. }), "{error:?}");
    assert!(inside.has_ended());
    assert_eq!(scene.mapped(), 0, "the shutdown waited for it");
}

/// A module of the host program's own, with a state, that may ask for its own swap.
struct Own {
    host: Host,
    count: i64,
}

#[async_trait]
impl Module for Own {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "m".into(),
            name: "M".into(),
            version: "99.0.0".into(),
            kind: ModuleKind::Native,
            description: None,
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        match method {
            "swap" => self.host.swap("m", another_build()).await.map(|_| payload),
            "rollback" => self.host.rollback("m").await.map(|_| payload),
            other => Err(KernelError::unknown_method(other)),
        }
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        Ok(Some(SavedState { version: 1, bytes: format!("[{}, []]", self.count).into() }))
    }
}

#[tokio::test]
async fn a_module_that_waits_for_its_own_swap_is_told_so_and_one_of_the_program_s_own_can_become_a_plugin() {
    let host = Host::new().unwrap();
    host.modules().register_native(Own { host: host.clone(), count: 41 }).await.unwrap();
    host.start("m").await.unwrap();
    for method in ["swap", "rollback"] {
        let error = in_time(host.invoke("m", method, "")).await.unwrap_err();
        assert!(matches!(error, KernelError::SelfWait { action: "swap", .. }), "{error:?}");
    }
    let options = SwapOptions::new().config(hooks("plugin", json!({})));
    let file = ordered(&json!({ "id": "m" }));
    let report = in_time(host.swap_with("m", file, options)).await.unwrap();
    assert_eq!((report.from, report.to, report.state_moved, report.downgrade), (1, 2, true, true));
    assert!(report.old.unmapped, "nothing was mapped");
    let count = in_time(host.invoke("m", "add", "")).await.unwrap();
    assert_eq!(count.to_json::<i64>().unwrap(), 42);
    // There is no file to go back to.
    let error = in_time(host.rollback("m")).await.unwrap_err();
    assert!(matches!(error, KernelError::NoPreviousBuild(_)), "{error:?}");
    in_time(host.shutdown()).await;
}
