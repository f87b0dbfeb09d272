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

use mvm_core::{
    id::{TenantId, VolumeId},
    layout,
};
use ring::hkdf;
use zeroize::Zeroizing;

use super::{
    durable,
    error::{Act, Error},
    luks::Passphrase,
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

    /// What opens the volume of this name: one that leaks tells nothing of the key or of another.
    pub(super) fn passphrase(&self, volume: &str) -> Passphrase {
        let mut out = Zeroizing::new([0; LENGTH]);
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"mvm volume 1").extract(self.0.as_slice());
        // Neither fails: the length is that of the hash.
        if let Ok(stream) = secret.expand(&[volume.as_bytes()], hkdf::HKDF_SHA256) {
            let _ = stream.fill(out.as_mut_slice());
        }
        out
    }

    /// The bytes, for the cipher.
    pub(crate) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

/// The keys that open what a tenant has sealed: one, or two while it gets another.
pub struct KeyRing {
    newest: TenantKey,
    older: Option<TenantKey>,
}

impl KeyRing {
    /// The one that seals.
    #[must_use]
    pub const fn newest(&self) -> &TenantKey {
        &self.newest
    }

    /// The one that is on its way out.
    #[must_use]
    pub const fn older(&self) -> Option<&TenantKey> {
        self.older.as_ref()
    }

    /// Both, the newest first.
    pub fn all(&self) -> impl Iterator<Item = &TenantKey> {
        std::iter::once(&self.newest).chain(&self.older)
    }
}

/// Draws a key from the operating system, unless one is given or there; that one must be a key.
///
/// # Errors
/// `Integrity` or `Permission` when what is there cannot serve, else why it cannot be written.
pub fn ensure(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    if given(roots, tenant)?.is_some() {
        return Ok(());
    }
    let path = roots.data.join(layout::data::key(tenant));
    Ok(ensure_at(&path, &owner(tenant)).map(drop)?)
}

/// Draws the key that shall take the place of a tenant's key, unless one is there.
///
/// # Errors
/// As [`ensure`].
pub(super) fn ensure_next(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    if let Some(place) = roots.given.place(tenant) {
        let what = format!("the key of tenant {tenant} is given by {place} and is not kept here");
        return Err(Error::Conflict(what).into());
    }
    let path = roots.data.join(layout::data::next_key(tenant));
    Ok(ensure_at(&path, &owner(tenant)).map(drop)?)
}

/// Puts the next key in the place of the present one and overwrites that.
///
/// # Errors
/// When it cannot be moved; then both stay.
pub(super) fn promote_next(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    let next = roots.data.join(layout::data::next_key(tenant));
    if !durable::exists(&next)? {
        return Ok(());
    }
    read(&next, &owner(tenant))?;
    Ok(durable::rename_shredding(&next, &roots.data.join(layout::data::key(tenant)))?)
}

/// The key of a kept volume, drawn unless there is one.
pub(super) fn ensure_of_volume(roots: &Roots, volume: &VolumeId) -> Result<TenantKey, Error> {
    ensure_at(&roots.data.join(layout::data::volume_key(volume)), &format!("volume {volume}"))
}

/// The key of a kept volume, if it has one.
pub(super) fn of_volume(roots: &Roots, volume: &VolumeId) -> Result<Option<TenantKey>, Error> {
    let path = roots.data.join(layout::data::volume_key(volume));
    if durable::exists(&path)? {
        read(&path, &format!("volume {volume}")).map(Some)
    } else {
        Ok(None)
    }
}

/// Overwrites and removes the key of a kept volume; absent is removed.
pub(super) fn destroy_of_volume(roots: &Roots, volume: &VolumeId) -> Result<(), Error> {
    let path = roots.data.join(layout::data::volume_key(volume));
    durable::shred(&durable::partial(&path))?;
    durable::shred(&path)
}

pub(super) fn owner(tenant: &TenantId) -> String {
    format!("tenant {tenant}")
}

fn ensure_at(path: &Path, of: &str) -> Result<TenantKey, Error> {
    if durable::exists(path)? {
        return read(path, of);
    }
    if let Some(dir) = path.parent() {
        durable::create_dirs(dir)?;
    }
    let key = TenantKey::draw().act("draw a key for", path)?;
    durable::write_unless_there(path, key.0.as_slice(), 0o600)?;
    read(path, of)
}

/// Reads the key that seals for a tenant: the next one while there is one.
///
/// # Errors
/// `NotFound` when there is none, `Permission` when others may read it, `Integrity` when it is
/// anything but 32 raw bytes or 64 hexadecimal digits.
pub fn load(roots: &Roots, tenant: &TenantId) -> Result<TenantKey, mvm_core::Error> {
    Ok(ring(roots, tenant)?.newest)
}

