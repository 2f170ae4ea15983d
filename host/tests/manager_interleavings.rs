//! However verbs come together, a module's life stays one: hooks never overlap, every move is announced once
//! and in an order that a life can have, and the end is what the last word says.

mod manager_support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use manager_support::*;
use oxide_host::{
    Limits,
    bus::MessageBus,
    error::KernelError,
    module::{ModuleManager, ModuleState},
};
use proptest::prelude::*;

/// Small, good enough, and the same in every run for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Checks that the announcements tell one life: loaded, then started and stopped in turn, then unloaded.
fn assert_one_life(told: &[String], id: &str) -> (usize, usize) {
    let (mut running, mut started, mut stopped) = (false, 0, 0);
    for (number, event) in told.iter().enumerate() {
        if *event == format!("loaded {id}") {
            assert_eq!(number, 0, "{told:?}");
        } else if *event == format!("started {id}") {
            assert!(!running, "started twice: {told:?}");
            (running, started) = (true, started + 1);
        } else if *event == format!("stopped {id}") {
            assert!(running, "stopped twice: {told:?}");
            (running, stopped) = (false, stopped + 1);
        } else {
            panic!("{event} in {told:?}");
        }
    }
    (started, stopped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_tasks_that_start_and_stop_at_random_leave_one_consistent_life() {
    const TASKS: u64 = 8;
    const ROUNDS: u64 = 200;
    let (manager, bus, mut watcher) = manager().await;
    let probe = Probe::new("one")
        .on_start(|| async {
            tokio::task::yield_now().await;
            Ok(())
        })
        .on_stop(|| async {
            tokio::task::yield_now().await;
            Ok(())
        });
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (manager, bus, answered) = (manager.clone(), bus.clone(), answered.clone());
            tokio::spawn(async move {
                let mut dice = Dice(0x0dd + task);
                for _ in 0..ROUNDS {
                    match dice.roll(6) {
                        0 | 1 => manager.start("one").await.unwrap(),
                        2 | 3 => match manager.stop("one").await {
                            Ok(()) => {}
                            Err(KernelError::IllegalTransition { from: ModuleState::Loaded, .. }) => {}
                            Err(other) => panic!("{other:?}"),
                        },
                        4 => match manager.invoke("one", "echo", "hello").await {
                            Ok(reply) => {
                                assert_eq!(reply.as_bytes(), b"hello");
                                answered.fetch_add(1, SeqCst);
                            }
                            Err(KernelError::NotRunning { .. }) => {}
                            Err(other) => panic!("{other:?}"),
                        },
                        _ => {
                            bus.emit_event("me", custom("one", "note", nothing())).await.unwrap();
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        patiently(task).await.unwrap();
    }
    manager.start("one").await.unwrap();
    manager.stop("one").await.unwrap();
    assert_eq!(manager.state("one").await, Some(ModuleState::Stopped));
    let told: Vec<_> = watcher.told().into_iter().filter(|event| !event.starts_with("note")).collect();
    let (started, stopped) = assert_one_life(&told, "one");
    assert_eq!(journal.hooks(), (1, started, stopped), "each move is one hook and one announcement");
    assert_eq!(started, stopped);
    assert_eq!(journal.times("invoke"), answered.load(SeqCst));
    journal.assert_never_overlapped();
    assert_eq!(manager.unload("one").await.unwrap().stop, oxide_host::report::StopOutcome::NotRunning);
    assert_eq!(journal.times("drop"), 1);
}

/// The same with callers that go away at random, registrations and unloads in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_go_away_at_random_leave_nothing_half_done() {
    let (manager, _bus, mut watcher) = manager().await;
    let mut journals = Vec::new();
    let (probe, keep) = (Probe::new("one"), &mut journals);
    keep.push(probe.journal());
    manager.register_native(probe).await.unwrap();
    let journals = Arc::new(std::sync::Mutex::new(journals));
    let tasks: Vec<_> = (0..8_u64)
        .map(|task| {
            let (manager, journals) = (manager.clone(), journals.clone());
            tokio::spawn(async move {
                let mut dice = Dice(0xbee + task);
                for _ in 0..100 {
                    let verb = dice.roll(8);
                    let gone = dice.roll(3) == 0;
                    let work: Boxed<()> = {
                        let (manager, journals) = (manager.clone(), journals.clone());
                        Box::pin(async move {
                            match verb {
                                0..3 => drop(manager.start("one").await),
                                3..5 => drop(manager.stop("one").await),
                                5 => drop(manager.init("one").await),
                                6 => drop(manager.invoke("one", "echo", "").await),
                                _ => {
                                    drop(manager.unload("one").await);
                                    let probe = Probe::new("one");
                                    let journal = probe.journal();
                                    if manager.register_native(probe).await.is_ok() {
                                        journals.lock().unwrap().push(journal);
                                    }
                                }
                            }
                        })
                    };
                    let mut work = work;
                    if gone {
                        let _ = poll_once(work.as_mut());
                    } else {
                        work.await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        patiently(task).await.unwrap();
    }
    // Whatever was asked last has ended when this has; then nothing is half way.
    let _ = manager.unload("one").await;
    until(async || manager.state("one").await.is_none()).await;
    let told = watcher.told();
    let lives: Vec<_> = told.split_inclusive(|event| event == "unloaded one").collect();
    let journals = journals.lock().unwrap();
    let sum = |count: fn(&Journal) -> usize| journals.iter().map(count).sum::<usize>();
    let (mut started, mut stopped) = (0, 0);
    for life in &lives {
        let (last, before) = life.split_last().unwrap();
        assert_eq!(last, "unloaded one");
        let (starts, stops) = assert_one_life(before, "one");
        (started, stopped) = (started + starts, stopped + stops);
        // One that was running is stopped by the unload, which announces the unload alone.
        stopped += starts - stops;
    }
    assert_eq!(lives.len(), journals.len());
    assert_eq!(sum(|journal| journal.times("start")), started);
    assert_eq!(sum(|journal| journal.times("stop")), stopped);
    for journal in journals.iter() {
        assert_eq!(journal.times("drop"), 1);
        journal.assert_never_overlapped();
    }
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Register,
    Init,
    Start,
    Stop,
    Unload,
    Invoke,
}

/// A verb, and whether a hook that it runs is to fail.
fn verbs() -> impl Strategy<Value = Vec<(Verb, bool)>> {
    let verb = prop_oneof![
        1 => Just(Verb::Register),
        2 => Just(Verb::Init),
        4 => Just(Verb::Start),
        4 => Just(Verb::Stop),
        1 => Just(Verb::Unload),
        2 => Just(Verb::Invoke),
    ];
    proptest::collection::vec((verb, proptest::bool::weighted(0.2)), 1..40)
}

/// What a module's life is, as simply as it can be said.
#[derive(Default)]
struct Model {
    state: Option<ModuleState>,
    initialised: bool,
    /// Started, and no stop has ended well or gone wrong since.
    owes_stop: bool,
    told: Vec<String>,
    hooks: (usize, usize, usize),
}

impl Model {
    /// Does it; tells whether it is Ok.
    fn apply(&mut self, verb: Verb, fails: bool) -> bool {
        use ModuleState::{Failed, Loaded, Running, Stopped};
        let Some(state) = self.state else {
            if matches!(verb, Verb::Register) {
                *self = Self { state: Some(Loaded), told: std::mem::take(&mut self.told), ..Self::default() };
                self.told.push("loaded one".into());
                return true;
            }
            return false;
        };
        match (verb, state) {
            (Verb::Register, _) => false,
            (Verb::Init, _) => self.init(fails, true),
            (Verb::Start, Running) => true,
            (Verb::Start, _) => {
                if !self.init(fails, false) {
                    return false;
                }
                self.hooks.1 += 1;
                self.owes_stop = !fails;
                self.become_(if fails { Failed } else { Running }, if fails { "failed" } else { "started" })
            }
            (Verb::Stop, Stopped) => true,
            (Verb::Stop, Running) => {
                self.hooks.2 += 1;
                self.owes_stop = false;
                self.become_(if fails { Failed } else { Stopped }, if fails { "failed" } else { "stopped" })
            }
            (Verb::Stop, _) => false,
            (Verb::Invoke, state) => state == Running,
            (Verb::Unload, state) => {
                self.hooks.2 += usize::from(state == Running);
                self.state = None;
                self.told.push("unloaded one".into());
                true
            }
        }
    }

    fn init(&mut self, fails: bool, alone: bool) -> bool {
        if self.initialised {
            return true;
        }
        self.hooks.0 += 1;
        if fails {
            return self.become_(ModuleState::Failed, "failed");
        }
        self.initialised = true;
        if alone {
            self.state = Some(ModuleState::Loaded);
        }
        true
    }

    fn become_(&mut self, state: ModuleState, word: &str) -> bool {
        self.state = Some(state);
        self.told.push(format!("{word} one"));
        state != ModuleState::Failed
    }
}

fn scripted(fails: &Arc<std::sync::atomic::AtomicBool>) -> Probe {
    let hook = |fails: &Arc<std::sync::atomic::AtomicBool>| {
        let fails = fails.clone();
        move || {
            let fails = fails.load(SeqCst);
            async move { if fails { Err(refusal("as told")) } else { Ok(()) } }
        }
    };
    let init = hook(fails);
    Probe::new("one").on_init(move |_| init()).on_start(hook(fails)).on_stop(hook(fails))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// One verb after the other: results, states, hooks and announcements are the model's.
    #[test]
    fn a_life_follows_the_model(verbs in verbs()) {
        block_on(async {
            let (manager, _bus, mut watcher) = manager().await;
            let fails: Arc<std::sync::atomic::AtomicBool> = Arc::default();
            let mut model = Model::default();
            let mut journal = Journal::default();
            for (verb, failing) in verbs {
                let expected = model.apply(verb, failing);
                fails.store(failing, SeqCst);
                let ended = match verb {
                    Verb::Register => {
                        let probe = scripted(&fails);
                        let new = probe.journal();
                        let registered = manager.register_native(probe).await;
                        if registered.is_ok() {
                            journal = new;
                        }
                        registered
                    }
                    Verb::Init => manager.init("one").await,
                    Verb::Start => manager.start("one").await,
                    Verb::Stop => manager.stop("one").await,
                    Verb::Unload => manager.unload("one").await.map(drop),
                    Verb::Invoke => manager.invoke("one", "echo", "").await.map(drop),
                };
                assert_eq!(ended.is_ok(), expected, "{verb:?}: {ended:?}");
                assert_eq!(manager.state("one").await, model.state, "after {verb:?}");
                if model.state.is_some() {
                    assert_eq!(journal.hooks(), model.hooks, "after {verb:?}");
                }
                let told: Vec<_> = watcher
                    .told()
                    .into_iter()
                    .map(|event| event.split(':').next().unwrap_or_default().to_owned())
                    .collect();
                assert_eq!(told, std::mem::take(&mut model.told), "after {verb:?}");
                journal.assert_never_overlapped();
            }
        });
    }

    /// All at once: whatever the order turns out to be, it is one that a life can have.
    #[test]
    fn verbs_at_once_are_one_life(verbs in verbs()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        runtime.block_on(async {
            let bus = MessageBus::new();
            let mut watcher = Watcher::of(&bus).await;
            let manager = ModuleManager::with_limits(bus.clone(), Limits::default()).unwrap();
            let fails: Arc<std::sync::atomic::AtomicBool> = Arc::default();
            let probe = scripted(&fails);
            let journal = probe.journal();
            manager.register_native(probe).await.unwrap();
            let tasks: Vec<_> = verbs
                .into_iter()
                .filter(|(verb, _)| !matches!(verb, Verb::Register))
                .map(|(verb, _)| {
                    let manager = manager.clone();
                    tokio::spawn(async move {
                        match verb {
                            Verb::Init => manager.init("one").await,
                            Verb::Start => manager.start("one").await,
                            Verb::Stop => manager.stop("one").await,
                            Verb::Unload => manager.unload("one").await.map(drop),
                            Verb::Invoke | Verb::Register => manager.invoke("one", "echo", "").await.map(drop),
                        }
                    })
                })
                .collect();
            for task in tasks {
                if let Err(error) = patiently(task).await.unwrap() {
                    let expected = matches!(
                        error,
                        KernelError::UnknownModule(_)
                            | KernelError::NotRunning { .. }
                            | KernelError::IllegalTransition { .. }
                    );
                    assert!(expected, "{error:?}");
                }
            }
            let _ = manager.unload("one").await;
            let mut told = watcher.told();
            assert_eq!(told.pop().unwrap(), "unloaded one");
            let (started, stopped) = assert_one_life(&told, "one");
            assert!(started - stopped <= 1);
            let (inits, starts, stops) = journal.hooks();
            assert!(inits <= 1 && starts == started && stops == started, "{:?}", journal.hooks());
            assert_eq!(journal.times("drop"), 1);
            journal.assert_never_overlapped();
        });
    }
}
