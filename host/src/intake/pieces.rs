//! Reads of a private copy what its inspection looks at, some KiB, where to map it all would take longer.

use std::{cell::Cell, ops::Range};

use object::{
    ReadRef,
    read::{ReadCache, ReadCacheOps},
};

use crate::sys::private_file::{FilledFile, HEAD};

/// So much is read at most, what was read before counted once more. A file that has more to be looked at is mapped, as is
/// one that contradicts itself and would have us read it many times over; and what is allocated for more than this would
/// stay with each thread.
const MOST: u64 = 64 << 10;

/// A copy, and how much of it may still be read.
pub(super) struct Pieces<'file> {
    cache: ReadCache<Copied<'file>>,
    left: Cell<u64>,
}

impl<'file> Pieces<'file> {
    pub(super) fn of(file: &'file FilledFile) -> Self {
        Self { cache: ReadCache::new(Copied { file, at: 0 }), left: Cell::new(MOST) }
    }

    /// Before anything is allocated for it. Nothing is read any more once too much was asked for: what is found without that
    /// would not be what all the bytes say.
    fn allow(&self, size: u64) -> Result<(), ()> {
        let left = self.left.get().checked_sub(size);
        self.left.set(left.unwrap_or(0));
        left.map(drop).ok_or(())
    }

    /// Whether too much was asked for.
    pub(super) fn is_too_much(&self) -> bool {
        self.left.get() == 0
    }
}

impl<'pieces> ReadRef<'pieces> for &'pieces Pieces<'_> {
    fn len(self) -> Result<u64, ()> {
        (&self.cache).len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'pieces [u8], ()> {
        self.allow(size)?;
        (&self.cache).read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'pieces [u8], ()> {
        self.allow(range.end.saturating_sub(range.start))?;
        (&self.cache).read_bytes_at_until(range, delimiter)
    }
}

struct Copied<'file> {
    file: &'file FilledFile,
    at: u64,
}

impl ReadCacheOps for Copied<'_> {
    fn len(&mut self) -> Result<u64, ()> {
        Ok(self.file.len())
    }

    fn seek(&mut self, at: u64) -> Result<u64, ()> {
        self.at = at;
        Ok(at)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ()> {
        let at = self.at;
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        // The beginning, which has most of the pieces, is read at once.
        let read = if end <= HEAD {
            let head = self.file.head().map_err(drop)?;
            let found = head.get(start..end.min(head.len())).unwrap_or_default();
            buffer.get_mut(..found.len()).ok_or(())?.copy_from_slice(found);
            found.len()
        } else {
            self.file.read_at(buffer, at).map_err(drop)?
        };
        self.at += read as u64;
        Ok(read)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ()> {
        let read = self.read(buffer)?;
        if read == buffer.len() { Ok(()) } else { Err(()) }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs::{self, File},
        path::Path,
    };

    use super::*;
    use crate::{intake::image::Image, sys::private_file::PrivateFile};

    fn copied(source: &Path) -> (tempfile::TempDir, FilledFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = PrivateFile::create(&folder.path().join("copy")).unwrap();
        let file = file.copy(&mut File::open(source).unwrap(), u64::MAX).unwrap();
        (folder, file)
    }

    /// The dynamic loader of this process, a library like others.
    fn library() -> String {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let is_loader = |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with("ld-"));
        maps.split_whitespace().find(is_loader).expect("it is mapped").to_owned()
    }

    #[test]
    fn a_few_pieces_tell_what_all_the_bytes_do() {
        let (_folder, file) = copied(library().as_ref());
        let pieces = Pieces::of(&file);
        let image = Image::parse_pieces(&pieces).expect("it needs no more");
        assert!(image.machine == Image::parse(file.bytes().unwrap()).unwrap().machine);
        assert!(!pieces.is_too_much());
    }

    #[test]
    fn too_much_is_refused_before_it_is_read_and_nothing_is_read_afterwards() {
        let (_folder, file) = copied(library().as_ref());
        for size in [MOST + 1, u64::MAX] {
            let pieces = Pieces::of(&file);
            assert_eq!((&pieces).read_bytes_at(0, 64).unwrap().len(), 64);
            assert!((&pieces).read_bytes_at(0, size).is_err());
            assert!(pieces.is_too_much());
            assert!((&pieces).read_bytes_at(0, 64).is_err(), "what was read before, too");
        }
        let pieces = Pieces::of(&file);
        for _ in 0..MOST / 4096 {
            (&pieces).read_bytes_at(0, 4096).unwrap();
        }
        assert!((&pieces).read_bytes_at(0, 1).is_err(), "often the same is much, too");
    }
}
