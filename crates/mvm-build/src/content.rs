//! `Content`: the bytes of a file of a tree, in memory or in a spool.
//!
//! A spool is a file to which contents are appended, so that a tree of any size needs memory for its
//! names only: an unnamed one, or the end of a file that its owner goes on with. It knows nothing of
//! paths and of who asked.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// The bytes of a file. Copies share them.
#[derive(Debug, Clone)]
pub struct Content(Place);

#[derive(Debug, Clone)]
enum Place {
    Memory(Arc<[u8]>),
    Spool { file: Arc<File>, offset: u64, length: u64 },
}

impl Content {
    /// How many bytes there are.
    #[must_use]
    pub fn length(&self) -> u64 {
        match &self.0 {
            Place::Memory(bytes) => bytes.len() as u64,
            Place::Spool { length, .. } => *length,
        }
    }

    /// All bytes.
    ///
    /// # Errors
    /// When the spool can't be read.
    pub fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        match &self.0 {
            Place::Memory(bytes) => Ok(Cow::Borrowed(bytes)),
            Place::Spool { .. } => {
                let mut bytes = Vec::new();
                self.reader().read_to_end(&mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Reads the bytes from their beginning, however many others read them.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader(match &self.0 {
            Place::Memory(bytes) => Source::Memory(Cursor::new(bytes.clone())),
            Place::Spool { file, offset, length } => {
                Source::Spool { file: file.clone(), at: *offset, left: *length }
            }
        })
    }
}

/// Which bytes are meant: those of copies of one content are the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity(usize, u64);

impl Content {
    /// Which bytes these are, of all contents that are there and not empty.
    pub(crate) fn identity(&self) -> Identity {
        match &self.0 {
            Place::Memory(bytes) => Identity(Arc::as_ptr(bytes).addr(), 0),
            Place::Spool { file, offset, .. } => Identity(Arc::as_ptr(file).addr(), *offset),
        }
    }
}

impl PartialEq for Content {
    /// Whether the same bytes are meant: those in memory are compared, of spooled ones their place.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Place::Memory(one), Place::Memory(two)) => one == two,
            (
                Place::Spool { file, offset, length },
                Place::Spool { file: of, offset: from, length: count },
            ) => Arc::ptr_eq(file, of) && offset == from && length == count,
            (Place::Memory(_), Place::Spool { .. }) | (Place::Spool { .. }, Place::Memory(_)) => {
                false
            }
        }
    }
}

impl Eq for Content {}

impl<T: Into<Arc<[u8]>>> From<T> for Content {
    fn from(bytes: T) -> Self {
        Self(Place::Memory(bytes.into()))
    }
}

/// Yields the bytes of a content.
#[derive(Debug)]
pub struct Reader(Source);

#[derive(Debug)]
enum Source {
    Memory(Cursor<Arc<[u8]>>),
    Spool { file: Arc<File>, at: u64, left: u64 },
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Memory(cursor) => cursor.read(into),
            Source::Spool { file, at, left } => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(into.len());
                let count = file.read_at(into.get_mut(..most).unwrap_or_default(), *at)?;
                if count == 0 && most > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *at += count as u64;
                *left -= count as u64;
                Ok(count)
            }
        }
    }
}

/// How much goes to the spool at once, in bytes.
const PIECE: usize = 128 << 10;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// Where contents go that are too many for memory.
#[derive(Debug)]
pub struct Spool {
    file: Arc<File>,
    end: u64,
    /// As long as a content or a piece, whichever was less, at the longest so far.
    buffer: Vec<u8>,
}

impl Spool {
    /// An empty spool on the disk of `directory`; it goes when nobody has a content of it.
    pub(crate) fn on(directory: &Path) -> io::Result<Self> {
        let file = Arc::new(tempfile::tempfile_in(directory)?);
        Ok(Self::behind(file, 0))
    }

    /// What is appended to `file` from `start` on.
    pub(crate) fn behind(file: Arc<File>, start: u64) -> Self {
        Self { file, end: start, buffer: Vec::new() }
    }

    /// Where the next content goes.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Where a content lies in the spool's file, if it does.
    pub(crate) fn holds(&self, content: &Content) -> Option<u64> {
        match &content.0 {
            Place::Spool { file, offset, .. } if Arc::ptr_eq(file, &self.file) => Some(*offset),
            Place::Spool { .. } | Place::Memory(_) => None,
        }
    }

    /// Appends exactly `length` bytes of `from`. Pieces without a bit in them take no space.
    pub(crate) fn append(&mut self, from: &mut impl Read, length: u64) -> io::Result<Content> {
        let offset = self.end;
        let mut left = length;
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let count = size as u64;
            if self.buffer.len() < size {
                self.buffer.resize(size, 0);
            }
            let piece = self.buffer.get_mut(..size).unwrap_or_default();
            from.read_exact(piece)?;
            if ZEROS.starts_with(piece) {
                self.file.set_len(self.end + count)?;
            } else {
                self.file.write_all_at(piece, self.end)?;
            }
            self.end += count;
            left -= count;
        }
        Ok(Content(Place::Spool { file: self.file.clone(), offset, length }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn spooled_contents_read_back_each_by_itself_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::on(directory.path()).unwrap();
        let long = vec![7; 200_000];
        let one = spool.append(&mut &long[..], 200_000).unwrap();
        let none = spool.append(&mut &b"x"[..], 0).unwrap();
        let two = spool.append(&mut &b"tail and more"[..], 4).unwrap();
        for _ in 0..2 {
            assert_eq!(one.bytes().unwrap()[..], long[..]);
            assert_eq!(two.bytes().unwrap()[..], *b"tail");
        }
        assert_eq!((one.length(), none.length(), two.length()), (200_000, 0, 4));
        assert!(one != two && one == one.clone());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_content_that_ends_early_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::on(directory.path()).unwrap();
        let error = spool.append(&mut &b"abc"[..], 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
