//! `show`.

use std::{fmt::Write, time::Duration};

use super::{Client, Context, Exit, Failure, client::module_path, list::style, text::escape, unload::holder};
use crate::report::ModuleInfo;

/// What `show` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The module's id
    id: String,
}

impl Show {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let path = module_path(&self.id, &[])?;
        let mut host: Client = context.host().await?;
        let module: ModuleInfo = host.get(&path).await?;
        context.printer.answer(&module, || sheet(&module))?;
        Ok(Exit::Done)
    }
}

fn sheet(module: &ModuleInfo) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<12} {}", escape(value));
    };
    line("id", &module.id);
    line("name", &module.name);
    line("version", &module.version);
    line("kind", &module.kind.to_string());
    line("generation", &module.generation.to_string());
    if let Some(path) = &module.path {
        line("path", &path.to_string_lossy());
    }
    if let Some(engine) = &module.engine {
        line("engine", &engine.to_string_lossy());
    }
    if let Some(description) = &module.description {
        line("description", description);
    }
    let colour = style(module.state);
    let _ = writeln!(text, "{:<12} {colour}{}{colour:#}", "state", module.state);
    if let Some(failure) = &module.failure {
        let _ = writeln!(text, "{:<12} {}", "failure", escape(failure));
    }
    if let Some(millis) = module.probation_millis {
        let _ = writeln!(text, "{:<12} for another {:?}", "probation", Duration::from_millis(millis));
    }
    for retention in &module.retained_by {
        let _ = writeln!(text, "{:<12} {}", "stays mapped", escape(&holder(retention)));
    }
    text
}
