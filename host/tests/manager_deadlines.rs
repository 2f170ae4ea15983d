//! A hook that does not end in time makes its module Failed, whether it waits or blocks its thread, and
//! changes nothing for anybody else.

mod manager_support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use manager_support::*;
use oxide_host::{
    Limits,
    bus::Event,
    error::{KernelError, Result},
    module::{ModuleManager, ModuleState},
    report::{DropOutcome, StopOutcome},
};
use tokio::task::JoinHandle;

/// A short deadline for one hook. Whatever else runs under it may be late on a busy machine, so a test
/// repeats that until it is in time.
fn short(which: impl FnOnce(&mut Limits) -> &mut Duration) -> Limits {
    let mut limits = Limits::default();
    *which(&mut limits) = SHORT;
    limits
}

async fn until_started(manager: &ModuleManager, id: &str) {
    until(async || manager.start(id).await.is_ok()).await;
}

/// A hook that never ends the first time, and then succeeds.
fn endless_once() -> impl FnMut() -> Boxed<Result<()>> + Send + Sync + 'static {
    let first = AtomicBool::new(true);
    move || {
        if first.swap(false, SeqCst) { Box::pin(std::future::pending()) } else { Box::pin(async { Ok(()) }) }
    }
}

/// A hook that blocks its thread at a door the first time, and then does not.
fn blocking_once(door: &Door) -> impl FnMut() -> Boxed<Result<()>> + Send + Sync + 'static {
    let (door, first) = (door.clone(), AtomicBool::new(true));
    move || {
        let (door, blocks) = (door.clone(), first.swap(false, SeqCst));
        Box::pin(async move {
            if blocks {
                door.pass_blocking();
            }
            Ok(())
        })
    }
}

/// Starts a module until its hook stands at the door; gives the start that is under way.
async fn start_up_to(manager: &ModuleManager, id: &'static str, door: &Door) -> JoinHandle<Result<()>> {
    loop {
        let asking = manager.clone();
        let start = tokio::spawn(async move { asking.start(id).await });
        until(async || door.is_reached() || start.is_finished()).await;
        if door.is_reached() {
            return start;
        }
    }
}

#[track_caller]
fn assert_timed_out(error: &KernelError, name: &str) {
    assert!(
        matches!(error, KernelError::HookTimedOut { hook, after, .. } if *hook == name && *after == SHORT),
        "{error:?}"
    );
    assert_eq!(error.to_string(), format!("{name} of module `one` did not end within 50ms"));
}

#[tokio::test]
async fn an_init_that_never_ends_is_dropped_at_its_deadline_and_can_be_tried_again() {
    let (manager, _bus, mut watcher) = manager_with(short(|limits| &mut limits.init)).await;
    let mut hook = endless_once();
    manager.register_native(Probe::new("one").on_init(move |_| hook())).await.unwrap();
    let error = manager.init("one").await.unwrap_err();
    assert_timed_out(&error, "init");
    assert_eq!(manager.state("one").await, Some(ModuleState::Failed));
    assert_eq!(watcher.told(), ["loaded one".to_owned(), format!("failed one: {error}")]);
    until_started(&manager, "one").await;
    assert_eq!(manager.state("one").await, Some(ModuleState::Running));
}

#[tokio::test]
async fn a_start_that_never_ends_is_dropped_at_its_deadline_and_can_be_tried_again() {
    let (manager, _bus, mut watcher) = manager_with(short(|limits| &mut limits.start)).await;
    let probe = Probe::new("one").on_start(endless_once());
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    let error = manager.start("one").await.unwrap_err();
    assert_timed_out(&error, "start");
    assert_eq!(manager.state("one").await, Some(ModuleState::Failed));
    assert_eq!(watcher.told(), ["loaded one".to_owned(), format!("failed one: {error}")]);
    until_started(&manager, "one").await;
    assert_eq!(watcher.told().last().unwrap(), "started one");
    // On a busy machine one that ends well may be late as well, and is stopped before the next.
    assert!(journal.times("start") >= 2 + journal.times("stop"));
    assert_eq!(journal.times("init"), 1);
    journal.assert_never_overlapped();
}

#[tokio::test]
async fn a_stop_that_never_ends_is_dropped_at_its_deadline_and_is_on_the_receipt() {
    let (manager, _bus, mut watcher) = manager_with(short(|limits| &mut limits.stop)).await;
    let probe = Probe::new("one").on_stop(std::future::pending);
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let error = manager.stop("one").await.unwrap_err();
    assert_timed_out(&error, "stop");
    assert_eq!(manager.state("one").await, Some(ModuleState::Failed));
    manager.start("one").await.unwrap();
    let receipt = manager.unload("one").await.unwrap();
    assert_eq!(receipt.stop, StopOutcome::TimedOut);
    assert_eq!(
        watcher.told(),
        ["loaded one", "started one", &format!("failed one: {error}"), "started one", "unloaded one"]
    );
    journal.assert_never_overlapped();
}

