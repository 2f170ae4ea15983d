//! What was asked of the manager ends, whatever becomes of who asked: dropped futures, dropped runtimes, no
//! runtime at all.

mod manager_support;

use std::{pin::pin, thread, time::Duration};

use manager_support::*;
use oxide_host::{
    bus::{Event, MessageBus},
    module::{ModuleManager, ModuleState},
};
use tokio::runtime::{Builder, Runtime};

/// A module whose `start` and `stop` wait at doors.
fn slow(id: &str) -> (Probe, Door, Door) {
    let (starting, stopping) = (Door::new(), Door::new());
    let (in_start, in_stop) = (starting.clone(), stopping.clone());
    let probe = Probe::new(id)
        .on_start(move || {
            let door = in_start.clone();
            async move {
                door.pass().await;
                Ok(())
            }
        })
        .on_stop(move || {
            let door = in_stop.clone();
            async move {
                door.pass().await;
                Ok(())
            }
        });
    (probe, starting, stopping)
}

#[tokio::test]
async fn a_start_whose_caller_goes_away_ends_running() {
    let (manager, _bus, mut watcher) = manager().await;
    let (probe, starting, stopping) = slow("one");
    manager.register_native(probe).await.unwrap();
    {
        let mut start = pin!(manager.start("one"));
        assert!(poll_once(start.as_mut()).is_pending());
        starting.reached().await;
    }
    assert_eq!(manager.state("one").await, Some(ModuleState::Starting));
    starting.open();
    watcher.until(|event| matches!(event, Event::ModuleStarted { .. })).await;
    assert_eq!(manager.state("one").await, Some(ModuleState::Running));
    {
        let mut stop = pin!(manager.stop("one"));
        assert!(poll_once(stop.as_mut()).is_pending());
        stopping.reached().await;
    }
    stopping.open();
    watcher.until(|event| matches!(event, Event::ModuleStopped { .. })).await;
    assert_eq!(manager.state("one").await, Some(ModuleState::Stopped));
}

#[tokio::test]
async fn an_unload_whose_caller_goes_away_ends() {
    let (manager, _bus, mut watcher) = manager().await;
    let (probe, starting, stopping) = slow("one");
    let journal = probe.journal();
    starting.open();
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    {
        let mut unload = pin!(manager.unload("one"));
        assert!(poll_once(unload.as_mut()).is_pending());
        stopping.reached().await;
    }
    stopping.open();
    watcher.until(|event| matches!(event, Event::ModuleUnloaded { .. })).await;
    assert_eq!(manager.state("one").await, None);
    assert_eq!(journal.times("drop"), 1);
}

/// Asks for a start on a runtime, drops that runtime while the hook runs, and watches from another.
fn a_runtime_dropped_in_the_middle(embedder: Runtime) {
    let watching = Builder::new_current_thread().enable_all().build().unwrap();
    let bus = MessageBus::new();
    let manager = ModuleManager::new(bus.clone());
    let mut watcher = watching.block_on(Watcher::of(&bus));
    let (probe, starting, stopping) = slow("one");

    let (asking, door) = (manager.clone(), starting.clone());
    embedder.block_on(async move {
        asking.register_native(probe).await.unwrap();
        tokio::spawn(async move { asking.start("one").await });
        door.reached().await;
    });
    embedder.shutdown_background();

    assert_eq!(watching.block_on(manager.state("one")), Some(ModuleState::Starting));
    starting.open();
    watching.block_on(watcher.until(|event| matches!(event, Event::ModuleStarted { .. })));
    stopping.open();
    watching.block_on(manager.stop("one")).unwrap();
    let receipt = watching.block_on(manager.unload("one")).unwrap();
    assert!(receipt.unmapped);
}

#[test]
fn a_multi_thread_runtime_dropped_in_the_middle_of_a_start_changes_nothing() {
    a_runtime_dropped_in_the_middle(
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    );
}

#[test]
fn a_current_thread_runtime_dropped_in_the_middle_of_a_start_changes_nothing() {
    a_runtime_dropped_in_the_middle(Builder::new_current_thread().enable_all().build().unwrap());
}

/// A hook that leans on a runtime that is gone fails or succeeds, but the module is not left half way.
#[test]
fn a_hook_that_leans_on_a_runtime_that_is_gone_still_comes_to_an_end() {
    std::panic::set_hook(Box::new(|_| {}));
    let watching = Builder::new_current_thread().enable_all().build().unwrap();
    let bus = MessageBus::new();
    let manager = ModuleManager::new(bus.clone());
    let mut watcher = watching.block_on(Watcher::of(&bus));
    let door = Door::new();
    let waiting = door.clone();
    let probe = Probe::new("one").on_start(move || {
        let door = waiting.clone();
        async move {
            let early = tokio::spawn(std::future::pending::<()>());
            door.pass().await;
            let _ = early.await;
            let _ = tokio::spawn(async {}).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        }
    });
    let embedder = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (asking, at) = (manager.clone(), door.clone());
    embedder.block_on(async move {
        asking.register_native(probe).await.unwrap();
        tokio::spawn(async move { asking.start("one").await });
        at.reached().await;
    });
    embedder.shutdown_background();
    door.open();
    let (_, event) = watching.block_on(
        watcher.until(|event| matches!(event, Event::ModuleStarted { .. } | Event::ModuleFailed { .. })),
    );
    let state = watching.block_on(manager.state("one")).unwrap();
    match event {
        Event::ModuleStarted { .. } => assert_eq!(state, ModuleState::Running),
        _ => assert_eq!(state, ModuleState::Failed),
    }
    watching.block_on(manager.unload("one")).unwrap();
}

