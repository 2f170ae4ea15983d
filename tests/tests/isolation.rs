//! One module's trouble is nobody else's, and the host's work needs nobody's runtime.

use oxide_host::{
    Host,
    bus::{Command, Event, Message},
    module::ModuleState,
};
use oxide_tests::{
    Flag, block_on, in_time, load_misbehaving, misbehave::options, misbehaving, ordered, plugin,
};
use serde_json::json;
use tokio::{runtime::Builder, task::JoinHandle};

/// Everything that a host does for others.
async fn works_for_others(host: &Host) {
    in_time(async {
        assert!(host.list().await.iter().all(|info| info.id != "other"));
        assert_eq!(host.modules().state("other").await, None);
        load_misbehaving(host, "other", json!({ "init": "subscribe:{}" })).await.unwrap();
        assert_eq!(host.invoke("other", "spawn_and_wait", "x").await.unwrap().as_bytes(), b"x");
        let limit = std::time::Duration::from_secs(60);
        let say = Command::Invoke { module_id: "other".into(), method: "say".into(), payload: json!("y") };
        let answer = host.bus().request("test", say, limit).await.unwrap();
        assert_eq!(answer, Event::InvokeCompleted { module_id: "other".into(), payload: json!("y") });
        host.stop("other").await.unwrap();
        host.start("other").await.unwrap();
        assert_eq!(host.show("other").await.unwrap().state, ModuleState::Running);
        host.unload("other").await.unwrap();
    })
    .await;
}

fn loading(host: &Host, hooks: serde_json::Value) -> JoinHandle<()> {
    let host = host.clone();
    tokio::spawn(async move { drop(load_misbehaving(&host, "blocker", hooks).await.unwrap()) })
}

#[tokio::test]
async fn a_hook_that_blocks_its_thread_holds_up_nobody() {
    for hook in ["constructor", "metadata"] {
        let (host, flag) = (Host::new().unwrap(), Flag::new());
        let file = ordered(&json!({ hook: flag.deed("block") }));
        let load = tokio::spawn({
            let host = host.clone();
            async move { host.load_with(file, options("blocker", json!({}))).await }
        });
        flag.inside().await;
        works_for_others(&host).await;
        flag.go_on();
        in_time(load).await.unwrap().unwrap();
    }
    for hook in ["configure", "init", "start"] {
        let (host, flag) = (Host::new().unwrap(), Flag::new());
        let load = loading(&host, json!({ hook: flag.deed("block") }));
        flag.inside().await;
        works_for_others(&host).await;
        let state = (hook == "start").then_some(ModuleState::Starting);
        assert_eq!(host.modules().state("blocker").await, state);
        flag.go_on();
        in_time(load).await.unwrap();
        assert_eq!(host.modules().state("blocker").await, Some(ModuleState::Running));
    }
}

#[tokio::test]
async fn a_stop_a_message_and_a_destructor_that_block_hold_up_nobody() {
    for hook in ["stop", "on_message", "drop"] {
        let (host, flag) = (Host::new().unwrap(), Flag::new());
        load_misbehaving(&host, "blocker", json!({ hook: flag.deed("block") })).await.unwrap();
        let mut unload = None;
        if hook == "on_message" {
            let news = Event::Custom { module_id: "blocker".into(), kind: "news".into(), payload: json!(1) };
            in_time(host.bus().emit_event("test", news)).await.unwrap();
        } else {
            let host = host.clone();
            unload = Some(tokio::spawn(async move { host.unload("blocker").await }));
        }
        flag.inside().await;
        works_for_others(&host).await;
        flag.go_on();
        match unload {
            Some(unload) => drop(in_time(unload).await.unwrap().unwrap()),
            None => drop(in_time(host.unload("blocker")).await.unwrap()),
        }
        assert!(flag.has_ended());
    }
}

#[tokio::test]
async fn many_hooks_that_block_at_once_hold_up_nobody() {
    let host = Host::new().unwrap();
    let flags: Vec<Flag> = (0..20).map(|_| Flag::new()).collect();
    let loads: Vec<_> = flags
        .iter()
        .enumerate()
        .map(|(number, flag)| {
            let (host, hooks) = (host.clone(), json!({ "start": flag.deed("block") }));
            tokio::spawn(async move { load_misbehaving(&host, &format!("m{number}"), hooks).await })
        })
        .collect();
    for flag in &flags {
        flag.inside().await;
    }
    works_for_others(&host).await;
    flags.iter().for_each(Flag::go_on);
    for load in loads {
        in_time(load).await.unwrap().unwrap();
    }
    assert_eq!(host.list().await.len(), 20);
}

