//! One call of 64 bytes through `host.module(id)` into a guest, against wasmtime by itself: the same guest in an engine
//! of the same configuration, called in the same way, its bytes copied in and out. Both callers make a fresh `Vec` each
//! time and drop the reply. The two are timed in turn, so that the ratio means something on a noisy machine. Then the
//! time of a load, from `load_with` to running, without a cache and with one.
//!
//! `scripts/wasm-runtime.sh bench`

use std::{
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use oxide_host::ModuleHandle;
use wasm_runtime_tests::{Given, House, guest};
use wasmtime::{Engine, Linker, Memory, Module, Store, TypedFunc, UpdateDeadline, component};

#[path = "../../../src/engine.rs"]
mod engine;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "wasmtime writes it")]
    wasmtime::component::bindgen!({
        path: "../../../plugin-api/wit",
        world: "module",
        imports: { "oxide:module/bus": async },
        exports: { default: async },
    });
}

const STACK: usize = 512 << 10;

/// Polls a future that is ready at once; or the next time, when a tick of the clock came in between.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

fn through_the_host(module: &ModuleHandle) -> usize {
    let reply = now(module.invoke("echo", black_box(vec![7_u8; 64])));
    black_box(reply).map_or(0, |reply| reply.len())
}

/// A core module in wasmtime alone.
struct Bare {
    store: Store<()>,
    memory: Memory,
    invoke: TypedFunc<(u32, u32, u32, u32), i64>,
    buffer: u32,
}

fn store<T>(engine: &Engine, data: T) -> Store<T> {
    let mut store = Store::new(engine, data);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
    store.set_epoch_deadline(1);
    store
}

impl Bare {
    fn new(bytes: &[u8]) -> Self {
        let engine = engine::new(STACK).expect("an engine");
        let module = Module::from_binary(&engine, bytes).expect("it compiles");
        let mut store = store(&engine, ());
        let linked = Linker::new(&engine).instantiate_pre(&module).expect("it links");
        let instance = now(linked.instantiate_async(&mut store)).expect("it can be instantiated");
        let memory = instance.get_memory(&mut store, "memory").expect("a memory");
        let alloc: TypedFunc<u32, u32> = instance.get_typed_func(&mut store, "alloc").expect("alloc");
        let buffer = now(alloc.call_async(&mut store, 256)).expect("room");
        let invoke = instance.get_typed_func(&mut store, "oxide_invoke").expect("oxide_invoke");
        Self { store, memory, invoke, buffer }
    }

    /// `payload` in, the call, the answer out. `suspends`: on a stack of its own, as the engine calls it.
    fn call(&mut self, suspends: bool) -> usize {
        let (method, payload) = ("echo", black_box(vec![7_u8; 64]));
        self.store.set_epoch_deadline(1);
        let at = self.buffer as usize;
        let data = self.memory.data_mut(&mut self.store);
        data[at..at + payload.len()].copy_from_slice(&payload);
        data[at + payload.len()..at + payload.len() + method.len()].copy_from_slice(method.as_bytes());
        let arguments =
            (self.buffer + payload.len() as u32, method.len() as u32, self.buffer, payload.len() as u32);
        let packed = match suspends {
            true => now(self.invoke.call_async(&mut self.store, arguments)),
            false => self.invoke.call(&mut self.store, arguments),
        };
        let packed = packed.expect("it answers");
        let (at, length) = ((packed as u64 >> 32) as usize, packed as u32 as usize);
        let reply = self.memory.data(&self.store)[at..at + length].to_vec();
        black_box(reply).len()
    }
}

/// What a component of the world imports; the echo calls none of it.
struct Nothing;

impl bindings::oxide::module::types::Host for Nothing {}
impl bindings::oxide::module::bus::Host for Nothing {
    async fn publish(
        &mut self,
        _: String,
        _: String,
        _: String,
    ) -> Result<(), bindings::oxide::module::types::Error> {
        Ok(())
    }
    async fn request(
        &mut self,
        _: String,
        _: String,
        payload: String,
    ) -> Result<String, bindings::oxide::module::types::Error> {
        Ok(payload)
    }
}
impl bindings::oxide::module::log::Host for Nothing {
    fn log(&mut self, _: bindings::oxide::module::log::Level, _: String) {}
}
impl bindings::oxide::module::clock::Host for Nothing {
    fn now(&mut self) -> u64 {
        0
    }
    fn monotonic(&mut self) -> u64 {
        0
    }
}

