//! How the program ends.

use std::process::ExitCode;

use crate::intake::RefusalReason;

/// The exit codes. They are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// It is done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line, or a file it names as input, is wrong.
    Usage = 2,
    /// The plugin was refused.
    Refused = 3,
    /// No module has this id.
    NoSuchModule = 4,
    /// No host is running.
    NoHost = 5,
}

impl Exit {
    /// The exit code of an error, by the error's own code.
    pub(super) fn of(code: &str) -> Self {
        match code {
            "usage" => Self::Usage,
            "unknown_module" => Self::NoSuchModule,
            "no_host" => Self::NoHost,
            // The error code of a refusal is its reason.
            _ if serde_json::from_value::<RefusalReason>(code.into()).is_ok() => Self::Refused,
            _ => Self::Failed,
        }
    }

    /// Its number.
    pub(super) fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KernelError, Refusal};

    #[test]
    fn every_kind_of_error_has_its_exit_code() {
        let refusal = Refusal::new("x.so", RefusalReason::WrongTarget, "message", "hint");
        assert_eq!(Exit::of(KernelError::from(refusal).code()), Exit::Refused);
        assert_eq!(Exit::of(KernelError::UnknownModule("x".into()).code()), Exit::NoSuchModule);
        assert_eq!(Exit::of(KernelError::DuplicateModule("x".into()).code()), Exit::Failed);
        assert_eq!(Exit::of("usage"), Exit::Usage);
        assert_eq!(Exit::of("no_host"), Exit::NoHost);
        assert_eq!(Exit::of("something new"), Exit::Failed);
    }
}
