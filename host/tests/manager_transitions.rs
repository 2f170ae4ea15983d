//! `init`, `start` and `stop` move a module through its life: idempotent, in order, each move announced once
//! and only when it is true.

mod manager_support;

use std::sync::Arc;

use manager_support::*;
use oxide_host::{
    bus::Event,
    error::KernelError,
    module::{ModuleManager, ModuleState},
};

#[tokio::test]
async fn a_repeated_init_is_ok_and_runs_and_announces_nothing() {
    let (manager, _bus, mut watcher) = manager().await;
    let probe = Probe::new("one");
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    for _ in 0..3 {
        manager.init("one").await.unwrap();
        assert_eq!(manager.state("one").await, Some(ModuleState::Loaded));
    }
    manager.start("one").await.unwrap();
    manager.init("one").await.unwrap();
    assert_eq!(manager.state("one").await, Some(ModuleState::Running));
    manager.stop("one").await.unwrap();
    manager.init("one").await.unwrap();
    assert_eq!(manager.state("one").await, Some(ModuleState::Stopped));
    assert_eq!(journal.hooks(), (1, 1, 1));
    assert_eq!(watcher.told(), ["loaded one", "started one", "stopped one"]);
}

#[tokio::test]
async fn a_repeated_start_and_a_repeated_stop_are_ok_and_run_and_announce_nothing() {
    let (manager, _bus, mut watcher) = manager().await;
    let probe = Probe::new("one");
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    for _ in 0..3 {
        manager.start("one").await.unwrap();
    }
    assert_eq!(journal.hooks(), (1, 1, 0));
    for _ in 0..3 {
        manager.stop("one").await.unwrap();
    }
    assert_eq!(journal.hooks(), (1, 1, 1));
    assert_eq!(watcher.told(), ["loaded one", "started one", "stopped one"]);
}

#[tokio::test]
async fn start_on_a_module_never_initialised_runs_init_first_and_once_in_its_life() {
    let (manager, _bus, _watcher) = manager().await;
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (in_init, in_start) = (order.clone(), order.clone());
    let probe = Probe::new("one")
        .on_init(move |_| {
            in_init.lock().unwrap().push("init");
            async { Ok(()) }
        })
        .on_start(move || {
            in_start.lock().unwrap().push("start");
            async { Ok(()) }
        });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    manager.stop("one").await.unwrap();
    manager.start("one").await.unwrap();
    assert_eq!(*order.lock().unwrap(), ["init", "start", "start"]);
}

#[tokio::test]
async fn init_gets_the_managers_bus() {
    let (manager, _bus, mut watcher) = manager().await;
    let probe = Probe::new("one").on_init(|bus| async move {
        bus.emit_event("one", custom("somebody", "hello", nothing())).await.map(drop)
    });
    manager.register_native(probe).await.unwrap();
    manager.init("one").await.unwrap();
    assert_eq!(watcher.told(), ["loaded one", "hello for somebody: null"]);
}

#[tokio::test]
async fn stop_on_a_module_that_is_not_running_names_both_states() {
    let (manager, _bus, mut watcher) = manager().await;
    let probe = Probe::new("one").on_start(|| async { Err(refusal("not today")) });
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    let error = manager.stop("one").await.unwrap_err();
    assert_eq!(error.to_string(), "module `one` is loaded, so it cannot become stopped");
    assert!(matches!(
        error,
        KernelError::IllegalTransition { from: ModuleState::Loaded, to: ModuleState::Stopped, .. }
    ));
    assert_eq!(manager.state("one").await, Some(ModuleState::Loaded));

    manager.start("one").await.unwrap_err();
    let error = manager.stop("one").await.unwrap_err();
    assert_eq!(error.to_string(), "module `one` is failed, so it cannot become stopped");
    assert_eq!(manager.state("one").await, Some(ModuleState::Failed));
    assert_eq!(journal.times("stop"), 0);
    assert_eq!(watcher.told().len(), 2, "loaded and failed");
}

