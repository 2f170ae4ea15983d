//! `retained`.

use std::io::IsTerminal;

use super::{
    Context, Exit, Failure,
    list::terminal_width,
    table::{Cell, Fit, render},
    unload::holder,
};
use crate::report::Retained as Generation;

/// What `retained` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Retained {}

impl Retained {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let retained: Vec<Generation> = context.host().await?.get("/v1/retained").await?;
        if retained.is_empty() && !context.printer.json() {
            context.printer.say("nothing is retained");
            return Ok(Exit::Done);
        }
        context.printer.answer(&retained, || table(&retained, width()))?;
        Ok(Exit::Done)
    }
}

/// The terminal's; what is read by something else is not cut.
fn width() -> usize {
    if std::io::stdout().is_terminal() { terminal_width() } else { usize::MAX }
}

fn table(retained: &[Generation], width: usize) -> String {
    let columns =
        [("ID", Fit::Whole), ("GEN", Fit::Whole), ("PATH", Fit::CutStart), ("HELD BY", Fit::CutEnd)];
    let mut rows = Vec::new();
    for generation in retained {
        let Generation { id, generation: number, path, retained_by, .. } = generation;
        let path = path.to_string_lossy();
        let first = retained_by.first().map_or(String::new(), holder);
        rows.push([Cell::new(id), Cell::new(number.to_string()), Cell::new(path), Cell::new(first)]);
        for more in retained_by.iter().skip(1) {
            rows.push([Cell::new(""), Cell::new(""), Cell::new(""), Cell::new(holder(more))]);
        }
    }
    render(columns, &rows, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Holder, Retention};

    #[test]
    fn every_holder_has_its_line() {
        let retained = [Generation {
            id: "echo".into(),
            generation: 1,
            path: "/srv/plugins/releases/2026-11-23/build-17/libecho.so".into(),
            retained_by: vec![
                Retention { holder: Holder::Thread, count: 2, detail: "started in `init`".into() },
                Retention { holder: Holder::Loader, count: 1, detail: "linked with nodelete".into() },
            ],
        }];
        let table = anstream::adapter::strip_str(&table(&retained, 80)).to_string();
        insta::assert_snapshot!(table, @r#"
        ID    GEN  PATH                                     HELD BY
        echo  1    …eleases/2026-11-23/build-17/libecho.so  thread ×2: started in `init`
                                                            loader: linked with nodelete
        "#);
    }
}
