//! The error a hook returns. It crosses the wall as text, so it keeps its source chain as text too.

use std::fmt;

/// What a hook returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a hook failed: a message, and the messages of what caused it.
///
/// Like `anyhow::Error` it does not implement [`std::error::Error`], so that `?` turns any error into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    chain: Vec<String>,
}

/// What sort of failure an [`Error`] is, as far as a caller may want to tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The hook said no; the message says why.
    Failed,
    /// The module has no such method.
    UnknownMethod,
}

impl Error {
    /// An error with this message and no cause.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { kind: ErrorKind::Failed, message: message.to_string(), chain: Vec::new() }
    }

    /// The answer of `invoke` to a method that it does not know.
    pub fn unknown_method(method: impl fmt::Display) -> Self {
        Self { kind: ErrorKind::UnknownMethod, message: method.to_string(), chain: Vec::new() }
    }

    /// The same error with a message in front of it; the old message becomes its cause.
    #[must_use]
    pub fn context(self, message: impl fmt::Display) -> Self {
        let mut chain = vec![self.to_string()];
        chain.extend(self.chain);
        Self { kind: ErrorKind::Failed, message: message.to_string(), chain }
    }

    /// The message, or the method's name where [`Error::kind`] is [`ErrorKind::UnknownMethod`].
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What caused it, nearest cause first.
    pub fn chain(&self) -> &[String] {
        &self.chain
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn from_parts(kind: ErrorKind, message: String, chain: Vec<String>) -> Self {
        Self { kind, message, chain }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ErrorKind::Failed => f.write_str(&self.message),
            ErrorKind::UnknownMethod => write!(f, "unknown method `{}`", self.message.escape_debug()),
        }
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut chain = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            chain.push(cause.to_string());
            source = cause.source();
        }
        Self { kind: ErrorKind::Failed, message: error.to_string(), chain }
    }
}
