//! `stop`.

use hyper::Method;

use super::{Context, Exit, Failure, client::module_path};
use crate::report::ModuleInfo;

/// What `stop` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Stop {
    /// The module's id
    id: String,
}

impl Stop {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let path = module_path(&self.id, &["stop"])?;
        let module: ModuleInfo = context.host().await?.call(Method::POST, &path, None::<&()>).await?;
        context.printer.say(format_args!("stopped {}", module.id));
        if context.printer.json() {
            context.printer.value(&module)?;
        }
        Ok(Exit::Done)
    }
}
