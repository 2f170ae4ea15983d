//! Loads, starts, uses and unloads each plugin of this workspace 200 times, in a process of its own, and tells
//! what became of it. `scripts/real-crates.sh` builds the plugins and runs this.
//!
//! ```text
//! real-crates [--cycles N] [--into FILE] [NAME…]
//! ```
//!
//! `--into` puts the table between the two marks of a Markdown file. The exit status is 1 when anything was
//! unsafe, or did not turn out as `expected.rs` says.
#![forbid(unsafe_code)]

mod child;
mod expected;
mod process;
mod table;

use std::{env, path::PathBuf, process::ExitCode};

use expected::{PLUGINS, Plugin};
use table::Row;

/// As often as the promise says.
const CYCLES: u32 = 200;

struct Arguments {
    cycles: u32,
    into: Option<PathBuf>,
    names: Vec<String>,
}

fn arguments() -> Option<Arguments> {
    let mut arguments = Arguments { cycles: CYCLES, into: None, names: Vec::new() };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--cycles" => arguments.cycles = words.next()?.parse().ok()?,
            "--into" => arguments.into = Some(words.next()?.into()),
            name if PLUGINS.iter().any(|plugin| plugin.name == name) => arguments.names.push(word),
            _ => return None,
        }
    }
    Some(arguments)
}

fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    if words.next().as_deref() == Some(child::VERB) {
        child::run(words);
        return ExitCode::SUCCESS;
    }
    let Some(arguments) = arguments() else {
        let names: Vec<_> = PLUGINS.iter().map(|plugin| plugin.name).collect();
        eprintln!("usage: real-crates [--cycles N] [--into FILE] [NAME…]\nnames: {}", names.join(" "));
        return ExitCode::from(2);
    };
    let wanted = |plugin: &&Plugin| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| name == plugin.name)
    };
    let mut rows = Vec::new();
    let mut all_well = true;
    for plugin in PLUGINS.iter().filter(wanted) {
        eprint!("{:20} ", plugin.name);
        let row = Row { plugin, outcome: process::run(plugin, arguments.cycles) };
        let faults = row.faults();
        eprintln!(
            "{}",
            if faults.is_empty() { row.summary() } else { format!("WRONG: {}", faults.join("; ")) }
        );
        all_well &= faults.is_empty();
        rows.push(row);
    }
    let table = table::markdown(&rows, arguments.cycles);
    println!("{table}");
    if let Some(file) = &arguments.into
        && let Err(error) = table::put_into(file, &table)
    {
        eprintln!("error: {}: {error}", file.display());
        all_well = false;
    }
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
