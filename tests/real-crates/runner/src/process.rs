//! Runs one plugin's cycles in a process of its own, so that a crash is an answer.

use std::{
    env,
    io::Read,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use oxide_host::report::Holder;
use serde::{Deserialize, Serialize};

use crate::{child, expected::Plugin};

/// The most that all of a plugin's cycles may take.
const LONGEST: Duration = Duration::from_secs(600);

/// One arena, and large blocks mapped each by itself. Otherwise the C library keeps, for each thread that has
/// once read a large library's file, as much as that took: bounded, but it hides what grows with every cycle.
const MALLOC: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072")];

/// What the child saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) unmapped: u32,
    /// Retained at first, but gone by the end.
    pub(crate) later: u32,
    /// In how many receipts each holder stood.
    pub(crate) holders: Vec<(Holder, u32)>,
    /// A word from the last receipt that was of a retained one.
    pub(crate) detail: Option<String>,
    /// What a receipt said against what the process's map said.
    pub(crate) lies: Vec<String>,
    /// Loads, calls and unloads that failed.
    pub(crate) failures: Vec<String>,
    pub(crate) forgotten_locals: u64,
    pub(crate) leaked_bytes: Option<u64>,
    /// After a quarter of the cycles, and after all of them.
    pub(crate) early: Size,
    pub(crate) late: Size,
    pub(crate) milliseconds: u64,
}

/// How large the process is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) cycle: u32,
    pub(crate) rss_kib: u64,
    pub(crate) mappings: usize,
    pub(crate) fds: usize,
    pub(crate) threads: usize,
}

/// How the child ended, with what it saw if it came to say it.
pub(crate) struct Outcome {
    pub(crate) status: Option<ExitStatus>,
    pub(crate) report: Option<Report>,
    pub(crate) unmade: Option<String>,
}

/// Runs `cycles` of them, and waits for the process's end.
pub(crate) fn run(plugin: &Plugin, cycles: u32) -> Outcome {
    match try_run(plugin, cycles) {
        Ok(outcome) => outcome,
        Err(error) => Outcome { status: None, report: None, unmade: Some(error.to_string()) },
    }
}

fn try_run(plugin: &Plugin, cycles: u32) -> std::io::Result<Outcome> {
    let runner = env::current_exe()?;
    let folder = runner.parent().unwrap_or(&runner);
    let library = folder.join(format!("libuses_{}.so", plugin.package.replace('-', "_")));
    if !library.is_file() {
        return Err(std::io::Error::other(format!("{} is not built", library.display())));
    }
    let patience = plugin.patience().as_millis().to_string();
    let mut child = Command::new(&runner)
        .args([child::VERB, &cycles.to_string(), &patience])
        .arg(&library)
        .envs(MALLOC)
        .envs(plugin.variable)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|mut stdout| stdout.read_to_string(&mut text));
        read.is_some_and(|read| read.is_ok()).then_some(text)
    });
    let since = Instant::now();
    let (mut status, mut unmade) = (None, None);
    while status.is_none() {
        thread::sleep(Duration::from_millis(20));
        status = child.try_wait()?;
        if status.is_none() && since.elapsed() > LONGEST {
            child.kill()?;
            status = Some(child.wait()?);
            unmade = Some(format!("killed after {} s", LONGEST.as_secs()));
        }
    }
    let text = reader.join().ok().flatten().unwrap_or_default();
    let report = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    Ok(Outcome { status, report, unmade })
}
