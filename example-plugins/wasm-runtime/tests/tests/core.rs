//! Core modules with the small ABI.

use oxide_host::error::KernelError;
use wasm_runtime_tests::{Given, House};

#[tokio::test]
async fn a_guest_without_an_import_answers_and_is_gone() {
    let house = House::new();
    house.load("hello", &Given::guest("hello")).await;
    assert_eq!(house.call("hello", "hello", "world").await, "hello, world!");
    assert_eq!(house.call("hello", "hello", "").await, "hello, !");
    house.gone("hello").await;
}

#[tokio::test]
async fn unknown_methods_are_unknown() {
    let house = House::new();
    house.load("hello", &Given::guest("hello")).await;
    let error = house.host.invoke("hello", "olleh", "").await.unwrap_err();
    assert!(matches!(error, KernelError::UnknownMethod { .. }), "{error:?}");
    house.gone("hello").await;
}
