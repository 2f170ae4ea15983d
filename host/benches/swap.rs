//! Swaps, each against something timed in turn with it, so that the ratios mean something on a noisy machine:
//!
//! 1. callers flat out while a module without a state is swapped every 20 ms, against the same callers undisturbed:
//!    calls per second, latencies, and the longest gap between two answers;
//! 2. how long a swap that hands over a state of 1 KiB holds calls;
//! 3. a swap to a changed file, copy and checks included, against what one would write by hand for it: copy,
//!    `dlopen`, `dlsym`, a store into an `ArcSwap`, `dlclose` of the one before.
//!
//! `cargo bench -p oxide-host --bench swap` prints them.
#![allow(unsafe_code, reason = "the other side of the comparison opens libraries by hand")]

mod measure;

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use measure::{compare, say, time};
use oxide_host::{Host, ModuleHandle};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long the callers call, in each of the two ways, in each round.
const WINDOW: Duration = Duration::from_secs(1);
const ROUNDS: usize = 12;
const CALLERS: usize = 2;
const EVERY: Duration = Duration::from_millis(20);
const PAIRS: usize = 400;
const WARM: usize = 20;

/// So many builds are written at a time, before they are used: more than a processor's own caches hold.
const BATCH: usize = 20;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let folder = tempfile::tempdir().expect("room for builds");
    let echo = Builds::of(&folder, "echo");
    under_load(&runtime, &echo);
    hold(&runtime, &Builds::of(&folder, "keeper"));
    by_hand(&runtime, &echo);
}

/// Builds of one plugin that differ as real ones do, to begin with: in the note with the build's id.
struct Builds {
    bytes: Vec<u8>,
    folder: PathBuf,
    package: &'static str,
}

impl Builds {
    fn of(folder: &TempDir, package: &'static str) -> Self {
        let bytes = fs::read(oxide_tests::build::stripped_release(package)).expect("it has just been built");
        Self { bytes, folder: folder.path().to_owned(), package }
    }

    fn write(&self, number: usize) -> PathBuf {
        let mut bytes = self.bytes.clone();
        // Name and id of 4 and 20 bytes, type 3: NT_GNU_BUILD_ID.
        let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
        let id =
            bytes.windows(note.len()).position(|bytes| bytes == note).expect("it has an id") + note.len();
        bytes[id..id + 8].copy_from_slice(&(number as u64).to_le_bytes());
        let path = self.folder.join(format!("lib{}-{number}.so", self.package));
        fs::write(&path, bytes).expect("room for a build");
        path
    }
}

/// What the callers of one window saw: their latencies in nanoseconds, in 2,048 classes, and the longest.
struct Seen {
    calls: u64,
    longest: u64,
    classes: Vec<u64>,
}

/// Classes of 8 to a power of two: an error of at most an eighth.
fn class(nanos: u64) -> usize {
    let nanos = nanos.max(8);
    let power = 63 - nanos.leading_zeros() as usize;
    (power - 3) * 8 + (nanos >> (power - 3)) as usize - 8
}

fn upper_end(class: usize) -> u64 {
    let (power, step) = (class / 8 + 3, class % 8);
    ((8 + step as u64 + 1) << (power - 3)) - 1
}

impl Seen {
    fn new() -> Self {
        Self { calls: 0, longest: 0, classes: vec![0; 512] }
    }

    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.longest = self.longest.max(other.longest);
        self.classes.iter_mut().zip(&other.classes).for_each(|(sum, more)| *sum += more);
    }

    fn percentile(&self, share: f64) -> u64 {
        let mut left = (self.calls as f64 * share).ceil() as u64;
        for (class, count) in self.classes.iter().enumerate() {
            if left <= *count {
                return upper_end(class);
            }
            left -= count;
        }
        self.longest
    }
}

/// Calls until told to stop. From answer to answer, so that the longest latency is the longest gap, too.
fn caller(echo: &ModuleHandle, over: &AtomicBool) -> Seen {
    let mut seen = Seen::new();
    let mut before = Instant::now();
    while !over.load(Relaxed) {
        let reply = now(echo.invoke("echo", vec![7_u8; 64]));
        assert_eq!(reply.expect("no call fails").len(), 64);
        let after = Instant::now();
        let nanos = (after - before).as_nanos() as u64;
        before = after;
        seen.calls += 1;
        seen.longest = seen.longest.max(nanos);
        seen.classes[class(nanos)] += 1;
    }
    seen
}

/// Polls a future that is ready at once, as an executor would, without one.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a module without a state holds nobody"),
    }
}

