//! A module moves from state to state as the contract says; every move is announced once, when it is true.

use std::thread;

use oxide_host::{
    Host, HostBuilder,
    bus::{Event, Message, Subscription},
    error::KernelError,
    module::ModuleState,
};
use oxide_tests::{Flag, SHORT, block_on, in_time, load_misbehaving, misbehave::options, misbehaving, told};
use serde_json::{Value, json};

/// A host with one module `m` that is not started.
async fn waiting(builder: HostBuilder, hooks: Value) -> Host {
    let host = builder.build().unwrap();
    host.load_with(misbehaving(), options("m", hooks).start(false)).await.unwrap();
    host
}

async fn state(host: &Host) -> ModuleState {
    host.modules().state("m").await.unwrap()
}

fn announced(events: &mut Subscription) -> Vec<String> {
    let mut announced = Vec::new();
    while let Some(envelope) = events.receiver.try_recv() {
        let Message::Event(event) = envelope.message else { continue };
        announced.push(match event {
            Event::ModuleLoaded { .. } => "loaded".to_owned(),
            Event::ModuleStarted { .. } => "started".to_owned(),
            Event::ModuleStopped { .. } => "stopped".to_owned(),
            Event::ModuleUnloaded { .. } => "unloaded".to_owned(),
            Event::ModuleFailed { reason, .. } => reason,
            Event::Custom { kind, .. } => kind,
            other => panic!("{other:?}"),
        });
    }
    announced
}

#[tokio::test]
async fn every_move_is_announced_once_and_a_repeated_one_does_nothing() {
    let host = Host::new().unwrap();
    let mut events = host.bus().subscribe().await;
    let hooks = json!({ "init": "publish:init", "start": "publish:start", "stop": "publish:stop" });
    host.load_with(misbehaving(), options("m", hooks).start(false)).await.unwrap();
    for _ in 0..2 {
        host.modules().init("m").await.unwrap();
    }
    for _ in 0..2 {
        host.start("m").await.unwrap();
    }
    for _ in 0..2 {
        host.stop("m").await.unwrap();
    }
    host.start("m").await.unwrap();
    host.unload("m").await.unwrap();
    assert_eq!(
        announced(&mut events),
        ["init", "loaded", "start", "started", "stop", "stopped", "start", "started", "stop", "unloaded"]
    );
}

#[tokio::test]
async fn an_illegal_move_is_an_error_that_names_both_states() {
    let host = waiting(Host::builder(), json!({ "start": "fail" })).await;
    let mut tellings = vec![told(&host.stop("m").await.unwrap_err())];
    host.start("m").await.unwrap_err();
    tellings.push(told(&host.stop("m").await.unwrap_err()));
    insta::assert_snapshot!(tellings.join("\n"), @r#"
    error[illegal_transition]: module `m` is loaded, so it cannot become stopped
    error[illegal_transition]: module `m` is failed, so it cannot become stopped
    "#);
    assert_eq!(state(&host).await, ModuleState::Failed);
}

#[tokio::test]
async fn a_stop_that_goes_wrong_makes_it_failed_and_a_start_tries_again() {
    for deed in ["fail", "panic"] {
        let host = waiting(Host::builder(), json!({ "stop": deed })).await;
        host.start("m").await.unwrap();
        let mut events = host.bus().subscribe().await;
        let error = host.stop("m").await.unwrap_err();
        assert_eq!(state(&host).await, ModuleState::Failed);
        assert_eq!(announced(&mut events), [error.to_string()]);
        host.start("m").await.unwrap();
        assert_eq!(host.invoke("m", "say", "back").await.unwrap().as_bytes(), b"back");
    }
}

#[tokio::test]
async fn a_hook_past_its_deadline_holds_the_object_until_it_returns() {
    let flag = Flag::new();
    let host = waiting(Host::builder().start_timeout(SHORT), json!({ "start": flag.deed("block") })).await;
    let mut tellings = Vec::new();
    for _ in 0..2 {
        tellings.push(told(&in_time(host.start("m")).await.unwrap_err()));
        assert_eq!(state(&host).await, ModuleState::Failed);
    }
    insta::assert_snapshot!(tellings.join("\n"), @"
    error[hook_timed_out]: start of module `m` did not end within 200ms
    hint: the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, `stop_timeout`)
    error[hook_stuck]: module `m` is still held by an earlier hook that ran past its deadline, so start cannot run
    hint: it can be started again once that hook returns, or replaced under another id
    ");
    flag.go_on();
    flag.ended().await;
    // However short the deadline and slow the machine, one of these succeeds.
    in_time(async {
        while let Err(error) = host.start("m").await {
            assert!(
                matches!(error, KernelError::HookTimedOut { .. } | KernelError::HookStuck { .. }),
                "{error}"
            );
        }
    })
    .await;
    assert_eq!(state(&host).await, ModuleState::Running);
}

#[tokio::test]
async fn no_hook_runs_while_a_call_is_inside() {
    let stop = Flag::new();
    let hooks = json!({ "stop": stop.deed("block") });
    let host = waiting(Host::builder().drain_timeout(SHORT), hooks).await;
    host.start("m").await.unwrap();
    let flag = Flag::new();
    let blocked = thread::spawn({
        let (host, argument) = (host.clone(), flag.argument().to_owned());
        move || block_on(host.invoke("m", "block", argument))
    });
    flag.inside().await;
    let mut tellings = vec![told(&in_time(host.stop("m")).await.unwrap_err())];
    tellings.push(told(&in_time(host.start("m")).await.unwrap_err()));
    insta::assert_snapshot!(tellings.join("\n"), @"
    error[calls_inside]: calls are still inside module `m` (1 of them), so its hooks cannot run
    error[calls_inside]: calls are still inside module `m` (1 of them), so its hooks cannot run
    ");
    assert_eq!(state(&host).await, ModuleState::Failed);
    assert!(!stop.is_inside());
    flag.go_on();
    blocked.join().unwrap().unwrap();
    assert!(!stop.is_inside(), "nobody has asked for it since");
    stop.go_on();
    host.start("m").await.unwrap();
    assert!(stop.has_ended(), "what was skipped comes before the next start");
    assert_eq!(host.invoke("m", "say", "back").await.unwrap().as_bytes(), b"back");
    host.stop("m").await.unwrap();
}

#[tokio::test]
async fn a_stop_cancels_calls_that_wait_too_long() {
    let host = Host::builder().drain_timeout(SHORT).build().unwrap();
    load_misbehaving(&host, "m", json!({})).await.unwrap();
    let flag = Flag::new();
    let call = tokio::spawn({
        let (host, argument) = (host.clone(), flag.argument().to_owned());
        async move { host.invoke("m", "hang", argument).await }
    });
    flag.inside().await;
    in_time(host.stop("m")).await.unwrap();
    let error = in_time(call).await.unwrap().unwrap_err();
    insta::assert_snapshot!(told(&error), @"error[cancelled]: the call of `hang` was cancelled: module `m` is being stopped");
    host.start("m").await.unwrap();
    assert_eq!(host.invoke("m", "say", "back").await.unwrap().as_bytes(), b"back");
}
