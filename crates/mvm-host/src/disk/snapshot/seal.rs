//! The cryptography of a sealed snapshot: keys, nonces and associated data.
//!
//! Every file has a random key of its own, so a nonce may be the chunk's index. The associated data
//! of a chunk names the header (by digest), the file, the chunk's index and how many there are: a
//! chunk verifies in its own place of its own snapshot and nowhere else. It reads and writes no
//! file ([`super::stream`] does).

use std::{io, path::Path};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

use crate::disk::{error::Error, key::TenantKey};

/// What AES-GCM adds to a chunk, in bytes.
pub(super) const TAG: usize = 16;
pub(super) const NONCE: usize = 12;
pub(super) const KEY: usize = 32;
/// The length of the file `keys`.
const KEYS: usize = MAGIC.len() + 2 * (NONCE + KEY + TAG);
const MAGIC: &[u8; 8] = b"mvmkeys1";

/// The files of a snapshot, in the order of the file `keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    VmState,
    Mem,
}

impl Name {
    pub(super) const ALL: [Self; 2] = [Self::VmState, Self::Mem];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::VmState => "vmstate",
            Self::Mem => "mem",
        }
    }

    /// The name with zeros up to 8 bytes.
    const fn tag(self) -> &'static [u8; 8] {
        match self {
            Self::VmState => b"vmstate\0",
            Self::Mem => b"mem\0\0\0\0\0",
        }
    }
}

/// Where randomness comes from: the operating system, or a test that wants the same bytes again.
pub(super) trait Random {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()>;
}

/// The operating system's randomness.
pub(super) struct OsRandom;

impl Random for OsRandom {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
    }
}

/// Why something does not open; it never says more.
#[derive(Debug)]
pub(in crate::disk) struct Refused;

/// What a sealed piece is: a chunk of the file, or the index of chunks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    Chunk(u64),
    Index,
}

/// The cipher of one file.
pub(super) struct Cipher {
    key: LessSafeKey,
    header: [u8; 32],
    name: Name,
    total: u64,
}

impl Cipher {
    /// The cipher for a file of `total` chunks that belongs to the header with this digest.
    pub(super) fn new(
        key: &FileKey,
        header: [u8; 32],
        name: Name,
        total: u64,
    ) -> Result<Self, Refused> {
        Ok(Self { key: cipher_key(&key.0)?, header, name, total })
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Encrypts in place.
    pub(super) fn seal(&self, piece: Piece, plain: &mut [u8]) -> Result<Tag, Refused> {
        let aad = self.associated(piece);
        self.key.seal_in_place_separate_tag(nonce(piece), aad, plain).map_err(|_| Refused)
    }

    /// Decrypts in place what is followed by its tag. On failure the bytes are worthless.
    pub(super) fn open<'a>(
        &self,
        piece: Piece,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Refused> {
        let aad = self.associated(piece);
        self.key.open_in_place(nonce(piece), aad, sealed).map_err(|_| Refused)
    }

    fn associated(&self, piece: Piece) -> Aad<[u8; 56]> {
        let index = match piece {
            Piece::Chunk(index) => index,
            Piece::Index => self.total,
        };
        let mut out = [0; 56];
        let fields = [
            self.header.as_slice(),
            self.name.tag(),
            &index.to_le_bytes(),
            &self.total.to_le_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        Aad::from(out)
    }
}

/// A kind (0 chunk, 1 index) and the index: unique under a file's key.
fn nonce(piece: Piece) -> Nonce {
    let (kind, index) = match piece {
        Piece::Chunk(index) => (0, index),
        Piece::Index => (1, 0),
    };
    let value = u128::from(index) << 32 | kind;
    let mut out = [0; NONCE];
    for (to, from) in out.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
    Nonce::assume_unique_for_key(out)
}

pub(super) fn cipher_key(bytes: &[u8; KEY]) -> Result<LessSafeKey, Refused> {
    UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new).map_err(|_| Refused)
}

/// The random key of one file.
pub(in crate::disk) struct FileKey(pub(super) Zeroizing<[u8; KEY]>);

impl FileKey {
    pub(super) fn draw(random: &mut dyn Random) -> io::Result<Self> {
        let mut key = Zeroizing::new([0; KEY]);
        random.fill(key.as_mut())?;
        Ok(Self(key))
    }
}

/// The keys of both files, in the order of [`Name::ALL`].
pub(super) type FileKeys = [FileKey; 2];

/// The content of the file `keys`: both keys, wrapped by the tenant's.
pub(super) fn wrap(
    keys: &FileKeys,
    tenant: &TenantKey,
    header: &[u8; 32],
    random: &mut dyn Random,
) -> io::Result<Vec<u8>> {
    let cipher = cipher_key(tenant.bytes()).map_err(|Refused| io::ErrorKind::InvalidInput)?;
    let mut out = Vec::with_capacity(KEYS);
    out.extend_from_slice(MAGIC);
    for (key, name) in keys.iter().zip(Name::ALL) {
        let mut nonce = [0; NONCE];
        random.fill(&mut nonce)?;
        let mut wrapped = key.0.clone();
        let tag = cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                wrapping(header, name),
                wrapped.as_mut(),
            )
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        out.extend_from_slice(&nonce);
        out.extend_from_slice(wrapped.as_slice());
        out.extend_from_slice(tag.as_ref());
    }
    Ok(out)
}

/// Both keys from the content of the file `keys`.
pub(super) fn unwrap(
    content: &[u8],
    path: &Path,
    tenant: &TenantKey,
    header: &[u8; 32],
) -> Result<FileKeys, Error> {
    let refused = || Error::integrity(path, "the tenant's key does not open it");
    let rest = content.strip_prefix(MAGIC).filter(|_| content.len() == KEYS);
    let mut rest =
        rest.ok_or_else(|| Error::integrity(path, "it is not a file of wrapped keys"))?;
    let cipher = cipher_key(tenant.bytes()).map_err(|Refused| refused())?;
    let mut unwrap_one = |name| -> Result<FileKey, Error> {
        let (nonce, after) = rest.split_at_checked(NONCE).ok_or_else(refused)?;
        let (wrapped, after) = after.split_at_checked(KEY + TAG).ok_or_else(refused)?;
        rest = after;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused())?;
        let mut wrapped = Zeroizing::new(wrapped.to_vec());
        let plain = cipher
            .open_in_place(nonce, wrapping(header, name), wrapped.as_mut_slice())
            .map_err(|_| refused())?;
        let mut key = Zeroizing::new([0; KEY]);
        key.copy_from_slice(plain);
        Ok(FileKey(key))
    };
    Ok([unwrap_one(Name::VmState)?, unwrap_one(Name::Mem)?])
}

fn wrapping(header: &[u8; 32], name: Name) -> Aad<Vec<u8>> {
    Aad::from([b"mvm file key", header.as_slice(), name.tag()].concat())
}
