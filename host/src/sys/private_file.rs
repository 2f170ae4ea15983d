//! A new file that is this process's alone: made under a name that was not there, filled once, and read where it lies.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
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

    /// Copies at most `limit` bytes of `source`, without leaving the kernel where it can do that.
    #[cfg_attr(not(unix), expect(dead_code, reason = "a mapped file can't be removed there"))]
    pub(crate) fn copy(mut self, source: &mut File, limit: u64) -> io::Result<FilledFile> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let copied = self.copy_known(source, limit);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let copied = (0, false);
        let (mut length, is_whole) = copied;
        if !is_whole {
            length += io::copy(&mut source.take(limit.saturating_sub(length)), &mut self.0)?;
        }
        Ok(FilledFile { file: self.0, length, head: OnceLock::new(), map: OnceLock::new() })
    }

    /// Copies what `source` says that it has, in the kernel, as far as that goes. Tells how much that was and whether it was
    /// all: to ask a file for more at its end takes longer than to ask it for its length again.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn copy_known(&mut self, source: &File, limit: u64) -> (u64, bool) {
        let length = || source.metadata().map(|metadata| metadata.len());
        let (Ok(expected), mut copied) = (length(), 0) else { return (0, false) };
        while copied < expected.min(limit) {
            let left = usize::try_from(expected.min(limit) - copied).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(source, None, &self.0, None, left) {
                Ok(more) if more > 0 => copied += more as u64,
                _ => return (copied, false),
            }
        }
        (copied, copied > 0 && length().is_ok_and(|length| length == copied))
    }
}

impl Write for PrivateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A file that is not written any more.
#[derive(Debug)]
pub(crate) struct FilledFile {
    /// Could write, and never does. Closed with this, before the copy is opened.
    file: File,
    length: u64,
    head: OnceLock<Box<[u8]>>,
    map: OnceLock<Mmap>,
}

/// How much of a file its beginning is.
pub(crate) const HEAD: usize = 4096;

impl FilledFile {
    /// How many bytes it has.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Reads the bytes from `at` on, until the buffer is full or the file at its end; tells how much was read.
    pub(crate) fn read_at(&self, mut buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while !buffer.is_empty() {
            let from = at + done as u64;
            #[cfg(unix)]
            let read = std::os::unix::fs::FileExt::read_at(&self.file, buffer, from);
            #[cfg(windows)]
            let read = std::os::windows::fs::FileExt::seek_read(&self.file, buffer, from);
            let read = match read {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            done += read;
            buffer = buffer.get_mut(read..).unwrap_or_default();
        }
        Ok(done)
    }

    /// Its first bytes, [`HEAD`] of them if it has as many. Read once.
    pub(crate) fn head(&self) -> io::Result<&[u8]> {
        if let Some(head) = self.head.get() {
            return Ok(head);
        }
        let mut head = vec![0; HEAD];
        let length = self.read_at(&mut head, 0)?;
        head.truncate(length);
        Ok(self.head.get_or_init(|| head.into()))
    }

    /// Its bytes, one after the other. One reader at a time: they share the place in the file.
    pub(crate) fn reader(&self) -> io::Result<impl Read> {
        let mut file = &self.file;
        file.rewind()?;
        Ok(file)
    }

    /// All of its bytes, where they lie.
    pub(crate) fn bytes(&self) -> io::Result<&[u8]> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        // SAFETY: nobody writes to the file or shortens it as long as it is mapped. It was not there before `create` or
        // `make`, its mode is 0400 from the start and its folder's 0700, so the only handle that can write is this one,
        // and what a forked child has of it; nothing here writes through it, and the host only ever unlinks the file. Its
        // own user could change the mode and write all the same, as to the mapping of the library that the dynamic loader
        // is about to make of it.
        let map = unsafe { Mmap::map(&self.file) }?;
        Ok(self.map.get_or_init(|| map))
    }
}

/// A file that has no name yet, and nothing in it but zeros: to find a page for each 4 KiB, and to note it in the file
/// system, is most of what a copy costs, and here it is done before there is something to copy.
#[derive(Debug)]
#[cfg_attr(not(unix), expect(dead_code, reason = "a mapped file can't be removed there"))]
pub(crate) struct BlankFile {
    file: PrivateFile,
    length: u64,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl BlankFile {
    /// Makes one in a folder that nobody but this process's user can enter. It goes with this, unless it gets a name.
    ///
    /// # Errors
    /// Where the file system knows no files without names, and when it is full.
    pub(crate) fn make(folder: &Path, length: u64) -> io::Result<Self> {
        use std::os::unix::fs::FileExt;

        use rustix::fs::{Mode, OFlags};

        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(folder, flags, Mode::RUSR)?);
        let mut written = 0;
        while written < length {
            let left = usize::try_from(length - written).unwrap_or(usize::MAX);
            written += file.write_at(ZEROS.get(..left).unwrap_or(&ZEROS), written)? as u64;
        }
        Ok(Self { file: PrivateFile(file), length })
    }
}

impl BlankFile {
    /// How many zeros it holds.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }
}

#[cfg(unix)]
impl BlankFile {
    /// As [`PrivateFile::copy`].
    pub(crate) fn fill(self, source: &mut File, limit: u64) -> io::Result<FilledBlank> {
        let filled = self.file.copy(source, limit)?;
        if filled.length < self.length {
            filled.file.set_len(filled.length)?;
        }
        Ok(FilledBlank(filled))
    }
}

