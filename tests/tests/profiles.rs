//! Every profile unwinds. The guard at the plugin boundary turns a panic into an error; with
//! `panic = "abort"` there is nothing to guard, and one plugin's mistake is the end of the host and of all
//! others in it.

use std::fs;

use oxide_host::Host;
use oxide_tests::{load_misbehaving, workspace};
use serde_json::json;
use toml::{Table, Value};

const WHY: &str =
    "a panic in a plugin must be an error, not the end of the host: see tests/tests/profiles.rs";

const _: () = assert!(cfg!(panic = "unwind"), "these tests are built with a profile that aborts");

#[test]
fn every_profile_says_unwind_and_nothing_says_abort() {
    let text = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let manifest: Table = text.parse().unwrap();
    let profiles = manifest["profile"].as_table().unwrap();
    for profile in ["dev", "release"] {
        let panic = profiles.get(profile).and_then(|profile| profile.get("panic")).and_then(Value::as_str);
        assert_eq!(panic, Some("unwind"), "[profile.{profile}] must say so itself: {WHY}");
    }
    for (name, profile) in profiles {
        let panic = profile.get("panic").and_then(Value::as_str).unwrap_or("unwind");
        assert_eq!(panic, "unwind", "[profile.{name}]: {WHY}");
    }
    for configuration in [".cargo/config.toml", ".cargo/config"] {
        if let Ok(text) = fs::read_to_string(workspace().join(configuration)) {
            assert!(!text.contains("abort"), "{configuration}: {WHY}");
        }
    }
}

#[tokio::test]
async fn a_panic_in_a_plugin_is_an_error() {
    let host = Host::new().unwrap();
    load_misbehaving(&host, "m", json!({})).await.unwrap();
    for method in ["panic", "spite"] {
        assert_eq!(host.invoke("m", method, "").await.unwrap_err().code(), "hook_panicked");
    }
    assert_eq!(host.invoke("m", "thread_panic", "").await.unwrap().as_bytes(), b"true");
    assert_eq!(host.invoke("m", "say", "alive").await.unwrap().as_bytes(), b"alive");
}
