//! What can become a module: a plugin's library, or a WASM guest, which an engine runs.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    Fault, InspectedFile, LoadPolicy, Refusal, RefusalReason, WasmFacts, image,
    read::{self, Buffer},
    stage::StagingDir,
    wasm,
};

/// The largest guest that is taken. Whole language runtimes have less than a fifth of it.
const LARGEST: usize = 256 << 20;

/// A file that was read and understood, of which nothing has run.
#[derive(Debug)]
pub enum ModuleFile {
    /// A dynamic library.
    Plugin(Box<InspectedFile>),
    /// WASM.
    Guest(InspectedGuest),
}

/// A guest's file as bytes: described, and not judged. What is in here is what its engine gets, whatever becomes of
/// the file at the path.
pub struct InspectedGuest {
    path: PathBuf,
    bytes: Buffer,
    facts: WasmFacts,
}

impl ModuleFile {
    /// Reads the file, once, and understands what it says about itself. Executes nothing.
    ///
    /// # Errors
    /// As [`InspectedFile::read`], and a [`Refusal`] of a WASM file that ends early or contradicts itself.
    pub fn read(path: &Path) -> Result<Self, Refusal> {
        Self::understand(path).map_err(|fault| fault.of(path))
    }

    fn understand(path: &Path) -> Result<Self, Fault> {
        let bytes = read::read(path, could_be_module)?;
        if wasm::is_wasm(&bytes) {
            return InspectedGuest::from_bytes(path, bytes).map(Self::Guest);
        }
        InspectedFile::from_bytes(path, bytes).map(|file| Self::Plugin(Box::new(file)))
    }

    /// The same of a file that is to be loaded: see [`InspectedFile::take`].
    pub(crate) fn take(path: &Path, dir: &StagingDir) -> Result<Self, Refusal> {
        match dir.copy(path, path, could_be_module) {
            Ok(Some(copied)) => {
                InspectedFile::from_copy(path, copied).map(|file| Self::Plugin(Box::new(file)))
            }
            Ok(None) => Self::understand(path),
            Err(fault) => Err(fault),
        }
        .map_err(|fault| fault.of(path))
    }

    /// Its bytes, as they were when it was read.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Plugin(file) => file.bytes(),
            Self::Guest(guest) => guest.bytes(),
        }
    }

    /// Whether this host can load it, as far as its bytes tell. Of a guest, its engine has the last word.
    ///
    /// # Errors
    /// As [`InspectedFile::check_loadable`].
    pub fn check_loadable(&self, policy: &LoadPolicy) -> Result<(), Refusal> {
        match self {
            Self::Plugin(file) => file.check_loadable(policy),
            Self::Guest(_) => Ok(()),
        }
    }
}

/// Tells from a file's first bytes whether it is worth reading on.
fn could_be_module(head: &[u8]) -> Result<(), Fault> {
    if wasm::is_wasm(head) {
        return wasm::check_header(head);
    }
    let text = head.trim_ascii_start();
    if text.starts_with(b"(module") || text.starts_with(b"(component") {
        return Err(Fault::new(
            RefusalReason::NotALibrary,
            "is WebAssembly in its text form, and what runs is the binary form",
            "`wasm-tools parse FILE.wat -o FILE.wasm` makes the one of the other",
        ));
    }
    image::could_be_library(head)
}

impl InspectedGuest {
    /// Understands bytes that were read from `path`.
    fn from_bytes(path: &Path, bytes: Buffer) -> Result<Self, Fault> {
        if bytes.len() > LARGEST {
            return Err(Fault::new(
                RefusalReason::Unreadable,
                format_args!("is larger than the {} MiB that this host takes of a guest", LARGEST >> 20),
                "build it without debug information, or strip it",
            ));
        }
        let facts = WasmFacts::parse(&bytes)?;
        Ok(Self { path: path.to_owned(), bytes: bytes.kept(), facts })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes, as they were when it was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it says about itself.
    pub fn facts(&self) -> &WasmFacts {
        &self.facts
    }
}

impl fmt::Debug for InspectedGuest {
    /// Without the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectedGuest")
            .field("path", &self.path)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}
