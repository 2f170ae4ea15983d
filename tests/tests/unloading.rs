//! An unload drains, stops and takes back, in this order; the receipt says truthfully what became of it all.

use std::{
    process::Command,
    task::{Context, Waker},
    thread,
};

use oxide_host::{
    Host, Receipt,
    bus::{Command as BusCommand, Event},
    error::KernelError,
    module::ModuleState,
    report::{DropOutcome, Holder, StopOutcome},
};
use oxide_tests::{
    Flag, SHORT, block_on, eventually, impatient, in_time, load_misbehaving, misbehave::options, misbehaving,
    next_event, plugin, told,
};
use serde_json::json;
use tokio::task::JoinHandle;

/// A host with one module `m`.
async fn loaded(builder: oxide_host::HostBuilder, hooks: serde_json::Value) -> Host {
    let host = builder.build().unwrap();
    load_misbehaving(&host, "m", hooks).await.unwrap();
    host
}

fn call(host: &Host, method: &str, flag: &Flag) -> JoinHandle<Result<oxide_host::Payload, KernelError>> {
    let (host, method, argument) = (host.clone(), method.to_owned(), flag.argument().to_owned());
    tokio::spawn(async move { host.invoke("m", &method, argument).await })
}

fn holds(receipt: &Receipt, holder: Holder) -> u64 {
    let of_it = receipt.retained_by.iter().filter(|retention| retention.holder == holder);
    of_it.map(|retention| retention.count).sum()
}

#[tokio::test]
async fn calls_inside_come_out_before_the_stop() {
    let stop = Flag::new();
    let host = loaded(Host::builder(), json!({ "stop": stop.deed("block") })).await;
    let flags = [Flag::new(), Flag::new(), Flag::new()];
    let calls = flags.each_ref().map(|flag| call(&host, "wait", flag));
    for flag in &flags {
        flag.inside().await;
    }
    let unload = tokio::spawn({
        let host = host.clone();
        async move { host.unload("m").await }
    });
    in_time(async {
        while host.modules().state("m").await != Some(ModuleState::Stopping) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut let_in = 0;
    eventually("fresh calls are turned away", || match block_on(host.invoke("m", "echo", "")) {
        Ok(_) => {
            let_in += 1;
            false
        }
        Err(error) => error.code() == "not_running",
    })
    .await;
    assert!(!stop.is_inside());
    for (flag, call) in flags.iter().zip(calls) {
        flag.go_on();
        in_time(call).await.unwrap().unwrap();
    }
    stop.inside().await;
    stop.go_on();
    let receipt = in_time(unload).await.unwrap().unwrap();
    // One that was let in at the last moment may have been inside, too.
    assert!((3..=3 + let_in).contains(&receipt.drained), "{receipt:?}");
    assert_eq!(receipt.cancelled, 0);
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Ok));
    assert_eq!(holds(&receipt, Holder::Call), 0);
}

#[tokio::test]
async fn past_the_deadline_calls_that_wait_are_cancelled() {
    let host = loaded(Host::builder().drain_timeout(SHORT), json!({})).await;
    let flags = [Flag::new(), Flag::new()];
    let calls = flags.each_ref().map(|flag| call(&host, "hang", flag));
    for flag in &flags {
        flag.inside().await;
    }
    let receipt = in_time(host.unload("m")).await.unwrap();
    assert_eq!((receipt.drained, receipt.cancelled), (0, 2));
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Ok));
    for (flag, call) in flags.iter().zip(calls) {
        let error = in_time(call).await.unwrap().unwrap_err();
        assert_eq!(
            told(&error),
            "error[cancelled]: the call of `hang` was cancelled: module `m` is being stopped"
        );
        assert!(flag.has_ended(), "the future was dropped before the library went");
    }
}

#[tokio::test]
async fn a_waiting_call_whose_future_panics_when_dropped_is_cancelled_all_the_same() {
    let host = loaded(Host::builder().drain_timeout(SHORT), json!({})).await;
    let flag = Flag::new();
    let call = call(&host, "hang_spitefully", &flag);
    flag.inside().await;
    let receipt = in_time(host.unload("m")).await.unwrap();
    assert_eq!((receipt.cancelled, receipt.stop, receipt.drop), (1, StopOutcome::Ok, DropOutcome::Ok));
    assert!(flag.has_ended());
    assert_eq!(in_time(call).await.unwrap().unwrap_err().code(), "cancelled");
}

