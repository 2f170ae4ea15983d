//! A swap together with other verbs, and in other states than Running: what comes of it is defined.

use std::thread;

use oxide_host::{
    Host, SwapOptions, SwapReport,
    error::{KernelError, Result},
    module::ModuleState,
    report::{Holder, StopOutcome, SwapStep},
};
use oxide_tests::{Flag, SHORT, block_on, in_time, misbehave::options, misbehaving};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::scene::{Scene, another_build, hooks};

fn swapping(host: &Host, hooks: Value) -> JoinHandle<Result<SwapReport>> {
    let (host, options) = (host.clone(), SwapOptions::new().force(true).config(hooks));
    tokio::spawn(async move {
        let file = another_build();
        in_time(host.swap_with("m", &file, options)).await
    })
}

async fn state(host: &Host) -> ModuleState {
    host.modules().state("m").await.unwrap()
}

#[tokio::test]
async fn two_at_once_take_turns() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let there = Flag::new();
    let first = swapping(&scene.host, hooks("one", json!({ "init": [there.deed("wait")] })));
    there.inside().await;
    let second = swapping(&scene.host, hooks("two", json!({})));
    // The second one waits for the first, wherever that is.
    scene.is_well(1, "old").await;
    assert!(!first.is_finished() && !second.is_finished());
    there.go_on();
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!((first.from, first.to), (1, 2));
    assert_eq!((second.from, second.to), (2, 3));
    assert!(first.old.unmapped && second.old.unmapped);
    scene.is_well(3, "two").await;
    assert_eq!(scene.announced(), ["swapped 1 2", "swapped 2 3"]);
    assert_eq!(scene.mapped(), 1);
}

/// A failed one leaves the next one its turn, and its number.
#[tokio::test]
async fn one_that_fails_and_one_after_it() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let there = Flag::new();
    let first = swapping(&scene.host, hooks("one", json!({ "start": [there.deed("wait"), "panic"] })));
    there.inside().await;
    let second = swapping(&scene.host, hooks("two", json!({})));
    there.go_on();
    let error = first.await.unwrap().unwrap_err();
    assert!(matches!(error, KernelError::SwapFailed { step: SwapStep::Start, .. }), "{error:?}");
    let second = second.await.unwrap().unwrap();
    assert_eq!((second.from, second.to), (1, 2));
    scene.is_well(2, "two").await;
}

#[tokio::test]
async fn a_stop_while_the_new_one_is_set_up() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let there = Flag::new();
    let swap = swapping(&scene.host, hooks("new", json!({ "init": [there.deed("wait")], "start": "panic" })));
    there.inside().await;
    in_time(scene.host.stop("m")).await.unwrap();
    there.go_on();
    let report = swap.await.unwrap().unwrap();
    // It was stopped, so the new one is not started; its state is there all the same.
    assert_eq!(
        (report.state_moved, report.old.stop, report.old.unmapped),
        (true, StopOutcome::NotRunning, true)
    );
    assert_eq!(state(&scene.host).await, ModuleState::Loaded);
    assert_eq!(scene.announced(), ["stopped", "swapped 1 2"]);
    scene.host.start("m").await.unwrap_err();
    scene.swap(another_build(), hooks("third", json!({}))).await.unwrap();
    in_time(scene.host.start("m")).await.unwrap();
    scene.is_well(3, "third").await;
    assert_eq!(scene.announced(), ["failed", "swapped 2 3", "started"]);
}

#[tokio::test]
async fn a_stop_while_the_state_is_handed_over() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let there = Flag::new();
    let swap = swapping(&scene.host, hooks("new", json!({ "restore_state": there.deed("wait") })));
    there.inside().await;
    let host = scene.host.clone();
    let stop = tokio::spawn(async move { in_time(host.stop("m")).await });
    // The stop waits for its turn; to everybody it runs.
    tokio::task::yield_now().await;
    assert_eq!(state(&scene.host).await, ModuleState::Running);
    there.go_on();
    let report = swap.await.unwrap().unwrap();
    assert_eq!((report.from, report.to, report.state_moved), (1, 2, true));
    stop.await.unwrap().unwrap();
    assert_eq!(state(&scene.host).await, ModuleState::Stopped);
    assert_eq!(scene.announced(), ["swapped 1 2", "stopped"]);
    in_time(scene.host.start("m")).await.unwrap();
    scene.is_well(2, "new").await;
}

#[tokio::test]
async fn a_start_while_the_new_one_is_set_up() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    in_time(scene.host.stop("m")).await.unwrap();
    let there = Flag::new();
    let swap = swapping(&scene.host, hooks("new", json!({ "init": [there.deed("wait")] })));
    there.inside().await;
    in_time(scene.host.start("m")).await.unwrap();
    scene.is_well(1, "old").await;
    there.go_on();
    let report = swap.await.unwrap().unwrap();
    assert_eq!((report.state_moved, report.old.stop, report.old.unmapped), (true, StopOutcome::Ok, true));
    scene.is_well(2, "new").await;
    assert_eq!(scene.announced(), ["stopped", "started", "swapped 1 2"]);
}

#[tokio::test]
async fn a_start_while_a_stopped_one_is_handed_over() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    in_time(scene.host.stop("m")).await.unwrap();
    let there = Flag::new();
    let swap = swapping(&scene.host, hooks("new", json!({ "restore_state": there.deed("wait") })));
    there.inside().await;
    let host = scene.host.clone();
    let start = tokio::spawn(async move { in_time(host.start("m")).await });
    tokio::task::yield_now().await;
    there.go_on();
    assert!(swap.await.unwrap().unwrap().state_moved);
    start.await.unwrap().unwrap();
    scene.is_well(2, "new").await;
    assert_eq!(scene.announced(), ["stopped", "swapped 1 2", "started"]);
}

