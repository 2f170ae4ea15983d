//! `swap`, `rollback`, and how a swap reads.

use std::{path::PathBuf, time::Duration};

use hyper::Method;

use super::{
    Context, Exit, Failure, Printer,
    client::module_path,
    input,
    unload::{holder, notes},
};
use crate::{
    config::parse_duration,
    daemon::{DryRun, SwapRequest},
    report::{SwapReport, SwapStep},
};

/// What `swap` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Swap {
    /// The module's id
    id: String,
    /// The file of the new build
    path: PathBuf,
    /// What the new build's `configure` gets; what the present build got, when left out
    #[arg(long, value_name = "JSON|@FILE", allow_hyphen_values = true)]
    config: Option<String>,
    /// Swap also to the very bytes that are loaded
    #[arg(long)]
    force: bool,
    /// Go back to the present build if the new one panics, or fails its callers too often, within this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "dry_run")]
    probation: Option<Duration>,
    /// How many errors the new build may make while on probation [default: 10]
    #[arg(long, value_name = "COUNT", requires = "probation")]
    probation_errors: Option<u64>,
    /// Only try the build out, in a process of its own: opened, compared, constructed, asked what it is
    #[arg(long)]
    dry_run: bool,
}

/// What `rollback` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    /// The module's id
    id: String,
}

impl Swap {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config =
            self.config.as_deref().map(|config| input::json("--config", Some(config))).transpose()?;
        let path = module_path(&self.id, &["swap"])?;
        let request = SwapRequest {
            path: input::absolute(&self.path)?,
            config,
            force: self.force.then_some(true),
            probation_millis: self.probation.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            probation_errors: self.probation_errors,
            dry_run: self.dry_run.then_some(true),
        };
        let mut host = context.host().await?;
        if self.dry_run {
            let found: DryRun = host.call(Method::POST, &path, Some(&request)).await?;
            dry_run_lines(&found).iter().for_each(|line| context.printer.say(line));
            if context.printer.json() {
                context.printer.value(&found)?;
            }
        } else {
            let report: SwapReport = host.call(Method::POST, &path, Some(&request)).await?;
            tell(&context.printer, &report, self.probation)?;
        }
        Ok(Exit::Done)
    }
}

impl Rollback {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let path = module_path(&self.id, &["rollback"])?;
        let report: SwapReport = context.host().await?.call(Method::POST, &path, None::<&()>).await?;
        tell(&context.printer, &report, None)?;
        Ok(Exit::Done)
    }
}

fn tell(printer: &Printer, report: &SwapReport, probation: Option<Duration>) -> Result<(), Failure> {
    lines(report, probation).iter().for_each(|line| printer.say(line));
    if printer.json() { printer.value(report) } else { Ok(()) }
}

fn lines(report: &SwapReport, probation: Option<Duration>) -> Vec<String> {
    let SwapReport { id, from, to, from_version, to_version, old, .. } = report;
    let fate = if old.unmapped { "the old library is gone" } else { "the old library is still mapped" };
    let mut lines = vec![format!(
        "swapped {id} from generation {from} ({from_version}) to {to} ({to_version}), and {fate}"
    )];
    lines.extend(notes(old));
    if report.downgrade {
        lines.push(format!("  a downgrade: {to_version} is older than {from_version}"));
    }
    if report.state_moved {
        let held = Duration::from_micros(report.hold_micros);
        lines.push(match (report.hold_micros, report.held_calls) {
            (0, _) => "  its state was handed over".to_owned(),
            (_, 0) => format!("  its state was handed over in {held:?}, in which no call came"),
            (_, 1) => format!("  its state was handed over in {held:?}, for which 1 call waited"),
            (_, calls) => format!("  its state was handed over in {held:?}, for which {calls} calls waited"),
        });
    }
    if let Some(time) = probation {
        lines.push(format!("  on probation for {time:?}; `rollback {id}` sends it back at any time"));
    }
    lines
}

fn dry_run_lines(found: &DryRun) -> Vec<String> {
    let DryRun { id, generation, from_version, to_version, .. } = found;
    let mut lines = vec![format!(
        "{id} could be swapped from {from_version} to {to_version}: the build can be opened and constructed"
    )];
    if found.downgrade {
        lines.push(format!("  a downgrade: {to_version} is older than {from_version}"));
    }
    lines.extend(
        found.retained_by.iter().map(|retention| {
            format!("  its library would stay mapped after an unload: {}", holder(retention))
        }),
    );
    // A guest had to be configured to say what it is.
    let configure = if found.passed.contains(&SwapStep::Configure) { "" } else { "configure, " };
    lines.push(format!(
        "  not tried: {configure}init, restore_state and start; generation {generation} runs on"
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{DropOutcome, Holder, Receipt, Retention, StopOutcome};

    #[test]
    fn a_swap_says_what_was_moved_and_what_is_left() {
        let old = Receipt {
            id: "counter".into(),
            generation: 1,
            unmapped: true,
            retained_by: vec![],
            drained: 3,
            cancelled: 0,
            stop: StopOutcome::Ok,
            drop: DropOutcome::Ok,
            leaked_bytes: Some(0),
            forgotten_locals: 0,
            revoked: 0,
        };
        let mut report = SwapReport {
            id: "counter".into(),
            from: 1,
            to: 2,
            from_version: "0.2.0".into(),
            to_version: "0.1.0".into(),
            downgrade: true,
            state_moved: true,
            held_calls: 4,
            hold_micros: 1250,
            old,
        };
        insta::assert_snapshot!(lines(&report, Some(Duration::from_secs(30))).join("\n"), @r#"
        swapped counter from generation 1 (0.2.0) to 2 (0.1.0), and the old library is gone
          a downgrade: 0.1.0 is older than 0.2.0
          its state was handed over in 1.25ms, for which 4 calls waited
          on probation for 30s; `rollback counter` sends it back at any time
        "#);
        report.downgrade = false;
        report.state_moved = false;
        report.old.unmapped = false;
        report.old.retained_by =
            vec![Retention { holder: Holder::Thread, count: 2, detail: "`worker`".into() }];
        insta::assert_snapshot!(lines(&report, None).join("\n"), @r#"
        swapped counter from generation 1 (0.2.0) to 2 (0.1.0), and the old library is still mapped
          held by thread ×2: `worker`
          the host tries again when that changes; `retained` lists it
        "#);
    }
}