#[tokio::test]
async fn a_call_that_blocks_keeps_the_generation_and_its_stop_is_skipped() {
    let stop = Flag::new();
    let host = impatient().build().unwrap();
    // The list of what is retained is the whole process's.
    load_misbehaving(&host, "blocked", json!({ "stop": stop.deed("block") })).await.unwrap();
    let flag = Flag::new();
    let blocked = thread::spawn({
        let (host, argument) = (host.clone(), flag.argument().to_owned());
        move || block_on(host.invoke("blocked", "block", argument))
    });
    flag.inside().await;
    let receipt = in_time(host.unload("blocked")).await.unwrap();
    assert!(!receipt.unmapped);
    assert_eq!(holds(&receipt, Holder::Call), 1);
    assert_eq!((receipt.drained, receipt.cancelled), (0, 0));
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Skipped, DropOutcome::Skipped));
    assert!(host.list().await.is_empty());
    let retained = host.retained();
    let mut retained = retained.iter().filter(|one| one.id == "blocked");
    let one = retained.next().unwrap();
    assert!(retained.next().is_none());
    assert_eq!((&one.path, &one.retained_by), (&misbehaving(), &receipt.retained_by));
    assert!(!stop.is_inside());

    // Its code and its object are still there for it.
    flag.go_on();
    blocked.join().unwrap().unwrap();
    assert!(flag.has_ended());
}

#[tokio::test]
async fn a_stop_that_does_not_end_well_is_on_the_receipt_and_retains() {
    for (deed, outcome) in [
        ("fail", StopOutcome::Failed),
        ("panic", StopOutcome::Panicked),
        ("spite", StopOutcome::Panicked),
        ("hang", StopOutcome::TimedOut),
    ] {
        let builder = if deed == "hang" { impatient() } else { Host::builder() };
        let host = loaded(builder, json!({ "stop": deed })).await;
        let mut events = host.bus().subscribe().await;
        let receipt = in_time(host.unload("m")).await.unwrap();
        assert_eq!((receipt.stop, receipt.drop), (outcome, DropOutcome::Ok), "{deed}");
        assert!(!receipt.unmapped, "{deed}");
        assert_eq!(holds(&receipt, Holder::Stop), 1, "{deed}");
        let (_, event) = next_event(&mut events, |event| matches!(event, Event::ModuleUnloaded { .. })).await;
        let announced = serde_json::to_value(&receipt).unwrap();
        assert_eq!(event, Event::ModuleUnloaded { module_id: "m".into(), receipt: announced });
        load_misbehaving(&host, "m", json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn a_stop_that_blocks_holds_the_object_too() {
    let flag = Flag::new();
    let host = loaded(impatient(), json!({ "stop": flag.deed("block") })).await;
    let receipt = in_time(host.unload("m")).await.unwrap();
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::TimedOut, DropOutcome::Skipped));
    assert_eq!((holds(&receipt, Holder::Stop), holds(&receipt, Holder::Call) > 0), (1, true));
    assert!(!receipt.unmapped);
    flag.go_on();
    flag.ended().await;
}

#[tokio::test]
async fn a_destructor_that_panics_is_on_the_receipt_and_the_rest_goes_on() {
    for deed in ["panic", "spite"] {
        let task = Flag::new();
        let host = loaded(Host::builder(), json!({ "drop": deed, "init": task.deed("spawn") })).await;
        task.inside().await;
        let receipt = in_time(host.unload("m")).await.unwrap();
        assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Panicked));
        assert!(task.has_ended());
        load_misbehaving(&host, "m", json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn a_module_that_does_not_run_has_nothing_to_stop() {
    let host = Host::new().unwrap();
    // Its `stop` would panic.
    let hooks = json!({ "stop": "panic" });
    host.load_with(misbehaving(), options("m", hooks).start(false)).await.unwrap();
    let receipt = in_time(host.unload("m")).await.unwrap();
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::NotRunning, DropOutcome::Ok));

    load_misbehaving(&host, "m", json!({})).await.unwrap();
    host.stop("m").await.unwrap();
    let receipt = in_time(host.unload("m")).await.unwrap();
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::NotRunning, DropOutcome::Ok));
}

