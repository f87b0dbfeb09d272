//! The base of a pool: the memory of a freshly booted guest, and what proves each of its pages.
//!
//! Two files: `mem`, plain and sparse, whose page `n` is the guest's page `n`; and `sums`, the SHA-256 of
//! each page that is not zero. The digest of `sums` comes from whoever knows which base it has to be.
//! `mem` is read through the kernel's page cache, so that all servers of a pool share one copy of it; what
//! a guest is shown of it was verified after it was read. It refuses to know where the two lie.

use std::{fs::File, io, os::unix::fs::FileExt};

use ring::digest::{SHA256, digest};
use thiserror::Error;

use crate::{
    bits::Bits,
    index::{CHUNK, CHUNK_PAGES, PAGE},
    read::{ReadError, Scratch},
    sparse,
};

/// Bytes of a SHA-256.
pub const DIGEST: usize = 32;
/// Bytes of an entry of `sums`: a page's number and its digest.
pub const SUM: usize = 4 + DIGEST;
const ZERO: [u8; PAGE] = [0; PAGE];

/// Why a base is refused.
#[derive(Debug, Error)]
pub enum BaseError {
    /// The file system.
    #[error("cannot read the base")]
    Io(#[from] io::Error),
    /// The memory has another size than the guest's.
    #[error("the base has {0} bytes instead of {1} pages")]
    Size(u64, u64),
    /// The sums are not those of the base that was asked for.
    #[error("the sums of the base were changed, or belong to another one")]
    Digest,
    /// The sums make no sense.
    #[error("the sums of the base make no sense at entry {0}")]
    Entry(usize),
}

impl BaseError {
    /// Whether it is the base's fault, and not the machine's.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Io(_) => false,
            Self::Size(..) | Self::Digest | Self::Entry(_) => true,
        }
    }
}

/// An open base whose sums were verified.
#[derive(Debug)]
pub struct Base {
    mem: File,
    pages: u64,
    digest: [u8; DIGEST],
    sums: Vec<(u32, [u8; DIGEST])>,
    present: Bits,
}

impl Base {
    /// Opens a base of `memory_pages` pages with its sums, whose SHA-256 must be `digest`.
    ///
    /// # Errors
    /// When `mem` has another size or cannot be read, or the sums are not the ones. Nothing larger than
    /// the sums is allocated before they are known to be.
    pub fn open(
        mem: File,
        sums: &[u8],
        digest: &[u8; DIGEST],
        memory_pages: u64,
    ) -> Result<Self, BaseError> {
        let size = mem.metadata()?.len();
        if memory_pages.checked_mul(PAGE as u64) != Some(size) {
            return Err(BaseError::Size(size, memory_pages));
        }
        if sha256(sums) != *digest {
            return Err(BaseError::Digest);
        }
        let sums = parse(sums, memory_pages)?;
        let mut present = Bits::new(memory_pages);
        sums.iter().for_each(|(page, _)| present.set(*page, true));
        Ok(Self { mem, pages: memory_pages, digest: *digest, sums, present })
    }

    /// Opens a base of which `sums` is a file too.
    ///
    /// # Errors
    /// As [`Base::open`]. No more is read than a base of this size can have.
    pub fn open_files(
        mem: File,
        sums: &File,
        digest: &[u8; DIGEST],
        memory_pages: u64,
    ) -> Result<Self, BaseError> {
        let length = sums.metadata()?.len();
        if length > memory_pages.saturating_mul(SUM as u64) {
            return Err(BaseError::Digest);
        }
        let length = usize::try_from(length).map_err(|_| BaseError::Digest)?;
        let mut bytes = vec![0; length];
        // Others read the same open file.
        sums.read_exact_at(&mut bytes, 0)?;
        Self::open(mem, &bytes, digest, memory_pages)
    }

    /// How many pages the guest has.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Which base it is.
    #[must_use]
    pub const fn digest(&self) -> &[u8; DIGEST] {
        &self.digest
    }

    /// Whether a page is anything but zero.
    #[must_use]
    pub fn has(&self, page: u32) -> bool {
        self.present.get(page)
    }

