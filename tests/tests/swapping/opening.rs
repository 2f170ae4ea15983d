//! The new build's library has a constructor that does not return: it runs while the library is opened, before
//! anything of a module is there, and under the dynamic loader's lock. Each in a process of its own, since there is one
//! loader in a process.

use std::{future::Future, time::Duration};

use oxide_host::{
    Host, HostBuilder, SwapOptions, SwapReport,
    error::KernelError,
    module::ModuleState,
    report::{Holder, StopOutcome, SwapStep},
};
use oxide_tests::{
    Flag, block_on,
    child::{Child, child},
    eventually,
    house::holders,
    in_time, ordered, plugin,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    faults::{a_good_one_follows, answered},
    scene::{Scene, another_build, hooks},
};

/// A deadline of the loader's within which what does not block is opened on any machine.
const SOON: Duration = Duration::from_secs(2);

/// Opening takes as long as it takes.
const PATIENT: Duration = Duration::from_secs(60 * 60);

/// Says where a constructor waits.
const FLAG: &str = "CLINGING_CONSTRUCTOR";

/// A process in which the library of `clinging` waits in its constructor, which then is a build of `m`.
fn blocking() -> Child {
    child(&["misbehaving", "clinging", "echo"]).flag(FLAG).variable("CLINGING_ID", "m")
}

/// Runs it on this very thread, which must have made a call before: a new thread's first one waits for the loader.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// A swap whose library is being opened, and another module beside it.
struct Opening {
    scene: Scene,
    constructor: Flag,
    swap: JoinHandle<Result<SwapReport, KernelError>>,
}

impl Opening {
    async fn begun(builder: HostBuilder, old: Value) -> Self {
        let constructor = Flag::named(FLAG);
        let mut scene = Scene::new(builder, old).await;
        in_time(scene.host.load(plugin("echo"))).await.unwrap();
        assert_eq!(scene.announced(), ["loaded", "started"]);
        let host = scene.host.clone();
        let options = SwapOptions::new().config(json!({}));
        let swap = tokio::spawn(async move { host.swap_with("m", plugin("clinging"), options).await });
        constructor.inside().await;
        Self { scene, constructor, swap }
    }

    /// Calls, messages, and verbs that need no library are answered, as if nothing were being opened.
    async fn all_else_goes_on(&mut self) {
        let scene = &mut self.scene;
        answered(scene.traffic().await).await;
        scene.is_well(1, "old").await;
        scene.has_heard_everything().await;
        let upper = in_time(scene.host.invoke("echo", "upper", "meanwhile")).await.unwrap();
        assert_eq!(upper.as_bytes(), b"MEANWHILE");
        in_time(scene.host.stop("echo")).await.unwrap();
        in_time(scene.host.start("echo")).await.unwrap();
        assert_eq!(in_time(scene.host.list()).await.len(), 2);
        assert!(self.constructor.is_inside() && !self.constructor.has_ended());
        assert_eq!(scene.announced(), ["stopped", "started"]);
    }
}

/// Its unload has begun.
async fn is_on_its_way_out(scene: &Scene, id: &str) {
    let is_running = || {
        let shown = block_on(scene.host.show(id)).expect("it is listed until its library is closed");
        shown.state == ModuleState::Running
    };
    eventually("it is no longer running", || !is_running()).await;
}

