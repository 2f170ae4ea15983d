//! What a verb gives back when it could not do what it was asked.

use std::{io, path::Path};

use hyper::StatusCode;

use super::Exit;
use crate::{
    config::ConfigError,
    daemon::{ErrorReport, SocketError},
    error::KernelError,
};

/// An error and the exit code it leads to.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) report: Box<ErrorReport>,
    /// The error was part of an answer that has been printed.
    pub(super) printed: bool,
}

impl Failure {
    pub(super) fn new(report: ErrorReport) -> Self {
        Self { exit: Exit::of(&report.code), report: Box::new(report), printed: false }
    }

    /// An error that a host sent.
    pub(super) fn remote(status: StatusCode, report: ErrorReport) -> Self {
        let mut failure = Self::new(report);
        // A newer host may refuse for reasons that we have no name for.
        if status == StatusCode::UNPROCESSABLE_ENTITY {
            failure.exit = Exit::Refused;
        }
        failure
    }

    /// The command line is wrong.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorReport::new("usage", message))
    }

    /// The system said no.
    pub(super) fn io(action: &str, error: &io::Error) -> Self {
        let mut report = ErrorReport::new("io", format!("cannot {action}: {error}"));
        report.chain = vec![format!("cannot {action}"), error.to_string()];
        Self::new(report)
    }

    /// A file that the command line names as input cannot be read.
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let mut failure = Self::io(&format!("read `{}`", path.display()), error);
        failure.exit = Exit::Usage;
        failure.report.code = "usage".to_owned();
        failure
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.report.hint = Some(hint.into());
        self
    }

    pub(super) fn printed(mut self) -> Self {
        self.printed = true;
        self
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::new(ErrorReport::from(&error))
    }
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Self {
        Self::new(ErrorReport::from(&error))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorReport::from(&error))
    }
}
