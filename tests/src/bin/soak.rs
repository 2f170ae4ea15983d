//! Loads, starts, calls, stops and unloads a plugin over and over, and fails when anything of it is left:
//! `soak [CYCLES]`, 10,000 unless said otherwise, for `echo` and for `everything`. And swaps a module under load over and
//! over: `soak swap [SWAPS|SECONDSs]`, 10,000 unless said otherwise, with a state and without one.
//!
//! After the first 500 cycles the process may grow by 32 KiB per 1,000, its threads and file descriptors not at
//! all. Calls come from the workers of a runtime and from a thread of its blocking pool; under swaps from four tasks,
//! and from two threads over the socket.

use std::{
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use oxide_host::Host;
use oxide_tests::{
    build,
    swaps::{self, Swaps, Until},
};

/// The cycles before it is looked at for the first time.
const WARM: usize = 500;

/// Fewer measured cycles than this may be exceeded by [`SLACK`]: what a process gets only once weighs more in them.
const LONG: usize = 5000;

/// KiB altogether.
const SLACK: f64 = 1024.0;

/// KiB per 1,000 cycles.
const MAY_GROW: f64 = 32.0;

/// The threads by which the host's own pool may be larger at one time than at another.
const POOL: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Process {
    resident_kib: usize,
    threads: usize,
    files: usize,
    mappings: usize,
}

impl Process {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
        let field = |name: &str| -> usize {
            let line = status.lines().find(|line| line.starts_with(name)).expect("Linux has it");
            line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
        };
        Self {
            resident_kib: field("VmRSS:"),
            threads: threads(),
            files: fs::read_dir("/proc/self/fd").expect("Linux has it").count(),
            mappings: fs::read_to_string("/proc/self/maps").expect("Linux has it").lines().count(),
        }
    }
}

