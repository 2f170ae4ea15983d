//! A new file that is this process's alone: made under a name that was not there, filled once, and read where it lies.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use memmap2::Mmap;

/// A file that is being filled.
#[derive(Debug)]
pub(crate) struct PrivateFile(File);

impl PrivateFile {
    /// Makes it, in a folder that nobody but this process's user can enter (mode 0700, `staging_base.rs`). From then on
    /// nobody may open it for writing, ourselves included; reading is all that the dynamic loader needs.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
            options.mode(0o400).custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
        }
        options.open(path).map(Self)
    }

    /// Writes the whole.
    pub(crate) fn write(mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Copies at most `limit` bytes of `source`, without leaving the kernel where it can do that, and gives what the copy
    /// holds.
    pub(crate) fn copy(mut self, source: &mut File, limit: u64) -> io::Result<Mmap> {
        io::copy(&mut source.take(limit), &mut self.0)?;
        // SAFETY: nobody writes to the file or shortens it as long as it is mapped. It was not there before `create`, its
        // mode is 0400 from the start and its folder's 0700, so the only handle that can write is ours, which ends here;
        // the host only ever unlinks it. Its own user could change the mode and write all the same, as to the mapping of
        // the library that the dynamic loader is about to make of it.
        unsafe { Mmap::map(&self.0) }
    }
}
