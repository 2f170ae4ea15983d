//! What the API's bodies look like. The command line reads and writes the same types.

use std::path::PathBuf;

use oxide_plugin_api::{Command, Event, ModuleKind};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{
    error::{KernelError, chain},
    report::{ModuleInfo, Retention, SwapStep},
};

/// An error as it leaves the host: `{"error": ErrorReport}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Its name for programs. Never renamed.
    pub code: String,
    /// The error and everything that caused it, in one line.
    pub message: String,
    /// What to do about it, where there is something to say.
    pub hint: Option<String>,
    /// The same as `message`, one step each: the error first, then its causes.
    #[serde(default)]
    pub chain: Vec<String>,
    /// More than a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The file it is about, where several were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The step at which a swap failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<SwapStep>,
    /// The code of what made a swap fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

impl ErrorReport {
    /// An error without a cause.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code: code.into(),
            chain: vec![message.clone()],
            message,
            hint: None,
            detail: None,
            path: None,
            step: None,
            cause: None,
        }
    }

    /// Any error, with its chain of sources.
    pub fn of(code: impl Into<String>, error: &dyn std::error::Error) -> Self {
        Self { code: code.into(), ..Self::from_chain(chain(error)) }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn from_chain(chain: Vec<String>) -> Self {
        Self { message: chain.join(": "), chain, ..Self::new("", "") }
    }
}

impl From<&KernelError> for ErrorReport {
    fn from(error: &KernelError) -> Self {
        let mut report =
            Self { code: error.code().to_owned(), hint: error.hint(), ..Self::from_chain(error.chain()) };
        if let KernelError::Refused(refusal) = error.at_the_root() {
            report.detail.clone_from(&refusal.detail);
        }
        if let KernelError::SwapFailed { step, source, .. } = error {
            report.step = Some(*step);
            report.cause = Some(source.code().to_owned());
        }
        report
    }
}

/// The body of every answer that is an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorReport,
}

/// The body of `POST /v1/modules`: one `path`, or several `paths`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// One file; answered with one module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Several files; answered with an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<PathBuf>>,
    /// The id to manage it under, in place of the module's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What its `configure` gets.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub config: Value,
    /// Whether it is started; yes when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
}

/// The body of `POST /v1/modules/{id}/swap`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapRequest {
    /// The file of the new build.
    pub path: PathBuf,
    /// What its `configure` gets; what the present build got, when left out.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// Whether to swap also to the very bytes that are loaded; no when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// For how long, in milliseconds, the new build is watched and sent back when it fails its callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation_millis: Option<u64>,
    /// How many errors it may make meanwhile; 10 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation_errors: Option<u64>,
    /// Whether only to try the build out, in a process of its own; answered with a [`DryRun`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// A value that is there, `null` included.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// What a dry run of a swap found: the build can be opened, constructed, and is one of the same module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRun {
    /// The module.
    pub id: String,
    /// Always true.
    pub dry_run: bool,
    /// The generation that runs on.
    pub generation: u64,
    /// The version of the present build.
    pub from_version: String,
    /// The version of the build that was tried.
    pub to_version: String,
    /// Whether that version is lower.
    pub downgrade: bool,
    /// The kind of the build that was tried.
    pub kind: ModuleKind,
    /// The steps that were gone through, in their order.
    pub passed: Vec<SwapStep>,
    /// Why its library would stay mapped after an unload, when its file says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retained_by: Vec<Retention>,
}

/// What became of a load of several files, some of which failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadReport {
    /// The first error.
    pub error: ErrorReport,
    /// All errors, each with its path.
    pub errors: Vec<ErrorReport>,
    /// What was loaded all the same.
    pub loaded: Vec<ModuleInfo>,
}

/// The body of `POST /v1/messages`: one message for the bus.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MessageRequest {
    /// A command; answered with its reply.
    Command(Command),
    /// A custom event; answered with the envelope that went out.
    Event(Event),
}

/// The answer of `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The host's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
}
