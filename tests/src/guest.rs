//! WASM guests for the plugin `engine`, which does what a section of theirs says and runs nothing of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use oxide_host::{Host, HostBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::plugin;

/// A guest's file. It is gone when this is dropped.
#[derive(Debug)]
pub struct Guest {
    path: PathBuf,
    _folder: TempDir,
}

impl AsRef<Path> for Guest {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Guest {
    /// A core module of this id and version, in a file of that name.
    pub fn new(id: &str, version: &str) -> Self {
        Self::that(&json!({ "id": id, "version": version }))
    }

    /// The same with a state: it counts, and saves the count as the plugin `counter` does.
    pub fn that_counts(id: &str, version: &str) -> Self {
        Self::that(&json!({ "id": id, "version": version, "counts": true }))
    }

    /// A core module that says this of itself.
    ///
    /// # Panics
    /// When it says no id.
    pub fn that(says: &Value) -> Self {
        let name = says["id"].as_str().expect("a guest has an id");
        Self::of(&format!("{name}.wasm"), &core(says))
    }

    /// A file of these bytes.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn of(name: &str, bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("room for temporary files");
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("room for a guest");
        Self { path, _folder: folder }
    }

    /// Writes other bytes into the same file.
    ///
    /// # Panics
    /// When that fails.
    pub fn becomes(&self, bytes: &[u8]) {
        fs::write(&self.path, bytes).expect("room for a guest");
    }
}

/// A core module that says this of itself.
pub fn core(says: &Value) -> Vec<u8> {
    with_section(b"\0asm\x01\0\0\0", says)
}

/// A component that says this of itself.
pub fn component(says: &Value) -> Vec<u8> {
    with_section(b"\0asm\x0d\0\x01\0", says)
}

fn with_section(header: &[u8], says: &Value) -> Vec<u8> {
    const NAME: &[u8] = b"oxide-test";
    let text = says.to_string();
    let mut bytes = header.to_vec();
    bytes.push(0);
    let mut length = 1 + NAME.len() + text.len();
    while length >= 0x80 {
        bytes.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    bytes.push(length.to_le_bytes()[0]);
    bytes.push(NAME.len().to_le_bytes()[0]);
    bytes.extend_from_slice(NAME);
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Sets up a host that runs guests with the plugin `engine`.
pub fn with_engine() -> HostBuilder {
    Host::builder().wasm_engine(plugin("engine"))
}
