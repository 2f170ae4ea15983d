//! The plugin that does as it is ordered, and most of that is wrong.
//!
//! A *deed* is a verb, or `verb:argument`; `Misbehaving::perform` knows them all. Deeds come from three
//! places:
//! - the configuration: `{"start": "panic", "stop": ["publish:bye", "hang"]}` says what each hook does;
//! - a call: the method is the verb, the payload its argument; the method `do` takes a list of deeds;
//! - `ORDERS`, bytes in the file that the tests overwrite: what happens before there is a configuration.
//!
//! With `{"state": {"version": N}}` in its configuration it has a state: what `add` counted and what `on_message`
//! got. `"least": N` fills it up to so many bytes. `"save_state 2"` is what `save_state` does the second time.
#![forbid(unsafe_code)]

use std::{
    future::{pending, poll_fn},
    panic::panic_any,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU32, Ordering::SeqCst},
    },
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use oxide_plugin_api::{prelude::*, tracing};
use serde_json::{Value, json};

/// Stands before the orders in the file; only there, since nothing reads it.
const MARK: &[u8] = b"orders of the misbehaving plugin:";

/// The mark, and after it JSON, filled up with blanks: `{"id": …, "constructor": DEED, "metadata": DEED}`.
static ORDERS: [u8; 512] = {
    let mut all = [b' '; 512];
    let mut at = 0;
    while at < MARK.len() {
        all[at] = MARK[at];
        at += 1;
    }
    all
};

/// How long it waits before it looks again whether it may go on.
const LOOK: Duration = Duration::from_millis(2);

/// The module.
struct Misbehaving {
    orders: Value,
    config: Value,
    bus: Option<MessageBus>,
    received: Mutex<Vec<Envelope>>,
    count: AtomicI64,
    saves: AtomicU32,
    subscriptions: Mutex<Vec<Subscription>>,
    wakers: Mutex<Vec<Waker>>,
}

/// Tells the test, by files, that it is inside and that it has ended: `<path>.inside` and `<path>.ended`.
struct Trace(String);

impl Trace {
    fn new(path: &str) -> Self {
        tell(path, "inside");
        Self(path.to_owned())
    }

    /// Whether the test lets it go on: by making a file at the very path.
    fn may_go_on(&self) -> bool {
        Path::new(&self.0).exists()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        tell(&self.0, "ended");
    }
}

fn tell(path: &str, what: &str) {
    if !path.is_empty() {
        std::fs::write(format!("{path}.{what}"), "").expect("the test gave a path that can be written to");
    }
}

/// Panics when it is dropped.
struct Spite;

