//! `inspect`: the only verb that needs no host.

use std::{fmt::Write, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{Context, Exit, Failure, text::escape, unload::holder};
use crate::{
    daemon::ErrorReport,
    intake::{self, WasmItem},
    report::Retention,
};

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
const FIRST: [&str; 11] = [
    "path",
    "package",
    "package_version",
    "kind",
    "format",
    "size",
    "abi",
    "target",
    "rustc",
    "capabilities",
    "imports",
];

fn sheet(value: &Value, several: bool) -> String {
    let mut fields = value.as_object().cloned().unwrap_or_default();
    fields.remove("plugin");
    // What is said of a guest stands as all else does.
    if let Some(Value::Object(guest)) = fields.remove("wasm") {
        fields.extend(guest);
    }
    let first = FIRST.iter().filter_map(|name| fields.get_key_value(*name));
    let rest = fields.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    let width = fields.keys().map(String::len).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in first.chain(rest) {
        let mut name = name.replace('_', " ");
        for line in words(value) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<width$} {}", escape(&name), escape(&line));
            name.clear();
        }
    }
    if several {
        text.push('\n');
    }
    text
}

/// A field's value in words, usually on one line; no line for what is absent.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => vec![text.clone()],
        Value::Bool(truth) => vec![if *truth { "yes" } else { "no" }.to_owned()],
        Value::Array(items) if items.is_empty() => vec!["none".to_owned()],
        Value::Array(items) if items.iter().all(Value::is_string) => {
            vec![items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")]
        }
        Value::Array(items) => items.iter().flat_map(words).collect(),
        Value::Object(_) => vec![match (Retention::deserialize(value), WasmItem::deserialize(value)) {
            (Ok(retention), _) => holder(&retention),
            (_, Ok(item)) => item.to_string(),
            _ => value.to_string(),
        }],
        Value::Number(_) => vec![value.to_string()],
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
            "capabilities": [], "static_tls": false, "needed": ["libc.so.6", "libm.so.6"], "nothing": null,
            "description": "", "retained_by": [
                { "holder": "loader", "count": 1, "detail": "linked with nodelete" },
                { "holder": "foreign_import", "count": 2, "detail": "timer_create" },
            ],
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
        needed          libc.so.6, libm.so.6
        retained by     loader: linked with nodelete
                        foreign_import ×2: timer_create
        static tls      no
        "#);
    }

    #[test]
    fn a_guest_is_a_sheet_of_its_own() {
        let value = json!({
            "path": "hello.wasm", "plugin": true, "kind": "wasm",
            "wasm": {
                "format": "core", "size": 812,
                "imports": [
                    { "kind": "func", "module": "env", "name": "log" },
                    { "kind": "memory", "module": "env", "name": "a\u{1b}[2J" },
                ],
                "exports": [], "more_exports": 3,
            },
        });
        insta::assert_snapshot!(sheet(&value, false), @r#"
        path         hello.wasm
        kind         wasm
        format       core
        size         812
        imports      func env.log
                     memory env.a\u{1b}[2J
        exports      none
        more exports 3
        "#);
    }
}