/// What a hook owns is dropped when it is given up, on a thread of the host's.
#[tokio::test]
async fn what_a_hook_owns_is_dropped_when_its_time_is_up() {
    struct Owned(Arc<AtomicUsize>);
    impl Drop for Owned {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    let (manager, _bus, _watcher) = manager_with(short(|limits| &mut limits.start)).await;
    let probe = Probe::new("one").on_start(move || {
        let owned = Owned(count.clone());
        async move {
            let _owned = owned;
            std::future::pending().await
        }
    });
    manager.register_native(probe).await.unwrap();
    until(async || {
        manager.start("one").await.unwrap_err();
        dropped.load(SeqCst) > 0
    })
    .await;
}

#[tokio::test]
async fn a_hook_that_blocks_its_thread_fails_at_the_deadline_and_nobody_else_notices() {
    let (manager, _bus, mut watcher) = manager_with(short(|limits| &mut limits.start)).await;
    let door = Door::new();
    let _release = OpenAtTheEnd(door.clone());
    let probe = Probe::new("one").on_start(blocking_once(&door));
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.register_native(Probe::new("two")).await.unwrap();

    let start = start_up_to(&manager, "one", &door).await;
    // While it blocks: `state` and `list` never wait, and another module's life goes on.
    assert!(poll_once(std::pin::pin!(manager.state("one"))).is_ready());
    assert!(poll_once(std::pin::pin!(manager.list())).is_ready());
    until_started(&manager, "two").await;
    assert_eq!(manager.invoke("two", "echo", "hello").await.unwrap().as_bytes(), b"hello");
    manager.stop("two").await.unwrap();

    let error = start.await.unwrap().unwrap_err();
    assert_timed_out(&error, "start");
    assert_eq!(manager.state("one").await, Some(ModuleState::Failed));

    // It is still inside, so nothing else may be.
    let error = manager.start("one").await.unwrap_err();
    assert!(matches!(error, KernelError::HookStuck { .. }), "{error:?}");
    assert!(error.to_string().contains("`one` is still held"), "{error}");
    assert_eq!(journal.times("init"), 1);

    // Once it returns, the module can be started.
    door.open();
    until_started(&manager, "one").await;
    assert_eq!(manager.state("one").await, Some(ModuleState::Running));
    journal.assert_never_overlapped();
    let told = watcher.told();
    assert!(
        told.contains(&"failed one: start of module `one` did not end within 50ms".to_owned()),
        "{told:?}"
    );
    assert_eq!(told.iter().filter(|event| *event == "started one").count(), 1);
}

#[tokio::test]
async fn a_module_whose_hook_blocks_can_be_unloaded_and_its_object_is_left_alone() {
    let mut limits = short(|limits| &mut limits.start);
    limits.stop = SHORT;
    let (manager, _bus, mut watcher) = manager_with(limits).await;
    let door = Door::new();
    let _release = OpenAtTheEnd(door.clone());
    let blocking = door.clone();
    let probe = Probe::new("one").on_start(move || {
        let door = blocking.clone();
        async move {
            door.pass_blocking();
            Ok(())
        }
    });
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    start_up_to(&manager, "one", &door).await.await.unwrap().unwrap_err();
    let receipt = manager.unload("one").await.unwrap();
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::NotRunning, DropOutcome::Skipped));
    assert!(receipt.unmapped);
    assert_eq!(journal.times("drop"), 0, "a hook is still inside");
    assert_eq!(manager.state("one").await, None);
    watcher.until(|event| matches!(event, Event::ModuleUnloaded { .. })).await;

    // The id is free for another.
    manager.register_native(Probe::new("one")).await.unwrap();
    until_started(&manager, "one").await;
}

/// Nobody waited for its end, but it has started whatever it starts.
#[tokio::test]
async fn a_start_that_ends_well_past_its_deadline_is_stopped() {
    let (manager, _bus, _watcher) = manager_with(short(|limits| &mut limits.start)).await;
    for again in [false, true] {
        let door = Door::new();
        let _release = OpenAtTheEnd(door.clone());
        let probe = Probe::new("one").on_start(blocking_once(&door));
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        let error = start_up_to(&manager, "one", &door).await.await.unwrap().unwrap_err();
        assert_timed_out(&error, "start");
        door.open();
        if again {
            until_started(&manager, "one").await;
            assert!(journal.times("stop") >= 1, "before it is started again");
        }
        let receipt = manager.unload("one").await.unwrap();
        assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Ok));
        assert_eq!(journal.times("stop"), journal.times("start"));
        journal.assert_never_overlapped();
    }
}

