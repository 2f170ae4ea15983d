//! Arguments that may stand for a file or for stdin.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::Failure;

/// Where a payload comes from: `TEXT`, `@FILE` or `-`.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Text(Vec<u8>),
    File(PathBuf),
    Stdin,
}

impl Source {
    fn of(argument: OsString) -> Self {
        match argument.as_bytes() {
            b"-" => Self::Stdin,
            [b'@', path @ ..] => Self::File(PathBuf::from(OsStr::from_bytes(path))),
            _ => Self::Text(argument.into_vec()),
        }
    }
}

/// The bytes of `TEXT`, `@FILE` or `-`; none when there is no argument.
pub(super) fn payload(argument: Option<OsString>) -> Result<Vec<u8>, Failure> {
    match argument.map(Source::of) {
        None => Ok(Vec::new()),
        Some(Source::Text(text)) => Ok(text),
        Some(Source::File(path)) => read(&path),
        Some(Source::Stdin) => {
            let mut bytes = Vec::new();
            match io::stdin().lock().read_to_end(&mut bytes) {
                Ok(_) => Ok(bytes),
                Err(error) => Err(Failure::io("read from stdin", &error)),
            }
        }
    }
}

/// The value of `JSON` or `@FILE`; null when there is no argument. `name` is what the usage calls it.
pub(super) fn json(name: &str, argument: Option<&str>) -> Result<Value, Failure> {
    let Some(argument) = argument else { return Ok(Value::Null) };
    match argument.strip_prefix('@') {
        Some(path) => {
            let bytes = read(Path::new(path))?;
            serde_json::from_slice(&bytes).map_err(|error| {
                Failure::usage(format!("`{path}`, given as {name}, is not valid JSON: {error}"))
            })
        }
        None => serde_json::from_str(argument).map_err(|error| {
            Failure::usage(format!("{name} is not valid JSON: {error}"))
                .hint(r#"quote it for the shell, like '{"key": "value"}', or read it from a file with @FILE"#)
        }),
    }
}

/// A path as the host will understand it: absolute, and text, since it travels as JSON.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    if path.to_str().is_none() {
        return Err(Failure::usage(format!("the path `{}` is not valid UTF-8", path.display())));
    }
    std::path::absolute(path)
        .map_err(|error| Failure::io(&format!("find out where `{}` is", path.display()), &error))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::unreadable(path, &error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::Exit;

    #[test]
    fn a_payload_is_text_a_file_or_stdin() {
        assert_eq!(Source::of("hello".into()), Source::Text(b"hello".to_vec()));
        assert_eq!(Source::of("".into()), Source::Text(Vec::new()));
        assert_eq!(Source::of("a@b".into()), Source::Text(b"a@b".to_vec()));
        assert_eq!(Source::of("--".into()), Source::Text(b"--".to_vec()));
        assert_eq!(Source::of("-".into()), Source::Stdin);
        assert_eq!(Source::of("@some/file".into()), Source::File("some/file".into()));
        let bytes = OsString::from_vec(vec![0xff, 0]);
        assert_eq!(Source::of(bytes), Source::Text(vec![0xff, 0]));
    }

    #[test]
    fn files_are_read_and_missing_ones_are_usage_errors() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("payload");
        fs::write(&file, [0, 159, 146, 150]).expect("written");
        let argument = |path: &Path| Some(format!("@{}", path.display()).into());
        assert_eq!(payload(argument(&file)).expect("bytes"), [0, 159, 146, 150]);
        assert_eq!(payload(None).expect("nothing"), [0u8; 0]);
        let failure = payload(argument(&folder.path().join("none"))).expect_err("missing");
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn wrong_json_is_a_usage_error_that_says_where() {
        assert_eq!(json("--config", None).expect("null"), Value::Null);
        assert_eq!(json("--config", Some(r#"{"a": 1}"#)).expect("JSON"), json!({"a": 1}));
        let failure = json("--config", Some("{a: 1}")).expect_err("wrong");
        assert_eq!(failure.exit, Exit::Usage);
        insta::assert_snapshot!(failure.report.message, @"--config is not valid JSON: key must be a string at line 1 column 2");

        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        fs::write(&file, "[1,\n2,,]").expect("written");
        let failure = json("--config", Some(&format!("@{}", file.display()))).expect_err("wrong");
        let message = failure.report.message.replace(&*folder.path().to_string_lossy(), "FOLDER");
        insta::assert_snapshot!(message, @"`FOLDER/config.json`, given as --config, is not valid JSON: expected value at line 2 column 3");
    }
}
