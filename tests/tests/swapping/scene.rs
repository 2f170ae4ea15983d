//! One module `m` that is called, gets messages and is swapped, and a look at whether it is as it should be.

use std::{collections::BTreeSet, fs};

use oxide_host::{
    Host, HostBuilder, Payload, SwapOptions, SwapReport,
    bus::{Event, Filter, Message, Subscription},
    error::KernelError,
    module::ModuleState,
};
use oxide_tests::{
    build, in_time,
    misbehave::{Changed, changed, options},
    misbehaving,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A call that is under way.
pub(crate) type Call = JoinHandle<Result<Payload, KernelError>>;

/// What is published is of this kind.
const NEWS: &str = "news";

/// A host with a running module `m` that has a state and a subscription of its own.
pub(crate) struct Scene {
    pub(crate) host: Host,
    events: Subscription,
    staging: TempDir,
    /// How many calls of `add` there were, and how many news.
    added: i64,
    /// The number of the first news that it is to have got.
    first: i64,
    published: i64,
    /// So many news the subscription of the present generation has been asked for.
    heard: i64,
}

/// The orders of a build that has a state of version 1 and subscribes to the news, and `more`.
pub(crate) fn hooks(build: &str, more: Value) -> Value {
    let subscribe = format!("subscribe:{}", json!(Filter::all().kind(NEWS)));
    let mut hooks = json!({ "id": "m", "build": build, "state": { "version": 1 }, "init": [subscribe] });
    for (hook, deeds) in more.as_object().cloned().unwrap_or_default() {
        match (hook.as_str(), deeds) {
            // The subscription comes first all the same.
            ("init", Value::Array(more)) => hooks["init"].as_array_mut().unwrap().extend(more),
            (_, deeds) => hooks[hook] = deeds,
        }
    }
    hooks
}

/// Another build of the same plugin: bytes that nobody reads make it one.
pub(crate) fn another_build() -> Changed {
    let mut bytes = fs::read(misbehaving()).unwrap();
    bytes.push(0);
    changed("misbehaving", &bytes)
}

/// How many libraries below this folder are in the process's map.
pub(crate) fn mapped(staging: &TempDir) -> usize {
    let staging = staging.path().to_string_lossy().into_owned();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let copies = maps.lines().filter_map(|line| line.find(&staging).map(|at| &line[at..]));
    copies.collect::<BTreeSet<_>>().len()
}

/// A host's folder, without the host.
pub(crate) struct LeftAlone(TempDir);

impl LeftAlone {
    /// As [`Scene::mapped`].
    pub(crate) fn mapped(&self) -> usize {
        mapped(&self.0)
    }
}

impl Scene {
    pub(crate) async fn new(builder: HostBuilder, more: Value) -> Self {
        let staging = tempfile::tempdir_in(build::target()).unwrap();
        let host = builder.staging_dir(staging.path()).build().unwrap();
        let events = host.bus().subscribe().await;
        in_time(host.load_with(misbehaving(), options("m", hooks("old", more)))).await.unwrap();
        let mut scene = Self { host, events, staging, added: 0, first: 1, published: 0, heard: 0 };
        for _ in 0..3 {
            in_time(scene.call()).await.unwrap().unwrap();
        }
        scene.publish().await;
        assert_eq!(scene.announced(), ["loaded", "started"]);
        scene
    }

    /// How many of its libraries are in the process's map.
    pub(crate) fn mapped(&self) -> usize {
        mapped(&self.staging)
    }

    /// Drops the host; its folder is left to be asked for.
    pub(crate) fn let_go_of_the_host(self) -> LeftAlone {
        LeftAlone(self.staging)
    }

    /// Calls it; the answer must be the next number.
    pub(crate) fn call(&mut self) -> Call {
        self.added += 1;
        let (module, expected) = (self.host.module("m").unwrap(), self.added);
        tokio::spawn(async move {
            let answer = module.invoke("add", "").await?;
            assert_eq!(answer.to_json::<i64>().unwrap(), expected, "a call was lost, repeated, or too early");
            Ok(answer)
        })
    }

    /// The last number that it has given by now.
    pub(crate) fn sets_count(&mut self, count: i64) {
        self.added = count;
    }

    /// Somebody else has told it so much, and called it so often.
    pub(crate) fn was_told(&mut self, published: i64, added: i64) {
        (self.published, self.added) = (published, added);
    }

    /// Nothing is expected to be known of what was before.
    pub(crate) fn begins_anew(&mut self) {
        (self.first, self.added) = (self.published + 1, 0);
    }

    /// Tells it something.
    pub(crate) async fn publish(&mut self) {
        self.published += 1;
        let (module_id, kind) = ("m".to_owned(), NEWS.to_owned());
        let event = Event::Custom { module_id, kind, payload: self.published.into() };
        in_time(self.host.bus().emit_event("me", event)).await.unwrap();
    }

    /// Calls and messages, while something is done with it.
    pub(crate) async fn traffic(&mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        for _ in 0..3 {
            calls.push(self.call());
            self.publish().await;
        }
        // Each is polled, in this order.
        tokio::task::yield_now().await;
        calls
    }

    pub(crate) async fn swap(
        &self,
        file: impl AsRef<std::path::Path>,
        hooks: Value,
    ) -> Result<SwapReport, KernelError> {
        let options = SwapOptions::new().force(true).config(hooks);
        in_time(self.host.swap_with("m", file, options)).await
    }

    async fn ask(&self, method: &str) -> Value {
        in_time(self.host.invoke("m", method, "")).await.unwrap().to_json().unwrap()
    }

    /// The number of news that the present generation's own subscription heard next.
    pub(crate) async fn hear(&self) -> i64 {
        let heard = self.ask("receive").await;
        assert_eq!(heard["missed"], 0);
        heard["envelope"]["message"]["event"]["payload"].as_i64().unwrap_or_else(|| panic!("{heard}"))
    }

    /// It runs, as this generation of this build, with all its state, and has got everything once and in order.
    pub(crate) async fn is_well(&mut self, generation: u64, build: &str) {
        let info = self.host.show("m").await.unwrap();
        assert_eq!((info.generation, info.state), (generation, ModuleState::Running));
        assert_eq!(self.ask("config").await["build"], build);
        in_time(self.call()).await.unwrap().unwrap();
        let all: Vec<i64> = (self.first..=self.published).collect();
        let mut got = Vec::new();
        in_time(async {
            // What was told during a hold is delivered after it.
            while got.len() < all.len() {
                got = self.received().await;
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(got, all);
    }

    async fn received(&self) -> Vec<i64> {
        let received = self.ask("received").await;
        let number = |envelope: &Value| envelope["message"]["event"]["payload"].as_i64().unwrap();
        received.as_array().unwrap().iter().map(number).collect()
    }

    /// Its subscription has heard everything once.
    pub(crate) async fn has_heard_everything(&mut self) {
        while self.heard < self.published {
            self.heard += 1;
            assert_eq!(self.hear().await, self.heard);
        }
    }

    /// The next generation's subscription begins anew.
    pub(crate) fn hears_from_now_on(&mut self) {
        self.heard = self.published;
    }

    /// What the host has announced since this was last asked.
    pub(crate) fn announced(&mut self) -> Vec<String> {
        let mut announced = Vec::new();
        while let Some(envelope) = self.events.receiver.try_recv() {
            let Message::Event(event) = envelope.message else { continue };
            announced.push(match event {
                Event::Custom { .. } | Event::InvokeCompleted { .. } => continue,
                Event::ModuleLoaded { .. } => "loaded".to_owned(),
                Event::ModuleStarted { .. } => "started".to_owned(),
                Event::ModuleStopped { .. } => "stopped".to_owned(),
                Event::ModuleSwapped { from, to, .. } => format!("swapped {from} {to}"),
                Event::ModuleUnloaded { .. } => "unloaded".to_owned(),
                Event::ModuleUnmapped { receipt, .. } => format!("unmapped {}", receipt["generation"]),
                Event::ModuleFailed { .. } => "failed".to_owned(),
                other => panic!("{other:?}"),
            });
        }
        announced
    }
}
