//! Reads a file into memory, once, without ever being made to wait by what the path leads to.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read, Seek},
    ops::Deref,
    path::Path,
};

use memmap2::MmapMut;
use parking_lot::Mutex;

#[cfg(unix)]
use super::wasm::is_wasm;
use super::{Fault, RefusalReason};
use crate::sys::private_file::FilledFile;

/// The largest library that is taken: ten times the largest that anyone has shown us.
pub(super) const LARGEST: u64 = 1 << 30;

/// Enough to tell a library from everything else.
const HEAD: u64 = 4096;

/// A file's bytes, in memory that does not stay with the allocator: what each load takes and gives back on
/// another thread would stay with each thread's arena.
pub(super) enum Buffer {
    /// Used again for the next file.
    Spare(Vec<u8>),
    /// A large file's, straight from the system; so many bytes of it are the file's.
    Mapped(MmapMut, usize),
    /// The private copy's, where it lies.
    Copied(FilledFile),
    /// A small one's that stays for long.
    Kept(Box<[u8]>),
}

impl Buffer {
    /// The same bytes, to be kept for long: the spare one goes back to whoever is next.
    pub(super) fn kept(self) -> Self {
        match &self {
            Self::Spare(bytes) => Self::Kept(bytes.as_slice().into()),
            Self::Mapped(..) | Self::Copied(_) | Self::Kept(_) => self,
        }
    }
}

/// The one that nobody uses.
static SPARE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The largest that is kept.
const SPARE_MOST: usize = 4 << 20;

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Spare(bytes) => bytes,
            Self::Mapped(map, len) => map.get(..*len).unwrap_or_default(),
            Self::Copied(file) => file.bytes().unwrap_or_default(),
            Self::Kept(bytes) => bytes,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Self::Spare(bytes) = self {
            let mut spare = SPARE.lock();
            if (spare.capacity()..=SPARE_MOST).contains(&bytes.capacity()) {
                *spare = std::mem::take(bytes);
            }
        }
    }
}

/// Tells from a file's first bytes whether it is worth reading on.
pub(super) type Look = fn(&[u8]) -> Result<(), Fault>;

/// Has a file that may be what `look` looks for copied, by a `copy` that is told how many bytes it has, and at most
/// copies [`LARGEST`]. `None` when there is a doubt, or the copy was not made: reading and writing will say why.
#[cfg(unix)]
pub(super) fn copy<T>(
    path: &Path,
    look: Look,
    copy: impl FnOnce(&mut File, u64) -> Option<T>,
) -> Result<Option<T>, Fault> {
    let (mut file, metadata) = open_file(path)?;
    let mut head = [0; HEAD as usize];
    let Ok(read) = std::os::unix::fs::FileExt::read_at(&file, &mut head, 0) else { return Ok(None) };
    if read < head.len() || metadata.len() > LARGEST || is_wasm(&head) {
        return Ok(None);
    }
    look(&head)?;
    Ok(copy(&mut file, metadata.len()))
}

/// The file, open for reading, and what is known of it.
fn open_file(path: &Path) -> Result<(File, Metadata), Fault> {
    // Looked at before it is opened, since opening alone can do something to a device.
    let metadata = std::fs::metadata(path).map_err(|error| missing(path, &error))?;
    check_is_file(&metadata)?;
    let file = open(path).map_err(|error| missing(path, &error))?;
    // Looked at again: what is open is what counts.
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    check_is_file(&metadata)?;
    Ok((file, metadata))
}

/// The bytes of a file that may be what `look` looks for.
pub(super) fn read(path: &Path, look: Look) -> Result<Buffer, Fault> {
    let (mut file, metadata) = open_file(path)?;
    if metadata.len() > LARGEST {
        // Whatever it is, the better answer may be that it is no library at all.
        let mut head = Vec::new();
        (&mut file).take(HEAD).read_to_end(&mut head).map_err(|error| unreadable(&error))?;
        look(&head)?;
        return Err(too_large());
    }

    let expected = usize::try_from(metadata.len()).unwrap_or(0);
    if expected > SPARE_MOST
        && let Some(buffer) = read_large(&mut file, expected, look)?
    {
        return Ok(buffer);
    }
    let mut bytes = std::mem::take(&mut *SPARE.lock());
    bytes.clear();
    (&mut file).take(HEAD).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    look(&bytes)?;
    // A hint only: files in /proc say 0, and a file may grow.
    bytes.reserve_exact(expected.saturating_sub(bytes.len()));
    let left = LARGEST.saturating_add(1).saturating_sub(HEAD);
    file.take(left).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > LARGEST {
        return Err(too_large());
    }
    Ok(Buffer::Spare(bytes))
}

/// The bytes of a file that says it has `expected`; `None` when it has more by now, or there is no memory for it: then
/// it is at its beginning again.
fn read_large(file: &mut File, expected: usize, look: Look) -> Result<Option<Buffer>, Fault> {
    let Ok(mut map) = MmapMut::map_anon(expected.saturating_add(1)) else { return Ok(None) };
    let mut len = 0;
    // Its beginning first: most of what is no library shows there.
    for end in [HEAD as usize, map.len()] {
        while let Some(room) = map.get_mut(len..end).filter(|room| !room.is_empty()) {
            match file.read(room) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&error)),
            }
        }
        look(map.get(..len.min(HEAD as usize)).unwrap_or_default())?;
    }
    if len > expected {
        file.rewind().map_err(|error| unreadable(&error))?;
        return Ok(None);
    }
    Ok(Some(Buffer::Mapped(map, len)))
}

/// Opens for reading; a FIFO that took the file's place in the meantime can't keep us waiting for a writer, nor
/// a terminal become ours.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    }
    options.open(path)
}

fn check_is_file(metadata: &Metadata) -> Result<(), Fault> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(Fault::new(
        RefusalReason::NotAFile,
        format_args!("is a {}, not a file", kind_of(metadata)),
        "name the plugin's library file itself",
    ))
}

fn kind_of(metadata: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_fifo() {
            return "named pipe";
        }
        if kind.is_socket() {
            return "socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "device";
        }
    }
    if metadata.is_dir() { "folder" } else { "special file" }
}

fn missing(path: &Path, error: &io::Error) -> Fault {
    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
        return unreadable(error);
    }
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        return Fault::new(
            RefusalReason::NotFound,
            "is a symbolic link to a file that does not exist",
            "point the link to the plugin's library, or name the library itself",
        );
    }
    Fault::new(RefusalReason::NotFound, "does not exist", "check the path")
}

pub(super) fn unreadable(error: &io::Error) -> Fault {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => {
            "give the host's user read access to the file and search access to its folders"
        }
        _ => "check the disk or the network share that it is on",
    };
    Fault::new(RefusalReason::Unreadable, format_args!("cannot be read: {}", cause(error)), hint)
}

/// The system's error in the middle of a sentence.
fn cause(error: &io::Error) -> String {
    super::text::lower_first(&error.to_string())
}

fn too_large() -> Fault {
    Fault::new(
        RefusalReason::Unreadable,
        format_args!("is larger than the {} MiB that this host takes", LARGEST >> 20),
        "build it without debug information, or strip it",
    )
}
