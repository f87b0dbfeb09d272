//! The plain memory of a pool's base: a sparse file whose page `n` is the guest's page `n`.
//!
//! Read through the kernel's page cache, so that all servers of one tenant share one copy of it.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::SeekFrom;

use crate::{bits::Bits, index::PAGE};

/// A base file, and which of its pages are not holes.
#[derive(Debug)]
pub struct Base {
    file: File,
    pages: u64,
    present: Bits,
}

impl Base {
    /// Opens a base of `memory_pages` pages.
    ///
    /// # Errors
    /// When the file has another size or cannot be read.
    pub fn open(file: File, memory_pages: u64) -> io::Result<Self> {
        let size = file.metadata()?.len();
        if size != memory_pages * PAGE as u64 {
            let message = format!("the base has {size} bytes instead of {memory_pages} pages");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut base = Self { file, pages: memory_pages, present: Bits::new(memory_pages) };
        base.look(size)?;
        Ok(base)
    }

    fn look(&mut self, size: u64) -> io::Result<()> {
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Err(rustix::io::Errno::NXIO) => return Ok(()),
                found => found?,
            };
            let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(data))?;
            self.present.set_bytes(data, hole);
            at = hole;
        }
        Ok(())
    }

    /// How many pages the guest has.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether a page may be anything but zero.
    #[must_use]
    pub fn has(&self, page: u32) -> bool {
        self.present.get(page)
    }

    /// Reads whole pages from `first` on.
    ///
    /// # Errors
    /// When the file cannot be read that far.
    pub fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, u64::from(first) * PAGE as u64)
    }
}
