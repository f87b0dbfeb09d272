//! Writes a page file: what was composed, compressed and sealed by two workers.
//!
//! Memory is bounded by what a worker writes at once. It decides nothing about which pages, when and where, and
//! syncs nothing.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use zeroize::Zeroizing;

use crate::{
    compose::{Composition, Memory},
    index::{CHUNK, Chunk, Codec, Content, Index, PAGE, Stored, TRAILER},
    read::{PageFile, Scratch},
    seal::{Cipher, Piece, TAG},
};

/// How many chunks are worked on at once. Two keep the cipher busy while the kernel copies, and leave
/// the rest of the host to its guests.
const WORKERS: usize = 2;
/// How many chunks a worker writes at once: 1 MiB. The kernel lets one write to a file at a time, so that
/// is what all workers wait for; ext4 takes half as long for as many bytes in writes of this size as in
/// writes of one chunk, a tmpfs as long.
const AT_ONCE: usize = 16;
/// The level of Zstandard. At 1 a chunk of guest memory opens as fast as at 3, and is written twice as
/// fast.
const ZSTD_LEVEL: i32 = 1;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Pages that lie in it.
    pub pages: u64,
    /// Chunks, those of the base among them.
    pub chunks: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
}

/// Writes what was composed of this memory into the empty file `target`.
///
/// # Errors
/// When a file cannot be read or written, or what the guest woke from was changed (`InvalidData`).
pub fn write(
    memory: &Memory<'_>,
    composition: &Composition,
    target: &File,
    codec: Codec,
    cipher: Option<&Cipher>,
) -> io::Result<Written> {
    let total = composition.chunks();
    let work = Work {
        memory,
        composition,
        target,
        codec,
        cipher,
        at_once: total.div_ceil(WORKERS).clamp(1, AT_ONCE),
        next: AtomicUsize::new(0),
        end: Mutex::new((0, vec![None; total])),
    };
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, || work.run()).ok();
        let others: Vec<_> = (1..WORKERS.min(total)).filter_map(spawn).collect();
        let mine = work.run();
        others.into_iter().fold(mine, |result, other| {
            result.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a worker died"))))
        })
    })?;
    let (end, chunks) = work.end.into_inner().unwrap_or_else(PoisonError::into_inner);
    let chunks: Option<Vec<Chunk>> = chunks.into_iter().collect();
    let chunks = chunks.ok_or_else(|| io::Error::other("a chunk was left out"))?;
    let tag = cipher.map_or(0, |_| TAG);
    let pages = (0..total).flat_map(|number| composition.chunk(number).0).copied().collect();
    let index = Index::new(chunks, pages, memory.pages, tag, end)
        .map_err(|damaged| io::Error::new(io::ErrorKind::InvalidInput, damaged))?;
    let bytes = finish(&index, target, end, cipher)?;
    Ok(Written { pages: composition.pages().len() as u64, chunks: total as u64, bytes })
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
    memory: &'a Memory<'a>,
    composition: &'a Composition,
    target: &'a File,
    codec: Codec,
    cipher: Option<&'a Cipher>,
    at_once: usize,
    next: AtomicUsize,
    /// Where the next chunk goes, and what was written of each.
    end: Mutex<(u64, Vec<Option<Chunk>>)>,
}

/// What a worker needs for packing a chunk.
struct Tools {
    plain: Zeroizing<Vec<u8>>,
    zstd: zstd::bulk::Compressor<'static>,
    older: Older,
}

