//! A load that fails anywhere leaves nothing: no module, no taken id, no work; and the error names the module,
//! the hook and what it said.

use oxide_host::{
    Host, HostBuilder,
    bus::{Event, Message, Subscription},
    error::KernelError,
    module::ModuleState,
};
use oxide_tests::{
    Flag, SHORT, impatient, in_time, load_misbehaving, misbehave::options, misbehaving, ordered, told,
};
use serde_json::{Value, json};

/// Loads a module that does `deed` in `hook` and gives the error, after having seen that nothing is left.
async fn failing(host: HostBuilder, hook: &str, deed: &str) -> KernelError {
    let host = host.build().unwrap();
    let error = loop {
        let load = async {
            match hook {
                "constructor" | "metadata" => {
                    let file = ordered(&json!({ hook: deed }));
                    host.load_with(file, options("victim", json!({}))).await
                }
                _ => load_misbehaving(&host, "victim", json!({ hook: deed })).await,
            }
        };
        match in_time(load).await.unwrap_err() {
            // The deadline is short for the hooks before it, too, and the machine may be busy.
            KernelError::HookTimedOut { hook: other, .. } if !other.ends_with(hook) => {}
            error => break error,
        }
    };
    nothing_is_left(&host).await;
    error
}

/// The same id can be loaded again, by a module that behaves.
async fn nothing_is_left(host: &Host) {
    assert!(host.list().await.is_empty(), "{:?}", host.list().await);
    assert!(host.modules().state("victim").await.is_none());
    assert!(matches!(host.module("victim"), Err(KernelError::UnknownModule(_))));
    // Where a deadline is short, a slow machine may need several tries, which this is not about.
    loop {
        match load_misbehaving(host, "victim", json!({})).await {
            Ok(info) => {
                assert_eq!(info.state, ModuleState::Running);
                break;
            }
            Err(error) => assert!(matches!(error, KernelError::HookTimedOut { .. }), "{error}"),
        }
    }
    assert_eq!(host.invoke("victim", "echo", "alive").await.unwrap().as_bytes(), b"alive");
}

async fn tellings(deed: &str) -> String {
    let mut tellings = Vec::new();
    for hook in ["constructor", "metadata", "configure", "init", "start"] {
        if !(deed == "fail" && ["constructor", "metadata"].contains(&hook)) {
            tellings.push(told(&failing(Host::builder(), hook, deed).await));
        }
    }
    tellings.join("\n\n")
}

#[tokio::test]
async fn a_hook_that_fails_undoes_the_load() {
    insta::assert_snapshot!(tellings("fail").await, @r#"
    error[hook_failed]: configure of module `victim` failed: failed as ordered
    caused by: the root of it

    error[hook_failed]: init of module `victim` failed: failed as ordered
    caused by: the root of it

    error[hook_failed]: start of module `victim` failed: failed as ordered
    caused by: the root of it
    "#);
}

#[tokio::test]
async fn a_hook_that_panics_undoes_the_load() {
    insta::assert_snapshot!(tellings("panic").await, @r#"
    error[hook_panicked]: the constructor of module `victim` panicked: panicked as ordered, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_panicked]: metadata of module `victim` panicked: panicked as ordered, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_panicked]: configure of module `victim` panicked: panicked as ordered, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_panicked]: init of module `victim` panicked: panicked as ordered, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_panicked]: start of module `victim` panicked: panicked as ordered, at tests/bad-plugins/misbehaving/src/lib.rs:LINE
    "#);
}

#[tokio::test]
async fn a_panic_whose_payload_panics_when_dropped_undoes_the_load_too() {
    insta::assert_snapshot!(tellings("spite").await, @r#"
    error[hook_panicked]: the constructor of module `victim` panicked: a panic without a message, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_panicked]: metadata of module `victim` panicked: a panic without a message, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_panicked]: configure of module `victim` panicked: a panic without a message, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_panicked]: init of module `victim` panicked: a panic without a message, at tests/bad-plugins/misbehaving/src/lib.rs:LINE

    error[hook_panicked]: start of module `victim` panicked: a panic without a message, at tests/bad-plugins/misbehaving/src/lib.rs:LINE
    "#);
}

#[tokio::test]
async fn a_hook_that_never_ends_undoes_the_load_after_its_deadline() {
    let mut tellings = Vec::new();
    for hook in ["configure", "init"] {
        let flag = Flag::new();
        let host = impatient().init_timeout(SHORT);
        tellings.push(told(&failing(host, hook, &flag.deed("hang")).await));
        // The future itself is gone, and with it what it owned.
        flag.ended().await;
    }
    let flag = Flag::new();
    let host = impatient().start_timeout(SHORT);
    tellings.push(told(&failing(host, "start", &flag.deed("hang")).await));
    flag.ended().await;
    insta::assert_snapshot!(tellings.join("\n\n"), @r#"
    error[hook_timed_out]: configure of module `victim` did not end within 200ms
    hint: the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, `stop_timeout`)

    error[hook_timed_out]: init of module `victim` did not end within 200ms
    hint: the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, `stop_timeout`)

    error[hook_timed_out]: start of module `victim` did not end within 200ms
    hint: the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, `stop_timeout`)
    "#);
}

