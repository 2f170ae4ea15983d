//! Everything the program prints goes through here: data to stdout, talk to stderr.

use std::{
    fmt::{self, Write as _},
    io::{self, ErrorKind, IsTerminal, Write},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{
    Exit, Failure,
    text::{escape, escape_json},
};
use crate::daemon::{ErrorBody, ErrorReport};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// Prints, in the form that was asked for. Colours reach a terminal only, and not when NO_COLOR is set.
#[derive(Debug)]
pub(super) struct Printer {
    json: bool,
    verbosity: i8,
}

impl Printer {
    pub(super) fn new(json: bool, verbosity: i8) -> Self {
        Self { json, verbosity }
    }

    /// Whether stdout takes JSON only.
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// Prints `value` as JSON, or `text` for people.
    pub(super) fn answer(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json { self.value(value) } else { self.text(&text()) }
    }

    /// Prints `value` as JSON: on one line for a program, on several for a person.
    pub(super) fn value(&self, value: &impl Serialize) -> Result<(), Failure> {
        let stdout = io::stdout();
        let json = if stdout.is_terminal() {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        let json = json.map_err(|error| Failure::new(ErrorReport::of("unwritable", &error)))?;
        written(writeln!(stdout.lock(), "{}", escape_json(&json)))
    }

    /// As [`Printer::answer`], one of many: always on one line.
    pub(super) fn line(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let line = if self.json {
            let json = serde_json::to_string(value)
                .map_err(|error| Failure::new(ErrorReport::of("unwritable", &error)))?;
            escape_json(&json).into_owned()
        } else {
            text()
        };
        self.text(&format!("{line}\n"))
    }

    /// Prints text to stdout. What came from outside is already escaped.
    pub(super) fn text(&self, text: &str) -> Result<(), Failure> {
        written(write!(anstream::stdout().lock(), "{text}"))
    }

    /// Writes bytes to stdout, as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        written(stdout.write_all(bytes).and_then(|()| stdout.flush()))?;
        // The shell's prompt should not stick to the reply, and the reply should not get a byte more.
        if io::stdout().is_terminal() && !bytes.ends_with(b"\n") && !bytes.is_empty() {
            let _ = writeln!(io::stderr());
        }
        Ok(())
    }

    /// Says something to the person at the terminal. It is escaped here.
    pub(super) fn say(&self, text: impl fmt::Display) {
        if self.verbosity >= 0 {
            // A host whose terminal is gone goes on.
            let _ = writeln!(anstream::stderr(), "{}", escape(&text.to_string()));
        }
    }

    /// Says what went wrong, whatever the form that was asked for.
    pub(super) fn complain(&self, report: &ErrorReport) {
        let _ = write!(anstream::stderr(), "{}", render(report, self.verbosity > 0));
    }

    /// Prints the error, if it is one, and gives the exit code.
    pub(super) fn finish(&self, result: Result<Exit, Failure>) -> Exit {
        let failure = match result {
            Ok(exit) => return exit,
            Err(failure) => failure,
        };
        let exit = failure.exit;
        if failure.printed {
            return exit;
        }
        if self.json {
            // When stdout is gone too, the exit code is all that is left.
            let _ = self.value(&ErrorBody { error: *failure.report });
        } else {
            self.complain(&failure.report);
        }
        exit
    }
}

/// Whoever reads stdout may stop when he has enough; all else is an error.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::io("write to stdout", &error)),
        _ => Ok(()),
    }
}