/// A whole copy that has no name yet.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct FilledBlank(FilledFile);

#[cfg(unix)]
impl FilledBlank {
    /// Gives it its name.
    ///
    /// # Errors
    /// When the name is taken, and without privileges where there is no `/proc`.
    pub(crate) fn link(self, name: &Path) -> io::Result<FilledFile> {
        // For long this took a privilege (`CAP_DAC_READ_SEARCH`).
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            use rustix::{
                fs::{AtFlags, CWD},
                io::Errno,
            };
            match rustix::fs::linkat(&self.0.file, "", CWD, name, AtFlags::EMPTY_PATH) {
                Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {}
                linked => return Ok(linked.map(|()| self.0)?),
            }
        }
        self.link_by_number(name)
    }

    /// In the way that takes no privilege (`open(2)`, O_TMPFILE), and twice as long.
    fn link_by_number(self, name: &Path) -> io::Result<FilledFile> {
        use std::os::fd::AsRawFd;

        use rustix::fs::{AtFlags, CWD};

        let unnamed = format!("/proc/self/fd/{}", self.0.file.as_raw_fd());
        rustix::fs::linkat(CWD, unnamed, CWD, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(self.0)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs,
        io::ErrorKind,
        os::unix::fs::{FileExt, MetadataExt},
    };

    use super::*;

    fn source(folder: &Path, bytes: &[u8]) -> File {
        let path = folder.join("source");
        fs::write(&path, bytes).unwrap();
        File::open(path).unwrap()
    }

    /// `None` where the file system knows no files without names.
    fn blank(folder: &Path, length: u64) -> Option<BlankFile> {
        match BlankFile::make(folder, length) {
            Err(error) if error.kind() == ErrorKind::Unsupported => None,
            made => Some(made.unwrap()),
        }
    }

    fn numbers(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at * 7 + count) as u8).collect()
    }

    #[test]
    fn a_copy_is_exact_whatever_was_made_ahead_for_it() {
        let folder = tempfile::tempdir().unwrap();
        for (length, ahead) in
            [(300_000, None), (300_000, Some(300_000)), (299_999, Some(300_000)), (1, Some(5000))]
                .into_iter()
                .chain([(300_001, Some(300_000)), (70_000, Some(0)), (8192, Some(4096)), (4096, Some(8192))])
        {
            let (bytes, path) = (numbers(length), folder.path().join(format!("{length}-{ahead:?}")));
            let mut source = source(folder.path(), &bytes);
            let file = match ahead {
                None => PrivateFile::create(&path).unwrap().copy(&mut source, u64::MAX),
                Some(ahead) => {
                    let Some(blank) = blank(folder.path(), ahead) else { return };
                    assert_eq!((blank.len(), path.exists()), (ahead, false));
                    let filled = blank.fill(&mut source, u64::MAX).unwrap();
                    if length < 10_000 { filled.link_by_number(&path) } else { filled.link(&path) }
                }
            }
            .unwrap();
            let mut read = Vec::new();
            file.reader().unwrap().read_to_end(&mut read).unwrap();
            assert!(read == bytes && file.bytes().unwrap() == bytes && fs::read(&path).unwrap() == bytes);
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.mode() & 0o777, metadata.nlink(), file.len()), (0o400, 1, length as u64));
        }
    }

    #[test]
    fn neither_the_limit_nor_a_wrong_length_makes_a_copy_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let copy = |name: &str, source: &mut File, limit: u64| {
            PrivateFile::create(&folder.path().join(name)).unwrap().copy(source, limit).unwrap()
        };
        let bytes = numbers(300_000);
        let mut source = source(folder.path(), &bytes);
        let limited = copy("limited", &mut source, 100_000);
        assert!(limited.bytes().unwrap() == bytes.get(..100_000).unwrap() && limited.len() == 100_000);
        // It says that it has a page.
        if let Ok(mut online) = File::open("/sys/devices/system/cpu/online") {
            let online = copy("online", &mut online, u64::MAX);
            assert_eq!(online.bytes().unwrap(), fs::read("/sys/devices/system/cpu/online").unwrap());
        }
        // It says that it has no bytes.
        let mut version = File::open("/proc/version").unwrap();
        assert_eq!(version.metadata().unwrap().len(), 0);
        let version = copy("version", &mut version, u64::MAX);
        assert_eq!(version.bytes().unwrap(), fs::read("/proc/version").unwrap());
        assert_eq!(version.head().unwrap(), version.bytes().unwrap());
    }

    #[test]
    fn one_that_is_never_filled_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let Some(unused) = blank(folder.path(), 5000) else { return };
        drop(unused);
        let mut source = source(folder.path(), &[1; 5000]);
        fs::write(folder.path().join("taken"), "").unwrap();
        let blank = BlankFile::make(folder.path(), 5000).unwrap();
        let error =
            blank.fill(&mut source, u64::MAX).unwrap().link(&folder.path().join("taken")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(fs::read(folder.path().join("taken")).unwrap(), b"");
    }

    #[test]
    fn it_holds_zeros_and_no_more_than_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let Some(BlankFile { file: PrivateFile(file), .. }) = blank(folder.path(), 100_000) else { return };
        let mut bytes = vec![1; 100_001];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 100_000);
        assert!(bytes.iter().take(100_000).all(|byte| *byte == 0));
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }
}
