//! A module may call itself, and ask for its own end; what it cannot do is wait for it.

mod manager_support;

use std::sync::{Arc, OnceLock};

use manager_support::*;
use oxide_host::{
    ModuleHandle, Payload,
    bus::{Event, MessageBus},
    error::{KernelError, Result},
    module::{ModuleManager, ModuleState},
};

type Later<T> = Arc<OnceLock<T>>;

/// A module that calls itself through a handle: `down` counts to zero, with a door at the bottom.
fn recursive(id: &str, handle: &Later<ModuleHandle>, door: &Door) -> Probe {
    let (handle, door) = (handle.clone(), door.clone());
    Probe::new(id).on_invoke(move |method, payload| {
        let (handle, door) = (handle.clone(), door.clone());
        async move {
            let depth: u32 = payload.to_json().unwrap_or(0);
            match method.as_str() {
                // Waits first, then goes down: so that the way down is gone in the middle of a drain.
                "wait-then-down" => {
                    door.pass().await;
                    handle.get().unwrap().invoke("down", Payload::json(&depth)?).await
                }
                "down" if depth > 0 => {
                    handle.get().unwrap().invoke("down", Payload::json(&(depth - 1))?).await
                }
                _ => Ok("bottom".into()),
            }
        }
    })
}

async fn self_caller() -> (ModuleManager, MessageBus, Watcher, ModuleHandle, Door, Journal) {
    let (manager, bus, watcher) = manager().await;
    let (later, door) = (Later::default(), Door::new());
    let probe = recursive("one", &later, &door);
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let handle = manager.handle("one").unwrap();
    later.set(handle.clone()).unwrap();
    (manager, bus, watcher, handle, door, journal)
}

#[tokio::test]
async fn a_module_may_call_itself() {
    let (manager, _bus, _watcher, handle, _door, journal) = self_caller().await;
    assert_eq!(handle.invoke("down", "20").await.unwrap().as_bytes(), b"bottom");
    assert_eq!(journal.times("invoke"), 21);
    manager.stop("one").await.unwrap();
}

#[tokio::test]
async fn a_module_may_call_itself_while_it_drains_and_fresh_calls_fail() {
    let (manager, _bus, _watcher, handle, door, journal) = self_caller().await;
    let inside = tokio::spawn({
        let handle = handle.clone();
        async move { handle.invoke("wait-then-down", "20").await }
    });
    door.reached().await;
    let stop = tokio::spawn({
        let manager = manager.clone();
        async move { manager.stop("one").await }
    });
    until_state(&manager, "one", ModuleState::Stopping).await;
    until(async || handle.invoke("down", "0").await.is_err()).await;
    let fresh = handle.invoke("down", "0").await.unwrap_err();
    assert!(matches!(fresh, KernelError::NotRunning { state: ModuleState::Stopping, .. }), "{fresh:?}");
    door.open();
    assert_eq!(inside.await.unwrap().unwrap().as_bytes(), b"bottom");
    stop.await.unwrap().unwrap();
    assert_eq!(journal.hooks(), (1, 1, 1));
    journal.assert_never_overlapped();
}

#[tokio::test]
async fn a_chain_of_modules_may_come_back_to_one_that_drains() {
    let (manager, _bus, _watcher) = manager().await;
    let door = Door::new();
    let (first, second): (Later<ModuleHandle>, Later<ModuleHandle>) = Default::default();
    let (to_second, waiting) = (second.clone(), door.clone());
    let one = Probe::new("one").on_invoke(move |method, payload| {
        let (second, door) = (to_second.clone(), waiting.clone());
        async move {
            if method == "inner" {
                return Ok("came back".into());
            }
            door.pass().await;
            second.get().unwrap().invoke("middle", payload).await
        }
    });
    let to_first = first.clone();
    let two = Probe::new("two").on_invoke(move |_, payload| {
        let first = to_first.clone();
        async move { first.get().unwrap().invoke("inner", payload).await }
    });
    let journal = one.journal();
    manager.register_native(one).await.unwrap();
    manager.register_native(two).await.unwrap();
    for id in ["one", "two"] {
        manager.start(id).await.unwrap();
    }
    first.set(manager.handle("one").unwrap()).unwrap();
    second.set(manager.handle("two").unwrap()).unwrap();
    let call = tokio::spawn({
        let manager = manager.clone();
        async move { manager.invoke("one", "outer", "").await }
    });
    door.reached().await;
    let stop = tokio::spawn({
        let manager = manager.clone();
        async move { manager.stop("one").await }
    });
    until(async || manager.invoke("one", "inner", "").await.is_err()).await;
    door.open();
    assert_eq!(call.await.unwrap().unwrap().as_bytes(), b"came back");
    stop.await.unwrap().unwrap();
    journal.assert_never_overlapped();
}

