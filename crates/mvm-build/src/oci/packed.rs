//! One layer as it lies there: told what it is packed with, unpacked onto a tree, verified meanwhile.
//!
//! Which digest counts is the caller's: that of the packed bytes, that of the tar inside, or none
//! when the cache verified them. What a layer does to a tree is `layer`'s.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::read::MultiGzDecoder;

use super::OciError;
use super::archive::Section;
use super::layer::{self, LeftOut};
use crate::hash::{ContentHash, Meanwhile};
use crate::tree::Tree;
use crate::untar::{self, UntarError};

/// A layer and what its bytes must be.
pub(crate) struct Layer {
    pub(crate) section: Section,
    pub(crate) check: Check,
}

/// What is verified while a layer is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Nothing: the cache did.
    Done,
    /// The digest of the bytes as they lie there.
    Packed(ContentHash),
    /// The digest of the tar inside.
    Unpacked(ContentHash),
}

/// How many bytes of a layer are unpacked at once, and how many such pieces may wait for the tree.
const PIECE: u64 = 256 << 10;
const PIECES_MAX: usize = 8;

/// Unpacks and verifies one layer. The bytes are unpacked on a thread of their own, while the tree
/// takes those that came before.
pub(crate) fn unpack(
    layer: Layer,
    number: usize,
    tree: &mut Tree,
    left_out: &mut LeftOut,
) -> Result<(), OciError> {
    let wrap = |source: UntarError| OciError::Layer { number, source };
    let read = |source: io::Error| wrap(source.into());
    let check = layer.check;
    let (to, pieces) = sync_channel(PIECES_MAX);
    let thread = thread::Builder::new().name("layer".to_owned());
    let thread = thread.spawn(move || decode(layer, &to)).map_err(read)?;
    let mut ahead = Ahead { pieces, piece: Cursor::default() };
    let applied = layer::apply(&mut ahead, tree, left_out);
    if applied.is_ok() {
        // What is behind the archive's end must be readable too, however far the thread has come.
        io::copy(&mut ahead, &mut io::sink()).map_err(read)?;
    }
    drop(ahead);
    let decoded = thread.join().map_err(|_| read(io::Error::other("its thread is gone")))?;
    // What could not be read is why the tree did not get it.
    let found = decoded.map_err(read)?;
    applied.map_err(wrap)?;
    match (check, found) {
        (Check::Packed(want) | Check::Unpacked(want), Some(found)) if found != want => {
            Err(OciError::WrongDigest { what: "a layer", want, found })
        }
        (Check::Done | Check::Packed(_) | Check::Unpacked(_), _) => Ok(()),
    }
}

/// The bytes of a layer that another thread unpacks.
struct Ahead {
    pieces: Receiver<Vec<u8>>,
    piece: Cursor<Vec<u8>>,
}

impl Read for Ahead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut count = self.piece.read(into)?;
        if count == 0
            && let Ok(next) = self.pieces.recv()
        {
            self.piece = Cursor::new(next);
            count = self.piece.read(into)?;
        }
        Ok(count)
    }
}

/// Unpacks a layer for who takes its pieces, as long as somebody does; gives the digest that is
/// to be verified, of all bytes that it is of. Only what is verified is hashed.
fn decode(layer: Layer, to: &SyncSender<Vec<u8>>) -> io::Result<Option<ContentHash>> {
    let (of_packed, of_unpacked) = match layer.check {
        Check::Done => (None, None),
        Check::Packed(_) => (Some(Meanwhile::start()?), None),
        Check::Unpacked(_) => (None, Some(Meanwhile::start()?)),
    };
    let section = BufReader::with_capacity(128 << 10, layer.section);
    let mut packed = Hashed { stream: section, digest: of_packed };
    let kind = packed.kind()?;
    let of_unpacked = {
        let stream: Box<dyn Read + '_> = match kind {
            Packing::Gzip => Box::new(MultiGzDecoder::new(&mut packed)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(&mut packed)?),
            Packing::Plain => Box::new(&mut packed),
        };
        let mut unpacked = Hashed { stream, digest: of_unpacked };
        let mut length = 0;
        loop {
            let mut piece = Vec::with_capacity(usize::try_from(PIECE).unwrap_or_default());
            let count = unpacked.by_ref().take(PIECE).read_to_end(&mut piece)?;
            length += piece.len() as u64;
            if length > untar::STREAM_LIMIT {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            if count == 0 || to.send(piece).is_err() {
                break;
            }
        }
        unpacked.digest
    };
    if packed.digest.is_some() {
        io::copy(&mut packed, &mut io::sink())?;
    }
    packed.digest.or(of_unpacked).map(Meanwhile::finish).transpose()
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
    Plain,
}

/// A stream whose bytes are hashed if they count.
struct Hashed<R> {
    stream: R,
    digest: Option<Meanwhile>,
}

impl<R: BufRead> Hashed<R> {
    /// Looks at the first bytes: media types of layers are not always true, magic numbers are
    /// (RFC 1952 §2.3.1, RFC 8878 §3.1.1).
    fn kind(&mut self) -> io::Result<Packing> {
        let start = self.stream.fill_buf()?;
        Ok(if start.starts_with(&[0x1f, 0x8b]) {
            Packing::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Packing::Zstd
        } else {
            Packing::Plain
        })
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(into)?;
        if let Some(digest) = &mut self.digest {
            digest.update(into.get(..count).unwrap_or_default())?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
