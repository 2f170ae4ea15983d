//! One call of 64 bytes through `host.module(id)` into a compiled plugin, against the same module in-process
//! behind `Box<dyn Module>`. Both callers make a fresh `Vec` each time and drop the reply; the allocator is
//! the system's. The two are timed in turn, so that the ratio means something on a noisy machine.
//!
//! `cargo bench -p oxide-host --bench call` prints criterion's figures, and then the ratio.

use std::{
    hint::black_box,
    path::PathBuf,
    pin::pin,
    process::Command,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use criterion::Criterion;
use oxide_host::{Host, ModuleHandle, prelude::*};

struct Echo;

#[async_trait]
impl Module for Echo {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "in-process".into(),
            name: "Echo".into(),
            version: "1.0.0".into(),
            kind: ModuleKind::Native,
            description: None,
        }
    }
    async fn start(&mut self) -> Result<()> {
        Ok(())
    }
    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        match method {
            "echo" => Ok(payload),
            other => Err(Error::unknown_method(other)),
        }
    }
}

/// Polls a future that is ready at once, as an executor would, without one.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("an echo does not wait"),
    }
}

fn in_process(module: &dyn Module) -> usize {
    let reply = now(module.invoke("echo", Payload::from(black_box(vec![7_u8; 64]))));
    black_box(reply).map_or(0, |reply| reply.len())
}

fn foreign(module: &ModuleHandle) -> usize {
    let reply = now(module.invoke("echo", black_box(vec![7_u8; 64])));
    black_box(reply).map_or(0, |reply| reply.len())
}

fn main() {
    let host = Host::new().expect("a host");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(host.load(echo())).expect("the echo plugin loads");
    let handle = host.module("echo").expect("it is there");
    let boxed: Box<dyn Module> = black_box(Box::new(Echo));

    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("in-process, Box<dyn Module>", |bencher| bencher.iter(|| in_process(&*boxed)));
    criterion.bench_function("plugin, host.module(id)", |bencher| bencher.iter(|| foreign(&handle)));
    criterion.final_summary();

    let mut ratios: Vec<f64> = (0..200)
        .map(|_| time(|| foreign(&handle)).as_secs_f64() / time(|| in_process(&*boxed)).as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "plugin / in-process, 200 pairs: median {:.2}, quartiles {:.2} and {:.2}",
        ratios[100], ratios[50], ratios[150]
    );
    runtime.block_on(host.shutdown());
}

fn time(mut call: impl FnMut() -> usize) -> Duration {
    let begin = Instant::now();
    for _ in 0..20_000 {
        assert_eq!(call(), 64);
    }
    begin.elapsed()
}

/// Builds the example plugin, in release, beside this benchmark.
fn echo() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-plugins");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "-p", "echo", "--target-dir"])
        .arg(&target)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the echo plugin does not build");
    let name = format!("{}echo{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    target.join("release").join(name)
}