#[tokio::test]
async fn a_module_that_was_never_started_or_whose_start_failed() {
    for starts in [false, true] {
        let host = Host::new().unwrap();
        let old = options("m", hooks("old", json!({ "start": "fail" }))).start(false);
        host.load_with(misbehaving(), old).await.unwrap();
        if starts {
            host.start("m").await.unwrap_err();
            assert_eq!(state(&host).await, ModuleState::Failed);
        }
        // A fault leaves it as it was.
        let fails = hooks("new", json!({ "restore_state": "fail" }));
        let error = in_time(host.swap_with("m", another_build(), SwapOptions::new().config(fails))).await;
        let Err(KernelError::SwapFailed { step: SwapStep::RestoreState, .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(state(&host).await, if starts { ModuleState::Failed } else { ModuleState::Loaded });
        assert_eq!(host.show("m").await.unwrap().failure.is_some(), starts);

        let report = swapping(&host, hooks("new", json!({}))).await.unwrap().unwrap();
        assert_eq!((report.state_moved, report.old.stop), (true, StopOutcome::NotRunning));
        assert!(report.old.unmapped);
        assert_eq!(state(&host).await, ModuleState::Loaded);
        assert_eq!(host.show("m").await.unwrap().failure, None);
        in_time(host.start("m")).await.unwrap();
        assert_eq!(in_time(host.invoke("m", "add", "")).await.unwrap().as_bytes(), b"1");
    }
}

/// Calls are still inside a module that could not be stopped because of them: its state cannot be taken, yet.
#[tokio::test]
async fn a_module_that_could_not_be_stopped() {
    let mut scene = Scene::new(Host::builder().drain_timeout(SHORT), json!({})).await;
    let inside = Flag::new();
    let (module, argument) = (scene.host.module("m").unwrap(), inside.argument().to_owned());
    let call = thread::spawn(move || block_on(module.invoke("block", argument)).map(drop));
    inside.inside().await;
    in_time(scene.host.stop("m")).await.unwrap_err();
    assert_eq!(state(&scene.host).await, ModuleState::Failed);
    let error = scene.swap(another_build(), hooks("new", json!({}))).await.unwrap_err();
    let KernelError::SwapFailed { step: SwapStep::Drain, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.code(), "calls_inside");
    inside.go_on();
    call.join().unwrap().unwrap();
    let report = scene.swap(another_build(), hooks("new", json!({}))).await.unwrap();
    // The stop that it still owed.
    assert_eq!((report.state_moved, report.old.stop, report.old.unmapped), (true, StopOutcome::Ok, true));
    in_time(scene.host.start("m")).await.unwrap();
    scene.is_well(2, "new").await;
}

#[tokio::test]
async fn so_many_generations_may_be_retained_and_each_is_listed() {
    let mut builder = Host::builder();
    builder.limits_mut().retained = 2;
    let stubborn = json!({ "stop": "fail" });
    let mut scene = Scene::new(builder, stubborn.clone()).await;
    for number in 1..=2 {
        let report = scene.swap(another_build(), hooks("new", stubborn.clone())).await.unwrap();
        assert_eq!((report.from, report.to), (number, number + 1));
        assert_eq!((report.old.stop, report.old.unmapped), (StopOutcome::Failed, false));
        assert_eq!(report.old.retained_by[0].holder, Holder::Stop);
        scene.is_well(number + 1, "new").await;
    }
    let staged = scene.mapped();
    assert_eq!(staged, 3);
    let error = scene.swap(another_build(), hooks("new", json!({}))).await.unwrap_err();
    let KernelError::TooManyRetained { module, count: 2, list } = &error else { panic!("{error:?}") };
    assert_eq!(module, "m");
    assert_eq!(list, "generation 1 by stop; generation 2 by stop");
    scene.is_well(3, "new").await;
    assert_eq!(scene.announced(), ["swapped 1 2", "swapped 2 3"]);
    assert_eq!(scene.mapped(), 3, "it was refused before anything was opened");

    // They are the module's, not the id's: in another host, or loaded again, it has none.
    let mut builder = Host::builder();
    builder.limits_mut().retained = 1;
    let other = Scene::new(builder, json!({})).await;
    other.swap(another_build(), hooks("new", json!({}))).await.unwrap();
    in_time(scene.host.unload("m")).await.unwrap();
    let again = options("m", hooks("again", json!({})));
    in_time(scene.host.load_with(misbehaving(), again)).await.unwrap();
    scene.swap(another_build(), hooks("new", json!({}))).await.unwrap();
}

#[tokio::test]
async fn the_bytes_that_are_loaded_are_refused_and_a_rollback_leads_there_and_back() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let error = in_time(scene.host.swap("m", misbehaving())).await.unwrap_err();
    assert!(matches!(error, KernelError::SameBuild { generation: 1, .. }), "{error:?}");
    let error = in_time(scene.host.rollback("m")).await.unwrap_err();
    assert!(matches!(error, KernelError::NoPreviousBuild(_)), "{error:?}");
    scene.swap(another_build(), hooks("new", json!({}))).await.unwrap();
    for (number, build) in [(3, "old"), (4, "new"), (5, "old")] {
        let report = in_time(scene.host.rollback("m")).await.unwrap();
        assert_eq!((report.to, report.state_moved, report.old.unmapped), (number, true, true));
        scene.is_well(number, build).await;
    }
    assert_eq!(scene.mapped(), 1);
}
