//! Calls, messages, swaps that work and swaps that fail, rollbacks, stops, starts, unloads, loads and cancellings, in
//! any order, one after the other, against a model.
//!
//! `PROPTEST_CASES` says how many; without it there are few, so that it takes seconds.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use oxide_host::{
    Host, SwapOptions,
    bus::{Event, Filter, Message, Overflow, SubscribeOptions, Subscription},
    error::KernelError,
    module::ModuleState,
};
use oxide_tests::{
    build, eventually, in_time,
    misbehave::{Changed, options},
    misbehaving, ordered,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::scene::{another_build, mapped};

pub(super) fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(cases), failure_persistence: None, ..ProptestConfig::default() }
}

/// Where a swap goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    File,
    Constructor,
    Configure,
    Init,
    Restore,
    Start,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Call,
    Publish,
    Swap,
    Fail(Fault),
    Rollback,
    Stop,
    Start,
    Unload,
    Load,
    /// A swap whose caller goes away after it has asked.
    Cancel,
    /// A call whose caller goes away after its first poll.
    CancelCall,
}

pub(super) fn verbs(most: usize) -> impl Strategy<Value = Vec<Verb>> {
    let fault = prop_oneof![
        Just(Fault::File),
        Just(Fault::Constructor),
        Just(Fault::Configure),
        Just(Fault::Init),
        Just(Fault::Restore),
        Just(Fault::Start),
    ];
    let verb = prop_oneof![
        6 => Just(Verb::Call),
        3 => Just(Verb::Publish),
        4 => Just(Verb::Swap),
        3 => fault.prop_map(Verb::Fail),
        2 => Just(Verb::Rollback),
        2 => Just(Verb::Stop),
        3 => Just(Verb::Start),
        1 => Just(Verb::Unload),
        2 => Just(Verb::Load),
        1 => Just(Verb::Cancel),
        1 => Just(Verb::CancelCall),
    ];
    proptest::collection::vec(verb, 1..most)
}

/// A build's orders, and what they do to a start.
pub(super) fn orders(life: u64, build: u64, fault: Option<Fault>) -> Value {
    let mut orders = json!({ "id": "m", "life": life, "build": build, "state": { "version": 1 } });
    let hook = match fault {
        Some(Fault::Configure) => "configure",
        Some(Fault::Init) => "init",
        Some(Fault::Restore) => "restore_state",
        Some(Fault::Start) => "start",
        None | Some(Fault::File | Fault::Constructor) => return orders,
    };
    orders[hook] = "fail".into();
    orders
}

/// The files that swaps are asked for.
pub(super) struct Files {
    pub(super) good: Changed,
    panics: Changed,
    text: Changed,
}

impl Files {
    pub(super) fn new() -> Self {
        let text = oxide_tests::misbehave::changed("text", b"hello\n");
        Self { good: another_build(), panics: ordered(&json!({ "id": "m", "constructor": "panic" })), text }
    }

    pub(super) fn of(&self, fault: Option<Fault>) -> &Changed {
        match fault {
            Some(Fault::File) => &self.text,
            Some(Fault::Constructor) => &self.panics,
            _ => &self.good,
        }
    }
}

/// One build as the model sees it.
#[derive(Clone, Copy, Debug)]
struct Build {
    number: u64,
    start_fails: bool,
}

/// The module as the model sees it.
#[derive(Debug)]
struct Life {
    number: u64,
    state: ModuleState,
    generation: u64,
    build: Build,
    previous: Option<Build>,
    count: i64,
    /// What was published to it, and how much of it.
    published: Vec<i64>,
}

