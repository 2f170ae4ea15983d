//! From a path to bytes we are willing to open. Nothing here runs plugin code.

mod refusal;

pub use refusal::{Refusal, RefusalReason};

// STAND-IN from here on, replaced when the branches are merged.

/// Stand-in.
#[derive(Debug, serde::Serialize)]
#[serde(transparent)]
pub struct Inspection(pub(crate) serde_json::Value);

/// Stand-in.
pub fn inspect(path: &std::path::Path) -> Inspection {
    Inspection(match described(path) {
        Ok((id, package)) => serde_json::json!({
            "path": path, "plugin": true, "abi": "1.0", "target": "x86_64-unknown-linux-gnu", "id": id,
            "rustc": "rustc 1.95.0", "package": package, "package_version": "0.1.0",
            "kind": "native", "capabilities": []
        }),
        Err(refusal) => serde_json::json!({
            "path": path, "plugin": false, "reason": refusal.reason,
            "message": refusal.message, "hint": refusal.hint
        }),
    })
}

pub(crate) fn described(path: &std::path::Path) -> Result<(String, String), Refusal> {
    let shown = path.display();
    let refuse = |reason, message: String| Refusal::new(path, reason, message, "build a plugin");
    let metadata = std::fs::metadata(path)
        .map_err(|error| refuse(RefusalReason::NotFound, format!("cannot read `{shown}`: {error}")))?;
    if !metadata.is_file() {
        return Err(refuse(RefusalReason::NotAFile, format!("`{shown}` is not a file")));
    }
    let bytes = std::fs::read(path)
        .map_err(|error| refuse(RefusalReason::Unreadable, format!("cannot read `{shown}`: {error}")))?;
    match std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_prefix("fake-plugin ")) {
        Some(id) => Ok((id.trim().to_owned(), "fake".to_owned())),
        None => Err(refuse(RefusalReason::NotALibrary, format!("`{shown}` is not a dynamic library"))),
    }
}
