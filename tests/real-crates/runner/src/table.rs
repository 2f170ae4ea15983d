//! What came out, judged and as a table.

use std::{fs, io, os::unix::process::ExitStatusExt, path::Path};

use oxide_host::report::Holder;

use crate::{
    expected::{End, Plugin},
    process::{Outcome, Report},
};

const BEGIN: &str = "<!-- real-crates: begin -->";
const END: &str = "<!-- real-crates: end -->";

/// One plugin with what became of it.
pub(crate) struct Row {
    pub(crate) plugin: &'static Plugin,
    pub(crate) outcome: Outcome,
}

/// The word that receipts use.
fn word(holder: Holder) -> String {
    serde_json::to_value(holder).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default()
}

fn grows(report: &Report) -> f64 {
    let cycles = report.late.cycle.saturating_sub(report.early.cycle).max(1);
    (report.late.rss_kib as f64 - report.early.rss_kib as f64) / f64::from(cycles)
}

impl Row {
    /// Whatever was unsafe, or not as expected.
    pub(crate) fn faults(&self) -> Vec<String> {
        let Outcome { status, report, unmade } = &self.outcome;
        let mut faults: Vec<String> = unmade.iter().cloned().collect();
        if !status.is_some_and(|status| status.success()) {
            faults.push(format!("the process {}", self.exit()));
        }
        let Some(report) = report else {
            faults.push("no report".to_owned());
            return faults;
        };
        faults.extend(report.lies.iter().cloned());
        faults.extend(report.failures.iter().cloned());
        let cycles = report.late.cycle;
        match self.plugin.end {
            End::Unmapped if report.unmapped < cycles => {
                let detail = report.detail.clone().unwrap_or_default();
                faults.push(format!("unmapped {}/{cycles}: {} ({detail})", report.unmapped, holders(report)));
            }
            End::Retained(holder) if report.holders != [(holder, cycles)] => {
                faults.push(format!("expected {} to hold all, but: {}", word(holder), holders(report)));
            }
            _ => {}
        }
        if grows(report) > self.plugin.grows {
            faults.push(format!("{:.1} KiB a cycle, of {:.1} at most", grows(report), self.plugin.grows));
        }
        if report.late.fds > report.early.fds && self.plugin.end == End::Unmapped {
            faults.push(format!("fds {} → {}", report.early.fds, report.late.fds));
        }
        faults
    }

    pub(crate) fn summary(&self) -> String {
        let Some(report) = &self.outcome.report else { return self.exit() };
        let Report { unmapped, early, late, milliseconds, .. } = report;
        format!(
            "unmapped {unmapped}/{}, {:+.1} KiB, {} → {} mappings, {} ms a cycle",
            late.cycle,
            grows(report),
            early.mappings,
            late.mappings,
            milliseconds / u64::from(late.cycle.max(1)),
        )
    }

    fn exit(&self) -> String {
        match self.outcome.status {
            None => "never began".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit {code}"),
                (None, signal) => format!("signal {}", signal.unwrap_or_default()),
            },
        }
    }

    fn markdown(&self) -> String {
        let Plugin { name, uses, .. } = self.plugin;
        let exit = self.exit();
        let Some(report) = &self.outcome.report else {
            return format!("| {name} | {uses} | | | | | | | {exit} |\n");
        };
        let Report { unmapped, early, late, .. } = report;
        let leaked = report.leaked_bytes.map_or("unknown".to_owned(), |bytes| bytes.to_string());
        format!(
            "| {name} | {uses} | {unmapped}/{} | {} | {:+.1} | {} → {} | {} → {} | {leaked} | {exit} |\n",
            late.cycle,
            holders(report),
            grows(report),
            early.fds,
            late.fds,
            early.threads,
            late.threads,
        )
    }
}

fn holders(report: &Report) -> String {
    let mut words: Vec<String> =
        report.holders.iter().map(|(holder, times)| format!("`{}` ×{times}", word(*holder))).collect();
    if report.later > 0 {
        words.push(format!("{} gone later", report.later));
    }
    if words.is_empty() { "–".to_owned() } else { words.join(", ") }
}

/// The table, as docs/safety.md has it.
pub(crate) fn markdown(rows: &[Row], cycles: u32) -> String {
    let early = cycles.div_ceil(4);
    let mut table = String::from(
        "| plugin | what it uses | unmapped | retained by | KiB a cycle | fds | threads | leaked bytes | end |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    rows.iter().for_each(|row| table.push_str(&row.markdown()));
    table.push_str(&format!(
        "\nGrowth, descriptors and threads: from the end of cycle {early} to the end of cycle {cycles}.\n"
    ));
    table
}

/// Replaces what stands between the marks of the file.
pub(crate) fn put_into(file: &Path, table: &str) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        return Err(io::Error::other(format!("it lacks `{BEGIN}` and `{END}`")));
    };
    fs::write(file, format!("{before}{BEGIN}\n{table}{END}{after}"))
}
