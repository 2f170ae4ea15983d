//! What every verb gets.

use std::path::{Path, PathBuf};

use super::{Client, Failure, Printer, args::Global, text::shell_word};
use crate::daemon::Endpoint;

/// How to print, and where the host is.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) printer: Printer,
    socket_flag: Option<PathBuf>,
}

impl Context {
    pub(super) fn new(global: &Global) -> Self {
        Self { printer: Printer::new(global.json, global.verbosity()), socket_flag: global.socket.clone() }
    }

    /// The socket: the command line's, else the environment's, else the configuration's, else the user's own.
    pub(super) fn endpoint(&self, configured: Option<&PathBuf>) -> Endpoint {
        let named = self.socket_flag.clone().or_else(environment).or_else(|| configured.cloned());
        named.map_or_else(Endpoint::default_for_user, Endpoint::at)
    }

    /// A connection to the running host.
    pub(super) async fn host(&self) -> Result<Client, Failure> {
        Client::connect(&self.endpoint(None)).await
    }
}

/// How somebody would begin a command for the host on `socket`: without naming it, where that one is meant
/// anyway.
pub(super) fn command_for(socket: &Path) -> String {
    let meant = environment().map_or_else(Endpoint::default_for_user, Endpoint::at);
    if meant.path() == socket {
        return "oxide-host".to_owned();
    }
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    format!("oxide-host --socket {}", shell_word(&socket.to_string_lossy()))
}

/// `OXIDE_SOCKET`. Set but empty is the same as not set, as is usual.
fn environment() -> Option<PathBuf> {
    std::env::var_os("OXIDE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
}
