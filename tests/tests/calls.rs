//! Calls: what goes in comes out; what goes wrong in one is that call's error and nobody else's.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    thread,
};

use oxide_host::{Host, Payload, error::KernelError};
use oxide_tests::{Flag, block_on, in_time, load_misbehaving, plugin, told};
use serde_json::json;

/// A host with one module `m` that does what its calls say.
async fn host() -> Host {
    let host = Host::new().unwrap();
    load_misbehaving(&host, "m", json!({})).await.unwrap();
    host
}

#[tokio::test]
async fn a_payload_of_any_size_comes_back_as_it_was() {
    let host = Host::new().unwrap();
    host.load(plugin("echo")).await.unwrap();
    let echo = host.module("echo").unwrap();
    for size in [0, 1, 191, 192, 193, 4096, 64 << 20] {
        let sent: Vec<u8> = (0..size).map(|at: usize| (at % 251) as u8).collect();
        let (address, copy) = (sent.as_ptr(), sent.clone());
        let reply = echo.invoke("echo", sent).await.unwrap();
        assert!(reply.as_bytes() == copy, "{size} bytes came back otherwise");
        if size > 0 {
            assert_eq!(reply.as_bytes().as_ptr(), address, "the buffer of {size} bytes was copied");
        }
        drop(reply.into_vec());
    }
    // Made by the plugin, so copied at the boundary, and readable after the plugin has gone.
    let big = "straße ".repeat(1 << 20);
    let upper = echo.invoke("upper", big.as_str()).await.unwrap();
    host.unload("echo").await.unwrap();
    assert!(upper.as_bytes() == big.to_uppercase().as_bytes());
}

