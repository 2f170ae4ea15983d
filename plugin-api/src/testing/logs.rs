//! What a module logged.

use std::fmt;

use crate::tracing::Level;

/// One event of `tracing` or record of `log` that a module wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// How important.
    pub level: Level,
    /// The target, usually a module path.
    pub target: String,
    /// The message; empty when the event has fields only.
    pub message: String,
    /// The other fields, each value as text.
    pub fields: Vec<(String, String)>,
}

impl LogLine {
    pub(crate) fn new(level: u8, target: String, mut fields: Vec<(String, String)>) -> Self {
        let message = match fields.iter().position(|(name, _)| name == "message") {
            Some(at) => fields.remove(at).1,
            None => String::new(),
        };
        let level = match level {
            1 => Level::ERROR,
            2 => Level::WARN,
            3 => Level::INFO,
            4 => Level::DEBUG,
            _ => Level::TRACE,
        };
        Self { level, target, message, fields }
    }

    /// The value of a field, as text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Prints it, if it is important enough for a person who looks at a failed test.
    pub(super) fn print(&self) {
        if self.level <= Level::INFO {
            eprintln!("{self}");
        }
    }
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5} {}: {}", self.level, self.target, self.message)?;
        for (name, value) in &self.fields {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}
