//! Makes a page file: what differs from the base, packed, compressed and sealed by two workers.
//!
//! The caller says which pages and in which order: what a guest will want first lies in front, so that
//! its next wake reads it in one go. Memory is bounded by one chunk a worker. It decides nothing about
//! when and where, and syncs nothing.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::fs::SeekFrom;
use zeroize::Zeroizing;

use crate::{
    base::Base,
    index::{CHUNK, CHUNK_PAGES, Chunk, Codec, Index, PAGE, TRAILER},
    seal::{Cipher, Piece, TAG},
};

/// How many chunks are worked on at once. Two keep the cipher busy while the kernel copies, and leave
/// the rest of the host to its guests.
const WORKERS: usize = 2;
/// The level of Zstandard. At 1 a chunk of guest memory opens as fast as at 3, and is written twice as
/// fast.
const ZSTD_LEVEL: i32 = 1;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Pages.
    pub pages: u64,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
}

/// The pages of the plain memory file `memory` of `size` bytes that are not what they are in `base`
/// (zero where there is none), ascending. Holes are taken for unchanged if `holes_are_base`, as in a
/// diff of Firecracker, else for zero.
///
/// # Errors
/// When one of the files cannot be read.
pub fn differing(
    memory: &File,
    size: u64,
    base: Option<&Base>,
    holes_are_base: bool,
) -> io::Result<Vec<u32>> {
    let mut pages = Vec::new();
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(memory, SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => size,
            found => found?.min(size),
        };
        if !holes_are_base {
            zeroed(at / PAGE as u64..data.div_ceil(PAGE as u64), base, &mut pages);
        }
        if data >= size {
            break;
        }
        let hole = rustix::fs::seek(memory, SeekFrom::Hole(data))?.min(size);
        let mut next = data - data % PAGE as u64;
        while next < hole {
            let length = usize::try_from((size - next).min(CHUNK as u64)).unwrap_or(CHUNK);
            let length =
                length.min(usize::try_from(hole - next).unwrap_or(CHUNK)).next_multiple_of(PAGE);
            let own = ours.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
            memory.read_exact_at(own, next)?;
            let other = theirs.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
            let first =
                u32::try_from(next / PAGE as u64).map_err(|_| io::ErrorKind::InvalidInput)?;
            match base {
                Some(base) => base.read(first, other)?,
                None => other.fill(0),
            }
            let pairs = own.chunks_exact(PAGE).zip(other.chunks_exact(PAGE));
            pages.extend((first..).zip(pairs).filter(|(_, (a, b))| a != b).map(|(page, _)| page));
            next += length as u64;
        }
        at = next;
    }
    Ok(pages)
}

/// Pages that are zero in memory and are not in the base.
fn zeroed(range: std::ops::Range<u64>, base: Option<&Base>, pages: &mut Vec<u32>) {
    let Some(base) = base else { return };
    pages.extend(range.filter_map(|page| u32::try_from(page).ok()).filter(|page| base.has(*page)));
}

/// Writes these pages of the plain memory file `memory` into the empty file `target`.
///
/// # Errors
/// When a file cannot be read or written, or a page is beyond `memory_pages` or twice in the list.
pub fn write(
    memory: &File,
    memory_pages: u64,
    pages: &[u32],
    target: &File,
    codec: Codec,
    cipher: Option<&Cipher>,
) -> io::Result<Written> {
    let total = pages.len().div_ceil(CHUNK_PAGES);
    let work = Work {
        memory,
        target,
        codec,
        cipher,
        total: total as u64,
        next: AtomicUsize::new(0),
        end: Mutex::new((0, vec![None; total])),
    };
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, || work.run(pages)).ok();
        let others: Vec<_> = (1..WORKERS.min(total)).filter_map(spawn).collect();
        let mine = work.run(pages);
        others.into_iter().fold(mine, |result, other| {
            result.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a worker died"))))
        })
    })?;
    let (end, chunks) = work.end.into_inner().unwrap_or_else(PoisonError::into_inner);
    let chunks: Option<Vec<Chunk>> = chunks.into_iter().collect();
    let chunks = chunks.ok_or_else(|| io::Error::other("a chunk was left out"))?;
    let tag = cipher.map_or(0, |_| TAG);
    let index = Index::new(chunks, pages.to_vec(), memory_pages, tag, end)
        .map_err(|damaged| io::Error::new(io::ErrorKind::InvalidInput, damaged))?;
    let bytes = finish(&index, target, end, cipher)?;
    Ok(Written { pages: pages.len() as u64, chunks: total as u64, bytes })
}