/// An error for people.
fn render(report: &ErrorReport, verbose: bool) -> String {
    let mut text = String::new();
    // A host of another version may send no chain.
    let mut chain = report.chain.iter();
    let first = chain.next().unwrap_or(&report.message);
    let _ = writeln!(text, "{ERROR}error{ERROR:#}: {}", escape(first));
    for cause in chain {
        let _ = writeln!(text, "  caused by: {}", escape(cause));
    }
    if let Some(path) = &report.path {
        let _ = writeln!(text, "  file: {}", escape(&path.to_string_lossy()));
    }
    if let Some(hint) = &report.hint {
        let _ = writeln!(text, "{HINT}hint{HINT:#}: {}", escape(hint));
    }
    if verbose && let Some(detail) = &report.detail {
        for line in detail.lines() {
            let _ = writeln!(text, "  {}", escape(line));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use oxide_plugin_api::ModuleState;

    use super::*;
    use crate::{KernelError, Refusal, RefusalReason};

    fn plain(error: &KernelError, verbose: bool) -> String {
        anstream::adapter::strip_str(&render(&ErrorReport::from(error), verbose)).to_string()
    }

    #[test]
    fn an_error_is_printed_with_its_causes_and_its_hint() {
        let hook = KernelError::HookFailed {
            module: "echo".into(),
            hook: "start",
            message: "no database".into(),
            chain: vec!["connection refused".into(), "os \u{1b}[31merror 111".into()],
        };
        insta::assert_snapshot!(plain(&hook, false), @r#"
        error: start of module `echo` failed: no database
          caused by: connection refused
          caused by: os \u{1b}[31merror 111
        "#);
        let state = KernelError::NotRunning { module: "echo".into(), state: ModuleState::Stopped };
        insta::assert_snapshot!(plain(&state, false), @r#"
        error: module `echo` is stopped, not running, so it takes no calls
        hint: `oxide-host start echo` starts it
        "#);
        let io = KernelError::Io {
            action: "write",
            path: "/staging/copy".into(),
            source: io::Error::from(ErrorKind::PermissionDenied),
        };
        insta::assert_snapshot!(plain(&io, false), @r#"
        error: cannot write `/staging/copy`
          caused by: permission denied
        "#);
    }

    #[test]
    fn a_refusal_is_printed_once_and_its_detail_when_asked_for() {
        let mut refusal = Refusal::new(
            "libecho.so",
            RefusalReason::AbiMismatch,
            "`libecho.so` was built for plugin ABI 2.0, this host speaks 1.3",
            "rebuild it with oxide-plugin-api 1.x, or run a host of version 2",
        );
        refusal.detail = Some("found 2.0\nexpected 1.3".to_owned());
        let error = KernelError::from(refusal);
        insta::assert_snapshot!(plain(&error, false), @r#"
        error: `libecho.so` was built for plugin ABI 2.0, this host speaks 1.3
        hint: rebuild it with oxide-plugin-api 1.x, or run a host of version 2
        "#);
        insta::assert_snapshot!(plain(&error, true), @r#"
        error: `libecho.so` was built for plugin ABI 2.0, this host speaks 1.3
        hint: rebuild it with oxide-plugin-api 1.x, or run a host of version 2
          found 2.0
          expected 1.3
        "#);
    }

    #[test]
    fn the_file_is_named_when_the_message_does_not() {
        let mut report = ErrorReport::from(&KernelError::DuplicateModule("echo".into()));
        report.path = Some("/tmp/libecho.so".into());
        insta::assert_snapshot!(anstream::adapter::strip_str(&render(&report, false)).to_string(), @r#"
        error: a module with the id `echo` is already registered
          file: /tmp/libecho.so
        hint: unload `echo` first, or load this file under another id with --id
        "#);
    }

    #[test]
    fn an_error_as_json_keeps_its_chain() {
        let error = KernelError::HookFailed {
            module: "echo".into(),
            hook: "start",
            message: "no database".into(),
            chain: vec!["connection refused".into()],
        };
        let json = serde_json::to_string_pretty(&ErrorReport::from(&error)).expect("JSON");
        insta::assert_snapshot!(json, @r#"
        {
          "code": "hook_failed",
          "message": "start of module `echo` failed: no database: connection refused",
          "hint": null,
          "chain": [
            "start of module `echo` failed: no database",
            "connection refused"
          ]
        }
        "#);
    }
}
