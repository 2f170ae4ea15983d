//! Each limit with the guest that is ended by it: the call fails with the reason, and nobody else notices.

use oxide_host::error::KernelError;
use serde_json::json;
use wasm_runtime_tests::{Given, House};

/// Loads a bad guest beside a good one, has it fail, and sees the good one go on.
async fn ended(given: &Given) -> String {
    let house = House::new();
    house.load("good", &Given::guest("hello")).await;
    house.load("bad", given).await;
    let error = house.fails("bad", "go ahead", "").await;
    assert_eq!(house.call("good", "hello", "you").await, "hello, you!");
    house.gone("bad").await;
    house.gone("good").await;
    error
}

#[track_caller]
fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[tokio::test]
async fn a_guest_that_loops_is_ended_after_its_time() {
    let error = ended(&Given::guest("loops").with("call_time", 50)).await;
    says(&error, &["worked longer than 50 ms", "`wasm.call_time`", "`invoke`"]);
}

#[tokio::test]
async fn so_is_one_that_loops_in_its_start_function() {
    let house = House::new();
    let error = house.refused(&Given::guest("loops-at-start").with("call_time", 50)).await;
    says(&error, &["cannot be instantiated", "worked longer than 50 ms"]);
    assert_eq!(house.mapped(), 0);
}