impl Drop for Spite {
    fn drop(&mut self) {
        panic!("dropped, and spiteful about it");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The deeds that need no future. Tells whether `verb` is one of them.
fn perform_now(verb: &str, argument: &str) -> bool {
    match verb {
        "ok" => {}
        "log" => log(argument),
        "panic" => panic!("panicked as ordered"),
        "abort" => std::process::abort(),
        "spite" => panic_any(Spite),
        "park" => {
            let _trace = Trace::new(argument);
            loop {
                thread::park();
            }
        }
        "block" => {
            let trace = Trace::new(argument);
            while !trace.may_go_on() {
                thread::sleep(LOOK);
            }
        }
        _ => return false,
    }
    true
}

fn split(deed: &str) -> (&str, &str) {
    deed.split_once(':').unwrap_or((deed, ""))
}

/// What `orders` say about `hook`: one deed, or a list of them.
fn deeds(orders: &Value, hook: &str) -> Vec<String> {
    match &orders[hook] {
        Value::String(deed) => vec![deed.clone()],
        Value::Array(deeds) => deeds.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn follow_now(orders: &Value, hook: &str) {
    for deed in deeds(orders, hook) {
        let (verb, argument) = split(&deed);
        assert!(perform_now(verb, argument), "{hook} cannot do `{deed}`");
    }
}

impl Misbehaving {
    fn new() -> Self {
        let orders = &std::hint::black_box(&ORDERS)[MARK.len()..];
        let orders = serde_json::from_slice(orders).unwrap_or(Value::Null);
        follow_now(&orders, "constructor");
        Self {
            orders,
            config: Value::Null,
            bus: None,
            received: Mutex::default(),
            count: AtomicI64::new(0),
            saves: AtomicU32::new(0),
            subscriptions: Mutex::default(),
            wakers: Mutex::default(),
        }
    }

    /// The id it is managed under, as far as it was told.
    fn id(&self) -> String {
        let told = self.config["id"].as_str().or_else(|| self.orders["id"].as_str());
        told.unwrap_or("misbehaving").to_owned()
    }

    fn bus(&self) -> Result<&MessageBus> {
        self.bus.as_ref().ok_or_else(|| Error::new("there is no bus before init"))
    }

    async fn follow(&self, hook: &str) -> Result<()> {
        for deed in deeds(&self.config, hook) {
            let (verb, argument) = split(&deed);
            self.perform(verb, argument).await?;
        }
        Ok(())
    }

    async fn perform(&self, verb: &str, argument: &str) -> Result<Payload> {
        if perform_now(verb, argument) {
            return Ok(Payload::empty());
        }
        match verb {
            "say" => return Ok(argument.into()),
            "fail" => return Err(Error::new("the root of it").context("failed as ordered")),
            "hang" => {
                let _trace = Trace::new(argument);
                pending().await
            }
            "hang_spitefully" => {
                let _trace = Trace::new(argument);
                let _spite = Spite;
                pending().await
            }
            "wait" => {
                let trace = Trace::new(argument);
                while !trace.may_go_on() {
                    task::sleep(LOOK).await;
                }
            }
            "publish" => {
                let event =
                    Event::Custom { module_id: self.id(), kind: argument.to_owned(), payload: json!(1) };
                self.bus()?.emit_event("somebody else", event).await?;
            }
            "invoke" => {
                let call: Value = serde_json::from_str(argument)?;
                let text = |key: &str| call[key].as_str().unwrap_or_default();
                let reply =
                    self.bus()?.invoke(text("module"), text("method"), call["payload"].clone()).await?;
                return Payload::json(&reply);
            }
            "request" => {
                let command: Command = serde_json::from_str(argument)?;
                return Payload::json(&self.bus()?.request(command).await?);
            }
            "subscribe" => {
                let filter: Filter = serde_json::from_str(argument)?;
                let subscription = self.bus()?.subscribe(filter).await?;
                lock(&self.subscriptions).push(subscription);
            }
            "receive" => {
                let taken = lock(&self.subscriptions).pop();
                let mut subscription = taken.ok_or_else(|| Error::new("not subscribed"))?;
                let envelope = subscription.receiver.recv().await;
                let missed = subscription.missed();
                lock(&self.subscriptions).push(subscription);
                return Payload::json(&json!({ "envelope": envelope, "missed": missed }));
            }
            "received" => return Payload::json(&*lock(&self.received)),
            "add" => {
                let amount = argument.parse().unwrap_or(1);
                return Payload::json(&(self.count.fetch_add(amount, SeqCst) + amount));
            }
            "spawn" => {
                let argument = argument.to_owned();
                drop(task::spawn(async move {
                    let _trace = Trace::new(&argument);
                    pending::<()>().await;
                }));
            }
            "spawn_panic" => {
                let ended = task::spawn(async {
                    task::sleep(LOOK).await;
                    panic!("a task panicked as ordered");
                });
                return Payload::json(&ended.await.is_none());
            }
            "spawn_and_wait" => {
                let argument = argument.to_owned();
                let said = task::spawn(async move {
                    task::sleep(LOOK).await;
                    argument
                });
                return Ok(said.await.unwrap_or_default().into());
            }
            "thread_panic" => {
                let thread = thread::Builder::new().name("a thread of its own".to_owned());
                let thread = thread.spawn(|| panic!("a thread panicked as ordered"))?;
                return Payload::json(&thread.join().is_err());
            }
            "keep_waker" => {
                tell(argument, "inside");
                poll_fn::<(), _>(|context| {
                    lock(&self.wakers).push(context.waker().clone());
                    Poll::Pending
                })
                .await;
            }
            "wake" => lock(&self.wakers).drain(..).for_each(Waker::wake),
            // The next number, and whose it is.
            "tally" => {
                let count = self.count.fetch_add(1, SeqCst) + 1;
                return Payload::json(&(&self.config["life"], &self.config["build"], count));
            }
            "config" => return Payload::json(&self.config),
            other => return Err(Error::unknown_method(other)),
        }
        Ok(Payload::empty())
    }
}

fn log(text: &str) {
    tracing::error!(text, "an error");
    tracing::info!(text, answer = 42, "an info");
    tracing::trace!(text, "a trace");
}

impl Module for Misbehaving {
    fn metadata(&self) -> ModuleMetadata {
        follow_now(&self.orders, "metadata");
        ModuleMetadata {
            id: self.id(),
            name: "Misbehaving".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: None,
        }
    }

    async fn configure(&mut self, config: Value) -> Result<()> {
        self.config = config;
        self.follow("configure").await
    }

    async fn init(&mut self, bus: MessageBus) -> Result<()> {
        self.bus = Some(bus);
        self.follow("init").await
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        self.follow("restore_state").await?;
        let expected = &self.config["state"]["version"];
        if *expected != state.version {
            let found = state.version;
            return Err(Error::new(format_args!("the state has version {found}, expected {expected}")));
        }
        let (count, received) = serde_json::from_slice(&state.bytes)?;
        *self.count.get_mut() = count;
        *lock(&self.received) = received;
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        self.follow("start").await
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        if method == "echo" {
            return Ok(payload);
        }
        // A call over the bus brings its argument as a JSON string.
        let argument: String = match payload.to_json() {
            Ok(argument) => argument,
            Err(_) => std::str::from_utf8(payload.as_bytes())?.to_owned(),
        };
        if method == "do" {
            let mut reply = Payload::empty();
            for deed in serde_json::from_str::<Vec<String>>(&argument)? {
                let (verb, argument) = split(&deed);
                reply = self.perform(verb, argument).await?;
            }
            return Ok(reply);
        }
        self.perform(method, &argument).await
    }

    async fn on_message(&self, envelope: Envelope) -> Result<()> {
        lock(&self.received).push(envelope);
        self.follow("on_message").await
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        let time = self.saves.fetch_add(1, SeqCst) + 1;
        self.follow("save_state").await?;
        self.follow(&format!("save_state {time}")).await?;
        let form = &self.config["state"];
        let Some(version) = form["version"].as_u64() else { return Ok(None) };
        let mut bytes = serde_json::to_vec(&(self.count.load(SeqCst), &*lock(&self.received)))?;
        let least = form["least"].as_u64().unwrap_or(0);
        bytes.resize(bytes.len().max(usize::try_from(least)?), b' ');
        Ok(Some(SavedState { version: u32::try_from(version)?, bytes }))
    }

    async fn stop(&mut self) -> Result<()> {
        self.follow("stop").await
    }
}

impl Drop for Misbehaving {
    fn drop(&mut self) {
        follow_now(&self.config, "drop");
    }
}

export_module!(Misbehaving, constructor = Misbehaving::new);
