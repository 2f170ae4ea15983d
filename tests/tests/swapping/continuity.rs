//! The bus goes on through a swap: what is sent to a module reaches one generation, once and in order, and none that
//! does not run.

use std::collections::HashMap;

use oxide_host::{
    Host, SwapOptions,
    bus::{Command, Envelope, Event, Filter, Message, Overflow, SubscribeOptions, Subscription},
    module::ModuleState,
};
use oxide_tests::{Flag, in_time, misbehaving};
use serde_json::{Value, json};

use super::scene::{Scene, another_build, hooks};

fn add() -> Command {
    Command::Invoke { module_id: "m".into(), method: "add".into(), payload: Value::Null }
}

/// The answers to `commands`, in the order of the commands: each has one.
async fn answers(answers: &mut Subscription, commands: &[Envelope]) -> Vec<i64> {
    let mut got = HashMap::new();
    while got.len() < commands.len() {
        let answer = in_time(answers.receiver.recv()).await.expect("the bus is there");
        let Some(command) = answer.correlation_id else { continue };
        let Message::Event(Event::InvokeCompleted { payload, .. }) = answer.message else {
            panic!("{answer:?}")
        };
        assert!(got.insert(command, payload.as_i64().unwrap()).is_none(), "answered twice");
    }
    commands.iter().map(|command| got[&command.id]).collect()
}

/// Waits for nobody and loses nothing.
async fn answers_of(host: &Host) -> Subscription {
    let options = SubscribeOptions::new()
        .filter(Filter::events().about("m"))
        .capacity(100_000)
        .overflow(Overflow::Wait);
    host.bus().subscribe_with(options).await
}

/// Commands are calls: in order, and each counted by one generation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_messages_reach_one_generation_each_and_in_order() {
    const EACH: i64 = 400;
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let mut got = answers_of(&scene.host).await;
    let bus = scene.host.bus().clone();
    let sender = tokio::spawn(async move {
        let mut commands = Vec::new();
        for number in 0..EACH {
            let command = Envelope::new("me", add());
            commands.push(command.clone());
            bus.publish(command).await.unwrap();
            let event =
                Event::Custom { module_id: "m".into(), kind: "note".into(), payload: (2 + number).into() };
            bus.emit_event("me", event).await.unwrap();
            tokio::task::yield_now().await;
        }
        commands
    });
    let mut swaps = 0;
    while swaps < 5 || !sender.is_finished() {
        let report = scene.swap(misbehaving(), hooks("new", json!({}))).await.unwrap();
        assert!(report.state_moved && report.old.unmapped, "{report:?}");
        swaps += 1;
    }
    let commands = sender.await.unwrap();
    let all: Vec<i64> = (4..4 + EACH).collect();
    assert_eq!(answers(&mut got, &commands).await, all);
    scene.was_told(1 + EACH, 3 + EACH);
    scene.is_well(1 + swaps, "new").await;
}

#[tokio::test]
async fn what_is_sent_during_a_hold_comes_after_it_and_in_order() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let mut got = answers_of(&scene.host).await;
    let there = Flag::new();
    let (host, config) = (scene.host.clone(), hooks("new", json!({ "start": there.deed("wait") })));
    let swap = tokio::spawn(async move {
        let file = another_build();
        in_time(host.swap_with("m", &file, SwapOptions::new().config(config))).await
    });
    there.inside().await;
    let commands: Vec<_> = (0..50).map(|_| Envelope::new("me", add())).collect();
    for command in &commands {
        in_time(scene.host.bus().publish(command.clone())).await.unwrap();
        scene.publish().await;
    }
    while let Some(answer) = got.receiver.try_recv() {
        assert!(!matches!(answer.message, Message::Event(Event::InvokeCompleted { .. })), "{answer:?}");
    }
    there.go_on();
    let report = swap.await.unwrap().unwrap();
    assert_eq!(report.held_calls, 50);
    assert_eq!(answers(&mut got, &commands).await, (4..54).collect::<Vec<_>>());
    scene.sets_count(53);
    scene.is_well(2, "new").await;
}

/// Without a state nobody waits: what comes while the new one starts is the old one's.
#[tokio::test]
async fn nothing_is_delivered_to_a_generation_that_starts() {
    let mut scene = Scene::new(Host::builder(), json!({ "state": null })).await;
    scene.is_well(1, "old").await;
    let there = Flag::new();
    let (host, config) =
        (scene.host.clone(), hooks("new", json!({ "start": there.deed("wait"), "state": null })));
    let swap = tokio::spawn(async move {
        let file = another_build();
        in_time(host.swap_with("m", &file, SwapOptions::new().config(config))).await
    });
    there.inside().await;
    for call in scene.traffic().await {
        in_time(call).await.unwrap().unwrap();
    }
    scene.is_well(1, "old").await;
    there.go_on();
    assert_eq!(swap.await.unwrap().unwrap().held_calls, 0);
    // From now on it is the new one's, which begins with nothing.
    scene.begins_anew();
    scene.publish().await;
    scene.is_well(2, "new").await;
}

#[tokio::test]
async fn what_is_sent_to_a_module_that_does_not_run_is_the_next_generations() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    scene.is_well(1, "old").await;
    let mut got = answers_of(&scene.host).await;
    in_time(scene.host.stop("m")).await.unwrap();
    scene.publish().await;
    let report = scene.swap(another_build(), hooks("new", json!({}))).await.unwrap();
    assert!(report.state_moved);
    assert_eq!(scene.host.modules().state("m").await, Some(ModuleState::Loaded));
    scene.publish().await;
    let command = Envelope::new("me", add());
    in_time(scene.host.bus().publish(command.clone())).await.unwrap();
    in_time(scene.host.start("m")).await.unwrap();
    assert_eq!(answers(&mut got, &[command]).await, [5]);
    scene.sets_count(5);
    scene.is_well(2, "new").await;
}

#[tokio::test]
async fn subscriptions_of_the_new_generation_are_live_before_calls_are_led_to_it() {
    for state in [json!({ "version": 1 }), Value::Null] {
        let mut scene = Scene::new(Host::builder(), json!({ "state": state })).await;
        let subscribe = format!("subscribe:{}", json!(Filter::all().from_source("kernel")));
        scene
            .swap(another_build(), hooks("new", json!({ "init": [subscribe], "state": state })))
            .await
            .unwrap();
        // It heard of its own swap, first of all.
        let heard = in_time(scene.host.invoke("m", "receive", "")).await.unwrap().to_json::<Value>().unwrap();
        let event: Event = serde_json::from_value(heard["envelope"]["message"]["event"].clone()).unwrap();
        assert_eq!(event, Event::ModuleSwapped { module_id: "m".into(), from: 1, to: 2 });
        assert_eq!(scene.announced(), ["swapped 1 2"]);
    }
}