#[test]
fn a_load_goes_on_when_the_runtime_it_was_asked_on_is_gone() {
    for hook in ["configure", "init", "start"] {
        let (host, flag) = (Host::new().unwrap(), Flag::new());
        let mut events = block_on(host.bus().subscribe());
        let first = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let load = {
            let (host, hooks) = (host.clone(), json!({ hook: flag.deed("wait") }));
            first.spawn(async move { load_misbehaving(&host, "m", hooks).await })
        };
        let second = Builder::new_current_thread().enable_all().build().unwrap();
        second.block_on(async {
            flag.inside().await;
            first.shutdown_background();
            assert!(in_time(load).await.unwrap_err().is_cancelled());
            flag.go_on();
            oxide_tests::next_event(&mut events, |event| {
                *event == Event::ModuleStarted { module_id: "m".into() }
            })
            .await;
            assert_eq!(host.modules().state("m").await, Some(ModuleState::Running));
            assert_eq!(host.invoke("m", "say", "z").await.unwrap().as_bytes(), b"z");
        });
    }
}

#[test]
fn a_start_a_stop_and_an_unload_go_on_when_their_runtime_is_gone() {
    let (host, start, stop) = (Host::new().unwrap(), Flag::new(), Flag::new());
    let mut events = block_on(host.bus().subscribe());
    let hooks = json!({ "start": start.deed("wait"), "stop": stop.deed("wait") });
    block_on(host.load_with(misbehaving(), options("m", hooks).start(false))).unwrap();

    let second = Builder::new_current_thread().enable_all().build().unwrap();
    for (verb, flag) in [("start", &start), ("unload", &stop)] {
        let first = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let host = host.clone();
        drop(first.spawn(async move {
            match verb {
                "start" => host.start("m").await.unwrap(),
                _ => drop(host.unload("m").await.unwrap()),
            }
        }));
        second.block_on(async {
            flag.inside().await;
            first.shutdown_background();
            flag.go_on();
            oxide_tests::next_event(&mut events, |event| match verb {
                "start" => matches!(event, Event::ModuleStarted { .. }),
                _ => matches!(event, Event::ModuleUnloaded { .. }),
            })
            .await;
        });
    }
    assert!(block_on(host.list()).is_empty());
}

#[tokio::test]
async fn a_caller_that_is_dropped_leaves_no_state_in_between() {
    let host = Host::new().unwrap();
    let (start, stop) = (Flag::new(), Flag::new());
    let hooks = json!({ "start": start.deed("wait"), "stop": stop.deed("wait") });
    host.load_with(misbehaving(), options("m", hooks).start(false)).await.unwrap();
    let mut events = host.bus().subscribe().await;
    for (verb, flag) in [("start", &start), ("stop", &stop)] {
        let asked = tokio::spawn({
            let host = host.clone();
            async move { if verb == "start" { host.start("m").await } else { host.stop("m").await } }
        });
        flag.inside().await;
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        flag.go_on();
        let envelope = in_time(events.receiver.recv()).await.unwrap();
        let state = host.modules().state("m").await.unwrap();
        match envelope.message {
            Message::Event(Event::ModuleStarted { .. }) => assert_eq!(state, ModuleState::Running),
            Message::Event(Event::ModuleStopped { .. }) => assert_eq!(state, ModuleState::Stopped),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_host_that_is_dropped_unloads_what_is_left() {
    let host = Host::new().unwrap();
    let flag = Flag::new();
    load_misbehaving(&host, "m", json!({ "init": flag.deed("spawn") })).await.unwrap();
    host.load(plugin("ticker")).await.unwrap();
    flag.inside().await;
    let bus = host.bus().clone();
    let mut events = bus.subscribe().await;
    drop(host);
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let (_, event) =
            oxide_tests::next_event(&mut events, |event| matches!(event, Event::ModuleUnloaded { .. })).await;
        gone.push(event.module_id().unwrap().to_owned());
    }
    gone.sort();
    assert_eq!(gone, ["m", "ticker"]);
    assert!(flag.has_ended());
}
