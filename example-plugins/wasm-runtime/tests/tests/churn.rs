//! Loads and unloads, over and over: nothing is left. In a file of its own, since threads and mappings are the process's.

use std::fs;

use serde_json::json;
use wasm_runtime_tests::{Given, House, threads};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn handlers() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().filter(|line| line.starts_with("SigCgt") || line.starts_with("SigIgn")).collect()
}

#[tokio::test]
async fn a_hundred_and_twenty_lives_leave_nothing() {
    let house = House::new();
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().join("cache");
    let life = async |number: usize| {
        let guest = ["hello", "counter", "traps"][number % 3];
        house.load("guest", &Given::guest(guest).config(json!(null)).cache(&cache)).await;
        match guest {
            "hello" => assert_eq!(house.call("guest", "hello", "x").await, "hello, x!"),
            "counter" => assert_eq!(house.call("guest", "increment", "2").await, "2"),
            _ => drop(house.fails("guest", "go ahead", "").await),
        }
        house.gone("guest").await;
    };
    for number in 0..6 {
        life(number).await;
    }
    let (fds, signals) = (descriptors(), handlers());
    for number in 0..114 {
        life(number).await;
    }
    assert_eq!(house.mapped(), 0);
    assert_eq!(descriptors(), fds);
    assert_eq!(handlers(), signals, "the engine left a signal handler");
    assert!(threads() < 32, "{} threads", threads());
}
