//! What can be seen without a host's library in between.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use oxide_plugin_api::{
    ErrorKind, WasmModule,
    serde_json::{Value, json},
    testing::{TestHost, TestModule},
};
use wasmtime::ResourceLimiter;

use crate::{compiled::Kind, config::Limits, limiter::Limiter, module::WasmRuntime};

const ECHO: &[u8] = include_bytes!("../guests/built/echo.wasm");
const COUNTER: &[u8] = include_bytes!("../guests/built/counter.wasm");
const HELLO: &str = include_str!("../guests/wat/hello.wat");

fn given(name: &str, guest: &[u8]) -> Value {
    json!({ "guest": BASE64_STANDARD.encode(guest), "name": name })
}

fn loaded(host: &TestHost, config: Value) -> TestModule<WasmRuntime> {
    let mut module = host.load_wasm(WasmRuntime::default());
    module.configure(config).unwrap();
    module
}

#[test]
fn after_configure_the_metadata_is_the_guests() {
    let host = TestHost::new();
    assert_eq!(WasmRuntime::default().metadata().id, "wasm-runtime");
    let echo = loaded(&host, given("a/file.wasm", ECHO)).module().metadata();
    assert_eq!((echo.id.as_str(), echo.name.as_str()), ("echo", "Echo"));
    assert_eq!(echo.description.as_deref(), Some("Answers what it was sent"));
    // A core module that does not say is named after its file.
    let hello = loaded(&host, given("greeter.wasm", &wat::parse_str(HELLO).unwrap())).module().metadata();
    assert_eq!((hello.id.as_str(), hello.version.as_str()), ("greeter", "0.0.0"));
}

#[test]
fn a_state_goes_from_one_instance_to_the_next() {
    let host = TestHost::new();
    let mut old = loaded(&host, given("counter.wasm", COUNTER));
    old.start().unwrap();
    old.invoke("increment", "5").unwrap();
    let state = old.save_state().unwrap().unwrap();
    assert_eq!(state.read::<i64>(1).unwrap(), 5);
    let mut new = loaded(&host, given("counter.wasm", COUNTER));
    new.restore_state(state).unwrap();
    new.start().unwrap();
    assert_eq!(new.invoke("get", "").unwrap().as_bytes(), b"5");
    assert_eq!(new.invoke("set", "").unwrap_err().kind(), ErrorKind::UnknownMethod);
}

#[test]
fn the_kind_of_a_guest_is_in_its_first_bytes() {
    assert_eq!(Kind::of(ECHO), Some(Kind::Component));
    assert_eq!(Kind::of(&wat::parse_str("(module)").unwrap()), Some(Kind::Core));
    for other in [&b""[..], b"\0asm", b"\0asm\x02\0\0\0", b"\x7fELF\x02\x01\x01\0"] {
        assert_eq!(Kind::of(other), None);
    }
}

#[test]
fn all_memories_of_an_instance_share_one_limit() {
    let mut limiter = Limiter::new(&Limits { memory: 10, table_elements: 3, ..Limits::default() });
    assert!(limiter.memory_growing(0, 6, None).unwrap());
    assert!(limiter.memory_growing(0, 4, Some(4)).unwrap());
    assert!(!limiter.memory_growing(6, 7, None).unwrap());
    assert!(limiter.take_refused().unwrap().contains("`wasm.memory`"));
    assert!(limiter.take_refused().is_none());
    assert!(!limiter.table_growing(0, 4, None).unwrap());
    assert!(!limiter.table_growing(0, 3, Some(2)).unwrap());
    assert!(limiter.table_growing(0, 3, None).unwrap());
}

#[test]
fn failures_to_grow_do_not_raise_the_limit() {
    let mut limiter = Limiter::new(&Limits { memory: 10, ..Limits::default() });
    assert!(limiter.memory_growing(0, 8, None).unwrap());
    for _ in 0..5 {
        limiter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
    }
    assert!(!limiter.memory_growing(8, 11, None).unwrap());
}
