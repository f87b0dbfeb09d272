//! What of a file is worth reading: the chunks that hold anything but zeros.
//!
//! Holes are skipped without reading (SEEK_DATA, SEEK_HOLE); zeros that were written are found by
//! looking. It knows nothing of sealing.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::SeekFrom;

/// Walks over a file's chunks in order. It moves the file's offset.
pub(super) struct Walk<'a> {
    file: &'a File,
    size: u64,
    chunk: usize,
    next: u64,
    /// Up to where the file is known to have data.
    data_end: u64,
}

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) index: u64,
    pub(super) length: usize,
}

impl<'a> Walk<'a> {
    pub(super) const fn new(file: &'a File, size: u64, chunk: usize) -> Self {
        Self { file, size, chunk, next: 0, data_end: 0 }
    }

    /// Reads the next chunk that is not all zero to the front of `buffer`, which must hold one;
    /// none at the end of the file.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> io::Result<Option<Chunk>> {
        let step = self.chunk as u64;
        loop {
            if self.next.saturating_mul(step) >= self.data_end && !self.find_data()? {
                return Ok(None);
            }
            let (index, start) = (self.next, self.next * step);
            if start >= self.size {
                return Ok(None);
            }
            let length = usize::try_from(step.min(self.size - start)).unwrap_or(self.chunk);
            let into = buffer.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
            self.file.read_exact_at(into, start)?;
            self.next += 1;
            if !is_zero(into) {
                return Ok(Some(Chunk { index, length }));
            }
        }
    }

    /// Moves to the next chunk that has data; whether there is one.
    fn find_data(&mut self) -> io::Result<bool> {
        let start = self.next * self.chunk as u64;
        if start >= self.size {
            return Ok(false);
        }
        let data = match rustix::fs::seek(self.file, SeekFrom::Data(start)) {
            Err(rustix::io::Errno::NXIO) => return Ok(false),
            found => found?,
        };
        self.next = data / self.chunk as u64;
        self.data_end = rustix::fs::seek(self.file, SeekFrom::Hole(data))?;
        Ok(data < self.size)
    }
}

/// Whether all bytes are 0; one pass that the compiler vectorises.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Copies what is not zero of `size` bytes, and leaves holes for the rest.
pub(super) fn copy(from: &File, to: &File, size: u64) -> io::Result<()> {
    const STEP: usize = 64 << 10;
    let mut buffer = vec![0; STEP];
    let mut walk = Walk::new(from, size, STEP);
    to.set_len(size)?;
    while let Some(chunk) = walk.next(&mut buffer)? {
        let content = buffer.get(..chunk.length).unwrap_or_default();
        to.write_all_at(content, chunk.index * STEP as u64)?;
    }
    Ok(())
}
