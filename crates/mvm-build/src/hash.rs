//! `ContentHash`: the name of a sequence of bytes.
//!
//! Knows SHA-256 and nothing of what the bytes mean. Everything that is downloaded, packed or
//! stored by this crate is named and verified by one of these.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::str::FromStr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 digest, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash([u8; 32]);

/// A text that is not 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 digest of 64 hex digits: {text:?}")]
pub struct InvalidHash {
    text: String,
}

impl ContentHash {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of all that `reader` yields, and how many bytes that was.
    ///
    /// # Errors
    /// When reading fails.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Self, u64)> {
        let mut hasher = Sha256::new();
        let length = io::copy(&mut reader, &mut hasher)?;
        Ok((Self(hasher.finalize().into()), length))
    }

    /// The digest of the file at `path`, and its length in bytes.
    ///
    /// # Errors
    /// When the file can't be opened or read.
    pub fn of_file(path: &Path) -> io::Result<(Self, u64)> {
        Self::of_reader(BufReader::with_capacity(128 << 10, File::open(path)?))
    }

    pub(crate) fn from_hasher(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

/// How many bytes a digest's thread gets at once, and how many such pieces may wait for it.
const PIECE: usize = 256 << 10;
const PIECES_MAX: usize = 8;

/// A digest that is computed on a thread of its own, while who has the bytes works with them:
/// unpacking takes about as long as hashing.
#[derive(Debug)]
pub(crate) struct Meanwhile {
    filled: Vec<u8>,
    pieces: SyncSender<Vec<u8>>,
    thread: JoinHandle<ContentHash>,
}

impl Meanwhile {
    /// # Errors
    /// When there can't be another thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (pieces, received) = sync_channel::<Vec<u8>>(PIECES_MAX);
        let thread = thread::Builder::new().name("digest".to_owned()).spawn(move || {
            let mut hasher = Sha256::new();
            for piece in received {
                hasher.update(&piece);
            }
            ContentHash::from_hasher(hasher)
        })?;
        Ok(Self { filled: Vec::with_capacity(PIECE), pieces, thread })
    }

    /// # Errors
    /// When the thread is no more.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.filled.extend_from_slice(bytes);
        if self.filled.len() < PIECE {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.filled, Vec::with_capacity(PIECE));
        self.pieces.send(piece).map_err(|_| lost())
    }

    /// The digest of all that it was given.
    ///
    /// # Errors
    /// When the thread is no more.
    pub(crate) fn finish(self) -> io::Result<ContentHash> {
        self.pieces.send(self.filled).map_err(|_| lost())?;
        drop(self.pieces);
        self.thread.join().map_err(|_| lost())
    }
}

fn lost() -> io::Error {
    io::Error::other("the thread that takes the digest is gone")
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl FromStr for ContentHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let mut bytes = [0; 32];
        let is_lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if is_lower => Ok(Self(bytes)),
            _ => Err(InvalidHash { text: text.chars().take(80).collect() }),
        }
    }
}

impl TryFrom<String> for ContentHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        text.parse()
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> Self {
        hash.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn a_hash_reads_back_what_it_wrote() {
        let hash = ContentHash::of(b"abc");
        assert_eq!(
            hash.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(hash.to_string().parse::<ContentHash>().unwrap(), hash);
    }

    #[test]
    fn upper_case_short_and_foreign_digits_are_refused() {
        let good = ContentHash::of(b"").to_string();
        assert!(good.to_uppercase().parse::<ContentHash>().is_err());
        assert!(good.get(1..).unwrap().parse::<ContentHash>().is_err());
        assert!(good.replace('e', "g").parse::<ContentHash>().is_err());
    }
}