/// Invariant 5, many at once: each blocks a thread of its own.
#[tokio::test]
async fn forty_hooks_that_block_hold_up_nobody() {
    let (manager, _bus, _watcher) = manager().await;
    let door = Door::new();
    let _release = OpenAtTheEnd(door.clone());
    let mut starts = Vec::new();
    for number in 0..40 {
        let id = format!("blocks-{number}");
        let blocking = door.clone();
        let probe = Probe::new(&id).on_start(move || {
            let door = blocking.clone();
            async move {
                door.pass_blocking();
                Ok(())
            }
        });
        manager.register_native(probe).await.unwrap();
        let manager = manager.clone();
        starts.push(tokio::spawn(async move { manager.start(&id).await }));
    }
    door.reached_by(40).await;
    manager.register_native(Probe::new("free")).await.unwrap();
    patiently(manager.start("free")).await.unwrap();
    patiently(manager.stop("free")).await.unwrap();
    door.open();
    for start in starts {
        start.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_message_that_takes_too_long_is_dropped_and_the_next_one_comes() {
    let (manager, bus, _watcher) = manager_with(short(|limits| &mut limits.message)).await;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let see = seen.clone();
    let probe = Probe::new("one").on_message(move |envelope| {
        let Event::Custom { kind, .. } = event_of(&envelope) else { panic!() };
        see.lock().unwrap().push(kind.clone());
        async move {
            if kind == "endless" {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    // Each until it was seen: on a busy machine one may be over before it began.
    for kind in ["endless", "next"] {
        until(async || {
            bus.emit_event("somebody", custom("one", kind, nothing())).await.unwrap();
            seen.lock().unwrap().iter().any(|seen| seen == kind)
        })
        .await;
    }
    assert_eq!(manager.state("one").await, Some(ModuleState::Running));
    manager.stop("one").await.unwrap();
}

fn event_of(envelope: &oxide_host::bus::Envelope) -> Event {
    match &envelope.message {
        oxide_host::bus::Message::Event(event) => event.clone(),
        other => panic!("not an event: {other:?}"),
    }
}

/// A message that waits must not keep its module from being stopped for longer than the drain's deadline.
#[tokio::test]
async fn a_message_that_waits_does_not_fail_the_stop() {
    let mut limits = Limits::default();
    limits.drain = SHORT;
    let (manager, bus, _watcher) = manager_with(limits).await;
    let door = Door::new();
    let waiting = door.clone();
    let probe = Probe::new("one").on_message(move |_| {
        let door = waiting.clone();
        async move {
            door.pass().await;
            Ok(())
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    bus.emit_event("somebody", custom("one", "wait", nothing())).await.unwrap();
    door.reached().await;
    manager.stop("one").await.unwrap();
}

#[tokio::test]
async fn calls_that_do_not_come_out_fail_the_stop_and_the_module_starts_again_when_they_have() {
    let mut limits = Limits::default();
    limits.drain = Duration::from_millis(10);
    let (manager, _bus, mut watcher) = manager_with(limits).await;
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
        move || block_on(manager.invoke("one", "wait", "hello"))
    });
    door.reached().await;
    let error = manager.stop("one").await.unwrap_err();
    assert!(matches!(error, KernelError::CallsInside { count: 1, .. }), "{error:?}");
    assert_eq!(manager.state("one").await, Some(ModuleState::Failed));
    assert!(matches!(manager.start("one").await, Err(KernelError::CallsInside { .. })));
    assert_eq!(journal.hooks(), (1, 1, 0), "no `&mut` hook runs while a call is inside");

    door.open();
    assert_eq!(call.await.unwrap().unwrap().as_bytes(), b"hello");
    manager.start("one").await.unwrap();
    assert_eq!(journal.hooks(), (1, 2, 1), "what was skipped comes before it");
    manager.stop("one").await.unwrap();
    assert_eq!(journal.hooks(), (1, 2, 2));
    journal.assert_never_overlapped();
    watcher.until(|event| matches!(event, Event::ModuleStopped { .. })).await;
}

/// A stop that was skipped is made up for by the unload, once the calls are out.
#[tokio::test]
async fn an_unload_stops_a_module_whose_stop_was_skipped() {
    let mut limits = Limits::default();
    limits.drain = Duration::from_millis(10);
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
        move || block_on(manager.invoke("one", "wait", ""))
    });
    door.reached().await;
    manager.stop("one").await.unwrap_err();
    door.open();
    call.await.unwrap().unwrap();
    let receipt = manager.unload("one").await.unwrap();
    assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Ok));
    assert_eq!(journal.hooks(), (1, 1, 1));
}
