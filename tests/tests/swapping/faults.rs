//! A fault at every step of a swap: the old generation goes on with its state, its mailbox and its subscription as if
//! nothing had happened, the error says which step it was, and nothing of the new one is left.

use std::{fs, path::PathBuf, time::Duration};

use oxide_host::{Host, HostBuilder, error::KernelError, report::SwapStep};
use oxide_tests::{
    Flag, SHORT, build::panic_abort, eventually, in_time, misbehave::changed, misbehaving, ordered, plugin,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::scene::{Call, Scene, another_build, hooks};

/// A deadline for hooks that never end; the others are far quicker.
const DEADLINE: Duration = Duration::from_secs(2);

/// The hooks of the new generation in their order, `save_state` of the old one among them.
const HOOKS: [(&str, SwapStep); 7] = [
    ("constructor", SwapStep::Constructor),
    ("metadata", SwapStep::Metadata),
    ("configure", SwapStep::Configure),
    ("init", SwapStep::Init),
    ("save_state", SwapStep::SaveState),
    ("restore_state", SwapStep::RestoreState),
    ("start", SwapStep::Start),
];

/// Those that are no futures: they neither fail nor suspend.
fn is_sync(hook: &str) -> bool {
    matches!(hook, "constructor" | "metadata")
}

/// A swap that goes wrong in one place.
struct Fault {
    /// What the new file is.
    file: PathBuf,
    /// Keeps the file.
    _made: Option<oxide_tests::misbehave::Changed>,
    hooks: Value,
    /// Where it is going to go wrong.
    step: SwapStep,
    /// The code of what is wrong.
    code: &'static str,
    /// Raised when it is there.
    there: Option<Flag>,
    /// Whether its thread is kept until the flag is answered.
    blocks: bool,
}

impl Fault {
    /// One in the file itself.
    fn of_a_file(file: impl Into<PathBuf>, code: &'static str) -> Self {
        let (file, step) = (file.into(), SwapStep::Inspect);
        Self { file, _made: None, hooks: Value::Null, step, code, there: None, blocks: false }
    }

    /// A build that does `deeds` in `hook`.
    fn of_a_hook(hook: &str, deeds: &[String], code: &'static str, there: Option<Flag>) -> Self {
        let (_, step) = HOOKS.into_iter().find(|(known, _)| *known == hook).unwrap();
        let made = match is_sync(hook) {
            true => ordered(&json!({ hook: deeds, "id": "m" })),
            false => another_build(),
        };
        let mut hooks = hooks("new", json!({ hook: deeds }));
        if hook == "save_state" {
            hooks["save_state"] = Value::Null;
        }
        let file = made.as_ref().to_owned();
        Self { file, _made: Some(made), hooks, step, code, there, blocks: false }
    }

    /// Whether calls are held when it happens.
    fn is_in_a_hold(&self) -> bool {
        matches!(self.step, SwapStep::SaveState | SwapStep::RestoreState | SwapStep::Start)
    }

    /// Has it happen, with calls and messages in the middle of it.
    async fn happens(self, scene: &mut Scene) {
        let traffic = scene.traffic().await;
        answered(traffic).await;
        let before = scene.host.bus().subscriber_count().await;
        scene.announced();

        let host = scene.host.clone();
        let (file, hooks) = (self.file.clone(), self.hooks.clone());
        let swap = tokio::spawn(async move {
            let options = oxide_host::SwapOptions::new().config(hooks);
            in_time(host.swap_with("m", file, options)).await
        });
        let mut calls = Vec::new();
        if let Some(there) = &self.there {
            there.inside().await;
            calls = scene.traffic().await;
            if self.is_in_a_hold() {
                assert!(calls.iter().all(|call| !call.is_finished()), "they wait");
            } else {
                answered(std::mem::take(&mut calls)).await;
            }
            // One that ends by itself ends now; the others at their deadline.
            if !self.blocks {
                there.go_on();
            }
        }
        let error = swap.await.unwrap().unwrap_err();
        let KernelError::SwapFailed { module, step, generation, source } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((&**module, *step, *generation), ("m", self.step, 1), "{error}");
        assert_eq!(source.code(), self.code, "{error}");

        // Those that were held are answered by the old one.
        answered(calls).await;
        scene.is_well(1, "old").await;
        assert_eq!(scene.host.bus().subscriber_count().await, before, "{error}");
        let none = in_time(scene.host.rollback("m")).await;
        assert!(matches!(none, Err(KernelError::NoPreviousBuild(_))), "{none:?}");
        let is_old_that_blocks = self.step == SwapStep::SaveState;
        if self.blocks {
            let stays = !is_old_that_blocks;
            let retained = scene.host.retained();
            let retained = retained.iter().any(|kept| kept.generation == 2 && kept.path == self.file);
            assert!(retained || !stays, "{error}");
            assert_eq!(scene.mapped(), 1 + usize::from(stays), "{error}");
            let there = self.there.unwrap();
            there.go_on();
            there.ended().await;
            eventually("it comes back, and is gone", || scene.mapped() == 1).await;
        }
        assert_eq!(scene.mapped(), 1, "{error}");
        let announced = scene.announced();
        assert!(announced.iter().all(|told| self.blocks && told.starts_with("unmapped")), "{announced:?}");
        scene.has_heard_everything().await;
    }
}

pub(crate) async fn answered(calls: Vec<Call>) {
    for call in calls {
        in_time(call).await.unwrap().unwrap();
    }
}

/// The module goes over to a build that is in order, as if there had been no fault.
pub(crate) async fn a_good_one_follows(scene: &mut Scene) {
    let report = scene.swap(another_build(), hooks("good", json!({}))).await.unwrap();
    assert_eq!((report.from, report.to, report.state_moved), (1, 2, true));
    assert!(report.old.unmapped, "{report:?}");
    assert_eq!(report.old.stop, oxide_host::report::StopOutcome::Ok);
    scene.hears_from_now_on();
    scene.publish().await;
    scene.is_well(2, "good").await;
    scene.has_heard_everything().await;
    assert_eq!(scene.announced(), ["swapped 1 2"]);
    let receipts = in_time(scene.host.shutdown()).await;
    assert!(receipts.iter().all(|receipt| receipt.unmapped), "{receipts:?}");
    assert_eq!(scene.mapped(), 0);
}

/// The old build's hooks for a fault in its own `save_state`, the second time, when calls are held.
fn old(hook: &str, deeds: &[String]) -> Value {
    if hook == "save_state" { json!({ "save_state 2": deeds }) } else { json!({}) }
}

#[tokio::test]
async fn a_file_that_is_refused() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libtext.so");
    fs::write(&text, "hello\n").unwrap();
    let mut bytes = fs::read(misbehaving()).unwrap();
    let cut = changed("misbehaving", &bytes[..bytes.len() / 2]);
    // e_machine: RISC-V.
    bytes[18..20].copy_from_slice(&243_u16.to_le_bytes());
    let foreign = changed("misbehaving", &bytes);
    let faults = [
        (folder.path().join("libmissing.so"), "not_found"),
        (folder.path().to_owned(), "not_a_file"),
        (text, "not_a_library"),
        (foreign.as_ref().to_owned(), "wrong_target"),
        (cut.as_ref().to_owned(), "damaged"),
        (panic_abort(), "panic_abort"),
    ];
    for (file, code) in faults {
        Fault::of_a_file(file, code).happens(&mut scene).await;
    }
    a_good_one_follows(&mut scene).await;
}

