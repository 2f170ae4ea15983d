//! A swap that is given up leaves nothing.

use std::time::Duration;

use oxide_host::{Host, SwapOptions, error::KernelError, report::SwapStep};
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

/// Nobody waits for its end any more, but it has started whatever it starts.
#[tokio::test]
async fn a_start_that_ends_well_when_the_hold_is_over_is_stopped() {
    // Long enough for what comes before `start`; and `start` ends long before the other.
    let builder = Host::builder().hold_timeout(Duration::from_secs(2)).stop_timeout(Duration::from_secs(60));
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
