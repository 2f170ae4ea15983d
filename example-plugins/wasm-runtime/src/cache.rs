//! Where compiled code is kept, so that the next load of the same guest does not compile it again.
//!
//! One file for each guest and engine, in a folder that is ours alone. A file says what it was made from; one that is
//! not as it should be is removed, and the guest compiled.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use oxide_plugin_api::{Error, Result, tracing};
use sha2::{Digest, Sha256};
use wasmtime::Engine;

use crate::compiled::{Compiled, Kind};

/// The beginning of every file: what it is, and the version of its format.
const MAGIC: &[u8; 8] = b"oxidewc1";
/// The guest and the engine, and the code behind the head.
const HEAD: usize = MAGIC.len() + 2 * DIGEST;
const DIGEST: usize = 32;

/// A folder with compiled code.
pub(crate) struct Cache {
    folder: PathBuf,
}

/// What a guest's code is kept under: the guest's bytes, and all of the engine that its code depends on.
pub(crate) struct Key {
    kind: Kind,
    digest: [u8; DIGEST],
}

/// Compiled code that was kept, looked at and found to be whole.
pub(crate) struct Kept {
    kind: Kind,
    file: Vec<u8>,
}

impl Key {
    pub(crate) fn new(engine: &Engine, kind: Kind, guest: &[u8]) -> Self {
        let mut hasher = Digesting(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let mut digest = Sha256::new();
        digest.update(hasher.0.finalize());
        digest.update([kind as u8]);
        digest.update(Sha256::digest(guest));
        Self { kind, digest: digest.finalize().into() }
    }

    fn file_name(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + ".cwasm"
    }
}

/// A `Hasher` that loses nothing.
struct Digesting(Sha256);

impl Hasher for Digesting {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }
}

impl Kept {
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn code(&self) -> &[u8] {
        &self.file[HEAD..]
    }
}

impl Cache {
    /// Opens the folder, and makes it if it is not there.
    ///
    /// # Errors
    /// When others than this user may look or write into it: what is in there is run as machine code.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let context = |error: io::Error| {
            Error::from(error).context(format_args!("the cache {} cannot be used", folder.display()))
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(context)?;
        let found = fs::metadata(folder).map_err(context)?;
        let us = rustix::process::geteuid().as_raw();
        if found.uid() != us {
            return Err(Error::new(format_args!(
                "the cache {} belongs to user {}, expected {us}",
                folder.display(),
                found.uid()
            )));
        }
        let mode = found.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::new(format_args!(
                "the cache {} has mode {mode:o}, expected 700: nobody else may reach into it",
                folder.display()
            )));
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// What is kept under `key`. A file that is damaged is removed.
    pub(crate) fn get(&self, key: &Key) -> Option<Kept> {
        let path = self.folder.join(key.file_name());
        match read(&path, key) {
            Ok(kept) => Some(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "removes damaged code from the cache");
                self.forget(key);
                None
            }
        }
    }

    /// Removes what is kept under `key`.
    pub(crate) fn forget(&self, key: &Key) {
        let path = self.folder.join(key.file_name());
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove code from the cache");
        }
    }

    /// Keeps code. Whoever reads meanwhile finds the old file, or none, or the whole new one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn put(&self, key: &Key, compiled: &Compiled) -> Result<()> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let code = compiled.to_bytes().map_err(|error| Error::new(error.root_cause()))?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Other loads of this library, and other processes, have names of their own.
        let began = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let name = format!("{}.{}-{began:x}-{number}", key.file_name(), std::process::id());
        let temporary = self.folder.join(name);
        let written = write(&temporary, key, &code)
            .and_then(|()| fs::rename(&temporary, self.folder.join(key.file_name())));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        Ok(written?)
    }
}

fn write(path: &Path, key: &Key, code: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(MAGIC)?;
    file.write_all(&key.digest)?;
    file.write_all(&Sha256::digest(code))?;
    file.write_all(code)?;
    file.sync_data()
}

/// Reads a file once, and looks at what was read.
fn read(path: &Path, key: &Key) -> io::Result<Kept> {
    let mut opened = File::open(path)?;
    let found = opened.metadata()?;
    let damaged = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return damaged("it is not a file of this user's that nobody else may write");
    }
    let mut file = Vec::new();
    opened.read_to_end(&mut file)?;
    if file.len() < HEAD || !file.starts_with(MAGIC) {
        return damaged("it does not begin as it should");
    }
    let (head, code) = file.split_at(HEAD);
    let (made_from, digest) = head[MAGIC.len()..].split_at(DIGEST);
    if made_from != key.digest {
        return damaged("it was made from something else");
    }
    if digest != Sha256::digest(code).as_slice() {
        return damaged("its code is not what was written");
    }
    Ok(Kept { kind: key.kind, file })
}
