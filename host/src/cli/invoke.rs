//! `invoke`.

use std::ffi::OsString;

use hyper::Method;

use super::{Context, Exit, Failure, client::module_path, input};

/// What `invoke` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Invoke {
    /// The module's id
    id: String,
    /// The method's name
    method: String,
    /// The payload: text, @FILE for a file's bytes, or - for stdin's; nothing when left out
    #[arg(value_name = "TEXT|@FILE|-", allow_negative_numbers = true)]
    payload: Option<OsString>,
}

impl Invoke {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let path = module_path(&self.id, &["invoke", &self.method])?;
        // Connected first: whoever has no host should not have to type a payload before he hears of it.
        let mut host = context.host().await?;
        let payload = input::payload(self.payload)?;
        let reply = host.bytes(Method::POST, &path, payload).await?;
        context.printer.bytes(&reply)?;
        Ok(Exit::Done)
    }
}
