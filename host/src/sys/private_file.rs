//! A new file that is this process's alone: made under a name that was not there, filled once, and read where it lies.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    sync::OnceLock,
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

    /// Copies at most `limit` bytes of `source`, without leaving the kernel where it can do that.
    pub(crate) fn copy(mut self, source: &mut File, limit: u64) -> io::Result<FilledFile> {
        let length = io::copy(&mut source.take(limit), &mut self.0)?;
        Ok(self.filled(length))
    }

    fn filled(self, length: u64) -> FilledFile {
        FilledFile { file: self.0, length, map: OnceLock::new() }
    }
}

/// A file that is not written any more.
#[derive(Debug)]
pub(crate) struct FilledFile {
    /// Could write, and never does.
    file: File,
    length: u64,
    map: OnceLock<Mmap>,
}

impl FilledFile {
    /// How many bytes it has.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Reads some of the bytes from `at` on.
    pub(crate) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(&self.file, buffer, at);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(&self.file, buffer, at);
    }

    /// Its bytes, one after the other.
    pub(crate) fn reader(&self) -> impl Read {
        Reader { file: self, at: 0 }
    }

    /// All of its bytes, where they lie.
    pub(crate) fn bytes(&self) -> io::Result<&[u8]> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        // SAFETY: nobody writes to the file or shortens it as long as it is mapped. It was not there before `create`,
        // its mode is 0400 from the start and its folder's 0700, so the only handle that can write is this one,
        // which nothing here writes through; the host only ever unlinks it. Its own user could change the mode and write
        // all the same, as to the mapping of the library that the dynamic loader is about to make of it.
        let map = unsafe { Mmap::map(&self.file) }?;
        Ok(self.map.get_or_init(|| map))
    }
}

struct Reader<'file> {
    file: &'file FilledFile,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn a_copy_is_exact_and_can_be_read_in_every_way() {
        let folder = tempfile::tempdir().unwrap();
        for length in [300_000, 4096, 1] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
            let (source, path) = (folder.path().join("source"), folder.path().join(length.to_string()));
            fs::write(&source, &bytes).unwrap();
            let mut source = File::open(source).unwrap();
            let file = PrivateFile::create(&path).unwrap().copy(&mut source, u64::MAX).unwrap();
            let mut read = Vec::new();
            file.reader().read_to_end(&mut read).unwrap();
            assert!(read == bytes && file.bytes().unwrap() == bytes && fs::read(&path).unwrap() == bytes);
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.mode() & 0o777, metadata.nlink(), file.len()), (0o400, 1, length as u64));
        }
    }
}
