//! Commands on the bus are acted on, and each is answered by an event that carries its id.

mod manager_support;

use manager_support::*;
use oxide_host::{
    bus::{Command, Event},
    error::KernelError,
    module::ModuleState,
};
use serde_json::json;

#[tokio::test]
async fn start_and_stop_are_acted_on_and_their_announcements_are_the_answers() {
    let (manager, bus, mut watcher) = manager().await;
    let probe = Probe::new("one");
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();

    let start = bus.send_command("me", start_command("one")).await.unwrap();
    let (envelope, event) = watcher.answer(start).await;
    assert!(matches!(&event, Event::ModuleStarted { module_id } if module_id == "one"), "{event:?}");
    assert_eq!(envelope.source, "kernel");
    assert_eq!(manager.state("one").await, Some(ModuleState::Running));

    let stop = bus.send_command("me", stop_command("one")).await.unwrap();
    let (_, event) = watcher.answer(stop).await;
    assert!(matches!(&event, Event::ModuleStopped { module_id } if module_id == "one"), "{event:?}");
    assert_eq!(manager.state("one").await, Some(ModuleState::Stopped));
    assert_eq!(journal.hooks(), (1, 1, 1));
}

#[tokio::test]
async fn a_command_that_changes_nothing_is_answered_and_nothing_is_announced() {
    let (manager, bus, mut watcher) = manager().await;
    let probe = Probe::new("one");
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    watcher.told();
    let start = bus.send_command("me", start_command("one")).await.unwrap();
    let (_, event) = watcher.answer(start).await;
    assert!(matches!(event, Event::CommandCompleted { .. }), "{event:?}");
    manager.stop("one").await.unwrap();
    watcher.told();
    let stop = bus.send_command("me", stop_command("one")).await.unwrap();
    let (_, event) = watcher.answer(stop).await;
    assert!(matches!(event, Event::CommandCompleted { .. }), "{event:?}");
    assert!(watcher.told().is_empty());
    assert_eq!(journal.hooks(), (1, 1, 1));
}

#[tokio::test]
async fn a_start_that_fails_is_announced_and_answered() {
    let (manager, bus, mut watcher) = manager().await;
    manager.register_native(Probe::new("one").on_start(|| async { Err(refusal("no luck")) })).await.unwrap();
    let start = bus.send_command("me", start_command("one")).await.unwrap();
    let (_, event) = watcher.until(|event| matches!(event, Event::ModuleFailed { .. })).await;
    assert!(matches!(&event, Event::ModuleFailed { reason, .. } if reason.contains("no luck")), "{event:?}");
    let (_, event) = watcher.answer(start).await;
    assert!(
        matches!(&event, Event::CommandFailed { module_id: Some(id), error }
            if id == "one" && error.contains("no luck")),
        "{event:?}"
    );
}

#[tokio::test]
async fn an_illegal_stop_is_answered_with_both_states() {
    let (manager, bus, mut watcher) = manager().await;
    manager.register_native(Probe::new("one")).await.unwrap();
    let stop = bus.send_command("me", stop_command("one")).await.unwrap();
    let (_, event) = watcher.answer(stop).await;
    assert!(
        matches!(&event, Event::CommandFailed { error, .. }
            if error == "module `one` is loaded, so it cannot become stopped"),
        "{event:?}"
    );
}

