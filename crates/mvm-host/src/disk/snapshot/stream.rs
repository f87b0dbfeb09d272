//! Whole files through the cipher, in bounded memory: one chunk per worker, two workers.
//!
//! A sealed file is its non-zero chunks in order, each followed by its tag, then the sealed index:
//! for every chunk the length stored, 4 bytes little-endian, 0 for one that is all zero. Whoever has
//! the index can open any chunk alone ([`SealedFile::chunk`]).

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use zeroize::Zeroizing;

use super::{
    seal::{Cipher, Piece, Refused, TAG},
    sparse::{Chunk, Walk},
};
use crate::disk::error::{Act, Error};

/// How many chunks are worked on at once. Two keep the cipher busy while the kernel copies, and
/// leave the rest of the host to its guests.
const WORKERS: usize = 2;

/// How a file is cut: its plain size and the bytes of one chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) size: u64,
    pub(super) chunk: usize,
}

impl Cut {
    pub(super) const fn total(self) -> u64 {
        self.size.div_ceil(self.chunk as u64)
    }

    /// The most that a sealed file can take, in bytes.
    pub(super) const fn worst(self) -> u64 {
        self.size + self.total() * (TAG as u64 + 4) + TAG as u64
    }

    /// Bytes of plain text in one chunk; the last may be short.
    fn length(self, index: u64) -> usize {
        let left = self.size.saturating_sub(index.saturating_mul(self.chunk as u64));
        usize::try_from(left).unwrap_or(usize::MAX).min(self.chunk)
    }
}

/// What the sealing workers share: where to read and where to write next.
struct Cursor<'a> {
    walk: Walk<'a>,
    offset: u64,
    lengths: Vec<u8>,
}

impl Cursor<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<(Chunk, u64)>> {
        let Some(chunk) = self.walk.next(buffer)? else { return Ok(None) };
        let place = usize::try_from(chunk.index).unwrap_or(usize::MAX).saturating_mul(4);
        let stored = u32::try_from(chunk.length + TAG).unwrap_or(u32::MAX);
        // A chunk beyond the index would mean that the walk went past the size that it was given.
        let entry = place.checked_add(4).and_then(|end| self.lengths.get_mut(place..end));
        entry.ok_or(io::ErrorKind::InvalidData)?.copy_from_slice(&stored.to_le_bytes());
        let offset = self.offset;
        self.offset += u64::from(stored);
        Ok(Some((chunk, offset)))
    }
}

/// Seals `size` bytes of `source` into the empty `target`.
pub(super) fn seal(
    source: &File,
    target: &File,
    cut: Cut,
    cipher: &Cipher,
    path: &Path,
) -> Result<(), Error> {
    let index_length = usize::try_from(cut.total() * 4).unwrap_or(usize::MAX);
    let cursor = Mutex::new(Cursor {
        walk: Walk::new(source, cut.size, cut.chunk),
        offset: 0,
        lengths: vec![0; index_length],
    });
    together(|| {
        let mut buffer = Zeroizing::new(vec![0; cut.chunk + TAG]);
        while let Some((chunk, offset)) = locked(&cursor, |cursor| cursor.take(&mut buffer))? {
            let (plain, after) = buffer.split_at_mut(chunk.length);
            let tag = cipher.seal(Piece::Chunk(chunk.index), plain).map_err(sealing)?;
            for (to, from) in after.iter_mut().zip(tag.as_ref()) {
                *to = *from;
            }
            let sealed = buffer.get(..chunk.length + TAG).unwrap_or_default();
            target.write_all_at(sealed, offset)?;
        }
        Ok(())
    })
    .act("seal", path)?;
    let cursor = cursor.into_inner().map_err(|_| poisoned()).act("seal", path)?;
    let mut index = cursor.lengths;
    let tag = cipher.seal(Piece::Index, &mut index).map_err(sealing).act("seal", path)?;
    index.extend_from_slice(tag.as_ref());
    target.write_all_at(&index, cursor.offset).act("write", path)
}

fn sealing(_: Refused) -> io::Error {
    io::Error::other("the cipher refused")
}

fn poisoned() -> io::Error {
    io::Error::other("another worker died")
}

fn locked<S, T>(mutex: &Mutex<S>, act: impl FnOnce(&mut S) -> io::Result<T>) -> io::Result<T> {
    act(&mut *mutex.lock().map_err(|_| poisoned())?)
}