#[tokio::test]
async fn errors_of_a_call_say_which_module_and_what() {
    let host = host().await;
    let mut tellings = Vec::new();
    for method in ["no such method", &"x".repeat(1000), "", "esc\u{1b}[31m\n", "fail", "panic", "spite"] {
        tellings.push(told(&host.invoke("m", method, "").await.unwrap_err()));
    }
    tellings.push(told(&host.invoke("m", "say", &[0xff]).await.unwrap_err()));
    tellings.push(told(&host.invoke("nobody", "say", "").await.unwrap_err()));
    insta::assert_snapshot!(tellings.join("\n\n"), @r#"
    error[unknown_method]: module `m` has no method `no such method`

    error[unknown_method]: module `m` has no method `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…`

    error[unknown_method]: module `m` has no method ``

    error[unknown_method]: module `m` has no method `esc\u{1b}[31m\n`

    error[hook_failed]: invoke of module `m` failed: failed as ordered
    caused by: the root of it

    error[hook_panicked]: invoke of module `m` panicked: panicked as ordered, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_panicked]: invoke of module `m` panicked: a panic without a message, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_failed]: invoke of module `m` failed: invalid utf-8 sequence of 1 bytes from index 0

    error[unknown_module]: no module has the id `nobody`
    hint: `oxide-host list` shows the modules there are
    "#);
    // And it lives.
    assert_eq!(host.invoke("m", "say", "\"still here\"").await.unwrap().as_bytes(), b"still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_from_many_threads_at_once_are_all_answered() {
    const CALLS: u64 = 2000;
    let host = Host::new().unwrap();
    host.load(plugin("counter")).await.unwrap();
    let counter = host.module("counter").unwrap();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let counter = counter.clone();
            thread::spawn(move || {
                block_on(async {
                    let mut before = 0;
                    for _ in 0..CALLS {
                        let now = counter.invoke("increment", "").await.unwrap().to_json().unwrap();
                        assert!(now > before);
                        before = now;
                    }
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let count: u64 = counter.invoke("get", "").await.unwrap().to_json().unwrap();
    assert_eq!(count, 8 * CALLS);
}

#[tokio::test]
async fn calls_that_wait_are_answered_each_when_its_time_has_come() {
    let host = host().await;
    let flags: Vec<Flag> = (0..20).map(|_| Flag::new()).collect();
    let calls: Vec<_> = flags
        .iter()
        .map(|flag| {
            let (host, argument) = (host.clone(), flag.argument().to_owned());
            tokio::spawn(async move { host.invoke("m", "wait", argument).await })
        })
        .collect();
    for flag in &flags {
        flag.inside().await;
    }
    // All are inside at once, and leave in another order than they came.
    for (flag, call) in flags.iter().zip(calls).rev() {
        assert!(!call.is_finished());
        flag.go_on();
        in_time(call).await.unwrap().unwrap();
    }
    let reply = in_time(host.invoke("m", "spawn_and_wait", "from a task")).await.unwrap();
    assert_eq!(reply.as_bytes(), b"from a task");
}

#[tokio::test]
async fn a_caller_may_drop_a_call_at_any_time() {
    let host = host().await;
    let module = host.module("m").unwrap();
    // Never polled.
    let flag = Flag::new();
    drop(module.invoke("hang", flag.argument()));
    assert!(!flag.is_inside());
    // Polled once, twice.
    for polls in 1..=2 {
        let flag = Flag::new();
        {
            let mut call = pin!(module.invoke("hang", flag.argument()));
            for _ in 0..polls {
                assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            assert!(flag.is_inside() && !flag.has_ended());
        }
        assert!(flag.has_ended(), "what the plugin's future owned was dropped at once");
    }
    // Whose future panics when it is dropped.
    let flag = Flag::new();
    {
        let mut call = pin!(module.invoke("hang_spitefully", flag.argument()));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert!(flag.has_ended());
    // None of them is inside any more.
    let receipt = in_time(host.unload("m")).await.unwrap();
    assert_eq!((receipt.drained, receipt.cancelled), (0, 0));
}

#[tokio::test]
async fn a_call_that_moves_between_threads_is_answered() {
    let host = host().await;
    let flag = Arc::new(Flag::new());
    let mut call = Box::pin({
        let (host, argument) = (host.clone(), flag.argument().to_owned());
        async move { host.invoke("m", "wait", argument).await }
    });
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(flag.is_inside());
    flag.go_on();
    thread::spawn(move || block_on(call)).join().unwrap().unwrap();
    assert!(flag.has_ended());
}

#[test]
fn a_caller_needs_no_runtime() {
    let host = Host::new().unwrap();
    let info = block_on(host.load(plugin("echo"))).unwrap();
    assert_eq!(info.id, "echo");
    assert_eq!(block_on(host.invoke("echo", "echo", "x")).unwrap().as_bytes(), b"x");
    block_on(load_misbehaving(&host, "m", json!({}))).unwrap();
    assert_eq!(block_on(host.invoke("m", "spawn_and_wait", "y")).unwrap().as_bytes(), b"y");
    let mut events = block_on(host.bus().subscribe());
    block_on(host.stop("echo")).unwrap();
    assert_eq!(block_on(events.receiver.recv()).unwrap().source, "kernel");
    block_on(host.start("echo")).unwrap();
    assert_eq!(block_on(host.unload("echo")).unwrap().id, "echo");
    assert_eq!(block_on(host.shutdown()).len(), 1);
}

#[test]
fn a_runtime_without_clock_and_with_one_thread_is_enough() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let host = host().await;
        let calls: Vec<_> = (0..4)
            .map(|number| {
                let host = host.clone();
                tokio::spawn(async move { host.invoke("m", "spawn_and_wait", number.to_string()).await })
            })
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap().as_bytes(), number.to_string().as_bytes());
        }
        host.unload("m").await.unwrap();
    });
}

#[tokio::test]
async fn a_blocked_caller_holds_up_no_other() {
    let host = host().await;
    let flag = Flag::new();
    let blocked = thread::spawn({
        let (host, argument) = (host.clone(), flag.argument().to_owned());
        move || block_on(host.invoke("m", "block", argument))
    });
    flag.inside().await;
    let reply: Payload = in_time(host.invoke("m", "spawn_and_wait", "z")).await.unwrap();
    assert_eq!(reply.as_bytes(), b"z");
    flag.go_on();
    blocked.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_call_goes_in_when_it_is_first_polled_not_when_it_is_made() {
    let host = host().await;
    let module = host.module("m").unwrap();
    let call = module.invoke("echo", "late");
    // A call that nobody polls holds up no stop.
    in_time(host.stop("m")).await.unwrap();
    assert!(matches!(call.await.unwrap_err(), KernelError::NotRunning { .. }));
}

#[tokio::test]
async fn what_goes_wrong_after_a_wait_is_told_as_well() {
    let host = host().await;
    for (deed, code) in [("panic", "hook_panicked"), ("spite", "hook_panicked"), ("fail", "hook_failed")] {
        let flag = Flag::new();
        let deeds = json!([flag.deed("wait"), deed]).to_string();
        let call = tokio::spawn({
            let host = host.clone();
            async move { host.invoke("m", "do", deeds).await }
        });
        flag.inside().await;
        flag.go_on();
        assert_eq!(in_time(call).await.unwrap().unwrap_err().code(), code);
    }
}