impl Work<'_> {
    fn run(&self) -> io::Result<()> {
        let mut tools = Tools {
            plain: Zeroizing::new(vec![0; CHUNK]),
            zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            older: Older::new()?,
        };
        // A chunk that grows by compression is stored as it is: only the last needs room for that.
        let most = lz4_flex::block::get_maximum_output_size(CHUNK) + TAG;
        let mut buffer = Zeroizing::new(vec![0; (self.at_once - 1) * (CHUNK + TAG) + most]);
        let mut chunks = Vec::with_capacity(self.at_once);
        loop {
            let first = self.next.fetch_add(self.at_once, Ordering::Relaxed);
            let end = self.composition.chunks().min(first.saturating_add(self.at_once));
            if first >= end {
                return Ok(());
            }
            let mut length = 0;
            for number in first..end {
                let room = buffer.get_mut(length..).unwrap_or_default();
                let (chunk, size) = self.pack(number, length as u64, room, &mut tools)?;
                chunks.push(chunk);
                length += size;
            }
            self.put(first, &mut chunks, buffer.get(..length).unwrap_or_default())?;
        }
    }

    /// Packs a chunk into the front of `room`, sealed; what it is, as if the file began `start` bytes
    /// before, and its length with its tag.
    fn pack(
        &self,
        number: usize,
        start: u64,
        room: &mut [u8],
        tools: &mut Tools,
    ) -> io::Result<(Chunk, usize)> {
        let (pages, is_base) = self.composition.chunk(number);
        let count = u8::try_from(pages.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        if is_base {
            return Ok((Chunk { count, content: Content::Base }, 0));
        }
        let (codec, stored) = self.compress(pages, room, tools)?;
        let mut length = stored;
        if let Some(cipher) = self.cipher {
            let (piece, total) = (Piece::Chunk(number as u64), self.composition.chunks() as u64);
            cipher.seal(piece, total, room, stored).map_err(io::Error::other)?;
            length += TAG;
        }
        let bytes = u32::try_from(stored).map_err(|_| io::ErrorKind::InvalidInput)?;
        let content = Content::Stored(Stored { codec, bytes, offset: start });
        Ok((Chunk { count, content }, length))
    }

    /// Reads pages into the front of `room`, smaller if they shrink; how they are stored, and in how many
    /// bytes.
    fn compress(
        &self,
        pages: &[u32],
        room: &mut [u8],
        tools: &mut Tools,
    ) -> io::Result<(Codec, usize)> {
        let length = pages.len() * PAGE;
        let Tools { plain, zstd, older } = tools;
        let plain = plain.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
        let smaller = match self.codec {
            Codec::None => None,
            Codec::Lz4 => {
                self.gather(pages, plain, older)?;
                lz4_flex::block::compress_into(plain, room).ok()
            }
            Codec::Zstd => {
                self.gather(pages, plain, older)?;
                let room = room.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
                zstd.compress_to_buffer(plain, room).ok()
            }
        };
        if let Some(stored) = smaller.filter(|stored| *stored < length) {
            return Ok((self.codec, stored));
        }
        let room = room.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
        match self.codec {
            Codec::None => self.gather(pages, room, older)?,
            Codec::Lz4 | Codec::Zstd => room.copy_from_slice(plain),
        }
        Ok((Codec::None, length))
    }

    /// Reads pages into the front of `into`, neighbours of the plain file in one go.
    fn gather(&self, pages: &[u32], into: &mut [u8], older: &mut Older) -> io::Result<()> {
        let mut at = 0;
        let carried = self.composition.carried();
        let is_run =
            |a: &u32, b: &u32| a.checked_add(1) == Some(*b) && !carried.get(*a) && !carried.get(*b);
        for run in pages.chunk_by(is_run) {
            let Some(first) = run.first() else { continue };
            let room =
                into.get_mut(at..at + run.len() * PAGE).ok_or(io::ErrorKind::InvalidInput)?;
            if carried.get(*first) {
                let file = self.memory.woke_from.and_then(|woken| woken.file);
                older.read(file.ok_or(io::ErrorKind::InvalidInput)?, *first, room)?;
            } else {
                self.memory.plain.read_exact_at(room, u64::from(*first) * PAGE as u64)?;
            }
            at += run.len() * PAGE;
        }
        Ok(())
    }

    /// Puts chunks that lie one behind the other in `bytes` behind those that were put before; none is
    /// left in `chunks`.
    fn put(&self, first: usize, chunks: &mut Vec<Chunk>, bytes: &[u8]) -> io::Result<()> {
        let start = {
            let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            let start = end.0;
            end.0 += bytes.len() as u64;
            let slots = end.1.iter_mut().skip(first);
            for (slot, mut chunk) in slots.zip(chunks.drain(..)) {
                if let Content::Stored(stored) = &mut chunk.content {
                    stored.offset += start;
                }
                *slot = Some(chunk);
            }
            start
        };
        self.target.write_all_at(bytes, start)
    }
}

/// A worker's view of the page file that the guest woke from: one chunk at a time.
struct Older {
    scratch: Scratch,
    chunk: Option<usize>,
    content: Zeroizing<Vec<u8>>,
}

impl Older {
    fn new() -> io::Result<Self> {
        let content = Zeroizing::new(Vec::with_capacity(CHUNK));
        Ok(Self { scratch: Scratch::new()?, chunk: None, content })
    }

    /// Reads one page.
    fn read(&mut self, file: &PageFile, page: u32, into: &mut [u8]) -> io::Result<()> {
        let number = file.index().find(page).ok_or(io::ErrorKind::InvalidInput)?;
        if self.chunk != Some(number) {
            let content = file
                .chunk(number, &mut self.scratch)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.content.clear();
            self.content.extend_from_slice(content);
            self.chunk = Some(number);
        }
        let place = file.index().pages_of(number).iter().position(|one| *one == page);
        let at = place.ok_or(io::ErrorKind::InvalidInput)? * PAGE;
        let content = self.content.get(at..at + PAGE).ok_or(io::ErrorKind::InvalidInput)?;
        into.copy_from_slice(content);
        Ok(())
    }
}