/// A component in wasmtime alone.
struct BareComponent {
    store: Store<Nothing>,
    exports: bindings::Module,
}

impl BareComponent {
    fn new(bytes: &[u8]) -> Self {
        let engine = engine::new(STACK).expect("an engine");
        let component = component::Component::from_binary(&engine, bytes).expect("it compiles");
        let mut linker = component::Linker::new(&engine);
        bindings::Module::add_to_linker::<_, component::HasSelf<Nothing>>(&mut linker, |data| data)
            .expect("it links");
        let mut store = store(&engine, Nothing);
        let exports = now(bindings::Module::instantiate_async(&mut store, &component, &linker));
        Self { store, exports: exports.expect("it can be instantiated") }
    }

    fn call(&mut self) -> usize {
        let payload = black_box(vec![7_u8; 64]);
        self.store.set_epoch_deadline(1);
        let reply = now(self.exports.call_invoke(&mut self.store, "echo", &payload));
        black_box(reply.expect("it answers").expect("an answer")).len()
    }
}

fn time(mut call: impl FnMut() -> usize) -> Duration {
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        assert_eq!(call(), 64);
    }
    begin.elapsed() / ROUNDS
}

const ROUNDS: u32 = 10_000;
const PAIRS: usize = 100;

fn compare(what: &str, mut ours: impl FnMut() -> usize, mut theirs: impl FnMut() -> usize) {
    let mut pairs: Vec<_> = (0..PAIRS).map(|_| (time(&mut ours), time(&mut theirs))).collect();
    let least = |which: fn(&(Duration, Duration)) -> Duration| pairs.iter().map(which).min().expect("pairs");
    let (ours, theirs) = (least(|pair| pair.0), least(|pair| pair.1));
    pairs.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let at = |quarter: usize| ratio(&pairs[PAIRS * quarter / 4]);
    println!(
        "{what}: {ours:?} against {theirs:?}; ratio: median {:.2}, quartiles {:.2} and {:.2}",
        at(2),
        at(1),
        at(3)
    );
}

fn ratio(pair: &(Duration, Duration)) -> f64 {
    pair.0.as_secs_f64() / pair.1.as_secs_f64()
}

async fn load(house: &House, what: &str, given: &Given) {
    let mut times = Vec::new();
    for _ in 0..15 {
        let began = Instant::now();
        house.load("loaded", given).await;
        times.push(began.elapsed());
        house.gone("loaded").await;
    }
    times.sort();
    println!("load, {what}: median {:?}, least {:?}", times[times.len() / 2], times[0]);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let house = House::new();

    runtime.block_on(house.load("core", &Given::guest("echo-core")));
    let handle = house.host.module("core").expect("it was loaded");
    let mut bare = Bare::new(&guest("echo-core"));
    compare("core module, on a stack of its own", || through_the_host(&handle), || bare.call(true));
    compare("core module, on the caller's stack", || through_the_host(&handle), || bare.call(false));

    runtime.block_on(house.load("component", &Given::guest("echo")));
    let handle = house.host.module("component").expect("it was loaded");
    let mut bare = BareComponent::new(&guest("echo"));
    compare("component", || through_the_host(&handle), || bare.call());

    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("room for temporary files");
        let cache = folder.path().join("cache");
        for name in ["hello", "echo"] {
            let given = Given::guest(name);
            load(&house, &format!("`{name}`, {} bytes, compiled", guest(name).len()), &given).await;
            load(&house, &format!("`{name}`, from the cache"), &given.cache(&cache)).await;
        }
        for id in ["core", "component"] {
            house.gone(id).await;
        }
        house.host.shutdown().await;
    });
}
