//! What is wrong with a file, before it is known which file it is.

use std::{fmt, path::Path};

use super::{Refusal, RefusalReason, text};

/// A refusal that still lacks its subject: `found` continues a sentence that begins with the file's name.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    reason: RefusalReason,
    found: String,
    hint: String,
}

impl Fault {
    pub(super) fn new(reason: RefusalReason, found: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self { reason, found: found.to_string(), hint: hint.to_string() }
    }

    /// The file ends early or contradicts itself.
    pub(super) fn damaged(found: impl fmt::Display) -> Self {
        Self::new(
            RefusalReason::Damaged,
            found,
            "copy it again, or build it again; it may still be being written",
        )
    }

    /// What a parser said about bytes that it could not follow.
    pub(super) fn unparsable(error: object::Error) -> Self {
        Self::damaged(format_args!("is damaged or ends early: {}", text::lower_first(&error.to_string())))
    }

    /// It is something else than a dynamic library.
    pub(super) fn not_a_library(found: impl fmt::Display) -> Self {
        let hint = format!(
            "name the dynamic library that cargo built from a crate with `crate-type = [\"cdylib\"]`: \
             here its name ends in `{}`",
            std::env::consts::DLL_SUFFIX
        );
        Self::new(RefusalReason::NotALibrary, found, hint)
    }

    /// The refusal of the file at `path`.
    pub(super) fn of(self, path: &Path) -> Refusal {
        let message = format!("`{}` {}", text::file_name(path), self.found);
        Refusal::new(path, self.reason, message, self.hint)
    }
}

impl From<object::Error> for Fault {
    fn from(error: object::Error) -> Self {
        Self::unparsable(error)
    }
}
