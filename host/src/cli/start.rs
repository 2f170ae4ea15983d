//! `start`.

use hyper::Method;

use super::{Context, Exit, Failure, client::module_path};
use crate::report::ModuleInfo;

/// What `start` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    /// The module's id
    id: String,
}

impl Start {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let path = module_path(&self.id, &["start"])?;
        let module: ModuleInfo = context.host().await?.call(Method::POST, &path, None::<&()>).await?;
        context.printer.say(format_args!("started {}", module.id));
        if context.printer.json() {
            context.printer.value(&module)?;
        }
        Ok(Exit::Done)
    }
}
