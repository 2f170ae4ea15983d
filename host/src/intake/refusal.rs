//! Why a file is not taken: what was found, what was expected, what to do.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Why a file was refused before any of its code ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Refusal {
    /// The file, as it was named.
    pub path: PathBuf,
    /// The kind of refusal, for programs.
    pub reason: RefusalReason,
    /// What was found and what was expected, in one line.
    pub message: String,
    /// What to do, in one line.
    pub hint: String,
    /// More than a line, for `--verbose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The kinds of refusal. They are never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusalReason {
    /// There is no such file.
    NotFound,
    /// It exists but cannot be read.
    Unreadable,
    /// A directory, socket or device.
    NotAFile,
    /// It is no dynamic library.
    NotALibrary,
    /// A library without an embedded description.
    NoDescription,
    /// Built for another operating system, processor or word size.
    WrongTarget,
    /// Built for another major version of the plugin ABI.
    AbiMismatch,
    /// The description is fine, but the types that cross are laid out differently.
    LayoutMismatch,
    /// The file ends early or contradicts itself.
    Damaged,
    /// Built with `panic = "abort"`.
    PanicAbort,
    /// Needs a library that is not part of the system.
    ForeignLibrary,
    /// The dynamic loader said no.
    NotLoadable,
    /// A library that cannot be opened late, because of its thread-local storage model.
    StaticTls,
    /// WebAssembly of a version that is not known.
    WasmVersion,
    /// A plugin that was to run WASM guests and runs none.
    NotAnEngine,
}

impl RefusalReason {
    /// Its name in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Unreadable => "unreadable",
            Self::NotAFile => "not_a_file",
            Self::NotALibrary => "not_a_library",
            Self::NoDescription => "no_description",
            Self::WrongTarget => "wrong_target",
            Self::AbiMismatch => "abi_mismatch",
            Self::LayoutMismatch => "layout_mismatch",
            Self::Damaged => "damaged",
            Self::PanicAbort => "panic_abort",
            Self::ForeignLibrary => "foreign_library",
            Self::NotLoadable => "not_loadable",
            Self::StaticTls => "static_tls",
            Self::WasmVersion => "wasm_version",
            Self::NotAnEngine => "not_an_engine",
        }
    }
}

impl Refusal {
    /// A refusal of `path`.
    pub fn new(
        path: impl Into<PathBuf>,
        reason: RefusalReason,
        message: impl fmt::Display,
        hint: impl fmt::Display,
    ) -> Self {
        Self { path: path.into(), reason, message: message.to_string(), hint: hint.to_string(), detail: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
