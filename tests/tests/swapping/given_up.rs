//! A swap that is given up leaves nothing.

use oxide_host::{Host, SwapOptions, error::KernelError, report::SwapStep};
use oxide_tests::{in_time, plugin};

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