#[tokio::test]
async fn what_it_forgot_is_taken_back() {
    let host = Host::new().unwrap();
    let subscribers = host.bus().subscriber_count().await;
    let tasks = [Flag::new(), Flag::new()];
    let hooks = json!({
        "init": ["subscribe:{}", tasks[0].deed("spawn")],
        "start": ["subscribe:{}", tasks[1].deed("spawn")],
    });
    load_misbehaving(&host, "m", hooks).await.unwrap();
    assert_eq!(host.bus().subscriber_count().await, subscribers + 2);
    for task in &tasks {
        task.inside().await;
    }
    let receipt = in_time(host.unload("m")).await.unwrap();
    // The task of `start` ended at the stop; the other one and both subscriptions were taken back.
    assert_eq!(receipt.revoked, 3);
    assert_eq!(holds(&receipt, Holder::Handle), 0);
    assert_eq!(host.bus().subscriber_count().await, subscribers);
    assert!(tasks.iter().all(Flag::has_ended));
}

#[tokio::test]
async fn a_waker_that_was_kept_may_be_woken_after_its_call_is_gone() {
    let host = loaded(Host::builder().drain_timeout(SHORT), json!({ "stop": "wake" })).await;
    // Dropped by its caller.
    let flag = Flag::new();
    let pending = call(&host, "keep_waker", &flag);
    flag.inside().await;
    pending.abort();
    assert!(pending.await.unwrap_err().is_cancelled());
    host.invoke("m", "wake", "").await.unwrap();
    // Cancelled by the unload; the waker is then woken by `stop`.
    let flag = Flag::new();
    let pending = call(&host, "keep_waker", &flag);
    flag.inside().await;
    let receipt = in_time(host.unload("m")).await.unwrap();
    assert_eq!((receipt.cancelled, receipt.stop), (1, StopOutcome::Ok));
    assert_eq!(in_time(pending).await.unwrap().unwrap_err().code(), "cancelled");
}

#[tokio::test]
async fn nobody_is_left_hanging() {
    let host = loaded(impatient(), json!({})).await;
    let host = &host;
    let request = |method: &str, payload: &str| {
        let command =
            BusCommand::Invoke { module_id: "m".into(), method: method.into(), payload: json!(payload) };
        let bus = host.bus().clone();
        tokio::spawn(async move { bus.request("test", command, std::time::Duration::from_secs(60)).await })
    };
    // One whose call waits inside.
    let flag = Flag::new();
    let inside = request("hang", flag.argument());
    flag.inside().await;
    let receipt = in_time(host.unload("m")).await.unwrap();
    assert_eq!(receipt.cancelled, 1);
    let error = in_time(inside).await.unwrap().unwrap_err();
    assert!(matches!(error, KernelError::Module(_)), "{error}");

    // One whose command waits in the mailbox of a module that never ran.
    host.load_with(misbehaving(), options("m", json!({})).start(false)).await.unwrap();
    let mut events = host.bus().subscribe().await;
    let waiting = request("echo", "never");
    next_event_is_the_command(&mut events).await;
    in_time(host.unload("m")).await.unwrap();
    let error = in_time(waiting).await.unwrap().unwrap_err();
    insta::assert_snapshot!(error, @"module `m` took no call: it was unloaded before the call reached it");

    // One whose module is gone.
    let error = in_time(request("echo", "too late")).await.unwrap().unwrap_err();
    insta::assert_snapshot!(error, @"no module has the id `m`");
}

