//! Swaps that fail leave no memory behind, at whatever step they do. In a process of its own, whose memory is looked at.

use oxide_host::{Host, error::KernelError};
use oxide_tests::{child, house::resident};
use serde_json::json;

use super::scene::{Scene, another_build, hooks};

/// What one swap may leave, in bytes: less than a gate has, which is the smallest part of a generation that the host
/// gives out and takes back.
const EACH: u64 = 4096;

const TIMES: u64 = 100;

fn failing(old: &'static str, new: &'static str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let scene = Scene::new(Host::builder(), json!({ old: "fail" })).await;
        let file = another_build();
        let mut before = 0;
        for time in 0..2 * TIMES {
            if time == TIMES {
                before = resident();
            }
            let error = scene.swap(&file, hooks("new", json!({ new: ["fail"] }))).await.unwrap_err();
            assert!(matches!(error, KernelError::SwapFailed { .. }), "{error:?}");
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < TIMES * EACH, "{} bytes each", grown / TIMES);
        assert_eq!(scene.mapped(), 1);
    });
}

#[test]
fn asking_for_the_state() {
    child(&["misbehaving"]).run(|| failing("save_state", "nothing"));
}

#[test]
fn setting_it_up() {
    child(&["misbehaving"]).run(|| failing("nothing", "init"));
}

#[test]
fn starting_it() {
    child(&["misbehaving"]).run(|| failing("nothing", "start"));
}