/// Runs the same loop on [`WORKERS`] threads, this one among them.
fn together(work: impl Fn() -> io::Result<()> + Sync) -> io::Result<()> {
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, &work).ok();
        let others: Vec<_> = (1..WORKERS).filter_map(spawn).collect();
        let mine = work();
        others.into_iter().fold(mine, |result, other| {
            result.and(other.join().unwrap_or_else(|_| Err(poisoned())))
        })
    })
}

/// A sealed file whose index has been verified.
pub(super) struct SealedFile<'a> {
    file: &'a File,
    path: &'a Path,
    cipher: &'a Cipher,
    cut: Cut,
    /// Where each chunk starts; none for one that is all zero.
    offsets: Vec<Option<u64>>,
}

impl<'a> SealedFile<'a> {
    /// Reads and verifies the index; the file must be exactly as long as that says.
    pub(super) fn new(
        file: &'a File,
        path: &'a Path,
        cipher: &'a Cipher,
        cut: Cut,
    ) -> Result<Self, Error> {
        let length = file.metadata().act("look at", path)?.len();
        let index_length = cipher.total() * 4 + TAG as u64;
        let Some(start) = length.checked_sub(index_length) else {
            return Err(Error::integrity(path, "it is cut short"));
        };
        let mut index = vec![0; usize::try_from(index_length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut index, start).act("read", path)?;
        let index = cipher
            .open(Piece::Index, &mut index)
            .map_err(|Refused| Error::integrity(path, "its index was changed"))?;
        let mut offset = 0;
        let mut offsets = Vec::with_capacity(index.len() / 4);
        for (chunk, entry) in (0..).zip(index.chunks_exact(4)) {
            let stored = entry.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            offsets.push((stored > 0).then_some(offset));
            offset += stored;
            if stored > 0 && stored != (cut.length(chunk) + TAG) as u64 {
                return Err(Error::integrity(path, "its index names a chunk of a strange length"));
            }
        }
        if offset != start {
            return Err(Error::integrity(path, "its length does not match its index"));
        }
        Ok(Self { file, path, cipher, cut, offsets })
    }

    /// The plain bytes that are not in all-zero chunks.
    pub(super) fn plain_bytes(&self) -> u64 {
        let stored = (0..).zip(&self.offsets).filter(|(_, offset)| offset.is_some());
        stored.map(|(index, _)| self.cut.length(index) as u64).sum()
    }

    /// Opens one chunk alone, in `buffer`, which must hold a chunk and its tag; none for one that
    /// is all zero.
    pub(super) fn chunk<'b>(
        &self,
        index: u64,
        buffer: &'b mut [u8],
    ) -> Result<Option<&'b mut [u8]>, Error> {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(Some(offset)) = self.offsets.get(place).copied() else { return Ok(None) };
        let room = buffer.get_mut(..self.cut.length(index) + TAG);
        let room = room.ok_or(io::ErrorKind::InvalidInput).act("read", self.path)?;
        self.file.read_exact_at(room, offset).act("read", self.path)?;
        let plain = self.cipher.open(Piece::Chunk(index), room);
        plain
            .map(Some)
            .map_err(|Refused| Error::integrity(self.path, format!("chunk {index} was changed")))
    }

    /// Writes the whole plain file to the empty `target`, holes as holes.
    pub(super) fn write_to(&self, target: &File) -> Result<(), Error> {
        target.set_len(self.cut.size).act("unseal", self.path)?;
        let next = AtomicU64::new(0);
        let failure = Mutex::new(None);
        together(|| {
            let mut buffer = Zeroizing::new(vec![0; self.cut.chunk + TAG]);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.cipher.total() {
                    return Ok(());
                }
                match self.chunk(index, &mut buffer) {
                    Ok(None) => {}
                    Ok(Some(plain)) => {
                        target.write_all_at(plain, index * self.cut.chunk as u64)?;
                    }
                    Err(error) => {
                        next.store(self.cipher.total(), Ordering::Relaxed);
                        return locked(&failure, |slot| {
                            *slot = Some(error);
                            Ok(())
                        });
                    }
                }
            }
        })
        .act("unseal", self.path)?;
        match failure.into_inner() {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(error),
            Err(_) => Err(poisoned()).act("unseal", self.path),
        }
    }
}
