//! The cycles themselves, in the child process.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use oxide_host::{
    Host,
    report::{Holder, Receipt},
};
use tokio::runtime::{Builder, Handle};
use tracing_subscriber::filter::LevelFilter;

use crate::process::{Report, Size};

/// The runner's argument that makes it a child.
pub(crate) const VERB: &str = "child";

/// Calls at the same time, from as many tasks; one more comes from a thread of the blocking pool.
const TASKS: u64 = 6;

/// Does what the arguments say, prints the report, and ends normally: all of the runtime's threads first.
pub(crate) fn run(mut words: impl Iterator<Item = String>) {
    let mut word = || words.next().expect("the runner gives cycles, patience and library");
    let cycles: u32 = word().parse().expect("a number of cycles");
    let patience = Duration::from_millis(word().parse().expect("milliseconds"));
    let library = PathBuf::from(word());

    // Plugins' logs are formatted by the host, and go nowhere.
    tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(io::sink).init();
    let staging = tempfile::tempdir().expect("a folder for the copies");
    let base = staging.path().canonicalize().expect("its real name");
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
    let mut report = runtime.block_on(async {
        let host = Host::builder().staging_dir(&base).thread_timeout(patience).build().expect("a host");
        let mut cycler = Cycler { host, base: base.clone(), library, report: Report::default() };
        let since = Instant::now();
        for cycle in 1..=cycles {
            cycler.cycle(cycle).await;
            if cycle == cycles.div_ceil(4) {
                cycler.report.early = size(cycle);
            }
        }
        cycler.report.late = size(cycles);
        cycler.report.milliseconds = since.elapsed().as_millis() as u64;
        // What was retained for something that ends is given a moment more.
        let mut left = copies_in(&base).len();
        let until = Instant::now() + Duration::from_secs(2);
        while left > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
            left = copies_in(&base).len();
        }
        cycler.report.later = (cycles - cycler.report.unmapped).saturating_sub(left as u32);
        cycler.host.shutdown().await;
        cycler.report
    });
    // Its threads run what they still owe, if anything.
    drop(runtime);
    thread::sleep(Duration::from_millis(50));
    if !forks() {
        report.failures.push("the process can't fork".to_owned());
    }
    report.failures.truncate(5);
    report.lies.truncate(5);
    println!("{}", serde_json::to_string(&report).expect("plain data"));
}

/// Forks, which runs the handlers that libraries have registered for it (`pthread_atfork`; jemalloc does).
fn forks() -> bool {
    // With a user to become, std forks by itself; otherwise it leaves that to `posix_spawn`, which runs none.
    let user = fs::metadata("/proc/self").map(|own| own.uid()).unwrap_or_default();
    Command::new("/bin/true").uid(user).status().is_ok_and(|status| status.success())
}

struct Cycler {
    host: Host,
    base: PathBuf,
    library: PathBuf,
    report: Report,
}

impl Cycler {
    async fn cycle(&mut self, cycle: u32) {
        if let Err(failure) = self.try_cycle(cycle).await {
            self.report.failures.push(format!("cycle {cycle}: {failure}"));
        }
    }

    async fn try_cycle(&mut self, cycle: u32) -> Result<(), String> {
        let before = copies_in(&self.base);
        let info = self.host.load(&self.library).await.map_err(|error| format!("load: {error}"))?;
        let copy = copies_in(&self.base).difference(&before).next().cloned();
        let copy = copy.ok_or("a loaded library is not in the map")?;
        let used = self.use_it(&info.id, cycle).await;
        let receipt = self.host.unload(&info.id).await.map_err(|error| format!("unload: {error}"))?;
        self.look(cycle, &receipt, &copy).await;
        used
    }

    /// Calls it from the runtime's workers, from a thread of its blocking pool, and from the main thread.
    async fn use_it(&self, id: &str, cycle: u32) -> Result<(), String> {
        let seed = |call: u64| (u64::from(cycle) * 100 + call).to_string();
        let module = self.host.module(id).map_err(|error| error.to_string())?;
        let mut calls: Vec<_> = (0..TASKS)
            .map(|call| {
                let (module, seed) = (module.clone(), seed(call));
                tokio::spawn(async move { module.invoke("use", seed).await })
            })
            .collect();
        let (handle, blocking, seed_of_it) = (Handle::current(), module.clone(), seed(TASKS));
        calls.push(tokio::task::spawn_blocking(move || handle.block_on(blocking.invoke("use", seed_of_it))));
        let mut results = vec![module.invoke("use", seed(TASKS + 1)).await];
        for call in calls {
            results.push(call.await.map_err(|error| error.to_string())?);
        }
        results.into_iter().try_for_each(|result| match result {
            Ok(reply) if reply.as_bytes() == b"ok" => Ok(()),
            Ok(_) => Err("an answer that is not `ok`".to_owned()),
            Err(error) => Err(format!("use: {error}")),
        })
    }

    /// Compares the receipt with the map.
    async fn look(&mut self, cycle: u32, receipt: &Receipt, copy: &str) {
        let is_mapped = copies_in(&self.base).contains(copy);
        let report = &mut self.report;
        report.forgotten_locals += receipt.forgotten_locals;
        report.leaked_bytes = receipt.leaked_bytes;
        if receipt.unmapped {
            report.unmapped += 1;
            if is_mapped {
                report.lies.push(format!("cycle {cycle}: `unmapped`, but it is in the map"));
            }
            return;
        }
        let holders: BTreeSet<_> =
            receipt.retained_by.iter().map(|held| format!("{:?}", held.holder)).collect();
        if holders.is_empty() {
            report.lies.push(format!("cycle {cycle}: retained without a holder"));
        }
        for held in &receipt.retained_by {
            report.detail = Some(format!("{} ×{}", held.detail, held.count));
            count(&mut report.holders, held.holder);
        }
        // It may be gone since; then it is not on the list, or will not be soon.
        let listed = |host: &Host| host.retained().iter().any(|one| one.generation == receipt.generation);
        if !is_mapped && listed(&self.host) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if listed(&self.host) {
                self.report.lies.push(format!("cycle {cycle}: listed as retained, but not in the map"));
            }
        }
    }
}

fn count(holders: &mut Vec<(Holder, u32)>, holder: Holder) {
    match holders.iter_mut().find(|(known, _)| *known == holder) {
        Some((_, times)) => *times += 1,
        None => holders.push((holder, 1)),
    }
}

/// The copies below `base` that are mapped at present.
fn copies_in(base: &Path) -> BTreeSet<String> {
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
    let base = base.to_str().expect("a name of text");
    maps.lines().filter_map(|line| line.find(base).map(|at| line[at..].to_owned())).collect()
}

/// How large this process is now.
fn size(cycle: u32) -> Size {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("Linux");
    let rss = rollup.lines().find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"));
    let entries = |folder: &str| fs::read_dir(folder).expect("Linux").count();
    Size {
        cycle,
        rss_kib: rss.and_then(|rss| rss.trim().parse().ok()).unwrap_or_default(),
        mappings: fs::read_to_string("/proc/self/maps").expect("Linux").lines().count(),
        fds: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
    }
}
