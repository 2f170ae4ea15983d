//! `inspect`: the only verb that needs no host.

use std::{fmt::Write, path::PathBuf};

use serde_json::{Map, Value};

use super::{Context, Exit, Failure, text::escape};
use crate::{daemon::ErrorReport, intake};

/// What `inspect` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Inspect {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        let printer = &context.printer;
        let mut found = Vec::new();
        for path in &self.paths {
            // The file may be named by any bytes, but JSON holds text only.
            let value = serde_json::to_value(intake::inspect(path))
                .map_err(|error| Failure::usage(format!("the path `{}`: {error}", path.display())))?;
            found.push(value);
        }
        let refused = found.iter().any(is_refused);
        if printer.json() {
            match &found[..] {
                [one] => printer.value(one)?,
                several => printer.value(&several)?,
            }
        } else {
            // Both kinds in the order in which they were asked for.
            for value in &found {
                if is_refused(value) {
                    printer.complain(&refusal(value));
                } else {
                    printer.text(&sheet(value, found.len() > 1))?;
                }
            }
        }
        Ok(if refused { Exit::Refused } else { Exit::Done })
    }
}

fn is_refused(value: &Value) -> bool {
    value["plugin"] != Value::Bool(true)
}

fn refusal(value: &Value) -> ErrorReport {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let mut report = ErrorReport::new(
        text("reason").unwrap_or_default(),
        text("message").unwrap_or_else(|| "the file was refused".to_owned()),
    );
    report.hint = text("hint");
    report.detail = text("detail");
    report.path = text("path").map(PathBuf::from);
    report
}

/// The fields in the order in which people ask for them, then whatever else the inspection found.
const FIRST: [&str; 8] =
    ["path", "package", "package_version", "kind", "abi", "target", "rustc", "capabilities"];

fn sheet(value: &Value, several: bool) -> String {
    let empty = Map::new();
    let fields = value.as_object().unwrap_or(&empty);
    let first = FIRST.iter().filter_map(|name| fields.get_key_value(*name));
    let rest = fields.iter().filter(|(name, _)| *name != "plugin" && !FIRST.contains(&name.as_str()));
    let width = fields.keys().map(String::len).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in first.chain(rest) {
        if let Some(value) = words(value) {
            let name = name.replace('_', " ");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<width$} {}", escape(&name), escape(&value));
        }
    }
    if several {
        text.push('\n');
    }
    text
}

/// A field's value in words; nothing for what is absent.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(if *truth { "yes" } else { "no" }.to_owned()),
        Value::Array(items) if items.is_empty() => Some("none".to_owned()),
        Value::Array(items) => Some(items.iter().filter_map(words).collect::<Vec<_>>().join(", ")),
        Value::Number(_) | Value::Object(_) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_description_is_a_sheet_and_a_newer_field_is_shown_too() {
        let value = json!({
            "path": "/tmp/lib\u{1b}[2Jecho.so", "plugin": true, "abi": "1.0", "target": "x86_64-unknown-linux-gnu",
            "rustc": "rustc 1.95.0", "package": "echo", "package_version": "0.1.0", "kind": "native",
            "capabilities": [], "static_tls": false, "imports": ["a", "b"], "nothing": null
        });
        insta::assert_snapshot!(sheet(&value, false), @r#"
        path            /tmp/lib\u{1b}[2Jecho.so
        package         echo
        package version 0.1.0
        kind            native
        abi             1.0
        target          x86_64-unknown-linux-gnu
        rustc           rustc 1.95.0
        capabilities    none
        imports         a, b
        static tls      no
        "#);
    }
}
