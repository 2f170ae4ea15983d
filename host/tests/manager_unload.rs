//! An unload ends a module from whatever state it is in; the receipt says what was done.

mod manager_support;

use manager_support::*;
use oxide_host::{
    Limits,
    bus::Event,
    error::KernelError,
    module::ModuleState,
    report::{DropOutcome, Receipt, StopOutcome},
};

#[tokio::test]
async fn an_unload_stops_drops_and_forgets_a_running_module() {
    let (manager, _bus, mut watcher) = manager().await;
    let probe = Probe::new("one");
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let receipt = manager.unload("one").await.unwrap();
    assert!(receipt.unmapped, "nothing was mapped");
    assert!(receipt.retained_by.is_empty());
    assert_eq!((receipt.id.as_str(), receipt.generation), ("one", 1));
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Ok));
    assert_eq!((receipt.drained, receipt.cancelled, receipt.leaked_bytes), (0, 0, Some(0)));
    assert_eq!((journal.hooks(), journal.times("drop")), ((1, 1, 1), 1));

    watcher.until(|event| matches!(event, Event::ModuleStarted { .. })).await;
    let (envelope, event) = watcher.event().await;
    assert_eq!(envelope.source, "kernel");
    let Event::ModuleUnloaded { module_id, receipt: told } = event else { panic!("{event:?}") };
    assert_eq!(module_id, "one");
    assert_eq!(serde_json::from_value::<Receipt>(told).unwrap(), receipt);
    assert!(watcher.told().is_empty());

    assert_eq!(manager.state("one").await, None);
    assert!(manager.list().await.is_empty());
    for error in [
        manager.start("one").await.unwrap_err(),
        manager.stop("one").await.unwrap_err(),
        manager.unload("one").await.unwrap_err(),
        manager.invoke("one", "echo", "").await.unwrap_err(),
    ] {
        assert!(matches!(error, KernelError::UnknownModule(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_module_that_does_not_run_is_unloaded_without_a_stop() {
    for state in [ModuleState::Loaded, ModuleState::Stopped, ModuleState::Failed] {
        let (manager, _bus, mut watcher) = manager().await;
        let probe = Probe::new("one").on_start(move || async move {
            if state == ModuleState::Failed { Err(refusal("no")) } else { Ok(()) }
        });
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        if state != ModuleState::Loaded {
            let _ = manager.start("one").await;
        }
        if state == ModuleState::Stopped {
            manager.stop("one").await.unwrap();
        }
        assert_eq!(manager.state("one").await, Some(state));
        let stops = journal.times("stop");
        watcher.told();
        let receipt = manager.unload("one").await.unwrap();
        assert_eq!((receipt.stop, receipt.drop), (StopOutcome::NotRunning, DropOutcome::Ok));
        assert_eq!((journal.times("stop"), journal.times("drop")), (stops, 1));
        assert_eq!(watcher.told(), ["unloaded one"]);
    }
}

#[tokio::test]
async fn an_unload_waits_for_the_calls_inside_and_counts_them() {
    let (manager, _bus, _watcher) = manager().await;
    let door = Door::new();
    let waiting = door.clone();
    let probe = Probe::new("one").on_invoke(move |_, payload| {
        let door = waiting.clone();
        async move {
            door.pass().await;
            Ok(payload)
        }
    });
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let handle = manager.handle("one").unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.invoke("wait", "in time").await })
        })
        .collect();
    door.reached_by(3).await;
    let unload = tokio::spawn({
        let manager = manager.clone();
        async move { manager.unload("one").await }
    });
    until_state(&manager, "one", ModuleState::Stopping).await;
    // Shut before the door is opened.
    until(async || handle.invoke("wait", "late").await.is_err()).await;
    assert_eq!(journal.times("drop"), 0);
    door.open();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().as_bytes(), b"in time");
    }
    let receipt = unload.await.unwrap().unwrap();
    assert_eq!((receipt.drained, receipt.stop), (3, StopOutcome::Ok));
    journal.assert_never_overlapped();
}

#[tokio::test]
async fn a_call_that_never_comes_out_skips_stop_and_drop_and_the_receipt_says_so() {
    let mut limits = Limits::default();
    limits.drain = SHORT;
    let (manager, _bus, _watcher) = manager_with(limits).await;
    let door = Door::new();
    let waiting = door.clone();
    let probe = Probe::new("one").on_invoke(move |_, payload| {
        let door = waiting.clone();
        async move {
            door.pass_blocking();
            Ok(payload)
        }
    });
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let call = tokio::task::spawn_blocking({
        let manager = manager.clone();
        move || block_on(manager.invoke("one", "wait", "still there"))
    });
    door.reached().await;
    let receipt = manager.unload("one").await.unwrap();
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Skipped, DropOutcome::Skipped));
    assert_eq!((journal.times("stop"), journal.times("drop")), (0, 0));
    assert_eq!(manager.state("one").await, None);
    // Whoever is inside is not disturbed.
    door.open();
    assert_eq!(call.await.unwrap().unwrap().as_bytes(), b"still there");
}