/// One window of calls, with a swap every 20 ms or without any. Gives how many swaps there were.
fn window(runtime: &Runtime, host: &Host, builds: Option<&[PathBuf; 2]>) -> (Seen, usize) {
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (echo, over) = (host.module("echo").expect("it is there"), over.clone());
            thread::spawn(move || caller(&echo, &over))
        })
        .collect();
    let (begun, mut swaps) = (Instant::now(), 0);
    while begun.elapsed() < WINDOW {
        thread::sleep(EVERY);
        if let Some(builds) = builds {
            let generation = runtime.block_on(host.show("echo")).expect("it is there").generation;
            let report = runtime.block_on(host.swap("echo", &builds[generation as usize % 2]));
            let report = report.expect("it is swapped");
            assert!(report.old.unmapped && !report.state_moved, "{report:?}");
            swaps += 1;
        }
    }
    over.store(true, Relaxed);
    let mut all = Seen::new();
    for caller in callers {
        all.add(&caller.join().expect("no call fails"));
    }
    (all, swaps)
}

fn under_load(runtime: &Runtime, echo: &Builds) {
    let host = Host::new().expect("a host");
    let builds = [echo.write(0), echo.write(1)];
    runtime.block_on(host.load(&builds[0])).expect("it loads");
    let (mut calm, mut swapped, mut ratios, mut swaps) = (Seen::new(), Seen::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let (one, _) = window(runtime, &host, None);
        let (other, more) = window(runtime, &host, Some(&builds));
        ratios.push(other.calls as f64 / one.calls as f64);
        calm.add(&one);
        swapped.add(&other);
        swaps += more;
    }
    println!(
        "{CALLERS} callers of 64 bytes, {swaps} swaps in {ROUNDS} windows of {WINDOW:?} against as many without:"
    );
    say("  calls per second, swapped / undisturbed", ratios);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let (calm, swapped) = (calm.percentile(share), swapped.percentile(share));
        println!("  {name}: {swapped} ns against {calm} ns, {:.2}", swapped as f64 / calm as f64);
    }
    println!("  longest gap: {} µs against {} µs", swapped.longest / 1000, calm.longest / 1000);
    runtime.block_on(host.shutdown());
}

fn hold(runtime: &Runtime, keeper: &Builds) {
    let host = Host::new().expect("a host");
    let builds = [keeper.write(0), keeper.write(1)];
    runtime.block_on(host.load(&builds[0])).expect("it loads");
    runtime.block_on(host.invoke("keeper", "put", vec![7_u8; 1024])).expect("it is kept");
    let mut holds = Vec::new();
    for round in 1..=PAIRS {
        let report = runtime.block_on(host.swap("keeper", &builds[round % 2])).expect("it is swapped");
        assert!(report.state_moved && report.old.unmapped, "{report:?}");
        holds.push(report.hold_micros as f64);
    }
    assert_eq!(runtime.block_on(host.invoke("keeper", "get", "")).expect("it is there").len(), 1024);
    println!("a state of 1 KiB handed over, {PAIRS} times:");
    say("  calls are held for, in µs", holds);
    runtime.block_on(host.shutdown());
}

fn by_hand(runtime: &Runtime, echo: &Builds) {
    let host = Host::new().expect("a host");
    runtime.block_on(host.load(echo.write(0))).expect("it loads");
    let present = ArcSwap::from_pointee(ByHand::open(&echo.folder, &echo.write(0), 0));
    let (mut pairs, mut builds) = (Vec::new(), VecDeque::new());
    for round in 1..=PAIRS + WARM {
        // One for each side: else the second would find the first one's in the processor's caches.
        if builds.is_empty() {
            let numbers = round..round + BATCH;
            builds
                .extend(numbers.map(|number| [2 * number, 2 * number + 1].map(|number| echo.write(number))));
        }
        let [build, other] = builds.pop_front().expect("some were written");
        let swap = time(|| {
            let report = runtime.block_on(host.swap("echo", &build)).expect("it is swapped");
            assert!(report.old.unmapped, "{report:?}");
        });
        let hand = time(|| {
            let new = ByHand::open(&echo.folder, &other, round);
            let old = present.swap(Arc::new(new));
            Arc::into_inner(old).expect("nobody has it").close();
        });
        for used in [build, other] {
            fs::remove_file(used).expect("it was there");
        }
        if round > WARM {
            pairs.push((swap, hand));
        }
    }
    println!("a swap to a changed file of {} KiB, {PAIRS} pairs:", echo.bytes.len() / 1024);
    compare("copy, dlopen, dlsym, ArcSwap, dlclose", &pairs);
    runtime.block_on(host.shutdown());
}

/// A copy of a build, opened.
struct ByHand {
    library: Library,
    copy: PathBuf,
}

impl ByHand {
    fn open(folder: &Path, build: &Path, number: usize) -> Self {
        let copy = folder.join(format!("copy-{number}.so"));
        fs::copy(build, &copy).expect("room for a copy");
        // SAFETY: our own plugin; nothing of it is used after the close.
        let library = unsafe { Library::open(Some(&copy), RTLD_NOW | RTLD_LOCAL) }.expect("it opens");
        // SAFETY: only looked at, never called.
        let symbol = unsafe { library.get::<*const ()>(oxide_plugin_api::ffi::ENTRY.as_bytes()) };
        assert!(!symbol.expect("it is there").is_null());
        Self { library, copy }
    }

    fn close(self) {
        self.library.close().expect("it closes");
        fs::remove_file(self.copy).expect("it was there");
    }
}