/// Every lifecycle hook uses the clock and the tasks of the runtime of whoever asked.
async fn hooks_use_the_callers_runtime() {
    async fn work() -> oxide_host::error::Result<()> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let sum = tokio::spawn(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            20 + 22
        });
        assert_eq!(sum.await.unwrap(), 42);
        Ok(())
    }
    let (manager, _bus, _watcher) = manager().await;
    let probe = Probe::new("one").on_init(|_| work()).on_start(work).on_stop(work);
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.init("one").await.unwrap();
    manager.start("one").await.unwrap();
    manager.stop("one").await.unwrap();
    manager.start("one").await.unwrap();
    manager.unload("one").await.unwrap();
    assert_eq!(journal.hooks(), (1, 2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_can_sleep_and_spawn_on_a_multi_thread_runtime() {
    hooks_use_the_callers_runtime().await;
}

#[tokio::test(flavor = "current_thread")]
async fn hooks_can_sleep_and_spawn_on_a_current_thread_runtime() {
    hooks_use_the_callers_runtime().await;
}

/// What a hook spawned lives on after the hook, on the caller's runtime, as it would without a manager.
#[tokio::test]
async fn a_task_that_start_spawned_lives_on() {
    let (manager, _bus, _watcher) = manager().await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let probe = Probe::new("one").on_start(move || {
        let told = told.clone();
        async move {
            tokio::spawn(async move {
                for number in 0..3 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    told.send(number).unwrap();
                }
            });
            Ok(())
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    for number in 0..3 {
        assert_eq!(patiently(heard.recv()).await, Some(number));
    }
}

#[tokio::test]
async fn hooks_never_run_on_the_callers_own_threads() {
    let (manager, _bus, _watcher) = manager().await;
    let caller = thread::current().id();
    let check = move || async move {
        assert_ne!(thread::current().id(), caller);
        Ok(())
    };
    let probe = Probe::new("one").on_init(move |_| check()).on_start(check).on_stop(check);
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    manager.stop("one").await.unwrap();
}

#[test]
fn without_any_runtime_everything_works() {
    let bus = MessageBus::new();
    let manager = ModuleManager::new(bus.clone());
    let mut subscription = block_on(bus.subscribe());
    let probe = Probe::new("one");
    let journal = probe.journal();
    block_on(async {
        manager.register_native(probe).await.unwrap();
        manager.init("one").await.unwrap();
        manager.start("one").await.unwrap();
        let handle = manager.handle("one").unwrap();
        assert_eq!(handle.invoke("echo", "hello").await.unwrap().as_bytes(), b"hello");
        let command = bus.send_command("me", invoke_command("one", "echo", nothing())).await.unwrap();
        loop {
            let envelope = subscription.receiver.recv().await.unwrap();
            if envelope.correlation_id == Some(command) {
                break;
            }
        }
        manager.stop("one").await.unwrap();
        assert!(manager.unload("one").await.unwrap().unmapped);
    });
    assert_eq!(journal.hooks(), (1, 1, 1));
    assert_eq!(journal.times("drop"), 1);
}

#[test]
fn dropping_the_last_manager_unloads_what_is_registered() {
    let watching = Builder::new_current_thread().enable_all().build().unwrap();
    let bus = MessageBus::new();
    let mut watcher = watching.block_on(Watcher::of(&bus));
    let (probe, other) = (Probe::new("one"), Probe::new("two"));
    let (journal, others) = (probe.journal(), other.journal());
    let manager = ModuleManager::new(bus.clone());
    let handle = block_on(async {
        manager.register_native(probe).await.unwrap();
        manager.register_native(other).await.unwrap();
        manager.start("one").await.unwrap();
        manager.handle("one").unwrap()
    });
    drop(manager);
    for _ in 0..2 {
        watching.block_on(watcher.until(|event| matches!(event, Event::ModuleUnloaded { .. })));
    }
    assert_eq!((journal.hooks(), journal.times("drop")), ((1, 1, 1), 1));
    assert_eq!((others.hooks(), others.times("drop")), ((0, 0, 0), 1));
    assert!(block_on(handle.invoke("echo", "")).is_err());
}