#[tokio::test]
async fn a_build_of_another_module() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let fault = Fault { step: SwapStep::Metadata, ..Fault::of_a_file(plugin("echo"), "other_module") };
    fault.happens(&mut scene).await;
    a_good_one_follows(&mut scene).await;
}

/// After the test has seen that it is there.
async fn each_hook_that(deed: &str, code: &'static str) {
    for (hook, _) in HOOKS {
        if is_sync(hook) && deed == "fail" {
            continue;
        }
        let there = Flag::new();
        let wait = there.deed(if is_sync(hook) { "block" } else { "wait" });
        let deeds = [wait, deed.to_owned()];
        let mut scene = Scene::new(Host::builder(), old(hook, &deeds)).await;
        Fault::of_a_hook(hook, &deeds, code, Some(there)).happens(&mut scene).await;
        a_good_one_follows(&mut scene).await;
    }
}

#[tokio::test]
async fn a_hook_that_fails() {
    each_hook_that("fail", "hook_failed").await;
}

#[tokio::test]
async fn a_hook_that_panics() {
    each_hook_that("panic", "hook_panicked").await;
}

#[tokio::test]
async fn a_hook_whose_panic_panics_when_dropped() {
    each_hook_that("spite", "hook_panicked").await;
}

fn deadlines() -> HostBuilder {
    Host::builder().init_timeout(DEADLINE).start_timeout(DEADLINE)
}

