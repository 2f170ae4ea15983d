//! WASI is there for guests that were granted something, and for nobody else.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use serde_json::{Value, json};
use wasm_runtime_tests::{Given, House};

/// The guest is large, so it is compiled once and for all.
fn reader(allow: Value) -> Given {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    Given::guest("reader").with("allow", allow).cache(&cache)
}

#[tokio::test]
async fn without_a_grant_the_import_is_named_with_the_grant_for_it() {
    let house = House::new();
    let error = house.refused(&Given::guest("reader")).await;
    assert!(error.contains("imports `wasi:") && error.contains("was not granted"), "{error}");
    assert!(error.contains("would grant it") && error.contains("wasm.allow."), "{error}");
    assert_eq!(house.mapped(), 0);
}

#[tokio::test]
async fn a_granted_folder_and_nothing_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let (inner, secret) = (folder.path().join("inner"), folder.path().join("secret"));
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("greeting"), "hello").unwrap();
    fs::write(&secret, "secret").unwrap();
    std::os::unix::fs::symlink(&secret, inner.join("link")).unwrap();

    let house = House::new();
    let allow = json!({ "dirs": [{ "host": inner, "guest": "/data" }] });
    house.load("reader", &reader(allow)).await;
    assert_eq!(house.call("reader", "read", "/data/greeting").await, "hello");
    assert_eq!(house.call("reader", "list", "/data").await, "greeting\nlink");
    for outside in ["/data/../secret", "/data/link", "/etc/passwd", &secret.to_string_lossy()] {
        house.fails("reader", "read", outside).await;
    }
    // Writing was not granted.
    house.fails("reader", "write", "/data/new text").await;
    assert!(!inner.join("new").exists());
    assert_eq!(house.call("reader", "variables", "").await, "");
    house.fails("reader", "fetch", "localhost:1 x").await;
    house.gone_in_a_while("reader").await;

    let allow = json!({ "dirs": [{ "host": inner, "guest": "/data", "write": true }] });
    house.load("reader", &reader(allow)).await;
    house.call("reader", "write", "/data/new text").await;
    assert_eq!(fs::read_to_string(inner.join("new")).unwrap(), "text");
    house.gone_in_a_while("reader").await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let allow = json!({ "dirs": [{ "host": "/no/such/folder", "guest": "/data" }] });
    let error = House::new().refused(&reader(allow)).await;
    assert!(error.contains("/no/such/folder") && error.contains("wasm.allow.dirs"), "{error}");
}

#[tokio::test]
async fn granted_variables_and_no_others() {
    let house = House::new();
    house.load("reader", &reader(json!({ "env": { "COLOUR": "green", "SIZE": "7" } }))).await;
    assert_eq!(house.call("reader", "variables", "").await, "COLOUR=green\nSIZE=7");
    house.fails("reader", "list", "/").await;
    house.call("reader", "print", "to the log").await;
    house.gone_in_a_while("reader").await;
}

/// A server that answers each caller with what it was sent, twice.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.repeat(2).as_bytes()).unwrap();
        }
    });
    port
}

#[tokio::test]
async fn a_granted_host_and_port_and_no_other() {
    let (granted, other) = (server(), server());
    let house = House::new();
    house.load("reader", &reader(json!({ "network": [format!("localhost:{granted}")] }))).await;
    assert_eq!(house.call("reader", "fetch", &format!("localhost:{granted} ab")).await, "abab");
    assert_eq!(house.call("reader", "fetch", &format!("127.0.0.1:{granted} ab")).await, "abab");
    for refused in
        [format!("localhost:{other}"), format!("127.0.0.1:{other}"), format!("example.org:{granted}")]
    {
        house.fails("reader", "fetch", &format!("{refused} ab")).await;
    }
    house.gone_in_a_while("reader").await;
}

#[tokio::test]
async fn threads_that_wasi_needed_end_with_the_guest() {
    let house = House::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "text").unwrap();
    let allow = json!({ "dirs": [{ "host": folder.path(), "guest": "/data" }] });
    for _ in 0..5 {
        house.load("reader", &reader(allow.clone())).await;
        assert_eq!(house.call("reader", "read", "/data/file").await, "text");
        // A thread that had not ended would hold the library.
        house.gone_in_a_while("reader").await;
    }
}