/// Everything there is for one case.
pub(super) struct Stage {
    pub(super) host: Host,
    pub(super) events: Subscription,
    pub(super) staging: TempDir,
    files: Files,
    life: Option<Life>,
    lives: u64,
    builds: u64,
    told: Vec<String>,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let staging = tempfile::tempdir_in(build::target()).unwrap();
        let host = Host::builder().staging_dir(staging.path()).build().unwrap();
        let events = all_events(&host).await;
        Self { host, events, staging, files: Files::new(), life: None, lives: 0, builds: 0, told: Vec::new() }
    }

    /// Does it, and compares.
    pub(super) async fn perform(&mut self, verb: Verb) {
        match verb {
            Verb::Call => self.call().await,
            Verb::Publish => self.publish().await,
            Verb::Swap => self.swap(None).await,
            Verb::Fail(fault) => self.swap(Some(fault)).await,
            Verb::Rollback => self.rollback().await,
            Verb::Stop => self.stop().await,
            Verb::Start => self.start().await,
            Verb::Unload => self.unload().await,
            Verb::Load => self.load().await,
            Verb::Cancel => self.cancel().await,
            Verb::CancelCall => self.cancel_call(),
        }
        self.is_as_it_should_be(verb).await;
    }

    async fn is_as_it_should_be(&mut self, verb: Verb) {
        let Some(life) = &self.life else {
            assert!(self.host.list().await.is_empty(), "{verb:?}");
            assert_eq!(told(&mut self.events), std::mem::take(&mut self.told), "{verb:?}");
            return;
        };
        let info = self.host.show("m").await.unwrap();
        assert_eq!((info.state, info.generation), (life.state, life.generation), "{verb:?}: {life:?}");
        assert_eq!(told(&mut self.events), std::mem::take(&mut self.told), "{verb:?}");
        if life.state == ModuleState::Running {
            let config = in_time(self.host.invoke("m", "config", "")).await.unwrap();
            assert_eq!(config.to_json::<Value>().unwrap()["build"], life.build.number, "{verb:?}");
            let host = &self.host;
            let received = || received(host);
            eventually("it has got all messages", || received().len() >= life.published.len()).await;
            assert_eq!(received(), life.published, "{verb:?}");
        }
    }

    async fn call(&mut self) {
        let answer = in_time(self.host.invoke("m", "tally", "")).await;
        match &mut self.life {
            None => assert!(matches!(answer, Err(KernelError::UnknownModule(_))), "{answer:?}"),
            Some(life) if life.state == ModuleState::Running => {
                life.count += 1;
                let expected = json!([life.number, life.build.number, life.count]);
                assert_eq!(answer.unwrap().to_json::<Value>().unwrap(), expected);
            }
            Some(life) => {
                let Err(KernelError::NotRunning { state, .. }) = answer else { panic!("{answer:?}") };
                assert_eq!(state, life.state);
            }
        }
    }

    /// Polled once and dropped: it has been answered, or it never was made.
    fn cancel_call(&mut self) {
        let Ok(module) = self.host.module("m") else { return };
        let call = pin!(module.invoke("tally", ""));
        let polled = call.poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Ok(answer)) = polled {
            let life = self.life.as_mut().unwrap();
            life.count += 1;
            assert_eq!(answer.to_json::<Value>().unwrap()[2], life.count);
        }
    }

    async fn publish(&mut self) {
        self.builds += 1;
        let number = self.builds as i64;
        let event = Event::Custom { module_id: "m".into(), kind: "news".into(), payload: number.into() };
        in_time(self.host.bus().emit_event("me", event)).await.unwrap();
        if let Some(life) = &mut self.life {
            life.published.push(number);
        }
    }

    async fn swap(&mut self, fault: Option<Fault>) {
        self.builds += 1;
        let new = Build { number: self.builds, start_fails: fault == Some(Fault::Start) };
        let orders = orders(self.lives, new.number, fault);
        let asked = SwapOptions::new().force(true).config(orders);
        let done = in_time(self.host.swap_with("m", self.files.of(fault), asked)).await;
        self.has_swapped(done, new, fault.filter(|fault| *fault != Fault::Start));
    }

    async fn rollback(&mut self) {
        let done = in_time(self.host.rollback("m")).await;
        let Some(life) = &self.life else {
            assert!(matches!(done, Err(KernelError::UnknownModule(_))), "{done:?}");
            return;
        };
        match life.previous {
            Some(previous) => self.has_swapped(done, previous, None),
            None => assert!(matches!(done, Err(KernelError::NoPreviousBuild(_))), "{done:?}"),
        }
    }

    fn has_swapped(
        &mut self,
        done: Result<oxide_host::SwapReport, KernelError>,
        new: Build,
        fault: Option<Fault>,
    ) {
        let Some(life) = &mut self.life else {
            assert!(matches!(done, Err(KernelError::UnknownModule(_))), "{done:?}");
            return;
        };
        let runs = life.state == ModuleState::Running;
        if fault.is_some() || (runs && new.start_fails) {
            let Err(KernelError::SwapFailed { step, generation, .. }) = done else { panic!("{done:?}") };
            assert_eq!(generation, life.generation);
            let expected = match fault {
                Some(Fault::File) => "inspect",
                Some(Fault::Constructor) => "constructor",
                Some(Fault::Configure) => "configure",
                Some(Fault::Init) => "init",
                Some(Fault::Restore) => "restore_state",
                Some(Fault::Start) | None => "start",
            };
            assert_eq!(step.to_string(), expected);
            return;
        }
        let report = done.unwrap();
        assert_eq!((report.from, report.to), (life.generation, life.generation + 1));
        assert!(report.state_moved && report.old.unmapped, "{report:?}");
        self.told.push(format!("swapped {} {}", report.from, report.to));
        life.previous = Some(std::mem::replace(&mut life.build, new));
        life.generation += 1;
        if !runs {
            life.state = ModuleState::Loaded;
        }
    }

    async fn cancel(&mut self) {
        self.builds += 1;
        let new = Build { number: self.builds, start_fails: false };
        let asked = SwapOptions::new().force(true).config(orders(self.lives, new.number, None));
        {
            let swap = pin!(self.host.swap_with("m", &self.files.good, asked));
            let _ = swap.poll(&mut Context::from_waker(Waker::noop()));
        }
        // The next one has its turn when this one is undone, or done.
        let next = in_time(self.host.swap("m", &self.files.text)).await;
        let Some(life) = &mut self.life else { return };
        assert!(matches!(next, Err(KernelError::SwapFailed { .. })), "{next:?}");
        // It is undone unless it was quicker than we were.
        if self.host.show("m").await.unwrap().generation > life.generation {
            self.told.push(format!("swapped {} {}", life.generation, life.generation + 1));
            life.previous = Some(std::mem::replace(&mut life.build, new));
            life.generation += 1;
            if life.state != ModuleState::Running {
                life.state = ModuleState::Loaded;
            }
        }
    }

    async fn stop(&mut self) {
        let done = in_time(self.host.stop("m")).await;
        match &mut self.life {
            None => assert!(matches!(done, Err(KernelError::UnknownModule(_))), "{done:?}"),
            Some(life) if life.state == ModuleState::Running => {
                done.unwrap();
                life.state = ModuleState::Stopped;
                self.told.push("stopped".to_owned());
            }
            Some(life) if life.state == ModuleState::Stopped => done.unwrap(),
            Some(_) => assert!(matches!(done, Err(KernelError::IllegalTransition { .. })), "{done:?}"),
        }
    }

    async fn start(&mut self) {
        let done = in_time(self.host.start("m")).await;
        match &mut self.life {
            None => assert!(matches!(done, Err(KernelError::UnknownModule(_))), "{done:?}"),
            Some(life) if life.state == ModuleState::Running => done.unwrap(),
            Some(life) if life.build.start_fails => {
                assert!(matches!(done, Err(KernelError::HookFailed { .. })), "{done:?}");
                life.state = ModuleState::Failed;
                self.told.push("failed".to_owned());
            }
            Some(life) => {
                done.unwrap();
                life.state = ModuleState::Running;
                self.told.push("started".to_owned());
            }
        }
    }

    async fn unload(&mut self) {
        let done = in_time(self.host.unload("m")).await;
        match self.life.take() {
            None => assert!(matches!(done, Err(KernelError::UnknownModule(_))), "{done:?}"),
            Some(life) => {
                let receipt = done.unwrap();
                assert!(receipt.unmapped && receipt.generation == life.generation, "{receipt:?}");
                self.told.push("unloaded".to_owned());
            }
        }
    }

    async fn load(&mut self) {
        self.builds += 1;
        let new = Build { number: self.builds, start_fails: false };
        let config = orders(self.lives + 1, new.number, None);
        let done = in_time(self.host.load_with(misbehaving(), options("m", config))).await;
        if self.life.is_some() {
            assert!(matches!(done, Err(KernelError::DuplicateModule(_))), "{done:?}");
            return;
        }
        done.unwrap();
        self.lives += 1;
        self.told.extend(["loaded".to_owned(), "started".to_owned()]);
        self.life = Some(Life {
            number: self.lives,
            state: ModuleState::Running,
            generation: 1,
            build: new,
            previous: None,
            count: 0,
            published: Vec::new(),
        });
    }
}