#[tokio::test]
async fn so_is_one_that_loops_where_it_cannot_be_left() {
    let error = ended(&Given::guest("loops-in-alloc").with("call_time", 50)).await;
    says(&error, &["worked longer than 50 ms"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_guest_that_loops_leaves_its_callers_thread_to_others_meanwhile() {
    let house = House::new();
    house.load("loops", &Given::guest("loops").with("call_time", 400)).await;
    // Both futures are polled by this one thread: `ok` of another module is answered in the middle of the loop.
    house.load("good", &Given::guest("hello")).await;
    let endless = house.try_call("loops", "go ahead", "");
    let other = async {
        tokio::task::yield_now().await;
        house.call("good", "hello", "you").await
    };
    tokio::pin!(endless);
    tokio::select! {
        biased;
        ended = &mut endless => panic!("nobody else was polled: {ended:?}"),
        answer = other => assert_eq!(answer, "hello, you!"),
    }
    says(&endless.await.unwrap_err(), &["worked longer than 400 ms"]);
    house.gone("loops").await;
    house.gone("good").await;
}

#[tokio::test]
async fn a_guest_that_gives_up_is_told_with_its_functions() {
    let error = ended(&Given::guest("traps")).await;
    says(&error, &["gave up (`unreachable`)", "in `give_up`"]);
}

#[tokio::test]
async fn a_guest_that_grows_without_end_is_ended_with_what_it_was_refused() {
    let error = ended(&Given::guest("grows").with("memory", 4 << 20)).await;
    says(&error, &["gave up", "before that it was refused", "of memory", "4194304 (`wasm.memory`)"]);
}

#[tokio::test]
async fn one_that_is_deaf_to_it_is_ended_after_its_time() {
    let error = ended(&Given::guest("grows-deaf").with("memory", 4 << 20).with("call_time", 50)).await;
    says(&error, &["worked longer than 50 ms", "before that it was refused"]);
}

#[tokio::test]
async fn a_guest_that_begins_too_large_is_refused() {
    let house = House::new();
    let error = house.refused(&Given::guest("too-large")).await;
    says(&error, &["cannot be instantiated", "refused 104857600 bytes of memory", "67108864"]);
    house.load("large", &Given::guest("too-large").with("memory", 200 << 20)).await;
    house.gone("large").await;
}

#[tokio::test]
async fn a_guest_that_calls_itself_without_end_is_ended() {
    let error = ended(&Given::guest("recurses")).await;
    says(&error, &["more than 524288 bytes of stack (`wasm.stack`)", "`deeper` called by `deeper`"]);
    let error = ended(&Given::guest("recurses").with("stack", 65536)).await;
    says(&error, &["more than 65536 bytes of stack"]);
}

/// The caller's own stack may be far smaller than what a guest may use.
#[tokio::test]
async fn so_is_one_that_does_it_where_it_needs_no_stack_of_its_own() {
    let error = ended(&Given::guest("recurses-in-alloc")).await;
    says(&error, &["more than 524288 bytes of stack"]);
    let error = ended(&Given::guest("recurses-in-alloc").with("stack", 64 << 20)).await;
    says(&error, &["more than 67108864 bytes of stack"]);
}

#[tokio::test]
async fn a_guest_whose_table_grows_without_end_is_ended() {
    let error = ended(&Given::guest("table")).await;
    says(&error, &["gave up", "refused a table of", "65536 (`wasm.table_elements`)"]);
}

#[tokio::test]
async fn a_guest_with_too_many_memories_is_refused() {
    let error = House::new().refused(&Given::guest("many-memories")).await;
    says(&error, &["cannot be instantiated", "memory"]);
}

#[tokio::test]
async fn pointers_and_lengths_out_of_bounds_are_found_out() {
    says(&ended(&Given::guest("out-of-bounds")).await, &["reached outside of its memory"]);
    says(&ended(&Given::guest("alloc-outside")).await, &["`alloc` gave", "outside of its memory"]);
    says(&ended(&Given::guest("answers-outside")).await, &["`oxide_invoke` gave 2 bytes at 65535"]);
    says(
        &ended(&Given::guest("answers-huge")).await,
        &["gave 4294967293 bytes at 0", "outside of its memory"],
    );
    says(&ended(&Given::guest("divides")).await, &["divided by zero"]);
}

#[tokio::test]
async fn a_guest_without_what_a_guest_needs_is_refused() {
    let house = House::new();
    for (guest, why) in [
        ("without-invoke", "does not export `oxide_invoke(i32, i32, i32, i32) -> i64`"),
        ("without-memory", "does not export its memory"),
        ("wrong-type", "`oxide_invoke` has another type than (i32, i32, i32, i32) -> i64"),
        ("wrong-kind", "`alloc` has another type than (i32) -> i32"),
        ("imports-unknown", "imports `env.system`, which is not there"),
        ("imports-wasi", "core modules have no WASI"),
        ("imports-wrongly", "`oxide::now`"),
    ] {
        let error = house.refused(&Given::guest(guest)).await;
        says(&error, &[&format!("`{guest}.wasm` cannot be run"), why]);
    }
    for (bytes, why) in [(&b"MZ"[..], "no WASM"), (b"\0asm\x01\0\0\0\x63", "cannot be compiled")] {
        says(&house.refused(&Given::new("garbage", bytes)).await, &[why]);
    }
    assert_eq!(house.mapped(), 0);
}

#[tokio::test]
async fn after_a_trap_the_next_call_finds_a_fresh_instance() {
    let house = House::new();
    house.load("traps", &Given::guest("traps")).await;
    assert_eq!(house.call("traps", "count", "").await, "1");
    assert_eq!(house.call("traps", "count", "").await, "2");
    says(&house.fails("traps", "go ahead", "").await, &["the next call finds a fresh one"]);
    assert_eq!(house.call("traps", "count", "").await, "1");
    house.gone("traps").await;
}

#[tokio::test]
async fn a_configuration_of_another_shape_is_refused_by_name() {
    let house = House::new();
    let refused = async |key: &str, value: serde_json::Value| {
        house.refused(&Given::guest("hello").with(key, value)).await
    };
    says(&refused("memroy", json!(1)).await, &["unknown field `memroy`", "`memory`"]);
    says(&refused("call_time", json!("fast")).await, &["invalid type", "fast"]);
    says(&refused("call_time", json!(0)).await, &["`wasm.call_time` is 0"]);
    says(&refused("stack", json!(1)).await, &["`wasm.stack` is 1", "16384"]);
    says(&refused("allow", json!({ "files": [] })).await, &["unknown field `files`", "`dirs`"]);
    let folder = json!({ "dirs": [{ "host": "here", "guest": "/" }] });
    says(&refused("allow", folder).await, &["has `here`", "absolute path"]);
}

#[tokio::test]
async fn the_engine_by_itself_says_what_it_is_for() {
    let house = House::new();
    let error = house.host.load(wasm_runtime_tests::engine()).await.unwrap_err();
    says(&wasm_runtime_tests::told(&error), &["no guest was given", "load a `.wasm` file"]);
    assert!(matches!(error, KernelError::HookFailed { .. }), "{error:?}");
    assert_eq!(house.mapped(), 0);
}