/// All but those of this program's own runtime, whose blocking pool keeps what it once needed.
fn threads() -> usize {
    let name = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    let tasks = fs::read_dir("/proc/self/task").expect("Linux has it");
    tasks.filter_map(name).filter(|name| name.trim_end() != "tokio-rt-worker").count()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    let swaps = args.next_if_eq("swap").is_some();
    let amount = args.next().unwrap_or_else(|| "10000".to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        // Threads of its blocking pool come and go; that is not what is counted here.
        .thread_keep_alive(Duration::from_secs(3600))
        .build()
        .expect("a runtime");
    let good = if swaps {
        let until = match amount.strip_suffix('s') {
            Some(seconds) => Until::Time(Duration::from_secs(seconds.parse().expect("a number of seconds"))),
            None => Until::Swaps(amount.parse().expect("a number of swaps")),
        };
        [true, false].into_iter().all(|stateful| runtime.block_on(soak_swaps(stateful, until)))
    } else {
        let cycles = amount.parse().expect("a number of cycles");
        [("echo", "echo"), ("everything", "work")].into_iter().all(|(package, method)| {
            let library = build::stripped_release(package);
            runtime.block_on(soak(package, method, &library, cycles))
        })
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Swaps as quickly as they can be done, or every 20 ms when it is the time that counts. One in ten has a failing one
/// before it.
async fn soak_swaps(stateful: bool, until: Until) -> bool {
    let name = if stateful { "swap with a state" } else { "swap without a state" };
    let library = build::stripped_release("misbehaving");
    let mut bytes = fs::read(&library).expect("it has just been built");
    bytes.push(0);
    let other = oxide_tests::misbehave::changed("misbehaving", &bytes);
    let (pace, warm) = match until {
        Until::Swaps(swaps) => (Duration::from_micros(1), WARM.min(swaps / 2)),
        // However few there will be.
        Until::Time(_) => (Duration::from_millis(20), 10),
    };
    let other = other.as_ref().to_owned();
    let what = Swaps { library, other, stateful, callers: 4, sockets: 2, pace, until, fail_each: 10 };
    let began = Instant::now();
    let mut first = None;
    let outcome = swaps::run(&what, |_, swaps| {
        if swaps == warm {
            first = Some((swaps, Process::now()));
        }
    })
    .await;
    println!("{name}: in {:.1} s: {outcome:?}", began.elapsed().as_secs_f64());
    let Some((from, first)) = first.filter(|(from, _)| outcome.swaps > *from) else {
        println!("{name}: FAILED: fewer than {warm} swaps, so nothing was measured");
        return false;
    };
    // How many threads the host's pool has at a moment is chance; those that are not needed end when they have been
    // idle for ten seconds.
    for _ in 0..300 {
        if Process::now().threads <= first.threads {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    judge(name, outcome.swaps - from, first, Process::now(), Vec::new())
}

async fn soak(package: &str, method: &'static str, library: &Path, cycles: usize) -> bool {
    let host = Host::new().expect("a host");
    let began = Instant::now();
    let (mut first, mut still_mapped, mut leaked) = (None, 0, None);
    for cycle in 0..cycles {
        if cycle == WARM.min(cycles / 2) {
            first = Some((cycle, Process::now()));
        }
        let receipt = run(&host, package, method, library).await;
        leaked = receipt.leaked_bytes;
        if !receipt.unmapped {
            still_mapped += 1;
            println!("{package}: cycle {cycle}: {receipt:?}");
        }
    }
    // One that was late has its chance: the reaper looks again soon.
    for _ in 0..100 {
        if host.retained().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let retained = host.retained().len();
    let (at, first) = first.expect("more than one cycle");
    let last = Process::now();
    println!(
        "{package}: {cycles} cycles in {:.1} s; mapped after an unload {still_mapped}, at the end {retained}; \
         leaked per cycle {leaked:?} bytes",
        began.elapsed().as_secs_f64(),
    );
    let gone = (retained == 0 && still_mapped == 0, "something stayed mapped".to_owned());
    judge(package, cycles - at, first, last, vec![gone])
}

/// Says how the process has changed within so many cycles, and whether that may be. `verdicts` are further ones.
fn judge(
    name: &str,
    cycles: usize,
    first: Process,
    last: Process,
    mut verdicts: Vec<(bool, String)>,
) -> bool {
    let measured = cycles as f64 / 1000.0;
    let growth = (last.resident_kib as f64 - first.resident_kib as f64) / measured;
    println!(
        "{name}: resident {} → {} KiB ({growth:+.1} per 1,000); threads {} → {}; files {} → {}; mappings {} → {}",
        first.resident_kib,
        last.resident_kib,
        first.threads,
        last.threads,
        first.files,
        last.files,
        first.mappings,
        last.mappings,
    );
    let allowed = MAY_GROW + if cycles < LONG { SLACK / measured } else { 0.0 };
    verdicts.extend([
        (growth <= allowed, format!("it grew by {growth:.1} KiB per 1,000, {allowed:.1} allowed")),
        (last.threads <= first.threads + POOL, "threads were left".to_owned()),
        (last.files <= first.files, "file descriptors were left".to_owned()),
    ]);
    let failed: Vec<_> = verdicts.iter().filter(|(good, _)| !good).map(|(_, why)| why.as_str()).collect();
    match failed.as_slice() {
        [] => println!("{name}: ok; {allowed:.1} KiB per 1,000 were allowed"),
        _ => println!("{name}: FAILED: {}", failed.join("; ")),
    }
    failed.is_empty()
}

async fn run(host: &Host, id: &str, method: &'static str, library: &Path) -> oxide_host::Receipt {
    host.load(library).await.expect("it loads");
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let module = host.module(id).expect("it is there");
            tokio::spawn(async move { module.invoke(method, "x").await.expect("it answers") })
        })
        .collect();
    for worker in workers {
        worker.await.expect("no call panics");
    }
    let module = host.module(id).expect("it is there");
    let blocking = move || oxide_tests::block_on(module.invoke(method, "x")).expect("it answers");
    tokio::task::spawn_blocking(blocking).await.expect("no call panics");
    host.invoke(id, method, "x").await.expect("it answers");
    host.stop(id).await.expect("it stops");
    host.unload(id).await.expect("it was there")
}
