//! What launcher and pager tell each other; the one place of these types.
//!
//! A pager is never root: it starts as the instance's user and opens nothing. The launcher hands it
//! open files under fixed numbers, and writes one [`Spec`] as JSON to its standard input, which is a
//! pipe: the file's key is in it and nowhere else. Why a pager ended it says on standard error, and its
//! exit status tells whether the VMM was gone ([`EXIT_GONE`]) or the guest cannot go on.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    seal::{Binding, Cipher, KEY, Refused},
    serve::Stats,
};

/// The number of the socket, listening, that Firecracker connects to.
pub const LISTENER: i32 = 3;
/// The number of the socket, listening, on which [`Ask`]s come in.
pub const CONTROL: i32 = 4;
/// The number of the page file.
pub const DELTA: i32 = 5;
/// The number of the base.
pub const BASE: i32 = 6;

/// The exit status of a pager whose VMM is gone.
pub const EXIT_GONE: u8 = 0;
/// The exit status of a pager whose guest cannot go on.
pub const EXIT_FAILED: u8 = 1;

/// What a pager is started with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// How many pages the guest has.
    pub memory_pages: u64,
    /// Whether there is a page file, at [`DELTA`].
    pub delta: bool,
    /// What opens it, if it is sealed.
    pub seal: Option<Seal>,
    /// Whether there is a base, at [`BASE`].
    pub base: bool,
    /// How many chunks at the front of the page file are put without being asked.
    pub ahead: usize,
}

/// What opens a page file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The file's key.
    pub key: Zeroizing<[u8; KEY]>,
    /// SHA-256 of the header.
    pub header: [u8; 32],
    /// The file's name, with zeros up to eight bytes.
    pub name: [u8; 8],
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    /// The cipher of the file.
    ///
    /// # Errors
    /// As [`Cipher::new`].
    pub fn cipher(&self) -> Result<Cipher, Refused> {
        Cipher::new(&self.key, Binding { header: self.header, name: self.name })
    }
}

/// A byte on a connection to the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Answer with [`Answer`] as JSON.
    Stats,
    /// Answer with the working set, a `u32` little-endian for each page.
    WorkingSet,
}

impl Ask {
    /// The byte that is sent.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Stats => b's',
            Self::WorkingSet => b'w',
        }
    }

    /// What a byte asks.
    #[must_use]
    pub const fn of(byte: u8) -> Option<Self> {
        match byte {
            b's' => Some(Self::Stats),
            b'w' => Some(Self::WorkingSet),
            _ => None,
        }
    }
}

/// What is told of a pager's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What it did so far.
    #[serde(flatten)]
    pub stats: Stats,
    /// Pages of the page file.
    pub delta: u64,
}