#[tokio::test]
async fn a_hook_that_blocks_its_thread_for_good_undoes_the_load_after_its_deadline() {
    let mut tellings = Vec::new();
    for hook in ["constructor", "metadata", "configure", "init"] {
        tellings.push(told(&failing(impatient().init_timeout(SHORT), hook, "park").await));
    }
    tellings.push(told(&failing(impatient().start_timeout(SHORT), "start", "park").await));
    insta::assert_snapshot!(tellings.join("\n\n"), @r#"
    error[hook_timed_out]: the constructor of module `victim` did not end within 200ms
    hint: the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, `stop_timeout`)

    error[hook_timed_out]: metadata of module `victim` did not end within 200ms
    hint: the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, `stop_timeout`)

    error[hook_timed_out]: configure of module `victim` did not end within 200ms
    hint: the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, `stop_timeout`)

    error[hook_timed_out]: init of module `victim` did not end within 200ms
    hint: the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, `stop_timeout`)

    error[hook_timed_out]: start of module `victim` did not end within 200ms
    hint: the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, `stop_timeout`)
    "#);
}

#[tokio::test]
async fn a_constructor_that_ends_after_its_deadline_is_undone_when_it_ends() {
    let flag = Flag::new();
    let file = ordered(&json!({ "constructor": flag.deed("block") }));
    let host = impatient().init_timeout(SHORT).build().unwrap();
    let error = in_time(host.load_with(file, options("late", json!({})))).await.unwrap_err();
    assert!(matches!(error, KernelError::HookTimedOut { hook: "the constructor", .. }), "{error}");
    assert!(flag.is_inside() && !flag.has_ended());
    flag.go_on();
    flag.ended().await;
    assert!(host.list().await.is_empty());
}

#[tokio::test]
async fn what_the_hooks_had_begun_is_ended() {
    let host = Host::new().unwrap();
    let (of_configure, of_init, of_start) = (Flag::new(), Flag::new(), Flag::new());
    let hooks = json!({
        "configure": of_configure.deed("spawn"),
        "init": [of_init.deed("spawn"), "subscribe:{}"],
        "start": [of_start.deed("spawn"), "subscribe:{}", of_start.deed("block"), "fail"],
    });
    let before = host.bus().subscriber_count().await;
    let load = tokio::spawn({
        let host = host.clone();
        async move { load_misbehaving(&host, "victim", hooks).await }
    });
    of_configure.inside().await;
    of_init.inside().await;
    of_start.inside().await;
    of_start.go_on();
    let error = in_time(load).await.unwrap().unwrap_err();
    assert!(matches!(error, KernelError::HookFailed { hook: "start", .. }), "{error}");
    of_configure.ended().await;
    of_init.ended().await;
    of_start.ended().await;
    assert_eq!(host.bus().subscriber_count().await, before);
    nothing_is_left(&host).await;
}

#[tokio::test]
async fn who_heard_that_it_was_loaded_hears_that_it_is_gone() {
    let host = Host::new().unwrap();
    let mut events = host.bus().subscribe().await;
    load_misbehaving(&host, "victim", json!({ "start": "fail" })).await.unwrap_err();
    assert_eq!(announced(&mut events), ["loaded", "failed", "unloaded"]);
    load_misbehaving(&host, "victim", json!({ "init": "fail" })).await.unwrap_err();
    assert_eq!(announced(&mut events), [""; 0]);
}

fn announced(events: &mut Subscription) -> Vec<&'static str> {
    let mut announced = Vec::new();
    while let Some(envelope) = events.receiver.try_recv() {
        assert_eq!(envelope.source, "kernel");
        announced.push(match envelope.message {
            Message::Event(Event::ModuleLoaded { .. }) => "loaded",
            Message::Event(Event::ModuleFailed { reason, .. }) => {
                assert_eq!(reason, "start of module `victim` failed: failed as ordered");
                "failed"
            }
            Message::Event(Event::ModuleUnloaded { .. }) => "unloaded",
            other => panic!("{other:?}"),
        });
    }
    announced
}

#[tokio::test]
async fn a_module_that_was_not_to_be_started_stays_although_its_start_fails() {
    let host = Host::new().unwrap();
    let hooks: Value = json!({ "start": "fail" });
    host.load_with(misbehaving(), options("victim", hooks).start(false)).await.unwrap();
    let error = host.start("victim").await.unwrap_err();
    assert_eq!(error.code(), "hook_failed");
    let info = host.show("victim").await.unwrap();
    assert_eq!(info.state, ModuleState::Failed);
    assert_eq!(info.failure.as_deref(), Some("start of module `victim` failed: failed as ordered"));
    // It is tried again, and may fail again.
    assert_eq!(host.start("victim").await.unwrap_err().code(), "hook_failed");
    let error = host.invoke("victim", "echo", "").await.unwrap_err();
    insta::assert_snapshot!(told(&error), @r#"
    error[not_running]: module `victim` is failed, not running, so it takes no calls
    hint: `oxide-host start victim` starts it
    "#);
    let error = host.stop("victim").await.unwrap_err();
    insta::assert_snapshot!(told(&error), @"error[illegal_transition]: module `victim` is failed, so it cannot become stopped");
    assert_eq!(host.unload("victim").await.unwrap().id, "victim");
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_half_load() {
    let host = Host::new().unwrap();
    let flag = Flag::new();
    let load = tokio::spawn({
        let (host, hooks) = (host.clone(), json!({ "start": flag.deed("wait") }));
        async move { load_misbehaving(&host, "victim", hooks).await }
    });
    flag.inside().await;
    load.abort();
    assert!(load.await.unwrap_err().is_cancelled());
    assert_eq!(host.modules().state("victim").await, Some(ModuleState::Starting));
    flag.go_on();
    let host = &host;
    in_time(async {
        while host.modules().state("victim").await != Some(ModuleState::Running) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
