//! Reads of a private copy what its inspection looks at, a few KiB mostly, where to map it all would take longer.

use object::read::ReadCacheOps;

use crate::sys::private_file::FilledFile;

/// So much is read at most. What says that it has more to be looked at is mapped: a file that contradicts itself
/// could have us read it many times over, and what is allocated for more would stay with each thread.
const MOST: usize = 64 << 10;

/// A copy, for [`object::ReadCache`].
#[derive(Debug)]
pub(super) struct Pieces<'file> {
    file: &'file FilledFile,
    at: u64,
    left: usize,
}

impl<'file> Pieces<'file> {
    pub(super) fn of(file: &'file FilledFile) -> Self {
        Self { file, at: 0, left: MOST }
    }
}

impl ReadCacheOps for Pieces<'_> {
    fn len(&mut self) -> Result<u64, ()> {
        Ok(self.file.len())
    }

    fn seek(&mut self, at: u64) -> Result<u64, ()> {
        self.at = at;
        Ok(at)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ()> {
        let wanted = buffer.len().min(self.left);
        let read = self.file.read_at(buffer.get_mut(..wanted).ok_or(())?, self.at).map_err(drop)?;
        self.at += read as u64;
        self.left -= read;
        Ok(read)
    }

    fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), ()> {
        if buffer.len() > self.left {
            return Err(());
        }
        while !buffer.is_empty() {
            let read = self.read(buffer)?;
            buffer = buffer.get_mut(read..).filter(|_| read > 0).ok_or(())?;
        }
        Ok(())
    }
}
