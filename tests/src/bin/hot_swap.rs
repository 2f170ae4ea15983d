//! Calls two modules flat out while they are swapped from one build to the other and back, and prints the tally:
//! `hot_swap FOLDER [SWAPS [MILLISECONDS BETWEEN TWO]]`, with `libecho`, `libecho2`, `libcounter` and
//! `libcounter2` in that folder. Ends with 1 when a call was lost, or anything else is not as it was promised.
//!
//! `scripts/hot-swap-demo.sh` builds what it needs.

use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX},
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use oxide_host::{Host, SwapReport, error::Result, module::ModuleState};

/// For each of the two modules.
const CALLERS: usize = 2;

/// What is printed is no more than this of them.
const WORTH_TELLING: usize = 5;

/// What became of calls.
#[derive(Debug, Default)]
struct Calls {
    made: u64,
    answered: u64,
    /// Answered with something else than what was to be expected.
    wrong: u64,
    failed: u64,
    errors: Vec<String>,
    longest: Duration,
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.made += other.made;
        self.answered += other.answered;
        self.wrong += other.wrong;
        self.failed += other.failed;
        self.errors.extend(other.errors);
        self.errors.truncate(WORTH_TELLING);
        self.longest = self.longest.max(other.longest);
    }
}

/// Calls a module until it is `over`. An echo says what it was told; a counter counts, so that of two answers the later
/// one is the higher.
async fn caller(host: Host, id: &'static str, number: usize, over: Arc<AtomicBool>) -> Result<Calls> {
    let module = host.module(id)?;
    let said = format!("caller {number}");
    let (mut calls, mut count) = (Calls::default(), 0);
    while !over.load(Relaxed) {
        let begun = Instant::now();
        let reply = match id {
            "echo" => module.invoke("echo", said.as_str()).await,
            _ => module.invoke("increment", "").await,
        };
        calls.longest = calls.longest.max(begun.elapsed());
        calls.made += 1;
        match reply {
            Ok(reply) => {
                calls.answered += 1;
                let right = match id {
                    "echo" => reply.as_bytes() == said.as_bytes(),
                    _ => {
                        let before = std::mem::replace(&mut count, reply.to_json().unwrap_or(0));
                        count > before
                    }
                };
                calls.wrong += u64::from(!right);
            }
            Err(error) => {
                calls.failed += 1;
                if calls.errors.len() < WORTH_TELLING {
                    calls.errors.push(error.to_string());
                }
            }
        }
        // Most calls end at once; the other callers want to be polled as well.
        tokio::task::yield_now().await;
    }
    Ok(calls)
}

/// Swaps the two in turn, each from its first build to its second and back.
async fn swap(host: &Host, folder: &Path, swaps: usize, pause: Duration) -> Result<Vec<SwapReport>> {
    let mut reports = Vec::new();
    for number in 0..swaps {
        tokio::time::sleep(pause).await;
        let id = ["echo", "counter"][number % 2];
        let next = if number / 2 % 2 == 0 { format!("{id}2") } else { id.to_owned() };
        let begun = Instant::now();
        let report = host.swap(id, library(folder, &next)).await?;
        let moved = match report.state_moved {
            true => format!(", calls held for {:.2} ms", report.hold_micros as f64 / 1000.0),
            false => String::new(),
        };
        eprintln!(
            "{id} {} → {} (generation {} → {}) in {:.1} ms{moved}",
            report.from_version,
            report.to_version,
            report.from,
            report.to,
            begun.elapsed().as_secs_f64() * 1000.0
        );
        reports.push(report);
    }
    tokio::time::sleep(pause).await;
    Ok(reports)
}

fn library(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{DLL_PREFIX}{name}{DLL_SUFFIX}"))
}

/// Tells whether everything is as it was promised.
async fn show(folder: &Path, swaps: usize, pause: Duration) -> Result<bool> {
    let host = Host::new()?;
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for id in ["echo", "counter"] {
        let info = host.load(library(folder, id)).await?;
        assert_eq!(info.state, ModuleState::Running);
        for number in 0..CALLERS {
            callers.push((id, tokio::spawn(caller(host.clone(), id, number, over.clone()))));
        }
    }
    let begun = Instant::now();
    let reports = swap(&host, folder, swaps, pause).await;
    over.store(true, Relaxed);
    let (mut all, mut increments) = (Calls::default(), 0);
    for (id, caller) in callers {
        let calls = caller.await.expect("a caller does not panic")?;
        increments += if id == "counter" { calls.answered } else { 0 };
        all.add(calls);
    }
    let took = begun.elapsed();
    let reports = reports?;
    let count: u64 =
        host.invoke("counter", "get", "").await?.to_json().map_err(oxide_host::KernelError::from)?;

    let moved = reports.iter().filter(|report| report.state_moved).count();
    let of_counter = reports.iter().filter(|report| report.id == "counter").count();
    let held: u64 = reports.iter().map(|report| report.held_calls).sum();
    let longest_hold = reports.iter().map(|report| report.hold_micros).max().unwrap_or(0);
    let receipts = host.shutdown().await;
    // Of the swaps' old generations, and of the two that were there at the end.
    let ended = reports.iter().map(|report| &report.old).chain(&receipts);
    let unmapped = ended.filter(|receipt| receipt.unmapped).count();
    let generations = reports.len() + receipts.len();

    println!("calls made          {}", all.made);
    println!(
        "  answered          {} ({:.0} a second)",
        all.answered,
        all.answered as f64 / took.as_secs_f64()
    );
    println!("  answered wrongly  {}", all.wrong);
    println!("  failed            {}", all.failed);
    println!("  longest wait      {:.2} ms", all.longest.as_secs_f64() * 1000.0);
    println!("increments          {increments} answered, {count} counted");
    println!("swaps               {}, a state moved in {moved} (all {of_counter} of counter)", reports.len());
    println!("  calls held        {held}, for at most {:.2} ms", longest_hold as f64 / 1000.0);
    println!("generations         {unmapped} of {generations} unmapped");
    for error in &all.errors {
        eprintln!("error: {error}");
    }
    for retained in host.retained() {
        eprintln!(
            "error: generation {} of {} is retained: {:?}",
            retained.generation, retained.id, retained.retained_by
        );
    }
    Ok(all.answered == all.made
        && all.wrong == 0
        && count == increments
        && reports.len() == swaps
        && moved == of_counter
        && unmapped == generations)
}

/// The arguments: folder, swaps, pause.
fn arguments() -> Option<(PathBuf, usize, Duration)> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next()?.into();
    let mut number = |otherwise| match arguments.next() {
        None => Some(otherwise),
        Some(text) => text.to_str()?.parse().ok(),
    };
    let (swaps, pause) = (number(20)?, Duration::from_millis(number(200)?));
    Some((folder, usize::try_from(swaps).ok()?, pause))
}

fn main() -> ExitCode {
    let Some((folder, swaps, pause)) = arguments() else {
        eprintln!("usage: hot_swap FOLDER [SWAPS [MILLISECONDS BETWEEN TWO]]");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system gives threads");
    match runtime.block_on(show(&folder, swaps, pause)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: something was lost");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("caused by: {cause}");
                source = cause.source();
            }
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
