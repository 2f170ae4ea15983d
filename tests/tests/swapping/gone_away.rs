//! Whoever asked for a swap goes away, the host is shut down, or its last handle is dropped, at every step of the swap.

use oxide_host::{Host, SwapOptions, SwapReport, bus::MessageBus, error::KernelError};
use oxide_tests::{Flag, eventually, in_time, misbehave::Changed, ordered};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::scene::{Call, Scene, another_build, hooks};

/// The hooks in which it happens, and whether the swap is then in the module's actor, where no other verb gets in
/// between.
const STEPS: [(&str, bool); 7] = [
    ("constructor", false),
    ("metadata", false),
    ("configure", false),
    ("init", false),
    ("save_state", true),
    ("restore_state", true),
    ("start", true),
];

/// A swap that waits in one of its hooks.
struct Waiting {
    scene: Scene,
    there: Flag,
    swap: JoinHandle<Result<SwapReport, KernelError>>,
    _file: Changed,
}

impl Waiting {
    async fn in_the_middle_of(hook: &str, bus: &MessageBus) -> Self {
        let there = Flag::new();
        let is_sync = matches!(hook, "constructor" | "metadata");
        let wait = there.deed(if is_sync { "block" } else { "wait" });
        let old = if hook == "save_state" { json!({ "save_state 2": wait }) } else { json!({}) };
        let file = if is_sync { ordered(&json!({ "id": "m", hook: wait })) } else { another_build() };
        let more = if hook == "save_state" { json!({}) } else { json!({ hook: [wait] }) };
        let scene = Scene::new(Host::builder().bus(bus.clone()), old).await;
        let (host, path) = (scene.host.clone(), file.as_ref().to_owned());
        let options = SwapOptions::new().config(hooks("new", more));
        let swap = tokio::spawn(async move { host.swap_with("m", path, options).await });
        there.inside().await;
        Self { scene, there, swap, _file: file }
    }
}

#[tokio::test]
async fn whoever_asked_goes_away() {
    for (hook, in_the_actor) in STEPS {
        let bus = MessageBus::new();
        let Waiting { mut scene, there, swap, _file } = Waiting::in_the_middle_of(hook, &bus).await;
        let calls = scene.traffic().await;
        swap.abort();
        assert!(in_time(swap).await.unwrap_err().is_cancelled());
        there.go_on();
        for call in calls {
            in_time(call).await.unwrap().unwrap();
        }
        // A swap that comes next has its turn after this one has been undone, or is done.
        let report = scene.swap(another_build(), hooks("next", json!({}))).await.unwrap();
        // In `start` the point of no return has been passed.
        let (from, to) = if hook == "start" { (2, 3) } else { (1, 2) };
        assert_eq!((report.from, report.to, report.state_moved), (from, to, true), "{hook}");
        assert!(report.old.unmapped, "{report:?}");
        let swapped: &[&str] =
            if hook == "start" { &["swapped 1 2", "swapped 2 3"] } else { &["swapped 1 2"] };
        assert_eq!(scene.announced(), swapped, "{hook}, in the actor: {in_the_actor}");
        scene.hears_from_now_on();
        scene.publish().await;
        scene.is_well(to, "next").await;
        scene.has_heard_everything().await;
        assert_eq!(scene.mapped(), 1);
    }
}

/// Before it has done anything.
#[tokio::test]
async fn whoever_asked_has_gone_before_its_turn() {
    let bus = MessageBus::new();
    let Waiting { mut scene, there, swap, _file } = Waiting::in_the_middle_of("init", &bus).await;
    let host = scene.host.clone();
    let path = oxide_tests::misbehaving();
    let second = tokio::spawn(async move {
        host.swap_with("m", path, SwapOptions::new().force(true).config(hooks("second", Value::Null))).await
    });
    tokio::task::yield_now().await;
    second.abort();
    assert!(in_time(second).await.unwrap_err().is_cancelled());
    there.go_on();
    assert_eq!(in_time(swap).await.unwrap().unwrap().to, 2);
    let report = scene.swap(another_build(), hooks("third", json!({}))).await.unwrap();
    assert_eq!((report.from, report.to), (2, 3));
    scene.is_well(3, "third").await;
    assert_eq!(scene.announced(), ["swapped 1 2", "swapped 2 3"]);
}

