//! A plugin's tasks run on the host's threads, and end with the phase that they belong to.

use std::time::Duration;

use oxide_host::{
    Host,
    bus::{Filter, SubscribeOptions},
};
use oxide_tests::{Flag, in_time, load_misbehaving, plugin};
use serde_json::json;

#[tokio::test]
async fn the_ticker_ticks_while_it_runs() {
    let host = Host::new().unwrap();
    let options = SubscribeOptions::new().filter(Filter::all().kind("tick").from_source("ticker"));
    let mut ticks = host.bus().subscribe_with(options).await;
    host.load(plugin("ticker")).await.unwrap();
    let mut last = None;
    for _ in 0..2 {
        for _ in 0..3 {
            last = in_time(ticks.receiver.recv()).await;
        }
        host.stop("ticker").await.unwrap();
        // No more than what was said before the stop, however long one waits.
        let said = ticks.receiver.len();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(ticks.receiver.len(), said);
        host.start("ticker").await.unwrap();
    }
    assert!(last.is_some());
    let receipt = host.unload("ticker").await.unwrap();
    assert_eq!(receipt.revoked, 0);
}

#[tokio::test]
async fn a_task_ends_with_the_phase_that_began_it() {
    let host = Host::new().unwrap();
    let [of_configure, of_init, of_start, of_call] = [(); 4].map(|()| Flag::new());
    let hooks = json!({
        "configure": of_configure.deed("spawn"),
        "init": of_init.deed("spawn"),
        "start": of_start.deed("spawn"),
    });
    load_misbehaving(&host, "m", hooks).await.unwrap();
    host.invoke("m", "spawn", of_call.argument()).await.unwrap();
    for flag in [&of_configure, &of_init, &of_start, &of_call] {
        flag.inside().await;
    }
    host.stop("m").await.unwrap();
    assert!(of_start.has_ended() && of_call.has_ended());
    assert!(!of_configure.has_ended() && !of_init.has_ended());
    host.unload("m").await.unwrap();
    assert!(of_configure.has_ended() && of_init.has_ended());
}

#[tokio::test]
async fn a_task_of_a_failed_start_ends_with_it() {
    let host = Host::new().unwrap();
    let flag = Flag::new();
    let hooks = json!({ "start": [flag.deed("spawn"), flag.deed("block"), "fail"] });
    host.load_with(oxide_tests::misbehaving(), oxide_tests::misbehave::options("m", hooks).start(false))
        .await
        .unwrap();
    flag.go_on();
    host.start("m").await.unwrap_err();
    flag.ended().await;
}

#[tokio::test]
async fn a_task_that_panics_ends_alone() {
    let host = Host::new().unwrap();
    load_misbehaving(&host, "m", json!({})).await.unwrap();
    assert_eq!(in_time(host.invoke("m", "spawn_panic", "")).await.unwrap().as_bytes(), b"true");
    assert_eq!(in_time(host.invoke("m", "spawn_and_wait", "next")).await.unwrap().as_bytes(), b"next");
    host.unload("m").await.unwrap();
}
