//! Makes a page file: what differs from the base, packed, compressed and sealed by two workers.
//!
//! ```text
//!  memory ─┬─ what the VMM wrote: all of it, or what changed since the guest woke
//!          └─ what the guest woke from: the rest
//!  compose() ─► which pages, in which order, from where ─► write() ─► page file
//! ```
//! What a guest will want first lies in front, so that its next wake reads it in one go. Memory is
//! bounded by two chunks a worker. It decides nothing about when and where, and syncs nothing.

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
    bits::Bits,
    index::{CHUNK, CHUNK_PAGES, Chunk, Codec, Index, PAGE, TRAILER},
    read::{PageFile, Scratch},
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

/// A guest's memory when it is put to sleep.
#[derive(Debug, Clone, Copy)]
pub struct Memory<'a> {
    /// What the VMM wrote: a plain file whose page `n` is the guest's page `n`.
    pub plain: &'a File,
    /// How many pages the guest has.
    pub pages: u64,
    /// What most guests of the pool have in common, and what need not be written.
    pub base: Option<&'a Base>,
    /// What the guest woke from, if the VMM wrote only what changed since: then the holes of `plain`
    /// are what lies there. Without, they are zero.
    pub woke_from: Option<&'a Woken<'a>>,
}

/// What a guest woke from.
#[derive(Debug, Clone, Copy)]
pub struct Woken<'a> {
    /// Its page file; none when it was only the base.
    pub file: Option<&'a PageFile>,
}

/// Which pages a page file will have, in which order, and from where.
#[derive(Debug)]
pub struct Composition {
    pages: Vec<u32>,
    /// Those that come from the page file the guest woke from.
    carried: Bits,
    ahead: usize,
}

impl Composition {
    /// The pages, in their order.
    #[must_use]
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// How many chunks at the front hold what is wanted first.
    #[must_use]
    pub const fn ahead(&self) -> usize {
        self.ahead
    }
}

/// What of this memory has to be written; `wanted` are the pages that a wake wants first.
///
/// # Errors
/// When one of the files cannot be read.
pub fn compose(memory: &Memory<'_>, wanted: &[u32]) -> io::Result<Composition> {
    let (changed, written) = look(memory)?;
    let older = memory.woke_from.and_then(|woken| woken.file);
    let older = older.map_or(&[][..], |file| file.index().pages());
    let mut carried = Bits::new(memory.pages);
    let kept: Vec<u32> = older.iter().copied().filter(|page| !written.get(*page)).collect();
    kept.iter().for_each(|page| carried.set(*page, true));
    let mut left = carried.clone();
    changed.iter().for_each(|page| left.set(*page, true));
    let mut pages = Vec::with_capacity(changed.len() + kept.len());
    let mut take = |those: &[u32]| {
        for page in those {
            if left.get(*page) {
                left.set(*page, false);
                pages.push(*page);
            }
        }
        pages.len()
    };
    let ahead = take(wanted).div_ceil(CHUNK_PAGES);
    take(&changed);
    take(&kept);
    Ok(Composition { pages, carried, ahead })
}

/// The pages of the plain file that are not what lies beneath them, ascending; and those that are in it
/// at all.
fn look(memory: &Memory<'_>) -> io::Result<(Vec<u32>, Bits)> {
    let Memory { plain, base, .. } = memory;
    let size = memory.pages * PAGE as u64;
    let (mut pages, mut written) = (Vec::new(), Bits::new(memory.pages));
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(plain, SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => size,
            found => found?.min(size),
        };
        if memory.woke_from.is_none() {
            zeroed(at / PAGE as u64..data.div_ceil(PAGE as u64), *base, &mut pages);
        }
        if data >= size {
            break;
        }
        let hole = rustix::fs::seek(plain, SeekFrom::Hole(data))?.min(size);
        written.set_bytes(data, hole);
        let mut next = data - data % PAGE as u64;
        while next < hole {
            let length = usize::try_from((size - next).min(CHUNK as u64)).unwrap_or(CHUNK);
            let length =
                length.min(usize::try_from(hole - next).unwrap_or(CHUNK)).next_multiple_of(PAGE);
            let own = ours.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
            plain.read_exact_at(own, next)?;
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
    Ok((pages, written))
}

/// Pages that are zero in memory and are not in the base.
fn zeroed(range: std::ops::Range<u64>, base: Option<&Base>, pages: &mut Vec<u32>) {
    let Some(base) = base else { return };
    pages.extend(range.filter_map(|page| u32::try_from(page).ok()).filter(|page| base.has(*page)));
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
    let pages = &composition.pages;
    let total = pages.len().div_ceil(CHUNK_PAGES);
    let work = Work {
        memory,
        carried: &composition.carried,
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
    let index = Index::new(chunks, pages.clone(), memory.pages, tag, end)
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
    memory: &'a Memory<'a>,
    carried: &'a Bits,
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
        let mut older = Older::new()?;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(own) = pages.chunks(CHUNK_PAGES).nth(number) else { return Ok(()) };
            self.gather(own, &mut plain, &mut older)?;
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

    /// Reads pages into the front of `into`, neighbours of the plain file in one go.
    fn gather(&self, pages: &[u32], into: &mut [u8], older: &mut Older) -> io::Result<()> {
        let mut at = 0;
        let is_run = |a: &u32, b: &u32| {
            a.checked_add(1) == Some(*b) && !self.carried.get(*a) && !self.carried.get(*b)
        };
        for run in pages.chunk_by(is_run) {
            let Some(first) = run.first() else { continue };
            let room =
                into.get_mut(at..at + run.len() * PAGE).ok_or(io::ErrorKind::InvalidInput)?;
            if self.carried.get(*first) {
                let file = self.memory.woke_from.and_then(|woken| woken.file);
                older.read(file.ok_or(io::ErrorKind::InvalidInput)?, *first, room)?;
            } else {
                self.memory.plain.read_exact_at(room, u64::from(*first) * PAGE as u64)?;
            }
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