async fn all_events(host: &Host) -> Subscription {
    let options = SubscribeOptions::new().filter(Filter::events()).capacity(100_000).overflow(Overflow::Wait);
    host.bus().subscribe_with(options).await
}

/// What the host has announced since this was last asked.
pub(super) fn told(events: &mut Subscription) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(envelope) = events.receiver.try_recv() {
        let Message::Event(event) = envelope.message else { continue };
        told.push(match event {
            Event::Custom { .. } => continue,
            Event::ModuleLoaded { .. } => "loaded".to_owned(),
            Event::ModuleStarted { .. } => "started".to_owned(),
            Event::ModuleStopped { .. } => "stopped".to_owned(),
            Event::ModuleFailed { .. } => "failed".to_owned(),
            Event::ModuleSwapped { from, to, .. } => format!("swapped {from} {to}"),
            Event::ModuleUnloaded { .. } => "unloaded".to_owned(),
            other => panic!("{other:?}"),
        });
    }
    told
}

fn received(host: &Host) -> Vec<i64> {
    let received =
        oxide_tests::block_on(host.invoke("m", "received", "")).unwrap().to_json::<Value>().unwrap();
    let number = |envelope: &Value| envelope["message"]["event"]["payload"].as_i64().unwrap();
    received.as_array().unwrap().iter().map(number).collect()
}

proptest! {
    #![proptest_config(config(16))]

    /// One after the other: answers, states, announcements and what the module knows are the model's.
    #[test]
    fn a_life_with_swaps_follows_the_model(verbs in verbs(30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stage = Stage::new().await;
            stage.perform(Verb::Load).await;
            for verb in verbs {
                stage.perform(verb).await;
            }
            in_time(stage.host.shutdown()).await;
            assert_eq!(mapped(&stage.staging), 0);
        });
    }
}
