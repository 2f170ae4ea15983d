//! A file of this process's alone that is written again and again, through a mapping of it that stays.
//!
//! What a copy costs is mostly its pages: to find one for each 4 KiB, and to note it in the file system. A file that has
//! them, written where they are mapped, takes less than half of that, little more than its bytes alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::Path,
};

use memmap2::{Mmap, MmapMut};

/// How long a slate stays as quick as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "nothing is known of other systems"))]
pub(crate) enum Warmth {
    /// It lies in the memory.
    Stays,
    /// Pages that have gone to the disk cost more at their next writing than those of a new file. Linux takes them there
    /// when they are 30 s old, or earlier when memory is short.
    Passes,
}

/// Whether files of this folder can be slates; `None` where that is not known to be safe.
///
/// Not on AArch64: there the kernel takes old instructions out of the processor's caches when a page is written by a
/// system call, not when it is written through a mapping. Nor on file systems that put another file in front of the one
/// that is mapped (overlayfs), so that [`CleanSlate`] could not learn who has it.
pub(crate) fn warmth(folder: &Path) -> Option<Warmth> {
    #[cfg(target_os = "linux")]
    {
        if !cfg!(target_arch = "x86_64") {
            return None;
        }
        /// The file systems' numbers in `linux/magic.h`.
        const TMPFS: u64 = 0x0102_1994;
        const EXT4: u64 = 0xef53;
        const XFS: u64 = 0x5846_5342;
        match u64::try_from(rustix::fs::statfs(folder).ok()?.f_type).ok()? {
            TMPFS => Some(Warmth::Stays),
            EXT4 | XFS => Some(Warmth::Passes),
            _ => None,
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        None
    }
}

/// One that nobody reads.
#[derive(Debug)]
pub(crate) struct CleanSlate {
    map: MmapMut,
    file: File,
}

/// One that holds something, and can't be written.
#[derive(Debug)]
pub(crate) struct Slate {
    map: Mmap,
    file: File,
}

impl CleanSlate {
    /// Makes one of the file at `path`, which is this process's user's and in a folder of mode 0700; `None` when somebody
    /// else has it open or mapped.
    #[cfg(unix)]
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

        let mode = fs::Permissions::from_mode;
        fs::set_permissions(path, mode(0o600))?;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        file.set_permissions(mode(0o400))?;
        if !is_nobodys_else(&file) {
            return Ok(None);
        }
        // SAFETY: nobody else writes to the file or shortens it. Its folder is closed to others, its mode forbids writing
        // to its own user, and the kernel has just said that the only handle is ours.
        let map = unsafe { MmapMut::map_mut(&file) }?;
        #[cfg(target_os = "linux")]
        map.advise(memmap2::Advice::PopulateWrite)?;
        Ok(Some(Self { map, file }))
    }

    #[cfg(not(unix))]
    pub(crate) fn of(_: &Path) -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// Copies the first `length` bytes of `source`, which must be all that it has.
    #[cfg(unix)]
    pub(crate) fn fill(mut self, source: &File, length: usize) -> io::Result<Slate> {
        use std::os::unix::fs::FileExt;

        self.resize(length)?;
        let mut done = 0;
        while let Some(room) = self.map.get_mut(done..).filter(|room| !room.is_empty()) {
            match source.read_at(room, done as u64) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if source.read_at(&mut [0], length as u64)? > 0 {
            return Err(io::Error::other("it has grown meanwhile"));
        }
        Ok(Slate { map: self.map.make_read_only()?, file: self.file })
    }

    #[cfg(not(unix))]
    pub(crate) fn fill(self, _: &File, _: usize) -> io::Result<Slate> {
        let _ = (self.map, self.file);
        Err(ErrorKind::Unsupported.into())
    }

    /// At no time more of it is mapped than there is of the file.
    #[cfg(unix)]
    fn resize(&mut self, length: usize) -> io::Result<()> {
        let before = self.map.len();
        if length > before {
            self.file.set_len(length as u64)?;
        }
        if length != before {
            #[cfg(target_os = "linux")]
            // SAFETY: nothing borrows from the mapping, which may move; the file is as long as it will be.
            unsafe {
                self.map.remap(length, memmap2::RemapOptions::new().may_move(true))?;
            }
            #[cfg(not(target_os = "linux"))]
            return Err(ErrorKind::Unsupported.into());
        }
        if length < before {
            self.file.set_len(length as u64)?;
        }
        Ok(())
    }
}

impl Slate {
    /// What it holds.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lets it be written again; `None` when somebody else has it open or mapped, be it a child of this process that was
    /// forked when a library was mapped from it.
    pub(crate) fn wipe(self) -> io::Result<Option<CleanSlate>> {
        if !is_nobodys_else(&self.file) {
            return Ok(None);
        }
        Ok(Some(CleanSlate { map: self.map.make_mut()?, file: self.file }))
    }
}

/// Whether `file` is the only handle to its file in the whole system, mappings included: a lease for writing is only given
/// then (`fcntl(2)`).
#[cfg(target_os = "linux")]
fn is_nobodys_else(file: &File) -> bool {
    use std::os::fd::AsRawFd;

    /// In `asm-generic/fcntl.h`.
    const F_SETSIG: libc::c_int = 10;

    let fd = file.as_raw_fd();
    // Whoever opens it in this moment waits for the lease's end, and we are sent a signal. The usual one would end the
    // process, this one is ignored unless somebody asked for it.
    // SAFETY: these are about our own descriptor, and take no pointers.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn is_nobodys_else(_: &File) -> bool {
    false
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn source(folder: &Path, bytes: &[u8]) -> File {
        let path = folder.join("source");
        fs::write(&path, bytes).unwrap();
        File::open(path).unwrap()
    }

    #[test]
    fn it_holds_what_was_copied_last_whatever_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slate");
        fs::write(&path, vec![9; 10_000]).unwrap();
        let number = fs::metadata(&path).unwrap().ino();
        let mut clean = CleanSlate::of(&path).unwrap().expect("nobody has it");
        for length in [10_000, 300_000, 1, 4096, 12_288, 12_287] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
            let slate = clean.fill(&source(folder.path(), &bytes), length).unwrap();
            assert_eq!(slate.bytes(), bytes);
            assert_eq!(fs::read(&path).unwrap(), bytes);
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.ino(), metadata.permissions().mode() & 0o777), (number, 0o400));
            clean = slate.wipe().unwrap().expect("nobody has it");
        }
    }

    #[test]
    fn a_source_that_is_longer_or_shorter_than_it_said_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slate");
        for wrong in [4999, 5001] {
            fs::write(&path, vec![9; 100]).unwrap();
            let clean = CleanSlate::of(&path).unwrap().expect("nobody has it");
            clean.fill(&source(folder.path(), &[1; 5000]), wrong).unwrap_err();
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_somebody_else_has_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slate");
        fs::write(&path, vec![9; 100]).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(CleanSlate::of(&path).unwrap().is_none());
        drop(reader);
        let clean = CleanSlate::of(&path).unwrap().expect("nobody has it");
        let slate = clean.fill(&source(folder.path(), &[1; 5000]), 5000).unwrap();
        // As the dynamic loader does: it closes the file and keeps the mapping, under whichever name.
        let link = folder.path().join("link");
        fs::hard_link(&path, &link).unwrap();
        // SAFETY: nobody changes the file while it is mapped, which is what this test is about.
        let _mapped = unsafe { Mmap::map(&File::open(&link).unwrap()) }.unwrap();
        fs::remove_file(&link).unwrap();
        assert!(slate.wipe().unwrap().is_none());
    }
}
