//! Callers flat out, and a swap again and again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use oxide_host::{Host, SwapOptions};
use oxide_tests::{in_time, plugin};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_counts_every_call_through_every_swap() {
    let host = Host::new().unwrap();
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
    for number in 1..=50 {
        let options = SwapOptions::new().force(true);
        let report = in_time(host.swap_with("counter", plugin("counter"), options)).await.unwrap();
        assert_eq!((report.from, report.to), (number, number + 1));
        assert!(report.state_moved);
        assert!(report.old.unmapped, "{:?}", report.old);
    }
    over.store(true, SeqCst);
    for caller in callers {
        in_time(caller).await.unwrap();
    }
    let count = host.invoke("counter", "get", "").await.unwrap();
    assert_eq!(count.to_json::<u64>().unwrap(), counted.load(SeqCst));
    let receipts = host.shutdown().await;
    assert!(receipts[0].unmapped, "{receipts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_without_a_state_holds_nobody() {
    let host = Host::new().unwrap();
    host.load(plugin("echo")).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4u8)
        .map(|number| {
            let (echo, over) = (host.module("echo").unwrap(), over.clone());
            tokio::spawn(async move {
                while !over.load(SeqCst) {
                    assert_eq!(echo.invoke("echo", vec![number; 9]).await.unwrap().as_bytes(), [number; 9]);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..50 {
        let options = SwapOptions::new().force(true);
        let report = in_time(host.swap_with("echo", plugin("echo"), options)).await.unwrap();
        assert!(!report.state_moved);
        assert_eq!((report.held_calls, report.hold_micros), (0, 0));
        assert!(report.old.unmapped, "{:?}", report.old);
    }
    over.store(true, SeqCst);
    for caller in callers {
        in_time(caller).await.unwrap();
    }
}