/// Those that came before the unload have been answered, by whatever generation; the others know why not.
async fn answered_or_refused(calls: Vec<Call>) {
    for call in calls {
        match in_time(call).await.unwrap() {
            Ok(_) | Err(KernelError::NotRunning { .. } | KernelError::UnknownModule(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn is_its_end(ended: Result<SwapReport, KernelError>, in_the_actor: bool) {
    match (ended, in_the_actor) {
        // The unload has its turn after it.
        (Ok(report), true) => assert!(report.old.unmapped, "{report:?}"),
        (Err(KernelError::UnknownModule(id)), false) => assert_eq!(id, "m"),
        (other, _) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_host_is_shut_down() {
    for (hook, in_the_actor) in STEPS {
        let bus = MessageBus::new();
        let Waiting { mut scene, there, swap, _file } = Waiting::in_the_middle_of(hook, &bus).await;
        let calls = scene.traffic().await;
        let host = scene.host.clone();
        let shutdown = tokio::spawn(async move { host.shutdown().await });
        if !in_the_actor {
            // The old one is unloaded at once, whatever the new one is at.
            eventually("it is unloaded", || oxide_tests::block_on(scene.host.list()).is_empty()).await;
            assert!(!swap.is_finished() && !shutdown.is_finished());
        }
        there.go_on();
        is_its_end(in_time(swap).await.unwrap(), in_the_actor);
        let receipts = in_time(shutdown).await.unwrap();
        let [receipt] = &receipts[..] else { panic!("{receipts:?}") };
        assert!(receipt.unmapped, "{receipt:?}");
        assert_eq!(receipt.generation, if in_the_actor { 2 } else { 1 });
        answered_or_refused(calls).await;
        let swapped: &[&str] = if in_the_actor { &["swapped 1 2", "unloaded"] } else { &["unloaded"] };
        assert_eq!(scene.announced(), swapped, "{hook}");
        assert_eq!(scene.mapped(), 0, "after the shutdown nothing is left: {hook}");
    }
}

#[tokio::test]
async fn the_last_handle_to_the_host_is_dropped() {
    for (hook, _) in STEPS {
        let bus = MessageBus::new();
        let Waiting { scene, there, swap, _file } = Waiting::in_the_middle_of(hook, &bus).await;
        let mut events = bus.subscribe().await;
        swap.abort();
        assert!(in_time(swap).await.unwrap_err().is_cancelled());
        let gone = scene.let_go_of_the_host();
        there.go_on();
        oxide_tests::next_event(&mut events, |event| {
            matches!(event, oxide_host::bus::Event::ModuleUnloaded { .. })
        })
        .await;
        eventually("nothing is mapped", || gone.mapped() == 0).await;
    }
}

#[tokio::test]
async fn the_module_is_unloaded_in_the_middle() {
    for (hook, in_the_actor) in STEPS {
        let bus = MessageBus::new();
        let Waiting { mut scene, there, swap, _file } = Waiting::in_the_middle_of(hook, &bus).await;
        let calls = scene.traffic().await;
        let host = scene.host.clone();
        let unload = tokio::spawn(async move { host.unload("m").await });
        let unload = if in_the_actor {
            tokio::task::yield_now().await;
            unload
        } else {
            let receipt = in_time(unload).await.unwrap();
            tokio::spawn(async { receipt })
        };
        there.go_on();
        is_its_end(in_time(swap).await.unwrap(), in_the_actor);
        let receipt = in_time(unload).await.unwrap().unwrap();
        assert_eq!(receipt.generation, if in_the_actor { 2 } else { 1 });
        assert!(receipt.unmapped, "{receipt:?}");
        answered_or_refused(calls).await;
        assert_eq!(scene.announced().last().unwrap(), "unloaded");
        assert_eq!(scene.mapped(), 0, "{hook}");
        let error = in_time(scene.host.swap("m", another_build())).await.unwrap_err();
        assert!(matches!(error, KernelError::UnknownModule(_)), "{error:?}");
    }
}