/// Puts index and trailer behind the chunks; returns the length of the file.
fn finish(index: &Index, target: &File, end: u64, cipher: Option<&Cipher>) -> io::Result<u64> {
    let total = index.chunks().len() as u64;
    let mut bytes = index.encode();
    if let Some(cipher) = cipher {
        let length = bytes.len();
        bytes.resize(length + TAG, 0);
        cipher.seal(Piece::Index, total, &mut bytes, length).map_err(io::Error::other)?;
    }
    let length = bytes.len() as u64;
    bytes.extend_from_slice(&total.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    target.write_all_at(&bytes, end)?;
    Ok(end + length + TRAILER as u64)
}

/// What the workers share.
struct Work<'a> {
    memory: &'a File,
    target: &'a File,
    codec: Codec,
    cipher: Option<&'a Cipher>,
    total: u64,
    next: AtomicUsize,
    /// Where the next chunk goes, and what was written of each.
    end: Mutex<(u64, Vec<Option<Chunk>>)>,
}

impl Work<'_> {
    fn run(&self, pages: &[u32]) -> io::Result<()> {
        let mut plain = Zeroizing::new(vec![0; CHUNK + TAG]);
        // A chunk that grows by compression is stored as it is, so this need not be larger.
        let mut packed =
            Zeroizing::new(vec![0; lz4_flex::block::get_maximum_output_size(CHUNK) + TAG]);
        let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(own) = pages.chunks(CHUNK_PAGES).nth(number) else { return Ok(()) };
            self.gather(own, &mut plain)?;
            let length = own.len() * PAGE;
            let content = plain.get(..length).unwrap_or_default();
            let smaller = match self.codec {
                Codec::None => None,
                Codec::Lz4 => lz4_flex::block::compress_into(content, &mut packed).ok(),
                Codec::Zstd => {
                    let room = packed.get_mut(..CHUNK).ok_or(io::ErrorKind::InvalidInput)?;
                    zstd.compress_to_buffer(content, room).ok()
                }
            };
            let smaller = smaller.filter(|stored| *stored < length);
            let (buffer, codec, stored) = match smaller {
                Some(stored) => (&mut packed, self.codec, stored),
                None => (&mut plain, Codec::None, length),
            };
            self.put(number, buffer, codec, stored, own.len())?;
        }
    }

    /// Reads pages into the front of `into`, neighbours in one go.
    fn gather(&self, pages: &[u32], into: &mut [u8]) -> io::Result<()> {
        let mut at = 0;
        for run in pages.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let Some(first) = run.first() else { continue };
            let room =
                into.get_mut(at..at + run.len() * PAGE).ok_or(io::ErrorKind::InvalidInput)?;
            self.memory.read_exact_at(room, u64::from(*first) * PAGE as u64)?;
            at += run.len() * PAGE;
        }
        Ok(())
    }

    fn put(
        &self,
        number: usize,
        buffer: &mut [u8],
        codec: Codec,
        stored: usize,
        pages: usize,
    ) -> io::Result<()> {
        let mut length = stored;
        if let Some(cipher) = self.cipher {
            let piece = Piece::Chunk(number as u64);
            cipher.seal(piece, self.total, buffer, stored).map_err(io::Error::other)?;
            length += TAG;
        }
        let offset = {
            let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            let offset = end.0;
            end.0 += length as u64;
            let slot = end.1.get_mut(number).ok_or(io::ErrorKind::InvalidInput)?;
            let count = u8::try_from(pages).map_err(|_| io::ErrorKind::InvalidInput)?;
            let stored = u32::try_from(stored).map_err(|_| io::ErrorKind::InvalidInput)?;
            *slot = Some(Chunk { codec, count, stored, offset });
            offset
        };
        self.target.write_all_at(buffer.get(..length).unwrap_or_default(), offset)
    }
}