/// Each in a host of its own and all at once, since each takes its deadline.
async fn each_hook_that_never_ends(blocks: bool) {
    let mut all = JoinSet::new();
    for (hook, _) in HOOKS {
        if is_sync(hook) && !blocks {
            continue;
        }
        all.spawn(async move {
            let there = Flag::new();
            let deeds = [there.deed(if blocks { "block" } else { "hang" })];
            let builder = deadlines().stop_timeout(DEADLINE);
            let mut scene = Scene::new(builder, old(hook, &deeds)).await;
            let fault = Fault::of_a_hook(hook, &deeds, "hook_timed_out", Some(there));
            Fault { blocks, ..fault }.happens(&mut scene).await;
            a_good_one_follows(&mut scene).await;
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_hook_that_never_ends() {
    each_hook_that_never_ends(false).await;
}

#[tokio::test]
async fn a_hook_that_blocks_its_thread() {
    each_hook_that_never_ends(true).await;
}

#[tokio::test]
async fn asking_whether_there_is_a_state() {
    for (deed, code) in [("fail", "hook_failed"), ("panic", "hook_panicked"), ("hang:", "hook_timed_out")] {
        let mut scene = Scene::new(deadlines(), json!({ "save_state 1": deed })).await;
        Fault::of_a_hook("save_state", &[], code, None).happens(&mut scene).await;
        a_good_one_follows(&mut scene).await;
    }
}

#[tokio::test]
async fn a_state_that_is_too_large() {
    let mut builder = Host::builder();
    builder.limits_mut().state = 10_000;
    let mut scene = Scene::new(builder, json!({ "state": { "version": 1, "least": 10_001 } })).await;
    Fault::of_a_hook("save_state", &[], "state_too_large", None).happens(&mut scene).await;
    scene.is_well(1, "old").await;
    // One byte less is not.
    let mut builder = Host::builder();
    builder.limits_mut().state = 10_000;
    let mut scene = Scene::new(builder, json!({ "state": { "version": 1, "least": 10_000 } })).await;
    a_good_one_follows(&mut scene).await;
}

#[tokio::test]
async fn a_version_of_the_state_that_the_new_build_does_not_know() {
    let mut scene = Scene::new(Host::builder(), json!({})).await;
    let mut fault = Fault::of_a_hook("restore_state", &[], "hook_failed", None);
    fault.hooks["state"]["version"] = 2.into();
    fault.happens(&mut scene).await;
    a_good_one_follows(&mut scene).await;
}

/// A fault of the handover that is not in a hook.
fn handover(hook: &str, there: &Flag, code: &'static str) -> Fault {
    Fault::of_a_hook(hook, &[there.deed("hang")], code, None)
}

#[tokio::test]
async fn calls_that_would_be_held_for_too_long() {
    for hook in ["restore_state", "start"] {
        let builder = Host::builder().hold_timeout(DEADLINE);
        let mut scene = Scene::new(builder, json!({})).await;
        let there = Flag::new();
        let fault = Fault { there: None, ..handover(hook, &there, "held_too_long") };
        fault.happens(&mut scene).await;
        assert!(there.has_ended(), "it was dropped");
        a_good_one_follows(&mut scene).await;
    }
}

#[tokio::test]
async fn more_calls_than_may_be_held() {
    let mut builder = Host::builder();
    builder.limits_mut().held = 2;
    let mut scene = Scene::new(builder, json!({})).await;
    let there = Flag::new();
    let mut fault = handover("restore_state", &there, "too_many_held");
    // Three calls come while it hangs: the third is one too many, and none of them fails.
    fault.there = Some(there);
    too_many(fault, &mut scene).await;
    a_good_one_follows(&mut scene).await;
}

async fn too_many(fault: Fault, scene: &mut Scene) {
    let (host, file, hooks) = (scene.host.clone(), fault.file.clone(), fault.hooks.clone());
    let options = oxide_host::SwapOptions::new().config(hooks);
    let swap = tokio::spawn(async move { in_time(host.swap_with("m", file, options)).await });
    fault.there.unwrap().inside().await;
    let calls = scene.traffic().await;
    let error = swap.await.unwrap().unwrap_err();
    let KernelError::SwapFailed { step, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*step, source.code()), (fault.step, fault.code), "{error}");
    answered(calls).await;
    scene.is_well(1, "old").await;
    scene.has_heard_everything().await;
    assert_eq!(scene.mapped(), 1);
    assert!(scene.announced().iter().all(|told| !told.starts_with("swapped")));
}

#[tokio::test]
async fn a_call_that_stays_inside() {
    for (builder, code) in [
        (Host::builder().drain_timeout(SHORT), "calls_inside"),
        (Host::builder().hold_timeout(SHORT), "held_too_long"),
    ] {
        let mut scene = Scene::new(builder, json!({})).await;
        let inside = Flag::new();
        let (host, argument) = (scene.host.clone(), inside.argument().to_owned());
        let stays = tokio::spawn(async move { host.invoke("m", "wait", argument).await });
        inside.inside().await;
        let mut fault = Fault::of_a_hook("start", &[], code, None);
        fault.step = SwapStep::Drain;
        fault.happens(&mut scene).await;
        assert!(!stays.is_finished() && !inside.has_ended(), "it was left alone");
        inside.go_on();
        in_time(stays).await.unwrap().unwrap();
        // With nobody inside and a longer hold there is nothing in the way.
        scene.is_well(1, "old").await;
    }
}
