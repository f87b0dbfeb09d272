//! Reads a page file: the index once, then any chunk alone, without allocating.

use std::{fs::File, io, os::unix::fs::FileExt};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    index::{CHUNK, CHUNK_PAGES, Codec, Damaged, Index, PAGE, Stored, TRAILER},
    seal::{Cipher, Piece, Refused, TAG},
};

/// Why a page file or a part of it cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file system.
    #[error("cannot read a file of pages")]
    Io(#[from] io::Error),
    /// The trailer makes no sense for a file of this length.
    #[error("the page file is cut short, or is none")]
    Cut,
    /// The index does not verify.
    #[error("the index of the page file does not verify")]
    Sealed(#[source] Refused),
    /// The index makes no sense.
    #[error("the index of the page file makes no sense")]
    Damaged(#[from] Damaged),
    /// A chunk does not verify or does not unpack.
    #[error("chunk {0} of the page file was changed")]
    Chunk(usize),
    /// A page of the base does not verify.
    #[error("page {0} of the base was changed")]
    Base(u32),
    /// Pages lie in a base that is not there.
    #[error("the page file needs a base, and there is none")]
    NoBase,
}

impl ReadError {
    /// Whether it is the files' fault, and not the machine's.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Io(_) => false,
            Self::Cut
            | Self::Sealed(_)
            | Self::Damaged(_)
            | Self::Chunk(_)
            | Self::Base(_)
            | Self::NoBase => true,
        }
    }
}

/// What opening a chunk needs; made once, so that the fault loop allocates nothing.
pub struct Scratch {
    stored: Zeroizing<Vec<u8>>,
    plain: Zeroizing<Vec<u8>>,
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Scratch {
    /// Room for one chunk.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            stored: Zeroizing::new(vec![0; CHUNK + TAG]),
            plain: Zeroizing::new(vec![0; CHUNK]),
            zstd: zstd::bulk::Decompressor::new()?,
        })
    }

    /// Room for some pages, for whoever reads them from elsewhere; none for more than a chunk has.
    pub(crate) fn room(&mut self, pages: usize) -> Option<&mut [u8]> {
        self.plain.get_mut(..pages.checked_mul(PAGE)?)
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch(…)")
    }
}

/// An open page file whose index was verified.
#[derive(Debug)]
pub struct PageFile {
    file: File,
    cipher: Option<Cipher>,
    index: Index,
}

impl PageFile {
    /// Opens the page file of a guest with `memory_pages`.
    ///
    /// # Errors
    /// Whatever of trailer and index is not as it was written.
    pub fn open(file: File, memory_pages: u64, cipher: Option<Cipher>) -> Result<Self, ReadError> {
        let length = file.metadata()?.len();
        let start = length.checked_sub(TRAILER as u64).ok_or(ReadError::Cut)?;
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, start)?;
        let (halves, _) = trailer.as_chunks::<8>();
        let [total, size] = halves else { return Err(ReadError::Cut) };
        let (total, size) = (u64::from_le_bytes(*total), u64::from_le_bytes(*size));
        // No index is larger than one chunk for each page of the guest.
        if size > memory_pages.saturating_mul(18) + TAG as u64 {
            return Err(ReadError::Cut);
        }
        let end = start.checked_sub(size).ok_or(ReadError::Cut)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| ReadError::Cut)?];
        file.read_exact_at(&mut bytes, end)?;
        let (plain, tag): (&[u8], usize) = match &cipher {
            Some(cipher) => {
                (cipher.open(Piece::Index, total, &mut bytes).map_err(ReadError::Sealed)?, TAG)
            }
            None => (&bytes, 0),
        };
        let index = Index::decode(plain, total, memory_pages, tag, end)?;
        Ok(Self { file, cipher, index })
    }

    /// What lies where.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The plain pages of a chunk, in the order of [`Index::pages_of`]; empty for one of the base.
    ///
    /// # Errors
    /// [`ReadError::Chunk`] when anything of it is not as it was written.
    pub fn chunk<'a>(
        &self,
        number: usize,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], ReadError> {
        let broken = ReadError::Chunk(number);
        let Some(chunk) = self.index.chunks().get(number) else { return Err(broken) };
        let Some(Stored { codec, bytes, offset }) = chunk.stored() else { return Ok(&[]) };
        let tag = self.cipher.as_ref().map_or(0, |_| TAG);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let room = scratch.stored.get_mut(..bytes.saturating_add(tag));
        let Some(room) = room else { return Err(broken) };
        self.file.read_exact_at(room, offset)?;
        let content: &[u8] = match &self.cipher {
            Some(cipher) => {
                let total = self.index.chunks().len() as u64;
                let opened = cipher.open(Piece::Chunk(number as u64), total, room);
                match opened {
                    Ok(plain) => plain,
                    Err(Refused) => return Err(broken),
                }
            }
            None => room,
        };
        let plain = usize::from(chunk.count).min(CHUNK_PAGES) * PAGE;
        let Some(into) = scratch.plain.get_mut(..plain) else { return Err(broken) };
        let unpacked = match codec {
            Codec::None => return content.get(..plain).ok_or(broken),
            Codec::Lz4 => lz4_flex::block::decompress_into(content, into).ok(),
            Codec::Zstd => scratch.zstd.decompress_to_buffer(content, into).ok(),
        };
        if unpacked == Some(plain) { Ok(into) } else { Err(broken) }
    }
}