async fn next_event_is_the_command(events: &mut oxide_host::bus::Subscription) {
    in_time(async {
        loop {
            let envelope = events.receiver.recv().await.unwrap();
            if matches!(envelope.message, oxide_host::bus::Message::Command(_)) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn of_two_unloads_at_once_one_gives_the_receipt() {
    let host = loaded(Host::builder(), json!({})).await;
    let (one, other) = tokio::join!(host.unload("m"), host.unload("m"));
    let (done, error) = match (one, other) {
        (Ok(receipt), Err(error)) | (Err(error), Ok(receipt)) => (receipt, error),
        both => panic!("{both:?}"),
    };
    assert_eq!(done.stop, StopOutcome::Ok);
    assert!(matches!(error, KernelError::UnknownModule(_)));
    assert!(matches!(host.unload("m").await, Err(KernelError::UnknownModule(_))));
}

#[tokio::test]
async fn a_handle_of_a_module_that_is_gone_says_so() {
    let host = loaded(Host::builder(), json!({})).await;
    let handle = host.module("m").unwrap();
    host.unload("m").await.unwrap();
    let error = handle.invoke("echo", "x").await.unwrap_err();
    assert_eq!(told(&error), told(&KernelError::UnknownModule("m".into())));
}

#[tokio::test]
async fn a_shutdown_unloads_everything_and_gives_every_receipt() {
    let host = Host::new().unwrap();
    for package in ["ticker", "echo", "counter"] {
        host.load(plugin(package)).await.unwrap();
    }
    let receipts = in_time(host.shutdown()).await;
    let ids: Vec<_> = receipts.iter().map(|receipt| &*receipt.id).collect();
    assert_eq!(ids, ["counter", "echo", "ticker"]);
    assert!(receipts.iter().all(|receipt| receipt.stop == StopOutcome::Ok));
    assert!(host.list().await.is_empty());
    assert!(in_time(host.shutdown()).await.is_empty());
}

#[tokio::test]
async fn a_message_that_is_never_done_with_is_cancelled_past_the_deadline() {
    let flag = Flag::new();
    let hooks = json!({ "on_message": flag.deed("hang") });
    let host = loaded(Host::builder().drain_timeout(SHORT), hooks).await;
    let news = Event::Custom { module_id: "m".into(), kind: "news".into(), payload: json!(1) };
    host.bus().emit_event("test", news).await.unwrap();
    flag.inside().await;
    let receipt = in_time(host.unload("m")).await.unwrap();
    assert_eq!((receipt.cancelled, receipt.stop, receipt.drop), (1, StopOutcome::Ok, DropOutcome::Ok));
    assert!(flag.has_ended());
}

#[tokio::test]
async fn a_call_that_its_caller_forgot_is_cancelled_and_keeps_nothing() {
    let host = loaded(Host::builder().drain_timeout(SHORT), json!({})).await;
    let flag = Flag::new();
    let module = host.module("m").unwrap();
    let argument = flag.argument().to_owned();
    let mut call = Box::pin(async move { module.invoke("hang", argument).await });
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(flag.is_inside());
    std::mem::forget(call);
    let receipt = in_time(host.unload("m")).await.unwrap();
    // What it owned of the plugin's is gone, and its ticket with it.
    assert!(flag.has_ended());
    assert_eq!(receipt.cancelled, 1);
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Ok));
    assert_eq!(holds(&receipt, Holder::Call), 0);
}

#[tokio::test]
async fn an_unload_that_is_asked_for_during_a_start_follows_it() {
    let host = Host::new().unwrap();
    let start = Flag::new();
    let hooks = json!({ "start": start.deed("wait") });
    host.load_with(misbehaving(), options("m", hooks).start(false)).await.unwrap();
    let starting = tokio::spawn({
        let host = host.clone();
        async move { host.start("m").await }
    });
    start.inside().await;
    let unloading = tokio::spawn({
        let host = host.clone();
        async move { host.unload("m").await }
    });
    start.go_on();
    in_time(starting).await.unwrap().unwrap();
    assert_eq!(in_time(unloading).await.unwrap().unwrap().stop, StopOutcome::Ok);
}

/// Says to the test below that it is the child.
const CHILD: &str = "OXIDE_TESTS_CHILD";

#[test]
fn a_process_ends_orderly_although_a_retained_plugin_is_still_at_it() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_ends_orderly_although_a_retained_plugin_is_still_at_it"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}\n{}", child.status, String::from_utf8_lossy(&child.stderr));
}

fn child() {
    block_on(async {
        let host = impatient().build().unwrap();
        let (call, hook) = (Flag::new(), Flag::new());
        load_misbehaving(&host, "m", json!({ "stop": hook.deed("park") })).await.unwrap();
        thread::spawn({
            let (host, argument) = (host.clone(), call.argument().to_owned());
            move || block_on(host.invoke("m", "park", argument))
        });
        while !call.is_inside() {
            thread::yield_now();
        }
        assert_eq!(host.unload("m").await.unwrap().stop, StopOutcome::Skipped);
        load_misbehaving(&host, "m", json!({ "stop": hook.deed("park") })).await.unwrap();
        assert_eq!(host.unload("m").await.unwrap().stop, StopOutcome::TimedOut);
        assert!(hook.is_inside());
        std::mem::forget((call, hook));
    });
}
