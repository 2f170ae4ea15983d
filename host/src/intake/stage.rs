//! The private copy: what was inspected is what is opened, under a new inode and a name never used before.
//!
//! The loader takes two names of one inode for the same library, and a library whose file is overwritten dies
//! with SIGBUS; both end with a copy that only this host knows and nobody else may write.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    error::KernelError,
    sys::private_file::{FilledFile, PrivateFile},
};

use super::{
    Description, Fault, InspectedFile, LinkFacts,
    blank::{Blank, NextCopy},
    read, staging_base,
};

/// The folder of this host's copies. It is locked as long as it, or a [`StagedFile`] in it, lives; what a dead
/// host left behind is swept by the next one that opens the same base.
#[derive(Debug)]
pub struct StagingDir {
    folder: Arc<Folder>,
    /// Where copies go when there is no room in the folder; `None` when it was chosen.
    next: Option<OnceLock<Option<Arc<Folder>>>>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Held, never read: to hold it says that this host lives.
    _lock: File,
    next: AtomicU64,
    /// For the next copy; `None` where copies only go for want of room.
    blank: Option<Arc<Blank>>,
}

impl StagingDir {
    /// Makes a folder of this host's own, readable by nobody else, and sweeps those of dead hosts.
    ///
    /// Without a `base` it lies in `$XDG_RUNTIME_DIR/oxide-host/staging`, or where that can't be used, in
    /// `oxide-host-<uid>` in the folder for temporary files, where copies also go when the former is full: often it is
    /// a small part of the memory.
    ///
    /// # Errors
    /// [`KernelError::Io`] when the folder can't be made, when the base is another user's, is open to others,
    /// or is mounted noexec.
    pub fn open(base: Option<&Path>) -> Result<Self, KernelError> {
        let next = base.is_none().then(OnceLock::new);
        Ok(Self { folder: Arc::new(Folder::claim(&staging_base::prepare(base)?)?.with_blank()), next })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// The base, where it was chosen.
    #[cfg(all(feature = "daemon", unix))]
    pub(crate) fn chosen_base(&self) -> Option<&Path> {
        if self.next.is_some() { None } else { self.folder.path.parent() }
    }

    /// Removes the folder with every copy in it, also those of libraries that are still mapped: for the end of
    /// the process. Nothing can be staged afterwards.
    ///
    /// # Errors
    /// [`KernelError::Io`] when something can't be removed; the next host to start tries again.
    pub fn remove_all(&self) -> Result<(), KernelError> {
        let next = self.next.as_ref().and_then(OnceLock::get).and_then(Option::as_ref);
        for folder in next.into_iter().chain([&self.folder]) {
            folder.end_blank();
            match staging_base::clear(&folder.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &folder.path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies the file at `path`, if it may be what `look` looks for. `None` where it is better read and written.
    #[cfg(unix)]
    pub(super) fn copy(
        &self,
        path: &Path,
        origin: &Path,
        look: read::Look,
    ) -> Result<Option<(PrivateCopy, FilledFile)>, Fault> {
        read::copy(path, look, |source, length| {
            let folder = &self.folder;
            if let Some(blank) = &folder.blank {
                if let Some((path, file)) = blank.copy(source, length, || folder.name(origin)) {
                    return Some((PrivateCopy { path, folder: folder.clone() }, file));
                }
                std::io::Seek::rewind(source).ok()?;
            }
            let (copy, file) = folder.create(origin).ok()?;
            Some((copy, file.copy(source, read::LARGEST).ok()?))
        })
    }

    /// Elsewhere a mapped file may not be removed.
    #[cfg(not(unix))]
    pub(super) fn copy(
        &self,
        _: &Path,
        _: &Path,
        _: read::Look,
    ) -> Result<Option<(PrivateCopy, FilledFile)>, Fault> {
        Ok(None)
    }

    /// Where to try it again when there is no room: the runtime directory is often small.
    fn after(&self) -> Option<&Arc<Folder>> {
        let claim = || {
            let base = staging_base::temporary().ok()?;
            tracing::warn!(full = %self.path().display(), instead = %base.display(), "no room for copies of plugins");
            Some(Arc::new(Folder::claim(&base).ok()?))
        };
        self.next.as_ref()?.get_or_init(claim).as_ref()
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        // Nobody copies any more, though copies may keep the folder.
        self.folder.end_blank();
    }
}

impl Folder {
    fn claim(base: &Path) -> Result<Self, KernelError> {
        staging_base::sweep(base);
        let (path, lock) = staging_base::claim(base)?;
        Ok(Self { path, _lock: lock, next: AtomicU64::new(1), blank: None })
    }

    fn with_blank(mut self) -> Self {
        self.blank = Some(Arc::new(Blank::new(&self.path)));
        self
    }

    fn end_blank(&self) {
        if let Some(blank) = &self.blank {
            blank.end();
        }
    }

    /// A name for a copy of `origin`, never used before.
    fn name(&self, origin: &Path) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{}-{number}{}", stem(origin), std::env::consts::DLL_SUFFIX))
    }

    /// A new file for a copy of `origin`.
    fn create(self: &Arc<Self>, origin: &Path) -> Result<(PrivateCopy, PrivateFile), KernelError> {
        let path = self.name(origin);
        let file = PrivateFile::create(&path).map_err(|error| io_error("create", &path, error))?;
        Ok((PrivateCopy { path, folder: self.clone() }, file))
    }

    fn write(self: &Arc<Self>, bytes: &InspectedFile, origin: &Path) -> Result<PrivateCopy, KernelError> {
        let (copy, mut file) = self.create(origin)?;
        bytes.write_to(&mut file).map_err(|error| io_error("write", &copy.path, error))?;
        Ok(copy)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Still under the lock. With copies left in it, it stays for the next host's sweep.
        staging_base::remove_if_empty(&self.path);
    }
}

/// A private copy of an inspected file. Cheap to clone; the copy is removed with the last clone.
///
/// A library that stays mapped keeps its `StagedFile`, so that debuggers and backtraces find its code.
#[derive(Clone)]
pub struct StagedFile {
    staged: Arc<Staged>,
}

struct Staged {
    copy: PrivateCopy,
    origin: PathBuf,
    length: u64,
    head: Box<[u8]>,
    description: Description,
    facts: LinkFacts,
}

/// A file in the folder, removed with this.
pub(super) struct PrivateCopy {
    path: PathBuf,
    /// Dropped after the copy in it has been removed, which is what lets the folder go with the last copy.
    folder: Arc<Folder>,
}

impl StagedFile {
    /// Writes the inspected bytes, and no others, into a new file.
    ///
    /// # Errors
    /// [`KernelError::Io`] when the file can't be made or written; what was written of it is removed.
    pub fn write(dir: &StagingDir, file: &InspectedFile) -> Result<Self, KernelError> {
        Self::write_as(dir, file, file.path())
    }

    /// The same for a copy of a copy: `origin` is where the first one came from.
    pub(crate) fn write_as(
        dir: &StagingDir,
        file: &InspectedFile,
        origin: &Path,
    ) -> Result<Self, KernelError> {
        let is_full = |written: &Result<_, KernelError>| match written {
            Err(KernelError::Io { source, .. }) => is_full(source),
            _ => false,
        };
        let mut written = dir.folder.write(file, origin);
        if is_full(&written) && dir.folder.blank.as_ref().is_some_and(|blank| blank.make_room()) {
            written = dir.folder.write(file, origin);
        }
        if is_full(&written)
            && let Some(next) = dir.after()
        {
            written = next.write(file, origin);
        }
        let copy = written?;
        let head = file.head().map_err(|error| io_error("read", file.path(), error))?.into();
        let (description, facts) = (file.description().clone(), file.facts().clone());
        Ok(Self::new(copy, origin, (file.length(), head), description, facts))
    }

    /// The copy that was inspected, or one that is written now.
    pub(crate) fn of(dir: &StagingDir, mut file: InspectedFile, origin: &Path) -> Result<Self, KernelError> {
        let Some(copy) = file.copy.take() else { return Self::write_as(dir, &file, origin) };
        let head = file.head().map_err(|error| io_error("read", &copy.path, error))?.into();
        let length = file.length();
        let (description, facts) = file.into_findings();
        Ok(Self::new(copy, origin, (length, head), description, facts))
    }

    fn new(
        copy: PrivateCopy,
        origin: &Path,
        (length, head): (u64, Box<[u8]>),
        description: Description,
        facts: LinkFacts,
    ) -> Self {
        let origin = origin.to_owned();
        Self { staged: Arc::new(Staged { copy, origin, length, head, description, facts }) }
    }

    /// The copy, to be opened.
    pub fn path(&self) -> &Path {
        &self.staged.copy.path
    }

    /// The file that it is a copy of.
    pub fn origin(&self) -> &Path {
        &self.staged.origin
    }

    /// What the file says about itself.
    pub fn description(&self) -> &Description {
        &self.staged.description
    }

    /// What the file asks of the dynamic loader.
    pub fn facts(&self) -> &LinkFacts {
        &self.staged.facts
    }

    /// For the next copy, which may be of about the same size.
    pub(crate) fn next(&self) -> NextCopy {
        NextCopy::of(self.staged.copy.folder.blank.as_ref(), self.staged.length)
    }

    /// Whether `file` holds the very bytes of this copy.
    ///
    /// # Errors
    /// [`KernelError::Io`] when the copy can't be read.
    pub fn has_bytes_of(&self, file: &InspectedFile) -> Result<bool, KernelError> {
        if self.staged.length != file.length() {
            return Ok(false);
        }
        let same = || -> io::Result<bool> {
            // Two builds differ in their beginning already, if only by the build's id.
            if *self.staged.head != *file.head()? {
                return Ok(false);
            }
            let (mut copy, mut other) = (File::open(&self.staged.copy.path)?, file.reader()?);
            let (mut ours, mut theirs) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
            loop {
                let read = copy.read(&mut ours)?;
                let (Some(ours), Some(theirs)) = (ours.get(..read), theirs.get_mut(..read)) else {
                    return Ok(false);
                };
                if read == 0 {
                    return Ok(true);
                }
                other.read_exact(theirs)?;
                if ours != &*theirs {
                    return Ok(false);
                }
            }
        };
        same().map_err(|error| io_error("read", &self.staged.copy.path, error))
    }
}

impl fmt::Debug for StagedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagedFile")
            .field("path", &self.staged.copy.path)
            .field("origin", &self.staged.origin)
            .finish_non_exhaustive()
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        if let Err(error) = staging_base::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %self.path.display(), %error, "a staged copy stays for the next sweep");
        }
    }
}

/// What a debugger or a backtrace will call the library: the original's name, as far as it is harmless.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let stem: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' })
        .take(64)
        .collect();
    if stem.is_empty() { "plugin".to_owned() } else { stem }
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> KernelError {
    KernelError::Io { action, path: path.to_owned(), source }
}
