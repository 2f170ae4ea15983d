//! A file made ahead for the next copy, in a staging folder: at most one, as large as the last copy was.
//!
//! Most of what a copy costs is done before anybody waits for it then. The file has no name until it holds the copy, so
//! it is nobody's before, and the system removes it however the host ends.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::read;
use crate::sys::private_file::{BlankFile, FilledFile};

/// The largest that is made.
const LARGEST: u64 = 4 << 20;

/// So many times its length must be free where it lies: others may need the room more.
const ROOM: u64 = 16;

/// The place for it.
#[derive(Debug, Default)]
pub(super) struct Blank(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    Ready(BlankFile),
    /// There is none any more: it turned out that it can't be used, or the end of the process is near.
    Never,
}

impl Blank {
    /// Copies a file that seems to have so many bytes, if there is one for it, and gives the copy what `name` says.
    #[cfg(unix)]
    pub(super) fn copy(
        &self,
        source: &mut File,
        length: u64,
        name: impl FnOnce() -> PathBuf,
    ) -> Option<(PathBuf, FilledFile)> {
        let file = self.take(length)?;
        let path = name();
        match file.copy(source, read::LARGEST, &path) {
            Ok(copy) => Some((path, copy)),
            Err(error) => {
                tracing::debug!(%error, "no files are made ahead for copies any more");
                self.end();
                None
            }
        }
    }

    #[cfg(unix)]
    fn take(&self, length: u64) -> Option<BlankFile> {
        let mut state = self.0.lock();
        match std::mem::take(&mut *state) {
            State::Ready(file) if fits(&file, length) => Some(file),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Makes one for a copy of so many bytes, unless there is one. Blocks. Without it the copy takes longer, no more than
    /// that.
    pub(super) fn ready(&self, folder: &Path, length: u64) {
        if !self.is_wanted(length) {
            return;
        }
        if let Ok(file) = make(folder, length) {
            let mut state = self.0.lock();
            if !matches!(*state, State::Never) {
                let before = std::mem::replace(&mut *state, State::Ready(file));
                // It takes the disk its time.
                drop(state);
                drop(before);
            }
        }
    }

    /// Whether there is none for a copy of so many bytes, and may be.
    pub(super) fn is_wanted(&self, length: u64) -> bool {
        length <= LARGEST
            && match &*self.0.lock() {
                State::Empty => true,
                State::Ready(file) => !fits(file, length),
                State::Never => false,
            }
    }

    /// There is to be none any more.
    pub(super) fn end(&self) {
        let before = std::mem::replace(&mut *self.0.lock(), State::Never);
        drop(before);
    }
}

fn make(folder: &Path, length: u64) -> io::Result<BlankFile> {
    #[cfg(unix)]
    {
        let space = rustix::fs::statvfs(folder)?;
        if space.f_bavail.saturating_mul(space.f_frsize) < length.saturating_mul(ROOM) {
            return Err(io::ErrorKind::StorageFull.into());
        }
    }
    BlankFile::make(folder, length)
}

/// Whether a copy of so many bytes is made faster in this file: to cut off much of it would cost more than it saves.
fn fits(file: &BlankFile, length: u64) -> bool {
    (file.len() / 2..=file.len().saturating_mul(2)).contains(&length)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    fn source(folder: &Path, bytes: &[u8]) -> File {
        let path = folder.join("source");
        fs::write(&path, bytes).unwrap();
        File::open(path).unwrap()
    }

    /// `None` where the file system knows no files without names.
    fn folder() -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir().unwrap();
        match make(folder.path(), 0) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
            made => made.map(|_| Some(folder)).unwrap(),
        }
    }

    #[test]
    fn it_serves_one_copy_of_about_its_length() {
        let Some(folder) = folder() else { return };
        let blank = Blank::default();
        let copy = |length: u64| {
            let bytes = vec![7; usize::try_from(length).unwrap()];
            let name = || folder.path().join(format!("copy-{length}"));
            let (path, _) = blank.copy(&mut source(folder.path(), &bytes), length, name)?;
            assert!(fs::read(&path).unwrap() == bytes);
            Some(())
        };
        assert_eq!(copy(10_000), None);
        blank.ready(folder.path(), 10_000);
        assert_eq!(copy(4_999), None);
        assert_eq!(copy(20_001), None);
        assert_eq!(copy(20_000), Some(()));
        assert_eq!(copy(10_000), None);
        blank.ready(folder.path(), 10_000);
        // One that is there and does not fit makes room for one that does.
        blank.ready(folder.path(), 100_000);
        assert_eq!(copy(10_000), None);
        assert_eq!(copy(100_000), Some(()));
        blank.ready(folder.path(), LARGEST + 1);
        assert_eq!(copy(LARGEST + 1), None);
    }

    #[test]
    fn after_its_end_there_is_none() {
        let Some(folder) = folder() else { return };
        let blank = Blank::default();
        let name = || folder.path().join("copy");
        blank.ready(folder.path(), 100);
        blank.end();
        blank.ready(folder.path(), 100);
        assert!(blank.copy(&mut source(folder.path(), &[7; 100]), 100, name).is_none());
        assert!(!name().exists());
    }

    #[test]
    fn a_name_that_is_taken_is_left_as_it_is() {
        let Some(folder) = folder() else { return };
        let blank = Blank::default();
        let name = || folder.path().join("copy");
        fs::write(name(), "somebody's").unwrap();
        blank.ready(folder.path(), 100);
        assert!(blank.copy(&mut source(folder.path(), &[7; 100]), 100, name).is_none());
        assert_eq!(fs::read(name()).unwrap(), b"somebody's");
    }
}