/// Reads the keys that open what a tenant has sealed.
///
/// # Errors
/// As [`load`].
pub fn ring(roots: &Roots, tenant: &TenantId) -> Result<KeyRing, mvm_core::Error> {
    if let Some(newest) = given(roots, tenant)? {
        return Ok(KeyRing { newest, older: None });
    }
    Ok(kept(roots, tenant)?)
}

/// The key that is brought along for a tenant. One that differs from a kept one is refused: what it
/// sealed would open for some commands only.
fn given(roots: &Roots, tenant: &TenantId) -> Result<Option<TenantKey>, mvm_core::Error> {
    let Some(key) = roots.given.key(tenant)? else { return Ok(None) };
    match kept(roots, tenant) {
        Err(Error::Missing { .. }) => Ok(Some(key)),
        Err(error) => Err(error.into()),
        Ok(kept) if kept.older.is_none() && kept.newest.bytes() == key.bytes() => Ok(Some(key)),
        Ok(_) => {
            let place = roots.given.place(tenant).unwrap_or_default();
            let what = format!("tenant {tenant} has a key of its own, and {place} is another one");
            Err(mvm_core::Error::from(Error::Conflict(what)).hint(format!(
                "take away {place}, or put its key in the place of {}",
                roots.data.join(layout::data::key(tenant)).display()
            )))
        }
    }
}

fn kept(roots: &Roots, tenant: &TenantId) -> Result<KeyRing, Error> {
    let path = |name| roots.data.join(name);
    // The next one first: it may take the place of the present one between the two looks.
    let next = path(layout::data::next_key(tenant));
    let newest = match read(&next, &owner(tenant)) {
        Err(Error::Missing { .. }) => None,
        newest => Some(newest?),
    };
    let present = read(&path(layout::data::key(tenant)), &owner(tenant));
    Ok(match (newest, present) {
        (Some(newest), Ok(older)) => KeyRing { newest, older: Some(older) },
        (Some(newest), Err(Error::Missing { .. })) => KeyRing { newest, older: None },
        (_, present) => KeyRing { newest: present?, older: None },
    })
}

/// Whether a tenant has a key, usable or not.
///
/// # Errors
/// When that cannot be found out.
pub fn exists(roots: &Roots, tenant: &TenantId) -> Result<bool, mvm_core::Error> {
    let path = roots.data.join(layout::data::key(tenant));
    Ok(roots.given.place(tenant).is_some() || durable::exists(&path)?)
}

/// Whether a key that shall take the place of a tenant's key is there.
///
/// # Errors
/// When that cannot be found out.
pub fn next_exists(roots: &Roots, tenant: &TenantId) -> Result<bool, mvm_core::Error> {
    Ok(durable::exists(&roots.data.join(layout::data::next_key(tenant)))?)
}

/// Overwrites a tenant's key and removes it: what it sealed can never be opened again.
///
/// # Errors
/// When it is there and stays.
pub fn destroy(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    for path in [layout::data::next_key(tenant), layout::data::key(tenant)] {
        let path = roots.data.join(path);
        durable::shred(&durable::partial(&path))?;
        durable::shred(&path)?;
    }
    Ok(())
}

pub(super) fn read(path: &Path, of: &str) -> Result<TenantKey, Error> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing {
                what: format!("the key of {of}"),
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
        assert_eq!(load(&roots, &tenant).err().unwrap().kind, ErrorKind::NotFound);
    }

    #[test]
    fn the_next_key_seals_and_both_open_until_it_takes_the_place_of_the_present_one() {
        let (dir, roots, tenant, path) = place();
        ensure(&roots, &tenant).unwrap();
        let first = *load(&roots, &tenant).unwrap().bytes();
        promote_next(&roots, &tenant).unwrap();
        assert_eq!(load(&roots, &tenant).unwrap().bytes(), &first);
        ensure_next(&roots, &tenant).unwrap();
        let both = ring(&roots, &tenant).unwrap();
        assert_eq!(both.older().unwrap().bytes(), &first);
        let second = *both.newest().bytes();
        ensure_next(&roots, &tenant).unwrap();
        assert_eq!(load(&roots, &tenant).unwrap().bytes(), &second);
        let other_name = dir.path().join("same inode");
        fs::hard_link(&path, &other_name).unwrap();
        for _ in 0..2 {
            promote_next(&roots, &tenant).unwrap();
            let one = ring(&roots, &tenant).unwrap();
            assert!(one.older().is_none() && one.newest().bytes() == &second);
        }
        assert_eq!(fs::read(other_name).unwrap(), [0; 32]);
    }

    #[test]
    fn every_volume_has_a_passphrase_of_its_own() {
        let key = TenantKey::parse(&[7; 32]).unwrap();
        let other = TenantKey::parse(&[8; 32]).unwrap();
        let one = key.passphrase("i-00000001");
        assert_eq!(*one, *key.passphrase("i-00000001"));
        assert_ne!(*one, *key.passphrase("i-00000002"));
        assert_ne!(*one, *other.passphrase("i-00000001"));
        assert!(*one != [0; 32] && *one != [7; 32]);
    }
}
