//! One layer as it lies there: told what it is packed with, unpacked onto a tree, verified meanwhile.
//!
//! Which digest counts is the caller's: that of the packed bytes, that of the tar inside, or none
//! when the cache verified them. What a layer does to a tree is `layer`'s.

use std::io::{self, BufRead, BufReader, Read};

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

/// Unpacks and verifies one layer.
pub(crate) fn unpack(
    layer: Layer,
    number: usize,
    tree: &mut Tree,
    left_out: &mut LeftOut,
) -> Result<(), OciError> {
    let wrap = |source: UntarError| OciError::Layer { number, source };
    let read = |source: io::Error| wrap(source.into());
    // Only what is verified is hashed.
    let (want, of_packed, of_unpacked) = match layer.check {
        Check::Done => (None, None, None),
        Check::Packed(want) => (Some(want), Some(Meanwhile::start().map_err(read)?), None),
        Check::Unpacked(want) => (Some(want), None, Some(Meanwhile::start().map_err(read)?)),
    };
    let section = BufReader::with_capacity(128 << 10, layer.section);
    let mut packed = Hashed { stream: section, digest: of_packed };
    let kind = packed.kind().map_err(read)?;
    let of_unpacked = {
        let stream: Box<dyn Read + '_> = match kind {
            Packing::Gzip => Box::new(MultiGzDecoder::new(&mut packed)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(&mut packed).map_err(read)?),
            Packing::Plain => Box::new(&mut packed),
        };
        let mut unpacked = Hashed { stream, digest: of_unpacked };
        layer::apply(&mut unpacked, tree, left_out).map_err(wrap)?;
        if unpacked.digest.is_some() {
            drain(&mut unpacked).map_err(read)?;
        }
        unpacked.digest
    };
    if packed.digest.is_some() {
        drain(&mut packed).map_err(read)?;
    }
    let (Some(want), Some(digest)) = (want, packed.digest.or(of_unpacked)) else {
        return Ok(());
    };
    let found = digest.finish().map_err(read)?;
    if found == want { Ok(()) } else { Err(OciError::WrongDigest { what: "a layer", want, found }) }
}

/// Reads the rest of a stream, which may not be endless either.
fn drain(stream: &mut impl Read) -> io::Result<()> {
    let rest = io::copy(&mut stream.take(untar::STREAM_LIMIT), &mut io::sink())?;
    if rest == untar::STREAM_LIMIT { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
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
