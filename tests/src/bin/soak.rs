//! Loads, starts, calls, stops and unloads a plugin over and over, and fails when anything of it is left:
//! `soak [CYCLES]`, 10,000 unless said otherwise, for `echo` and for `everything`.
//!
//! After the first 500 cycles the process may grow by 32 KiB per 1,000, its threads and file descriptors not at
//! all. Calls come from the workers of a runtime and from a thread of its blocking pool.

use std::{
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use oxide_host::Host;
use oxide_tests::build;

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
            threads: field("Threads:"),
            files: fs::read_dir("/proc/self/fd").expect("Linux has it").count(),
            mappings: fs::read_to_string("/proc/self/maps").expect("Linux has it").lines().count(),
        }
    }
}

fn main() -> ExitCode {
    let cycles = std::env::args().nth(1).map_or(10_000, |cycles| cycles.parse().expect("a number of cycles"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        // Threads of its blocking pool come and go; that is not what is counted here.
        .thread_keep_alive(Duration::from_secs(3600))
        .build()
        .expect("a runtime");
    let good = [("echo", "echo"), ("everything", "work")].into_iter().all(|(package, method)| {
        let library = build::stripped_release(package);
        runtime.block_on(soak(package, method, &library, cycles))
    });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
    let growth = (last.resident_kib as f64 - first.resident_kib as f64) * 1000.0 / (cycles - at) as f64;
    println!(
        "{package}: {cycles} cycles in {:.1} s; mapped after an unload {still_mapped}, at the end {retained}; \
         resident {} → {} KiB ({growth:+.1} per 1,000); threads {} → {}; files {} → {}; mappings {} → {}; \
         leaked per cycle {leaked:?} bytes",
        began.elapsed().as_secs_f64(),
        first.resident_kib,
        last.resident_kib,
        first.threads,
        last.threads,
        first.files,
        last.files,
        first.mappings,
        last.mappings,
    );
    let measured = (cycles - at) as f64 / 1000.0;
    let allowed = MAY_GROW + if cycles - at < LONG { SLACK / measured } else { 0.0 };
    let verdicts = [
        (retained == 0 && still_mapped == 0, "something stayed mapped".to_owned()),
        (growth <= allowed, format!("it grew by {growth:.1} KiB per 1,000, {allowed:.1} allowed")),
        (last.threads <= first.threads + POOL, "threads were left".to_owned()),
        (last.files <= first.files, "file descriptors were left".to_owned()),
    ];
    let failed: Vec<_> = verdicts.iter().filter(|(good, _)| !good).map(|(_, why)| why.as_str()).collect();
    match failed.as_slice() {
        [] => println!("{package}: ok; {allowed:.1} KiB per 1,000 were allowed"),
        _ => println!("{package}: FAILED: {}", failed.join("; ")),
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
