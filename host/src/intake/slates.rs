//! Files of copies that are gone, for those that come: a host that swaps copies where the build before the last one was.
//!
//! Such a file lies in a folder of its own, and the copy is a second name of it in the staging folder, as long as there is
//! one: so nothing that is named as a library is mapped when no library is.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{stage::Folder, staging_base};
use crate::sys::slate::{self, CleanSlate, Slate, Warmth};

/// The largest file that is kept. As long as it is, it counts as memory of this process.
const MOST: u64 = 4 << 20;

/// How long a file on a disk is worth keeping: before the system has written it there.
const WARM: Duration = Duration::from_secs(5);

/// At most one clean slate, and the folder of those that are in use.
#[derive(Debug)]
pub(super) struct Slates {
    /// Where copies are to have their names.
    staging: PathBuf,
    /// Where the folder is to be; in the folder for temporary files, unless it is said.
    base: Option<PathBuf>,
    clean: Mutex<Option<Clean>>,
    /// After what may lie in it.
    place: OnceLock<Option<Place>>,
}

#[derive(Debug)]
struct Place {
    folder: Folder,
    warmth: Warmth,
    next: AtomicU64,
}

#[derive(Debug)]
struct Clean {
    slate: CleanSlate,
    file: Named,
    since: Instant,
}

/// A slate that holds a copy. Its file is removed with it.
#[derive(Debug)]
pub(super) struct Written {
    slate: Slate,
    file: Named,
}

/// A file that is removed when this is dropped.
#[derive(Debug)]
struct Named(PathBuf);

impl Drop for Named {
    fn drop(&mut self) {
        // What stays is swept by the next host.
        let _ = fs::remove_file(&self.0);
    }
}

impl Slates {
    /// For copies in `staging`; in a folder in `base`, or in the one for temporary files.
    pub(super) fn new(staging: &Path, base: Option<&Path>) -> Self {
        let (staging, base) = (staging.to_owned(), base.map(Path::to_owned));
        Self { staging, base, clean: Mutex::default(), place: OnceLock::new() }
    }

    /// Copies a file of so many bytes, and gives the copy its name; `None` where that must be done in another way.
    pub(super) fn copy(&self, source: &File, length: u64, name: &Path) -> Option<Written> {
        if length > MOST {
            return None;
        }
        let Clean { slate, file, .. } = self.take()?;
        let slate = slate.fill(source, usize::try_from(length).ok()?).ok()?;
        fs::hard_link(&file.0, name).ok()?;
        Some(Written { slate, file })
    }

    /// Keeps the file of a copy that has lost its name.
    pub(super) fn keep(&self, Written { slate, file }: Written) {
        if let Ok(Some(slate)) = slate.wipe() {
            self.put(slate, file);
        }
    }

    /// Takes a copy's file away from its place, and keeps it; or leaves it where it is.
    pub(super) fn adopt(&self, copy: &Path) -> bool {
        if self.has_warm() || fs::metadata(copy).is_ok_and(|copy| copy.len() > MOST) {
            return false;
        }
        let Some(place) = self.place() else { return false };
        let path = place.folder.path().join(format!("slate-{}", place.next.fetch_add(1, Relaxed)));
        if fs::rename(copy, &path).is_err() {
            return false;
        }
        let file = Named(path);
        if let Ok(Some(slate)) = CleanSlate::of(&file.0) {
            self.put(slate, file);
        }
        true
    }

    /// Removes everything: for the end of the process.
    pub(super) fn remove_all(&self) {
        drop(self.clean.lock().take());
        if let Some(Some(place)) = self.place.get() {
            let _ = staging_base::clear(place.folder.path());
        }
    }

    fn put(&self, slate: CleanSlate, file: Named) {
        let before = self.clean.lock().replace(Clean { slate, file, since: Instant::now() });
        // Not under the lock: it takes the disk its time.
        drop(before);
    }

    /// One that is worth it. Another one stays until something takes its place, since its removal would be waited for.
    fn take(&self) -> Option<Clean> {
        let mut clean = self.clean.lock();
        if clean.as_ref().is_some_and(|clean| self.is_warm(clean)) { clean.take() } else { None }
    }

    fn has_warm(&self) -> bool {
        self.clean.lock().as_ref().is_some_and(|clean| self.is_warm(clean))
    }

    fn is_warm(&self, clean: &Clean) -> bool {
        match self.place.get() {
            Some(Some(Place { warmth: Warmth::Stays, .. })) => true,
            _ => clean.since.elapsed() < WARM,
        }
    }

    /// On the same file system as the copies, since a file has all its names on one.
    fn place(&self) -> Option<&Place> {
        let claim = || {
            let base = self.base.clone().or_else(|| staging_base::temporary().ok())?;
            let warmth = slate::warmth(&base)?;
            if !is_same_file_system(&base, &self.staging) {
                return None;
            }
            Some(Place { folder: Folder::claim(&base).ok()?, warmth, next: AtomicU64::new(1) })
        };
        self.place.get_or_init(claim).as_ref()
    }
}

impl Written {
    /// What the copy holds.
    pub(super) fn bytes(&self) -> &[u8] {
        self.slate.bytes()
    }
}

#[cfg(unix)]
fn is_same_file_system(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path| fs::metadata(path).map(|metadata| metadata.dev());
    matches!((device(one), device(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(not(unix))]
fn is_same_file_system(_: &Path, _: &Path) -> bool {
    false
}