#[tokio::test]
async fn past_the_deadline_calls_that_wait_are_cancelled() {
    let mut limits = Limits::default();
    limits.drain = SHORT;
    let (manager, _bus, _watcher) = manager_with(limits).await;
    let door = Door::new();
    let waiting = door.clone();
    let probe = Probe::new("one").on_invoke(move |_, payload| {
        let door = waiting.clone();
        async move {
            door.pass().await;
            Ok(payload)
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let call = tokio::spawn({
        let manager = manager.clone();
        async move { manager.invoke("one", "wait", "").await }
    });
    door.reached().await;
    let receipt = manager.unload("one").await.unwrap();
    assert_eq!((receipt.drained, receipt.cancelled), (0, 1));
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Ok));
    let error = call.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, KernelError::Cancelled { module, method } if module == "one" && method == "wait"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_destructor_that_panics_is_on_the_receipt_and_the_rest_goes_on() {
    std::panic::set_hook(Box::new(|_| {}));
    let (manager, _bus, mut watcher) = manager().await;
    manager
        .register_native(Probe::new("one").on_drop(|| panic!("the destructor, on purpose")))
        .await
        .unwrap();
    manager.start("one").await.unwrap();
    let receipt = manager.unload("one").await.unwrap();
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Panicked));
    assert_eq!(manager.state("one").await, None);
    assert_eq!(watcher.told().last().unwrap(), "unloaded one");
}

#[tokio::test]
async fn the_destructor_runs_on_a_thread_of_the_hosts() {
    let (manager, _bus, _watcher) = manager().await;
    let caller = std::thread::current().id();
    let (told, heard) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let probe = Probe::new("one").on_drop(move || {
        told.lock().unwrap().send(std::thread::current().id()).unwrap();
    });
    manager.register_native(probe).await.unwrap();
    manager.unload("one").await.unwrap();
    assert_ne!(heard.try_recv().unwrap(), caller);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_unloads_at_once_one_has_the_receipt_and_the_others_find_nobody() {
    for _ in 0..20 {
        let (manager, _bus, mut watcher) = manager().await;
        let probe = Probe::new("one");
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        manager.start("one").await.unwrap();
        let unloads: Vec<_> = (0..8)
            .map(|_| {
                let manager = manager.clone();
                tokio::spawn(async move { manager.unload("one").await })
            })
            .collect();
        let mut receipts = 0;
        for unload in unloads {
            match unload.await.unwrap() {
                Ok(_) => receipts += 1,
                Err(error) => assert!(matches!(error, KernelError::UnknownModule(_)), "{error:?}"),
            }
        }
        assert_eq!(receipts, 1);
        assert_eq!((journal.times("stop"), journal.times("drop")), (1, 1));
        assert_eq!(watcher.told(), ["loaded one", "started one", "unloaded one"]);
    }
}

#[tokio::test]
async fn an_id_is_free_again_after_its_unload_and_the_new_module_starts_afresh() {
    let (manager, _bus, mut watcher) = manager().await;
    for _ in 0..50 {
        let probe = Probe::new("one");
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        manager.start("one").await.unwrap();
        assert_eq!(manager.invoke("one", "echo", "hello").await.unwrap().as_bytes(), b"hello");
        assert_eq!(manager.unload("one").await.unwrap().generation, 1);
        assert_eq!((journal.hooks(), journal.times("drop")), ((1, 1, 1), 1));
        assert_eq!(watcher.told(), ["loaded one", "started one", "unloaded one"]);
    }
}

/// Whoever follows the announcements of an id sees one life after the other, never the end of the old one
/// after the beginning of the new one.
#[tokio::test]
async fn a_newcomer_under_the_same_id_is_announced_after_the_end_of_the_one_before() {
    /// Holds up whoever announces, at the first announcement that it sees.
    struct HoldsUp(Door);
    impl std::task::Wake for HoldsUp {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.pass_blocking();
        }
    }
    let (manager, bus, mut watcher) = manager().await;
    manager.register_native(Probe::new("one")).await.unwrap();
    // Left in the mailbox, so that its answer is the first that the unload announces, before its own end.
    bus.send_command("me", invoke_command("one", "echo", nothing())).await.unwrap();
    let door = Door::new();
    let _release = OpenAtTheEnd(door.clone());
    let mut slow = bus.subscribe().await;
    let waker = std::task::Waker::from(std::sync::Arc::new(HoldsUp(door.clone())));
    assert!(slow.receiver.poll_recv(&mut std::task::Context::from_waker(&waker)).is_pending());

    let unload = tokio::spawn({
        let manager = manager.clone();
        async move { manager.unload("one").await }
    });
    door.reached().await;
    assert_eq!(manager.state("one").await, None);
    let mut newcomer = Box::pin(manager.register_native(Probe::new("one")));
    let early = poll_once(newcomer.as_mut());
    door.open();
    match early {
        std::task::Poll::Ready(registered) => registered.unwrap(),
        std::task::Poll::Pending => patiently(newcomer).await.unwrap(),
    }
    unload.await.unwrap().unwrap();
    let mut told = watcher.told();
    told.retain(|event| !event.starts_with("command failed"));
    assert_eq!(told, ["loaded one", "unloaded one", "loaded one"]);
    assert_eq!(manager.state("one").await, Some(ModuleState::Loaded));
}

/// Asked in the very moment in which the module goes, a verb is answered: carried out, or unknown.
#[test]
fn a_verb_that_comes_just_as_the_module_goes_is_answered() {
    let (manager, _bus, _watcher) = block_on(manager());
    let round = std::sync::Barrier::new(4);
    let answered = std::sync::atomic::AtomicUsize::new(0);
    const ROUNDS: usize = 3000;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    round.wait();
                    for _ in 0..20 {
                        match block_on(manager.init("one")) {
                            Ok(()) | Err(KernelError::UnknownModule(_)) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    answered.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    round.wait();
                }
            });
        }
        for number in 1..=ROUNDS {
            block_on(manager.register_native(Probe::new("one"))).unwrap();
            round.wait();
            block_on(manager.unload("one")).unwrap();
            wait_until(|| answered.load(std::sync::atomic::Ordering::SeqCst) == 3 * number);
            round.wait();
        }
    });
}
