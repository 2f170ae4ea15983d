//! A file made ahead for the next copy, in a staging folder: at most one, as large as the last copy was.
//!
//! Most of what a copy costs is done before anybody waits for it then. The file has no name until it holds the copy, so
//! it is nobody's before, and the system removes it when nobody has it open any more.

#[cfg(unix)]
use std::fs::File;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

#[cfg(unix)]
use super::read;
use crate::sys::private_file::BlankFile;
#[cfg(unix)]
use crate::sys::private_file::FilledFile;

/// The largest that is made.
const LARGEST: u64 = 4 << 20;

/// So many times its length must be free where it lies: others may need the room more.
#[cfg(any(target_os = "linux", target_os = "android"))]
const ROOM: u64 = 16;

/// The place for it.
#[derive(Debug)]
pub(super) struct Blank {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Empty,
    Making,
    Ready(BlankFile),
    /// There is none any more: it turned out that it can't be used, or nobody copies any more.
    Never,
}

/// A copy that may be wanted next. Keeps neither the folder nor the file.
#[derive(Clone, Debug)]
pub(crate) struct NextCopy {
    blank: Weak<Blank>,
    length: u64,
}

impl NextCopy {
    /// One of so many bytes.
    pub(super) fn of(blank: Option<&Arc<Blank>>, length: u64) -> Self {
        Self { blank: blank.map_or_else(Weak::new, Arc::downgrade), length }
    }

    /// Whether there is no file for it, and can be one.
    pub(crate) fn is_unready(&self) -> bool {
        self.blank.upgrade().is_some_and(|blank| is_wanted(&blank.state.lock(), self.length))
    }

    /// Makes a file for it ahead, unless there is one. Blocks.
    pub(crate) fn ready(&self) {
        if let Some(blank) = self.blank.upgrade() {
            blank.ready(self.length);
        }
    }
}

impl Blank {
    /// In a folder that nobody but this process's user can enter.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), state: Mutex::new(State::Empty) }
    }

    /// Copies a file that seems to have so many bytes, if there is one for it, and gives the copy what `name` says.
    #[cfg(unix)]
    pub(super) fn copy(
        &self,
        source: &mut File,
        length: u64,
        name: impl FnOnce() -> PathBuf,
    ) -> Option<(PathBuf, FilledFile)> {
        let filled = self.take(length)?.fill(source, read::LARGEST).ok()?;
        let path = name();
        match filled.link(&path) {
            Ok(copy) => Some((path, copy)),
            Err(error) => {
                if error.kind() != io::ErrorKind::AlreadyExists {
                    tracing::debug!(%error, "no files are made ahead for copies any more");
                    self.end();
                }
                None
            }
        }
    }

    #[cfg(unix)]
    fn take(&self, length: u64) -> Option<BlankFile> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Empty) {
            State::Ready(file) if fits(&file, length) => Some(file),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Makes one for a copy of so many bytes, unless there is one. Blocks. Without it the copy takes longer, no more than
    /// that.
    fn ready(&self, length: u64) {
        let before = {
            let mut state = self.state.lock();
            if !is_wanted(&state, length) {
                return;
            }
            std::mem::replace(&mut *state, State::Making)
        };
        // Not under the lock: it takes the disk its time.
        drop(before);
        let made = make(&self.folder, length).map_or(State::Empty, State::Ready);
        let mut state = self.state.lock();
        let unwanted =
            if matches!(*state, State::Making) { std::mem::replace(&mut *state, made) } else { made };
        drop(state);
        drop(unwanted);
    }

    /// Gives back the room that it takes; tells whether there was one.
    pub(super) fn make_room(&self) -> bool {
        let mut state = self.state.lock();
        if !matches!(*state, State::Ready(_)) {
            return false;
        }
        let file = std::mem::replace(&mut *state, State::Empty);
        drop(state);
        drop(file);
        true
    }

    /// There is to be none any more.
    pub(super) fn end(&self) {
        let before = std::mem::replace(&mut *self.state.lock(), State::Never);
        drop(before);
    }
}

fn is_wanted(state: &State, length: u64) -> bool {
    length <= LARGEST
        && match state {
            State::Empty => true,
            State::Ready(file) => !fits(file, length),
            State::Making | State::Never => false,
        }
}