    /// Reads whole pages from `first` on, without verifying them; those that are zero are zero whatever
    /// `mem` says.
    ///
    /// Enough to find out what differs from the base: where `mem` is wrong, a guest's page either
    /// differs from it and is written, or is taken to be the base's and refused when it is
    /// [verified](Base::verified) at the next wake. A wrong page is never shown.
    ///
    /// # Errors
    /// When the file cannot be read that far.
    pub fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        self.mem.read_exact_at(into, u64::from(first) * PAGE as u64)?;
        let pages = (first..).zip(into.chunks_mut(PAGE));
        pages.filter(|(page, _)| !self.has(*page)).for_each(|(_, bytes)| bytes.fill(0));
        Ok(())
    }

    /// Reads whole pages from `first` on, as they were when the base was made; allocates nothing.
    ///
    /// # Errors
    /// [`ReadError::Base`] when one was changed: then nothing of `into` may be shown.
    pub fn verified(&self, first: u32, into: &mut [u8]) -> Result<(), ReadError> {
        match self.read(first, into) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ReadError::Base(first));
            }
            done => done?,
        }
        for (page, bytes) in (first..).zip(into.chunks(PAGE)) {
            if self.has(page) && self.sum(page) != Some(&sha256(bytes)) {
                return Err(ReadError::Base(page));
            }
        }
        Ok(())
    }

    /// Reads a few pages, neighbours in one go, each as [`Base::verified`].
    ///
    /// # Errors
    /// As [`Base::verified`]; `InvalidInput` when they are more than a chunk has.
    pub fn group<'a>(
        &self,
        pages: &[u32],
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], ReadError> {
        let too_many = || ReadError::Io(io::ErrorKind::InvalidInput.into());
        let all = scratch.room(pages.len()).ok_or_else(too_many)?;
        let mut rest = &mut *all;
        for run in pages.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let (own, after) = rest.split_at_mut_checked(run.len() * PAGE).ok_or_else(too_many)?;
            run.first().map_or(Ok(()), |first| self.verified(*first, own))?;
            rest = after;
        }
        Ok(all)
    }

    fn sum(&self, page: u32) -> Option<&[u8; DIGEST]> {
        let at = self.sums.binary_search_by_key(&page, |(page, _)| *page).ok()?;
        self.sums.get(at).map(|(_, sum)| sum)
    }
}

/// The entries of verified bytes.
fn parse(bytes: &[u8], memory_pages: u64) -> Result<Vec<(u32, [u8; DIGEST])>, BaseError> {
    let (entries, rest) = bytes.as_chunks::<SUM>();
    if !rest.is_empty() {
        return Err(BaseError::Entry(entries.len()));
    }
    let mut sums: Vec<(u32, [u8; DIGEST])> = Vec::with_capacity(entries.len());
    for (number, &[a, b, c, d, ref sum @ ..]) in entries.iter().enumerate() {
        let page = u32::from_le_bytes([a, b, c, d]);
        let is_next = sums.last().is_none_or(|(last, _)| *last < page);
        if !is_next || u64::from(page) >= memory_pages {
            return Err(BaseError::Entry(number));
        }
        sums.push((page, *sum));
    }
    Ok(sums)
}

/// Makes a base of what a VMM wrote: `plain` is sparse, `target` is empty and becomes `mem`. Returns
/// `sums` and its digest. Nothing is synced.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(
    plain: &File,
    memory_pages: u64,
    target: &File,
) -> io::Result<(Vec<u8>, [u8; DIGEST])> {
    target.set_len(memory_pages * PAGE as u64)?;
    let mut sums = Vec::new();
    let mut buffer = vec![0; CHUNK];
    for run in sparse::data(plain, memory_pages)? {
        let run = run?;
        for first in run.clone().step_by(CHUNK_PAGES) {
            let count = (run.end - first).min(CHUNK_PAGES as u32);
            let room = buffer.get_mut(..count as usize * PAGE);
            let room = room.ok_or(io::ErrorKind::InvalidInput)?;
            plain.read_exact_at(room, u64::from(first) * PAGE as u64)?;
            copy(first, room, target, &mut sums)?;
        }
    }
    let digest = sha256(&sums);
    Ok((sums, digest))
}

/// Writes what of these pages is not zero, and its sums.
fn copy(first: u32, pages: &[u8], target: &File, sums: &mut Vec<u8>) -> io::Result<()> {
    let (pages, _) = pages.as_chunks::<PAGE>();
    let mut next = u64::from(first);
    for run in pages.chunk_by(|a, b| (*a == ZERO) == (*b == ZERO)) {
        if run.first().is_some_and(|page| *page != ZERO) {
            target.write_all_at(run.as_flattened(), next * PAGE as u64)?;
            for (page, bytes) in (next..).zip(run) {
                let page = u32::try_from(page).map_err(|_| io::ErrorKind::InvalidInput)?;
                sums.extend_from_slice(&page.to_le_bytes());
                sums.extend_from_slice(&sha256(bytes));
            }
        }
        next += run.len() as u64;
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> [u8; DIGEST] {
    let mut out = [0; DIGEST];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests;
