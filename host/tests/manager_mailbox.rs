//! What is sent to a module waits in its mailbox until it runs, in order and bounded; nothing is lost in
//! silence.

mod manager_support;

use std::sync::{Arc, Mutex};

use manager_support::*;
use oxide_host::{
    Limits,
    bus::{Envelope, Event, Message},
    error::KernelError,
    module::ModuleState,
};
use serde_json::json;

/// The payload's number, of a custom event or of a call.
fn number(envelope: &Envelope) -> u64 {
    match &envelope.message {
        Message::Event(Event::Custom { payload, .. }) => payload.as_u64().unwrap(),
        other => panic!("{other:?}"),
    }
}

type Seen = Arc<Mutex<Vec<u64>>>;

/// Writes down the numbers of the messages and calls it gets, in the order in which they begin.
fn writer(id: &str) -> (Probe, Seen, Seen) {
    let (messages, calls) = (Seen::default(), Seen::default());
    let (see_messages, see_calls) = (messages.clone(), calls.clone());
    let probe = Probe::new(id)
        .on_message(move |envelope| {
            see_messages.lock().unwrap().push(number(&envelope));
            async { Ok(()) }
        })
        .on_invoke(move |_, payload| {
            see_calls.lock().unwrap().push(payload.to_json().unwrap());
            async { Ok(payload) }
        });
    (probe, messages, calls)
}