fn is_stuck<T: std::fmt::Debug>(answer: Result<T, KernelError>) {
    match answer {
        Err(error @ KernelError::LoaderStuck(_)) => {
            assert!(error.to_string().contains("clinging"), "{error}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_constructor_that_blocks_fails_the_swap_at_its_deadline_and_the_next_one_is_done() {
    blocking().run(|| {
        run(async {
            let builder = Host::builder().loader_timeout(SOON);
            let mut opening = Opening::begun(builder, json!({})).await;
            opening.all_else_goes_on().await;
            let error = in_time(&mut opening.swap).await.unwrap().unwrap_err();
            let KernelError::SwapFailed { module, step, generation, source } = &error else {
                panic!("{error:?}")
            };
            assert_eq!((&**module, *step, *generation), ("m", SwapStep::Open, 1), "{error}");
            assert_eq!(source.code(), "loader_stuck", "{error}");
            opening.all_else_goes_on().await;
            let Opening { mut scene, constructor, .. } = opening;

            // Whatever needs the loader has its answer at once.
            is_stuck(in_time(scene.host.swap("m", another_build())).await);
            is_stuck(in_time(scene.host.swap("echo", plugin("clinging"))).await);
            is_stuck(in_time(scene.host.load(another_build())).await);
            let none = in_time(scene.host.rollback("m")).await.unwrap_err();
            assert!(matches!(none, KernelError::LoaderStuck(_)), "{none:?}");
            let receipt = in_time(scene.host.unload("echo")).await.unwrap();
            assert_eq!((holders(&receipt), receipt.stop), (vec![(Holder::Loader, 1)], StopOutcome::Ok));
            assert_eq!(scene.announced(), ["unloaded"]);
            assert!(!constructor.has_ended());

            constructor.go_on();
            let mut announced = Vec::new();
            eventually("the other one is gone after all", || {
                announced.extend(scene.announced());
                !announced.is_empty()
            })
            .await;
            assert_eq!(announced, ["unmapped 1"]);
            eventually("what was opened too late is closed again", || scene.mapped() == 1).await;
            assert!(constructor.has_ended());
            a_good_one_follows(&mut scene).await;
        });
    });
}

#[test]
fn a_constructor_that_returns_in_time_is_waited_for_and_so_is_what_comes_after_it() {
    blocking().run(|| {
        run(async {
            let builder = Host::builder().loader_timeout(PATIENT);
            // Without a state: nothing is held, then.
            let mut opening = Opening::begun(builder, json!({ "state": null })).await;
            opening.all_else_goes_on().await;
            let Opening { mut scene, constructor, swap } = opening;
            let host = scene.host.clone();
            let load = tokio::spawn(async move { host.load(plugin("misbehaving")).await });
            let host = scene.host.clone();
            let unload = tokio::spawn(async move { host.unload("echo").await });
            is_on_its_way_out(&scene, "echo").await;
            assert!(!swap.is_finished() && !load.is_finished() && !unload.is_finished());

            constructor.go_on();
            let report = in_time(swap).await.unwrap().unwrap();
            assert_eq!((report.from, report.to, report.state_moved), (1, 2, false));
            assert!(report.old.unmapped && report.held_calls == 0, "{report:?}");
            assert_eq!(in_time(load).await.unwrap().unwrap().id, "misbehaving");
            assert!(in_time(unload).await.unwrap().unwrap().unmapped);
            in_time(scene.host.invoke("m", "current", "")).await.unwrap();
            // And on to a build without such a constructor.
            let next = ordered(&json!({ "id": "m" }));
            let report = scene.swap(next, hooks("next", json!({}))).await.unwrap();
            assert!(report.to == 3 && report.old.unmapped, "{report:?}");
            scene.begins_anew();
            scene.publish().await;
            scene.is_well(3, "next").await;
            assert!(in_time(scene.host.shutdown()).await.iter().all(|receipt| receipt.unmapped));
            assert_eq!(scene.mapped(), 0);
        });
    });
}

#[test]
fn whoever_asked_goes_away_while_it_blocks() {
    blocking().run(|| {
        run(async {
            let builder = Host::builder().loader_timeout(PATIENT);
            let mut opening = Opening::begun(builder, json!({})).await;
            opening.swap.abort();
            assert!(in_time(&mut opening.swap).await.unwrap_err().is_cancelled());
            opening.all_else_goes_on().await;
            let Opening { mut scene, constructor, .. } = opening;
            constructor.go_on();
            a_good_one_follows(&mut scene).await;
        });
    });
}

#[test]
fn the_module_is_unloaded_while_it_blocks() {
    blocking().run(|| {
        run(async {
            let builder = Host::builder().loader_timeout(PATIENT);
            let Opening { scene, constructor, swap } = Opening::begun(builder, json!({})).await;
            let host = scene.host.clone();
            let unload = tokio::spawn(async move { host.unload("m").await });
            is_on_its_way_out(&scene, "m").await;
            assert!(!unload.is_finished() && !swap.is_finished());
            constructor.go_on();
            let error = in_time(swap).await.unwrap().unwrap_err();
            assert!(matches!(&error, KernelError::UnknownModule(id) if id == "m"), "{error:?}");
            let receipt = in_time(unload).await.unwrap().unwrap();
            assert!(receipt.unmapped && receipt.generation == 1, "{receipt:?}");
            assert!(in_time(scene.host.shutdown()).await.iter().all(|receipt| receipt.unmapped));
            assert_eq!(scene.mapped(), 0);
        });
    });
}

#[test]
fn the_host_is_shut_down_while_it_blocks() {
    blocking().run(|| {
        run(async {
            let builder = Host::builder().loader_timeout(SOON);
            let Opening { scene, constructor, swap } = Opening::begun(builder, json!({})).await;
            // It ends, although the constructor does not.
            let receipts = in_time(scene.host.shutdown()).await;
            assert_eq!(receipts.len(), 2);
            for receipt in &receipts {
                assert_eq!((holders(receipt), receipt.stop), (vec![(Holder::Loader, 1)], StopOutcome::Ok));
            }
            let error = in_time(swap).await.unwrap().unwrap_err();
            assert!(matches!(&error, KernelError::SwapFailed { step: SwapStep::Open, .. }), "{error:?}");
            assert!(!constructor.has_ended());
            constructor.go_on();
            eventually("nothing is mapped", || scene.mapped() == 0).await;
        });
    });
}
