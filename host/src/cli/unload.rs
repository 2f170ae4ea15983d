//! `unload`, and how a receipt reads.

use hyper::Method;

use super::{Context, Exit, Failure, Printer, client::module_path};
use crate::report::{DropOutcome, Holder, Receipt, Retention, StopOutcome};

/// What `unload` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Unload {
    /// The module's id
    id: String,
}

impl Unload {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let path = module_path(&self.id, &[])?;
        let receipt: Receipt = context.host().await?.call(Method::DELETE, &path, None::<&()>).await?;
        say_receipt(&context.printer, &receipt);
        if context.printer.json() {
            context.printer.value(&receipt)?;
        }
        Ok(Exit::Done)
    }
}

/// Says what became of a module, a line for every reason why it is still there.
pub(super) fn say_receipt(printer: &Printer, receipt: &Receipt) {
    for line in lines(receipt) {
        printer.say(line);
    }
}

/// How one holder reads, in `unload` and in `retained`.
pub(super) fn holder(retention: &Retention) -> String {
    // The name it has in JSON: one word for one thing.
    let name = serde_json::to_value(retention.holder).ok();
    let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or("unknown");
    let times = if retention.count > 1 { format!(" ×{}", retention.count) } else { String::new() };
    if retention.detail.is_empty() {
        format!("{name}{times}")
    } else {
        format!("{name}{times}: {}", retention.detail)
    }
}

fn lines(receipt: &Receipt) -> Vec<String> {
    let Receipt { id, generation, .. } = receipt;
    let fate = if receipt.unmapped { "and its library is gone" } else { "but its library is still mapped" };
    let mut lines = vec![format!("unloaded {id} (generation {generation}), {fate}")];
    lines.extend(notes(receipt));
    lines
}

/// What did not go as one would wish, a line each.
pub(super) fn notes(receipt: &Receipt) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(receipt.retained_by.iter().map(|retention| format!("  held by {}", holder(retention))));
    if !receipt.unmapped {
        let is_for_good =
            |one: &Retention| matches!(one.holder, Holder::Stop | Holder::ForeignImport | Holder::Platform);
        lines.push(if receipt.retained_by.iter().any(is_for_good) {
            "  it stays until the process ends".to_owned()
        } else {
            "  the host tries again when that changes; `retained` lists it".to_owned()
        });
    }
    if receipt.cancelled > 0 {
        lines.push(format!("  waiting calls that were cancelled: {}", receipt.cancelled));
    }
    match receipt.stop {
        StopOutcome::Ok | StopOutcome::NotRunning => {}
        StopOutcome::Failed => lines.push("  its stop returned an error".to_owned()),
        StopOutcome::TimedOut => lines.push("  its stop did not end in time".to_owned()),
        StopOutcome::Panicked => lines.push("  its stop panicked".to_owned()),
        StopOutcome::Skipped => lines.push("  its stop was skipped: a call is still inside".to_owned()),
    }
    match receipt.drop {
        DropOutcome::Ok => {}
        DropOutcome::Panicked => lines.push("  its destructor panicked".to_owned()),
        DropOutcome::Skipped => lines.push("  its destructor was skipped".to_owned()),
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Holder;

    #[test]
    fn a_receipt_says_what_holds_the_library() {
        let mut receipt = Receipt {
            id: "echo".into(),
            generation: 2,
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
        insta::assert_snapshot!(lines(&receipt).join("\n"), @"unloaded echo (generation 2), and its library is gone");
        receipt.unmapped = false;
        receipt.cancelled = 2;
        receipt.stop = StopOutcome::Skipped;
        receipt.drop = DropOutcome::Skipped;
        receipt.retained_by = vec![
            Retention { holder: Holder::Call, count: 1, detail: "`wait` is still inside".into() },
            Retention { holder: Holder::ThreadLocal, count: 3, detail: String::new() },
        ];
        insta::assert_snapshot!(lines(&receipt).join("\n"), @r#"
        unloaded echo (generation 2), but its library is still mapped
          held by call: `wait` is still inside
          held by thread_local ×3
          the host tries again when that changes; `retained` lists it
          waiting calls that were cancelled: 2
          its stop was skipped: a call is still inside
          its destructor was skipped
        "#);
    }
}