#[tokio::test]
async fn a_call_over_the_bus_comes_back_to_a_module_that_drains() {
    let (manager, bus, _watcher) = manager().await;
    let door = Door::new();
    let (own, waiting) = (bus.clone(), door.clone());
    let probe = Probe::new("one").on_invoke(move |method, payload| {
        let (bus, door) = (own.clone(), waiting.clone());
        async move {
            if method == "inner" {
                return Ok(payload);
            }
            door.pass().await;
            let answer = bus.request("one", invoke_command("one", "inner", nothing()), PATIENCE).await?;
            assert!(matches!(answer, Event::InvokeCompleted { .. }), "{answer:?}");
            Ok("came back".into())
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let call = tokio::spawn({
        let manager = manager.clone();
        async move { manager.invoke("one", "outer", "").await }
    });
    door.reached().await;
    let stop = tokio::spawn({
        let manager = manager.clone();
        async move { manager.stop("one").await }
    });
    until(async || manager.invoke("one", "inner", "").await.is_err()).await;
    door.open();
    assert_eq!(call.await.unwrap().unwrap().as_bytes(), b"came back");
    stop.await.unwrap().unwrap();
}

#[tokio::test]
async fn stop_waits_for_the_calls_inside() {
    let (manager, _bus, mut watcher, handle, door, journal) = self_caller().await;
    let call = tokio::spawn(async move { handle.invoke("wait-then-down", "0").await });
    door.reached().await;
    let stop = tokio::spawn({
        let manager = manager.clone();
        async move { manager.stop("one").await }
    });
    until_state(&manager, "one", ModuleState::Stopping).await;
    assert_eq!(journal.times("stop"), 0);
    assert_eq!(watcher.told(), ["loaded one", "started one"]);
    door.open();
    call.await.unwrap().unwrap();
    stop.await.unwrap().unwrap();
    assert_eq!(watcher.told(), ["stopped one"]);
    journal.assert_never_overlapped();
}

/// Asks for each verb from inside, and gives the errors' texts.
async fn wait_for_oneself(manager: ModuleManager) -> Vec<String> {
    let errors: [Result<()>; 4] = [
        manager.init("one").await,
        manager.start("one").await,
        manager.stop("one").await,
        manager.unload("one").await.map(drop),
    ];
    errors
        .into_iter()
        .map(|error| match error {
            Err(error @ KernelError::SelfWait { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        })
        .collect()
}

const SELF_WAITS: [&str; 4] = [
    "module `one` cannot wait for its own init",
    "module `one` cannot wait for its own start",
    "module `one` cannot wait for its own stop",
    "module `one` cannot wait for its own unload",
];

#[tokio::test]
async fn a_module_that_waits_for_itself_from_inside_a_call_gets_an_error_and_goes_on() {
    let (manager, _bus, _watcher) = manager().await;
    let inner = manager.clone();
    let probe = Probe::new("one").on_invoke(move |_, _| {
        let manager = inner.clone();
        async move {
            // Also after the first suspension.
            tokio::task::yield_now().await;
            Payload::json(&wait_for_oneself(manager).await).map_err(Into::into)
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let reply = patiently(manager.invoke("one", "try", "")).await.unwrap();
    assert_eq!(reply.to_json::<Vec<String>>().unwrap(), SELF_WAITS);
    assert_eq!(manager.state("one").await, Some(ModuleState::Running));
    manager.stop("one").await.unwrap();
}

#[tokio::test]
async fn a_module_that_waits_for_itself_from_inside_a_hook_or_a_message_gets_an_error() {
    let (manager, bus, _watcher) = manager().await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let hook = {
        let (manager, told) = (manager.clone(), told.clone());
        move || {
            let (manager, told) = (manager.clone(), told.clone());
            async move {
                told.send(wait_for_oneself(manager).await).unwrap();
                Ok(())
            }
        }
    };
    let (in_init, in_message) = (hook.clone(), hook.clone());
    let probe = Probe::new("one")
        .on_init(move |_| in_init())
        .on_start(hook.clone())
        .on_message(move |_| in_message())
        .on_stop(hook);
    manager.register_native(probe).await.unwrap();
    patiently(manager.start("one")).await.unwrap();
    bus.emit_event("me", custom("one", "note", nothing())).await.unwrap();
    for _ in 0..3 {
        assert_eq!(patiently(heard.recv()).await.unwrap(), SELF_WAITS);
    }
    patiently(manager.stop("one")).await.unwrap();
    assert_eq!(patiently(heard.recv()).await.unwrap(), SELF_WAITS);
}

#[tokio::test]
async fn a_module_that_waits_for_itself_through_another_gets_an_error() {
    let (manager, _bus, _watcher) = manager().await;
    let (through, stopping) = (manager.clone(), manager.clone());
    let one = Probe::new("one").on_invoke(move |_, payload| {
        let manager = through.clone();
        async move { manager.invoke("two", "stop-one", payload).await }
    });
    let two = Probe::new("two").on_invoke(move |_, _| {
        let manager = stopping.clone();
        async move {
            let error = manager.stop("one").await.unwrap_err();
            Ok(error.to_string().into())
        }
    });
    for probe in [one, two] {
        manager.register_native(probe).await.unwrap();
    }
    manager.start("one").await.unwrap();
    manager.start("two").await.unwrap();
    let reply = patiently(manager.invoke("one", "go", "")).await.unwrap();
    assert_eq!(reply.as_bytes(), SELF_WAITS[2].as_bytes());
}

#[tokio::test]
async fn a_module_may_drive_the_lives_of_others() {
    let (manager, _bus, _watcher) = manager().await;
    let inner = manager.clone();
    let probe = Probe::new("one").on_invoke(move |_, _| {
        let manager = inner.clone();
        async move {
            manager.register_native(Probe::new("child")).await?;
            manager.start("child").await?;
            manager.stop("child").await?;
            assert!(manager.unload("child").await?.unmapped);
            Ok("done".into())
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    assert_eq!(manager.invoke("one", "go", "").await.unwrap().as_bytes(), b"done");
}

#[tokio::test]
async fn a_stop_that_a_module_sends_for_itself_is_scheduled_at_once_and_done_after_the_call() {
    let (manager, bus, mut watcher) = manager().await;
    let own = bus.clone();
    let probe = Probe::new("one").on_invoke(move |_, _| {
        let bus = own.clone();
        async move {
            let answer = bus.request("one", stop_command("one"), PATIENCE).await?;
            assert!(matches!(answer, Event::CommandScheduled { .. }), "{answer:?}");
            Ok("answered before the stop".into())
        }
    });
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let reply = patiently(manager.invoke("one", "end-yourself", "")).await.unwrap();
    assert_eq!(reply.as_bytes(), b"answered before the stop");
    watcher.until(|event| matches!(event, Event::ModuleStopped { .. })).await;
    assert_eq!(manager.state("one").await, Some(ModuleState::Stopped));
    assert_eq!(journal.hooks(), (1, 1, 1));
    journal.assert_never_overlapped();
}

/// The order: scheduled, then stopped, also when nothing is inside that the stop would have to wait for.
#[tokio::test]
async fn scheduled_comes_before_stopped() {
    for _ in 0..50 {
        let (manager, bus, mut watcher) = manager().await;
        let own = bus.clone();
        let probe = Probe::new("one").on_message(move |_| {
            let bus = own.clone();
            async move { bus.send_command("one", stop_command("one")).await.map(drop) }
        });
        manager.register_native(probe).await.unwrap();
        manager.start("one").await.unwrap();
        bus.emit_event("me", custom("one", "note", nothing())).await.unwrap();
        let first = watcher
            .until(|event| matches!(event, Event::CommandScheduled { .. } | Event::ModuleStopped { .. }))
            .await;
        assert!(matches!(first.1, Event::CommandScheduled { .. }));
        watcher.until(|event| matches!(event, Event::ModuleStopped { .. })).await;
    }
}
