//! What every verb gets.

use std::path::PathBuf;

use super::{Client, Failure, Printer, args::Global};
use crate::daemon::Endpoint;

/// How to print, and where the host is.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) printer: Printer,
    /// `--socket`, kept apart: a command that is shown to somebody needs it too.
    socket_flag: Option<PathBuf>,
}

impl Context {
    pub(super) fn new(global: &Global) -> Self {
        Self { printer: Printer::new(global.json, global.verbosity()), socket_flag: global.socket.clone() }
    }

    /// The socket: the command line's, else the environment's, else the configuration's, else the user's own.
    pub(super) fn endpoint(&self, configured: Option<&PathBuf>) -> Endpoint {
        let environment = || {
            // Set but empty is the same as not set, as is usual.
            std::env::var_os("OXIDE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
        };
        let named = self.socket_flag.clone().or_else(environment).or_else(|| configured.cloned());
        named.map_or_else(Endpoint::default_for_user, Endpoint::at)
    }

    /// A connection to the running host.
    pub(super) async fn host(&self) -> Result<Client, Failure> {
        Client::connect(&self.endpoint(None)).await
    }

    /// How somebody in another terminal would begin a command for the same host.
    pub(super) fn command(&self) -> String {
        match &self.socket_flag {
            Some(path) => format!("oxide-host --socket {}", path.display()),
            None => "oxide-host".to_owned(),
        }
    }
}
