//! What the API's bodies look like. The command line reads and writes the same types.

use std::path::PathBuf;

use oxide_plugin_api::{Command, Event};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{error::KernelError, report::ModuleInfo};

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
        }
    }

    /// Any error, with its chain of sources.
    pub fn of(code: impl Into<String>, error: &dyn std::error::Error) -> Self {
        Self { code: code.into(), ..Self::from_chain(sources(error)) }
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
        let mut steps = sources(error);
        let mut detail = None;
        match error {
            // The causes of a plugin's error crossed the wall as text.
            KernelError::HookFailed { chain, .. } => steps.extend(chain.iter().cloned()),
            KernelError::Refused(refusal) => detail.clone_from(&refusal.detail),
            _ => {}
        }
        Self { code: error.code().to_owned(), hint: error.hint(), detail, ..Self::from_chain(steps) }
    }
}

/// The error and what caused it. A wrapper that only repeats its source counts once.
fn sources(error: &dyn std::error::Error) -> Vec<String> {
    let mut steps = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if steps.last() != Some(&text) {
            steps.push(text);
        }
        next = cause.source();
    }
    steps
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