#[tokio::test]
async fn commands_to_a_loaded_module_wait_and_are_begun_in_order_once_it_runs() {
    for _ in 0..20 {
        let (manager, bus, mut watcher) = manager().await;
        let (probe, _, calls) = writer("one");
        manager.register_native(probe).await.unwrap();
        let mut sent = Vec::new();
        for number in 0..50 {
            sent.push(bus.send_command("me", invoke_command("one", "note", json!(number))).await.unwrap());
        }
        assert!(calls.lock().unwrap().is_empty(), "a loaded module gets none");
        manager.start("one").await.unwrap();
        let mut answered = 0;
        while answered < sent.len() {
            let (envelope, event) = watcher.event().await;
            if let Some(at) = sent.iter().position(|id| envelope.correlation_id == Some(*id)) {
                assert!(matches!(event, Event::InvokeCompleted { payload, .. } if payload == json!(at)));
                answered += 1;
            }
        }
        assert_eq!(*calls.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }
}

/// In order does not mean one after the other: a call that waits holds up none behind it.
#[tokio::test]
async fn calls_over_the_bus_overlap() {
    let (manager, bus, mut watcher) = manager().await;
    let door = Door::new();
    let waiting = door.clone();
    let probe = Probe::new("one").on_invoke(move |method, payload| {
        let door = waiting.clone();
        async move {
            if method == "wait" {
                door.pass().await;
            }
            Ok(payload)
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let first = bus.send_command("me", invoke_command("one", "wait", json!(1))).await.unwrap();
    let second = bus.send_command("me", invoke_command("one", "echo", json!(2))).await.unwrap();
    watcher.answer(second).await;
    door.open();
    watcher.answer(first).await;
}

/// A call that blocks its thread costs its caller; a call that the module makes to itself gets in all the
/// same, or the two would wait for each other.
#[tokio::test]
async fn a_call_that_blocks_on_a_call_to_its_own_module_is_answered() {
    let (manager, bus, mut watcher) = manager().await;
    let own = bus.clone();
    let probe = Probe::new("one").on_invoke(move |method, payload| {
        let bus = own.clone();
        async move {
            if method == "echo" {
                return Ok(payload);
            }
            let answer =
                block_on(bus.request("one", invoke_command("one", "echo", json!("inner")), PATIENCE));
            match answer? {
                Event::InvokeCompleted { payload, .. } => {
                    oxide_host::Payload::json(&payload).map_err(Into::into)
                }
                other => panic!("{other:?}"),
            }
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let outer = bus.send_command("me", invoke_command("one", "outer", nothing())).await.unwrap();
    let (_, event) = watcher.answer(outer).await;
    assert!(
        matches!(&event, Event::InvokeCompleted { payload, .. } if *payload == json!("inner")),
        "{event:?}"
    );
}

#[tokio::test]
async fn custom_events_from_others_arrive_in_order_and_one_at_a_time() {
    let (manager, bus, mut watcher) = manager().await;
    let seen = Seen::default();
    let inside = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let see = seen.clone();
    let probe = Probe::new("one").on_message(move |envelope| {
        let (see, inside) = (see.clone(), inside.clone());
        async move {
            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "one at a time");
            tokio::task::yield_now().await;
            see.lock().unwrap().push(number(&envelope));
            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        }
    });
    manager.register_native(probe).await.unwrap();
    // Some before it runs, some after.
    for number in 0..20 {
        bus.emit_event("me", custom("one", "note", json!(number))).await.unwrap();
    }
    manager.start("one").await.unwrap();
    for number in 20..100 {
        bus.emit_event("me", custom("one", "note", json!(number))).await.unwrap();
    }
    until(async || seen.lock().unwrap().len() == 100).await;
    assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
    assert!(!watcher.told().iter().any(|event| event.starts_with("command failed")));
}

#[tokio::test]
async fn a_module_does_not_get_its_own_events_nor_those_for_others() {
    let (manager, bus, _watcher) = manager().await;
    let (probe, messages, _) = writer("one");
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    bus.emit_event("one", custom("one", "note", json!(1))).await.unwrap();
    bus.emit_event("me", custom("other", "note", json!(2))).await.unwrap();
    bus.emit_event("me", custom("one", "note", json!(3))).await.unwrap();
    until(async || !messages.lock().unwrap().is_empty()).await;
    assert_eq!(*messages.lock().unwrap(), [3]);
}

#[tokio::test]
async fn a_message_that_fails_or_panics_does_not_stop_the_next_one() {
    quiet_panics();
    let (manager, bus, _watcher) = manager().await;
    let seen = Seen::default();
    let see = seen.clone();
    let probe = Probe::new("one").on_message(move |envelope| {
        let number = number(&envelope);
        see.lock().unwrap().push(number);
        async move {
            match number {
                0 => Err(refusal("no")),
                1 => panic!("thrown on purpose"),
                _ => Ok(()),
            }
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    for number in 0..3 {
        bus.emit_event("me", custom("one", "note", json!(number))).await.unwrap();
    }
    until(async || seen.lock().unwrap().len() == 3).await;
    assert_eq!(manager.state("one").await, Some(ModuleState::Running));
}

#[tokio::test]
async fn messages_to_a_stopped_module_wait_for_its_next_start() {
    let (manager, bus, _watcher) = manager().await;
    let (probe, messages, _) = writer("one");
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    manager.stop("one").await.unwrap();
    for number in 0..5 {
        bus.emit_event("me", custom("one", "note", json!(number))).await.unwrap();
    }
    assert!(messages.lock().unwrap().is_empty());
    manager.start("one").await.unwrap();
    until(async || messages.lock().unwrap().len() == 5).await;
    assert_eq!(*messages.lock().unwrap(), [0, 1, 2, 3, 4]);
}

fn small(mailbox: usize) -> Limits {
    let mut limits = Limits::default();
    limits.mailbox = mailbox;
    limits.mailbox_wait = SHORT;
    limits
}

#[tokio::test]
async fn a_full_mailbox_of_a_stopped_module_is_an_error_for_the_publisher_and_loses_nothing() {
    let (manager, bus, _watcher) = manager_with(small(3)).await;
    let (probe, messages, _) = writer("one");
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    manager.stop("one").await.unwrap();
    for number in 0..3 {
        bus.emit_event("me", custom("one", "note", json!(number))).await.unwrap();
    }
    let error = bus.emit_event("me", custom("one", "note", json!(3))).await.unwrap_err();
    assert!(matches!(error, KernelError::Bus(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the mailbox of module `one` is full (3 messages) and the module is stopped"
    );
    manager.start("one").await.unwrap();
    until(async || messages.lock().unwrap().len() == 3).await;
    assert_eq!(*messages.lock().unwrap(), [0, 1, 2]);
}

#[tokio::test]
async fn a_publisher_that_waits_for_room_gets_it_when_the_module_runs() {
    let mut limits = small(2);
    limits.mailbox_wait = PATIENCE;
    let (manager, bus, _watcher) = manager_with(limits).await;
    let (probe, messages, _) = writer("one");
    manager.register_native(probe).await.unwrap();
    let publisher = tokio::spawn(async move {
        for number in 0..20 {
            bus.emit_event("me", custom("one", "note", json!(number))).await.unwrap();
        }
    });
    tokio::task::yield_now().await;
    assert!(!publisher.is_finished());
    manager.start("one").await.unwrap();
    patiently(publisher).await.unwrap();
    until(async || messages.lock().unwrap().len() == 20).await;
    assert_eq!(*messages.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

/// Modules are publishers like any other: what they say to one that does not run is bounded, too.
#[tokio::test]
async fn a_module_that_publishes_cannot_overfill_the_mailbox_of_another() {
    let (manager, bus, _watcher) = manager_with(small(3)).await;
    let (probe, _, _) = writer("idle");
    manager.register_native(probe).await.unwrap();
    let publishing = bus.clone();
    let talker = Probe::new("talker").on_invoke(move |_, _| {
        let bus = publishing.clone();
        async move {
            for number in 0..3 {
                bus.emit_event("talker", custom("idle", "note", json!(number))).await?;
            }
            let error = bus.emit_event("talker", custom("idle", "note", json!(3))).await.unwrap_err();
            assert!(error.to_string().contains("is full"), "{error}");
            Ok("bounded".into())
        }
    });
    manager.register_native(talker).await.unwrap();
    manager.start("talker").await.unwrap();
    assert_eq!(manager.invoke("talker", "talk", "").await.unwrap().as_bytes(), b"bounded");
}

#[tokio::test]
async fn an_unload_answers_the_commands_left_in_the_mailbox() {
    let (manager, bus, mut watcher) = manager().await;
    manager.register_native(Probe::new("one")).await.unwrap();
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(bus.send_command("me", invoke_command("one", "echo", nothing())).await.unwrap());
    }
    manager.unload("one").await.unwrap();
    for command in sent {
        let (envelope, event) = watcher.answer(command).await;
        assert_eq!(envelope.source, "kernel");
        assert!(
            matches!(&event, Event::CommandFailed { module_id: Some(id), error }
                if id == "one" && error.contains("unloaded")),
            "{event:?}"
        );
    }
}

/// Who waits for room when the module goes is answered or told, like those whose message was in.
#[tokio::test]
async fn an_unload_tells_those_who_wait_for_room_in_the_mailbox() {
    let mut limits = small(1);
    limits.mailbox_wait = PATIENCE;
    let (manager, bus, mut watcher) = manager_with(limits).await;
    manager.register_native(Probe::new("one")).await.unwrap();
    bus.send_command("me", invoke_command("one", "echo", nothing())).await.unwrap();

    let command = Envelope::new("me", invoke_command("one", "echo", nothing()));
    let id = command.id;
    let mut waiting = Box::pin(bus.publish(command));
    assert!(poll_once(waiting.as_mut()).is_pending(), "there is room for one");
    let mut event = Box::pin(bus.emit_event("me", custom("one", "note", nothing())));
    assert!(poll_once(event.as_mut()).is_pending());

    manager.unload("one").await.unwrap();
    patiently(waiting).await.unwrap();
    let (_, answer) = watcher.answer(id).await;
    assert!(matches!(answer, Event::CommandFailed { .. }), "{answer:?}");
    assert!(patiently(event).await.is_err(), "an event that nobody got is an error for its publisher");
}

/// An in-process module leans on tokio in `invoke` and `on_message`, too, whoever carries them.
#[tokio::test]
async fn messages_and_calls_over_the_bus_have_the_publishers_runtime() {
    let (manager, bus, mut watcher) = manager().await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let probe = Probe::new("one")
        .on_invoke(|_, payload| async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            tokio::spawn(async {}).await.unwrap();
            Ok(payload)
        })
        .on_message(move |_| {
            let told = told.clone();
            async move {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                tokio::spawn(async {}).await.unwrap();
                told.send(()).unwrap();
                Ok(())
            }
        });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let command = bus.send_command("me", invoke_command("one", "echo", json!(1))).await.unwrap();
    let (_, event) = watcher.answer(command).await;
    assert!(matches!(event, Event::InvokeCompleted { .. }), "{event:?}");
    bus.emit_event("me", custom("one", "note", nothing())).await.unwrap();
    patiently(heard.recv()).await.unwrap();
}
