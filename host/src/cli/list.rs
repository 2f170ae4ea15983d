//! `list`.

use std::io;

use anstyle::{AnsiColor, Style};
use oxide_plugin_api::ModuleState;

use super::{
    Context, Exit, Failure,
    table::{Cell, Fit, render},
};
use crate::report::{ModuleInfo, Retained};

/// What `list` takes.
#[derive(Debug, clap::Args)]
pub(super) struct List {}

impl List {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut host = context.host().await?;
        let modules: Vec<ModuleInfo> = host.get("/v1/modules").await?;
        if modules.is_empty() && !context.printer.json() {
            context.printer.say("no modules");
        } else {
            context.printer.answer(&modules, || table(&modules, terminal_width()))?;
        }
        let retained: Vec<Retained> = host.get("/v1/retained").await?;
        match retained.len() {
            0 => {}
            1 => context.printer.say("1 unloaded library is still mapped; `retained` says why"),
            many => context
                .printer
                .say(format_args!("{many} unloaded libraries are still mapped; `retained` says why")),
        }
        Ok(Exit::Done)
    }
}

/// How wide the terminal is; 80 columns where there is none.
pub(super) fn terminal_width() -> usize {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => 80,
    }
}

/// The colour of a state.
pub(super) fn style(state: ModuleState) -> Style {
    match state {
        ModuleState::Running => AnsiColor::Green.on_default(),
        ModuleState::Failed => AnsiColor::Red.on_default(),
        ModuleState::Starting | ModuleState::Stopping => AnsiColor::Yellow.on_default(),
        ModuleState::Loaded | ModuleState::Stopped => Style::new(),
    }
}

fn table(modules: &[ModuleInfo], width: usize) -> String {
    let columns = [
        ("ID", Fit::Whole),
        ("STATE", Fit::Whole),
        ("VERSION", Fit::CutEnd),
        ("GEN", Fit::Whole),
        ("KIND", Fit::Whole),
        ("DESCRIPTION", Fit::CutEnd),
    ];
    let rows: Vec<_> = modules
        .iter()
        .map(|module| {
            // Of a module that failed, the reason is what its operator wants to read.
            let about = module.failure.as_ref().or(module.description.as_ref());
            [
                Cell::new(&module.id),
                Cell::styled(module.state.to_string(), style(module.state)),
                Cell::new(&module.version),
                Cell::new(module.generation.to_string()),
                Cell::new(module.kind.to_string()),
                Cell::new(about.map_or("", String::as_str)),
            ]
        })
        .collect();
    render(columns, &rows, width)
}

#[cfg(test)]
mod tests {
    use oxide_plugin_api::{ModuleKind, ModuleMetadata};

    use super::*;

    fn module(id: &str, version: &str, state: ModuleState, description: Option<&str>) -> ModuleInfo {
        let metadata = ModuleMetadata {
            id: id.into(),
            name: id.into(),
            version: version.into(),
            kind: ModuleKind::Native,
            description: description.map(Into::into),
        };
        ModuleInfo::new(metadata, state, 1)
    }

    #[test]
    fn the_table_is_readable_at_80_columns() {
        let mut failed = module("ticker", "0.3.0", ModuleState::Failed, Some("Ticks"));
        failed.failure = Some("start of module `ticker` panicked: no clock \u{1b}[2J".into());
        failed.generation = 12;
        let modules = [
            module("counter", "0.1.0", ModuleState::Stopped, None),
            module(
                "echo",
                "1.22.333-beta.4+build.20261123.aabbccdd",
                ModuleState::Running,
                Some("Answers every call with what it was asked, byte for byte and without delay"),
            ),
            failed,
        ];
        let table = anstream::adapter::strip_str(&table(&modules, 80)).to_string();
        insta::assert_snapshot!(table, @r#"
        ID       STATE    VERSION                   GEN  KIND    DESCRIPTION
        counter  stopped  0.1.0                     1    native
        echo     running  1.22.333-beta.4+build.2…  1    native  Answers every call wit…
        ticker   failed   0.3.0                     12   native  start of module `ticke…
        "#);
        assert!(table.lines().all(|line| line.chars().count() <= 80));
    }
}
