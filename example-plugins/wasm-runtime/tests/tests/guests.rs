//! The guests that are checked in: they are what their sources say, and each does its work.

use std::{collections::BTreeSet, fs, path::Path};

use oxide_host::report::StopOutcome;
use sha2::{Digest, Sha256};
use wasm_runtime_tests::{Given, House, workspace};

fn files(folder: &Path, found: &mut BTreeSet<String>, root: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files(&path, found, root);
        } else if path.is_file() {
            found.insert(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
        }
    }
}

#[test]
fn what_is_built_was_built_from_these_sources() {
    let guests = workspace().join("guests");
    let sums = fs::read_to_string(guests.join("built/SHA256SUMS")).unwrap();
    let mut listed = BTreeSet::new();
    for line in sums.lines() {
        let (sum, path) = line.split_once("  ").unwrap();
        let digest = Sha256::digest(fs::read(guests.join(path)).unwrap());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, sum, "{path} was changed: run scripts/build-guests.sh");
        listed.insert(path.to_owned());
    }
    let mut present = BTreeSet::new();
    for folder in ["built", "c", "rust"] {
        files(&guests.join(folder), &mut present, &guests);
    }
    present.remove("built/SHA256SUMS");
    listed.remove("../../../plugin-api/wit/module.wit");
    assert_eq!(listed, present, "run scripts/build-guests.sh");
}

#[tokio::test]
async fn the_guest_in_c() {
    let house = House::new();
    house.load("shout", &Given::guest("shout")).await;
    assert_eq!(house.call("shout", "shout", "hello").await, "HELLO!!!");
    for length in [0, 1, 1000, 300_000] {
        let text = "x".repeat(length);
        assert_eq!(house.call("shout", "shout", &text).await, "X".repeat(length) + "!!!");
    }
    let error = house.fails("shout", "fail", "no voice").await;
    assert!(error.contains("no voice"), "{error}");
    house.fails("shout", "whisper", "").await;
    assert_eq!(house.call("shout", "shout", "on").await, "ON!!!");
    let receipt = house.gone("shout").await;
    assert_eq!(receipt.stop, StopOutcome::Ok);
}

#[tokio::test]
async fn the_echo_in_text() {
    let house = House::new();
    house.load("echo", &Given::guest("echo-core")).await;
    assert_eq!(house.call("echo", "echo", "hi").await, "hi");
    assert_eq!(house.call("echo", "upper", "hi, ho").await, "HI, HO");
    assert_eq!(house.call("echo", "echo", "").await, "");
    house.gone("echo").await;
}
