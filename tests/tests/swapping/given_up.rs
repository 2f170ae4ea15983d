//! A swap that is given up leaves nothing.

use std::time::Duration;

use oxide_host::{
    Host, SwapOptions,
    error::KernelError,
    report::{StopOutcome, SwapStep},
};
use oxide_tests::{Flag, in_time, plugin};
use serde_json::json;

use super::scene::{Scene, another_build, hooks};

/// The bus ends with the last that knows it: the manager, and each generation that has not been forgotten.
async fn the_bus_ends(swaps: usize) {
    let mut builder = Host::builder();
    // A counter that has counted nothing has one byte.
    builder.limits_mut().state = 0;
    let host = builder.build().unwrap();
    let mut events = host.bus().subscribe().await;
    host.load(plugin("counter")).await.unwrap();
    for _ in 0..swaps {
        let error =
            host.swap_with("counter", plugin("counter"), SwapOptions::new().force(true)).await.unwrap_err();
        assert!(matches!(error, KernelError::SwapFailed { step: SwapStep::SaveState, .. }), "{error:?}");
    }
    assert!(host.shutdown().await.iter().all(|receipt| receipt.unmapped));
    drop(host);
    in_time(async { while events.receiver.recv().await.is_some() {} }).await;
}

#[tokio::test]
async fn a_state_that_is_too_large_leaves_no_generation_behind() {
    the_bus_ends(0).await;
    the_bus_ends(1).await;
}

/// Longer than what is not made to wait takes.
const DEADLINE: Duration = Duration::from_secs(2);

/// Nobody waits for its end any more, but it has started whatever it starts.
#[tokio::test]
async fn a_start_that_ends_well_when_the_hold_is_over_is_stopped() {
    let builder = Host::builder().hold_timeout(DEADLINE).stop_timeout(Duration::from_secs(60));
    let mut scene = Scene::new(builder, json!({})).await;
    let (started, stopped) = (Flag::new(), Flag::new());
    stopped.go_on();
    let hooks = hooks("new", json!({ "start": [started.deed("block")], "stop": [stopped.deed("block")] }));
    let (host, file) = (scene.host.clone(), another_build());
    let swap =
        tokio::spawn(async move { host.swap_with("m", &file, SwapOptions::new().config(hooks)).await });
    started.inside().await;
    in_time(scene.call()).await.unwrap().unwrap();
    assert!(!stopped.is_inside(), "`start` is not over, but the hold is");
    started.go_on();
    let error = in_time(swap).await.unwrap().unwrap_err();
    let KernelError::SwapFailed { step: SwapStep::Start, source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, KernelError::HeldTooLong { .. }), "{error:?}");
    assert!(stopped.has_ended());
    scene.is_well(1, "old").await;
    assert_eq!(scene.mapped(), 1);
}

/// A hook of the old build that was given up is still inside when it is to stop.
#[tokio::test]
async fn a_stop_that_finds_no_way_in_is_made_up_for() {
    for again in [false, true] {
        let (saving, stopped) = (Flag::new(), Flag::new());
        stopped.go_on();
        let deeds = json!({ "save_state 2": [saving.deed("block")], "stop": [stopped.deed("block")] });
        let builder = Host::builder().hold_timeout(DEADLINE).stop_timeout(DEADLINE);
        let mut scene = Scene::new(builder, deeds).await;
        let options = SwapOptions::new().config(hooks("new", json!({})));
        let error = in_time(scene.host.swap_with("m", &another_build(), options)).await.unwrap_err();
        assert!(matches!(error, KernelError::SwapFailed { step: SwapStep::SaveState, .. }), "{error:?}");
        assert!(saving.is_inside() && !saving.has_ended());
        scene.is_well(1, "old").await;

        let error = scene.host.stop("m").await.unwrap_err();
        assert!(matches!(error, KernelError::HookStuck { hook: "stop", .. }), "{error:?}");
        assert!(!stopped.is_inside());
        saving.go_on();
        if again {
            in_time(scene.host.start("m")).await.unwrap();
            assert!(stopped.has_ended(), "before it is started again");
        }
        let receipt = in_time(scene.host.unload("m")).await.unwrap();
        assert!(receipt.unmapped && receipt.stop == StopOutcome::Ok, "{receipt:?}");
        assert!(stopped.has_ended());
    }
}
