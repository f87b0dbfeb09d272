//! Tenant keys: 32 random bytes per tenant, in one file that only its owner reads.
//!
//! A key never leaves as text: it cannot be printed, compared, copied or serialised, and its
//! memory is cleared when it is dropped. It does not know what it seals ([`super::snapshot`]).
//!
//! ```compile_fail
//! fn printable<T: std::fmt::Debug>() {}
//! printable::<mvm_host::disk::key::TenantKey>();
//! ```
//! ```compile_fail
//! fn copyable<T: Clone>() {}
//! copyable::<mvm_host::disk::key::TenantKey>();
//! ```
//! ```compile_fail
//! fn sendable_as_text<T: serde::Serialize>() {}
//! sendable_as_text::<mvm_host::disk::key::TenantKey>();
//! ```
//! ```
//! fn kept<T: Send + Sync>() {}
//! kept::<mvm_host::disk::key::TenantKey>();
//! ```

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use mvm_core::{id::TenantId, layout};
use zeroize::Zeroizing;

use super::{
    durable,
    error::{Act, Error},
};
use crate::roots::Roots;

/// The length of a key in bytes.
pub const LENGTH: usize = 32;
/// The longest file that can hold a key: 64 digits and a line end of two bytes. One more is read,
/// so that longer ones are noticed.
const MAX_FILE: usize = 2 * LENGTH + 2;

/// A tenant's key.
pub struct TenantKey(Zeroizing<[u8; LENGTH]>);

impl TenantKey {
    /// Reads a key: 32 raw bytes, or 64 hexadecimal digits and possibly a line end. None for
    /// anything else. 32 bytes are always raw.
    #[must_use]
    pub fn parse(content: &[u8]) -> Option<Self> {
        let mut key = Self(Zeroizing::new([0; LENGTH]));
        if content.len() == LENGTH {
            key.0.copy_from_slice(content);
            return Some(key);
        }
        let digits = content.strip_suffix(b"\n").unwrap_or(content);
        let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
        hex::decode_to_slice(digits, key.0.as_mut_slice()).ok()?;
        Some(key)
    }

    /// A fresh key from the operating system.
    ///
    /// # Errors
    /// When it has no randomness to give.
    pub fn draw() -> Result<Self, io::Error> {
        let mut key = Self(Zeroizing::new([0; LENGTH]));
        getrandom::fill(key.0.as_mut_slice())
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(key)
    }