/// Whoever receives an announcement finds that it is so, for as long as nothing else is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_announcement_is_made_only_after_it_is_true() {
    let (manager, bus, _watcher) = manager().await;
    let fail = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let failing = fail.clone();
    let probe = Probe::new("one").on_start(move || {
        let fails = failing.load(std::sync::atomic::Ordering::SeqCst);
        async move { if fails { Err(refusal("as told")) } else { Ok(()) } }
    });

    // Looks at the state on another thread, the moment the event is there; the next step waits for it.
    let mut watcher = Watcher::of(&bus).await;
    let (looked, mut next) = tokio::sync::mpsc::unbounded_channel();
    let looking = manager.clone();
    let looker = tokio::spawn(async move {
        loop {
            let (_, event) = watcher.event().await;
            let id = event.module_id().unwrap_or_default().to_owned();
            let state = looking.state(&id).await;
            let last = matches!(event, Event::ModuleUnloaded { .. });
            looked.send((event, state)).unwrap();
            if last {
                return;
            }
        }
    });
    let mut check = async |expected: Option<ModuleState>| {
        let (event, state) = patiently(next.recv()).await.unwrap();
        assert_eq!(state, expected, "{event:?}");
    };

    manager.register_native(probe).await.unwrap();
    check(Some(ModuleState::Loaded)).await;
    for _ in 0..200 {
        manager.start("one").await.unwrap();
        check(Some(ModuleState::Running)).await;
        manager.stop("one").await.unwrap();
        check(Some(ModuleState::Stopped)).await;
    }
    fail.store(true, std::sync::atomic::Ordering::SeqCst);
    manager.start("one").await.unwrap_err();
    check(Some(ModuleState::Failed)).await;
    manager.unload("one").await.unwrap();
    check(None).await;
    looker.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_verb_returns_its_event_lies_in_every_queue_already() {
    let (manager, bus, mut watcher) = manager().await;
    let mut second = Watcher::of(&bus).await;
    manager.register_native(Probe::new("one")).await.unwrap();
    for watcher in [&mut watcher, &mut second] {
        assert_eq!(watcher.told(), ["loaded one"]);
    }
    for _ in 0..100 {
        manager.start("one").await.unwrap();
        for watcher in [&mut watcher, &mut second] {
            assert_eq!(watcher.told(), ["started one"]);
        }
        manager.stop("one").await.unwrap();
        for watcher in [&mut watcher, &mut second] {
            assert_eq!(watcher.told(), ["stopped one"]);
        }
    }
    manager.unload("one").await.unwrap();
    assert_eq!(watcher.told(), ["unloaded one"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_starts_at_once_are_one_start() {
    let (manager, _bus, mut watcher) = manager().await;
    let probe = Probe::new("one");
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    let all = |manager: &ModuleManager| {
        let starts: Vec<_> = (0..32)
            .map(|_| {
                let manager = manager.clone();
                tokio::spawn(async move { manager.start("one").await })
            })
            .collect();
        starts
    };
    for start in all(&manager) {
        start.await.unwrap().unwrap();
    }
    assert_eq!(journal.hooks(), (1, 1, 0));
    assert_eq!(watcher.told(), ["loaded one", "started one"]);
}

#[tokio::test]
async fn while_a_hook_runs_the_module_is_starting_or_stopping() {
    let (manager, _bus, _watcher) = manager().await;
    let (starting, stopping) = (Door::new(), Door::new());
    let (in_start, in_stop) = (starting.clone(), stopping.clone());
    let probe = Probe::new("one")
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
    manager.register_native(probe).await.unwrap();
    let verb = tokio::spawn({
        let manager = manager.clone();
        async move { manager.start("one").await }
    });
    starting.reached().await;
    assert_eq!(manager.state("one").await, Some(ModuleState::Starting));
    starting.open();
    verb.await.unwrap().unwrap();
    let verb = tokio::spawn({
        let manager = manager.clone();
        async move { manager.stop("one").await }
    });
    stopping.reached().await;
    assert_eq!(manager.state("one").await, Some(ModuleState::Stopping));
    stopping.open();
    verb.await.unwrap().unwrap();
}