#[tokio::test]
async fn an_invoke_is_answered_with_the_reply_of_the_module() {
    let (manager, bus, mut watcher) = manager().await;
    let probe = Probe::new("one").on_invoke(|method, payload| async move {
        Ok(match method.as_str() {
            "text" => "not json".into(),
            "bytes" => vec![0xff, 0xfe].into(),
            _ => payload,
        })
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let cases = [
        ("echo", json!({"a": [1, null, "ü"]}), json!({"a": [1, null, "ü"]})),
        ("text", json!(null), json!("not json")),
        ("bytes", json!(null), json!({"base64": "//4="})),
    ];
    for (method, payload, expected) in cases {
        let command = bus.send_command("me", invoke_command("one", method, payload)).await.unwrap();
        let (envelope, event) = watcher.answer(command).await;
        assert_eq!(envelope.source, "one");
        assert_eq!(event, Event::InvokeCompleted { module_id: "one".into(), payload: expected });
    }
}

#[tokio::test]
async fn an_invoke_that_fails_or_panics_is_answered_with_the_error() {
    quiet_panics();
    let (manager, bus, mut watcher) = manager().await;
    let probe = Probe::new("one").on_invoke(|method, _| async move {
        match method.as_str() {
            "panic" => panic!("thrown on purpose"),
            _ => Err(KernelError::unknown_method(method)),
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    for (method, text) in
        [("panic", "invoke of module `one` panicked: thrown on purpose"), ("dance", "no method `dance`")]
    {
        let command = bus.send_command("me", invoke_command("one", method, nothing())).await.unwrap();
        let (_, event) = watcher.answer(command).await;
        assert!(matches!(&event, Event::CommandFailed { error, .. } if error.contains(text)), "{event:?}");
    }
    assert_eq!(manager.state("one").await, Some(ModuleState::Running));
}

#[tokio::test]
async fn a_ping_is_answered_by_the_kernel() {
    let (_manager, bus, mut watcher) = manager().await;
    let ping = bus.send_command("me", Command::Ping).await.unwrap();
    let (envelope, event) = watcher.answer(ping).await;
    assert_eq!(envelope.source, "kernel");
    assert_eq!(event, Event::Pong { from: "kernel".into() });
}

#[tokio::test]
async fn a_command_for_nobody_fails_by_name() {
    let (_manager, bus, mut watcher) = manager().await;
    for command in
        [start_command("nobody"), stop_command("nobody"), invoke_command("nobody", "echo", nothing())]
    {
        let id = bus.send_command("me", command).await.unwrap();
        let (envelope, event) = watcher.answer(id).await;
        assert_eq!(envelope.source, "kernel");
        assert!(
            matches!(&event, Event::CommandFailed { module_id: Some(id), error }
                if id == "nobody" && error == "no module has the id `nobody`"),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn a_call_to_a_stopped_or_failed_module_fails_with_its_state() {
    let (manager, bus, mut watcher) = manager().await;
    manager.register_native(Probe::new("stopped")).await.unwrap();
    manager.start("stopped").await.unwrap();
    manager.stop("stopped").await.unwrap();
    manager.register_native(Probe::new("failed").on_start(|| async { Err(refusal("no")) })).await.unwrap();
    manager.start("failed").await.unwrap_err();
    for id in ["stopped", "failed"] {
        let command = bus.send_command("me", invoke_command(id, "echo", nothing())).await.unwrap();
        let (_, event) = watcher.answer(command).await;
        assert!(
            matches!(&event, Event::CommandFailed { error, .. }
                if *error == format!("module `{id}` is {id}, not running, so it takes no calls")),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn commands_are_carried_out_in_the_order_in_which_they_were_sent() {
    let (manager, bus, mut watcher) = manager().await;
    let probe = Probe::new("one");
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    let mut sent = Vec::new();
    for _ in 0..50 {
        sent.push(bus.send_command("me", start_command("one")).await.unwrap());
        sent.push(bus.send_command("me", stop_command("one")).await.unwrap());
    }
    for (number, command) in sent.into_iter().enumerate() {
        let (_, event) = watcher.answer(command).await;
        match number % 2 {
            0 => assert!(matches!(event, Event::ModuleStarted { .. }), "{event:?}"),
            _ => assert!(matches!(event, Event::ModuleStopped { .. }), "{event:?}"),
        }
    }
    assert_eq!(journal.hooks(), (1, 50, 50));
    journal.assert_never_overlapped();
}

/// What the publisher awaits is that the command is taken, not that it is done.
#[tokio::test]
async fn sending_a_command_does_not_wait_for_it() {
    let (manager, bus, mut watcher) = manager().await;
    let door = Door::new();
    let waiting = door.clone();
    let probe = Probe::new("one").on_start(move || {
        let door = waiting.clone();
        async move {
            door.pass().await;
            Ok(())
        }
    });
    manager.register_native(probe).await.unwrap();
    let start = bus.send_command("me", start_command("one")).await.unwrap();
    door.reached().await;
    assert_eq!(manager.state("one").await, Some(ModuleState::Starting));
    door.open();
    watcher.answer(start).await;
}

#[tokio::test]
async fn requests_over_the_bus_get_their_answers() {
    let (manager, bus, _watcher) = manager().await;
    manager.register_native(Probe::new("one")).await.unwrap();
    let ask = |command| bus.request("me", command, PATIENCE);
    assert!(matches!(ask(start_command("one")).await, Ok(Event::ModuleStarted { .. })));
    assert!(matches!(ask(invoke_command("one", "echo", json!(7))).await,
        Ok(Event::InvokeCompleted { payload, .. }) if payload == json!(7)));
    assert!(matches!(ask(stop_command("one")).await, Ok(Event::ModuleStopped { .. })));
    assert!(matches!(ask(invoke_command("one", "echo", json!(7))).await, Err(KernelError::Module(_))));
    assert!(matches!(ask(Command::Ping).await, Ok(Event::Pong { .. })));
}