    /// The bytes, for the cipher.
    pub(crate) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

/// Where tenant keys come from. Development may lay other sources over the files.
pub trait KeySource: Send + Sync {
    /// The key of a tenant; none when it has none.
    ///
    /// # Errors
    /// When there is one that cannot be read or is not a key.
    fn key(&self, tenant: &TenantId) -> Result<Option<TenantKey>, mvm_core::Error>;
}

/// The keys below the data directory.
#[derive(Debug, Clone)]
pub struct KeyFiles(
    /// Where the data directory is.
    pub Roots,
);

impl KeySource for KeyFiles {
    fn key(&self, tenant: &TenantId) -> Result<Option<TenantKey>, mvm_core::Error> {
        if exists(&self.0, tenant)? { load(&self.0, tenant).map(Some) } else { Ok(None) }
    }
}

/// Draws a key from the operating system, unless one is there; that one must be a key.
///
/// # Errors
/// `Integrity` or `Permission` when what is there cannot serve, else why it cannot be written.
pub fn ensure(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    let path = roots.data.join(layout::data::key(tenant));
    if durable::exists(&path)? {
        return load(roots, tenant).map(drop);
    }
    durable::create_dirs(&roots.data.join(layout::data::KEYS))?;
    let key = TenantKey::draw().act("draw a key for", &path)?;
    durable::write_unless_there(&path, key.0.as_slice(), 0o600)?;
    Ok(())
}

/// Reads a tenant's key.
///
/// # Errors
/// `NotFound` when there is none, `Permission` when others may read it, `Integrity` when it is
/// anything but 32 raw bytes or 64 hexadecimal digits.
pub fn load(roots: &Roots, tenant: &TenantId) -> Result<TenantKey, mvm_core::Error> {
    let path = roots.data.join(layout::data::key(tenant));
    Ok(read(&path, tenant)?)
}

/// Whether a tenant has a key, usable or not.
///
/// # Errors
/// When that cannot be found out.
pub fn exists(roots: &Roots, tenant: &TenantId) -> Result<bool, mvm_core::Error> {
    Ok(durable::exists(&roots.data.join(layout::data::key(tenant)))?)
}

/// Overwrites a tenant's key and removes it: what it sealed can never be opened again.
///
/// # Errors
/// When it is there and stays.
pub fn destroy(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    let path = roots.data.join(layout::data::key(tenant));
    durable::shred(&durable::partial(&path))?;
    Ok(durable::shred(&path)?)
}

fn read(path: &Path, tenant: &TenantId) -> Result<TenantKey, Error> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing {
                what: format!("the key of tenant {tenant}"),
                hint: Some(format!("put the key back at {}", path.display())),
            });
        }
        opened => opened.act("open", path)?,
    };
    let mode = file.metadata().act("look at", path)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut content).act("read", path)?;
    TenantKey::parse(&content).ok_or_else(|| {
        Error::integrity(path, "a key is 32 raw bytes or 64 hexadecimal digits, nothing else")
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::{fs, path::PathBuf};

    use mvm_core::ErrorKind;

    use super::*;
    use crate::disk::ground;

    fn place() -> (tempfile::TempDir, Roots, TenantId, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let tenant: TenantId = "acme".parse().unwrap();
        let path = roots.data.join(layout::data::key(&tenant));
        (dir, roots, tenant, path)
    }

    #[test]
    fn a_drawn_key_stays_and_only_its_owner_reads_it() {
        let (_dir, roots, tenant, path) = place();
        ensure(&roots, &tenant).unwrap();
        let first = fs::read(&path).unwrap();
        ensure(&roots, &tenant).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(load(&roots, &tenant).unwrap().bytes().as_slice(), first);
    }

    #[test]
    fn raw_bytes_and_digits_are_keys_and_nothing_else_is() {
        let hex = "0f".repeat(32);
        for good in [&[7; 32][..], hex.as_bytes(), format!("{hex}\n").as_bytes()] {
            assert!(TenantKey::parse(good).is_some());
        }
        let long = format!("{hex}0");
        let blank = format!("{hex}\n\n");
        for bad in [&[][..], &[7; 31], &[7; 33], &[b'g'; 64], long.as_bytes(), blank.as_bytes()] {
            assert!(TenantKey::parse(bad).is_none());
        }
    }

    #[test]
    fn a_short_or_readable_key_is_refused_and_kept() {
        let (_dir, roots, tenant, path) = place();
        ensure(&roots, &tenant).unwrap();
        fs::write(&path, b"short").unwrap();
        assert_eq!(load(&roots, &tenant).err().unwrap().kind, ErrorKind::Integrity);
        assert_eq!(ensure(&roots, &tenant).unwrap_err().kind, ErrorKind::Integrity);
        fs::write(&path, [1; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(load(&roots, &tenant).err().unwrap().kind, ErrorKind::Permission);
    }

    #[test]
    fn a_destroyed_key_is_gone_and_its_bytes_were_overwritten() {
        let (dir, roots, tenant, path) = place();
        ensure(&roots, &tenant).unwrap();
        let other_name = dir.path().join("same inode");
        fs::hard_link(&path, &other_name).unwrap();
        destroy(&roots, &tenant).unwrap();
        destroy(&roots, &tenant).unwrap();
        assert!(!exists(&roots, &tenant).unwrap());
        assert_eq!(fs::read(other_name).unwrap(), [0; 32]);
        assert!(KeyFiles(roots.clone()).key(&tenant).unwrap().is_none());
        assert_eq!(load(&roots, &tenant).err().unwrap().kind, ErrorKind::NotFound);
    }
}