/// Only where it is known to help. Others may copy a file by sharing its blocks (XFS, btrfs), which is faster, and slower
/// than anything when there are pages to be written to the disk first.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn make(folder: &Path, length: u64) -> io::Result<BlankFile> {
    /// The file systems' numbers in `linux/magic.h`; ext2 and ext3 have the same.
    const KNOWN: [u64; 2] = [0xef53, 0x0102_1994];

    let about = rustix::fs::statfs(folder)?;
    if !KNOWN.iter().any(|known| u64::try_from(about.f_type) == Ok(*known)) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let room = u64::try_from(about.f_bsize).unwrap_or(0).saturating_mul(about.f_bavail);
    if room < length.saturating_mul(ROOM) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    BlankFile::make(folder, length)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn make(_: &Path, _: u64) -> io::Result<BlankFile> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether a copy of so many bytes is made faster in this file: to cut off much of it would cost more than it saves.
fn fits(file: &BlankFile, length: u64) -> bool {
    (file.len() / 2..=file.len().saturating_mul(2)).contains(&length)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    /// A place for one, in a folder of its own; `None` where the file system knows no files without names.
    fn blank() -> Option<(tempfile::TempDir, Arc<Blank>)> {
        let folder = tempfile::tempdir().unwrap();
        match make(folder.path(), 0) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return None,
            made => drop(made.unwrap()),
        }
        let blank = Blank::new(folder.path());
        Some((folder, Arc::new(blank)))
    }

    /// Makes a copy of so many bytes, if there is a file for it.
    fn copy(blank: &Blank, length: u64) -> Option<()> {
        let bytes = vec![(length % 251) as u8; usize::try_from(length).unwrap()];
        let source = blank.folder.join(format!("source-{length}"));
        fs::write(&source, &bytes).unwrap();
        let name = || blank.folder.join(format!("copy-{length}"));
        let (path, _) = blank.copy(&mut File::open(source).unwrap(), length, name)?;
        assert!(fs::read(&path).unwrap() == bytes);
        fs::remove_file(path).unwrap();
        Some(())
    }

    #[test]
    fn it_serves_one_copy_of_about_its_length() {
        let Some((_folder, blank)) = blank() else { return };
        assert_eq!(copy(&blank, 10_000), None);
        blank.ready(10_000);
        assert_eq!(copy(&blank, 4_999), None);
        assert_eq!(copy(&blank, 20_001), None);
        assert_eq!(copy(&blank, 20_000), Some(()));
        assert_eq!(copy(&blank, 10_000), None);
        blank.ready(10_000);
        // One that is there and does not fit makes room for one that does.
        blank.ready(100_000);
        assert_eq!(copy(&blank, 10_000), None);
        assert_eq!(copy(&blank, 100_000), Some(()));
        blank.ready(LARGEST + 1);
        assert_eq!(copy(&blank, LARGEST + 1), None);
    }

    #[test]
    fn it_gives_its_room_back_and_can_be_made_again() {
        let Some((_folder, blank)) = blank() else { return };
        assert!(!blank.make_room());
        blank.ready(100);
        assert!(blank.make_room());
        assert_eq!(copy(&blank, 100), None);
        blank.ready(100);
        assert_eq!(copy(&blank, 100), Some(()));
    }

    #[test]
    fn after_its_end_there_is_none() {
        let Some((_folder, blank)) = blank() else { return };
        blank.ready(100);
        blank.end();
        blank.ready(100);
        assert_eq!(copy(&blank, 100), None);
    }

    #[test]
    fn a_next_copy_keeps_nothing() {
        let Some((_folder, blank)) = blank() else { return };
        let next = NextCopy::of(Some(&blank), 100);
        assert!(next.is_unready());
        next.ready();
        assert!(!next.is_unready());
        assert_eq!(Arc::strong_count(&blank), 1);
        drop(blank);
        assert!(!next.is_unready());
        next.ready();
    }

    #[test]
    fn a_name_that_is_taken_is_left_as_it_is_and_does_no_harm() {
        let Some((folder, blank)) = blank() else { return };
        let name = folder.path().join("copy-100");
        fs::write(&name, "somebody's").unwrap();
        blank.ready(100);
        assert_eq!(copy(&blank, 100), None);
        assert_eq!(fs::read(&name).unwrap(), b"somebody's");
        blank.ready(100);
        assert_eq!(copy(&blank, 90), Some(()));
    }
}
