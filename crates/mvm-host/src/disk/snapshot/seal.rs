//! The keys of a sealed snapshot: a random one for each file, wrapped by the tenant's.
//!
//! The cipher of a file is the pager's ([`mvm_pager::Cipher`]): it names the header (by digest) and the
//! file, so that nothing verifies but in its own place of its own snapshot. It reads and writes no file.

use std::{io, path::Path};

pub(in crate::disk) use mvm_pager::seal::Refused;
use mvm_pager::{
    Cipher,
    seal::{Binding, KEY, TAG},
    spec::Seal,
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::disk::{error::Error, key::TenantKey};

pub(super) const NONCE: usize = 12;
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

    /// What opens the file of this name that belongs to the header with this digest.
    pub(super) fn seal(&self, header: [u8; 32], name: Name) -> Seal {
        Seal { key: self.0.clone(), header, name: *name.tag() }
    }

    /// The cipher of that file.
    pub(super) fn cipher(&self, header: [u8; 32], name: Name) -> Result<Cipher, Refused> {
        Cipher::new(&self.0, Binding { header, name: *name.tag() })
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
