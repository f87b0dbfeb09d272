//! Small contents sealed in one piece, with the same ciphers as a snapshot's files: a data key of
//! their own, wrapped by the tenant's. What they are is associated data of both.

use std::io;

use ring::aead::{Aad, Nonce};
use zeroize::Zeroizing;

use mvm_pager::seal::{KEY, TAG};

use super::seal::{FileKey, NONCE, OsRandom, Random, Refused, cipher_key};
use crate::disk::key::TenantKey;

/// Encrypts in place, the tag at the end, under a fresh key; gives that key, wrapped.
pub(in crate::disk) fn seal(
    content: &mut Zeroizing<Vec<u8>>,
    tenant: &TenantKey,
    what: &[u8],
) -> io::Result<Vec<u8>> {
    let refused = |Refused| io::Error::from(io::ErrorKind::InvalidInput);
    let key = FileKey::draw(&mut OsRandom)?;
    // The key seals this content and nothing else, so that its nonce may be any.
    let tag = cipher_key(&key.0)
        .map_err(refused)?
        .seal_in_place_separate_tag(only_nonce(), Aad::from(what), content)
        .map_err(|_| refused(Refused))?;
    content.extend_from_slice(tag.as_ref());
    wrap(&key, tenant, what)
}

/// Decrypts in place.
pub(in crate::disk) fn open(
    content: &mut Zeroizing<Vec<u8>>,
    wrapped: &[u8],
    tenant: &TenantKey,
    what: &[u8],
) -> Result<(), Refused> {
    let key = unwrap(wrapped, tenant, what)?;
    let length = cipher_key(&key.0)?
        .open_in_place(only_nonce(), Aad::from(what), content)
        .map_err(|_| Refused)?
        .len();
    content.truncate(length);
    Ok(())
}

/// The wrapped key of a content, wrapped by another key.
pub(in crate::disk) fn rewrap(
    wrapped: &[u8],
    from: &TenantKey,
    to: &TenantKey,
    what: &[u8],
) -> Result<Vec<u8>, Refused> {
    wrap(&unwrap(wrapped, from, what)?, to, what).map_err(|_| Refused)
}

/// The key of a content: nonce, key and tag are wrapped in this order.
pub(in crate::disk) fn unwrap(
    wrapped: &[u8],
    tenant: &TenantKey,
    what: &[u8],
) -> Result<FileKey, Refused> {
    let (nonce, rest) = wrapped.split_at_checked(NONCE).ok_or(Refused)?;
    if rest.len() != KEY + TAG {
        return Err(Refused);
    }
    let mut rest = Zeroizing::new(rest.to_vec());
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Refused)?;
    let plain = cipher_key(tenant.bytes())?
        .open_in_place(nonce, wrapping(what), rest.as_mut_slice())
        .map_err(|_| Refused)?;
    let mut key = Zeroizing::new([0; KEY]);
    key.copy_from_slice(plain);
    Ok(FileKey(key))
}

fn wrap(key: &FileKey, tenant: &TenantKey, what: &[u8]) -> io::Result<Vec<u8>> {
    let refused = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut nonce = [0; NONCE];
    OsRandom.fill(&mut nonce)?;
    let mut wrapped = key.0.clone();
    let tag = cipher_key(tenant.bytes())
        .map_err(|Refused| refused())?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            wrapping(what),
            wrapped.as_mut(),
        )
        .map_err(|_| refused())?;
    Ok([&nonce, wrapped.as_slice(), tag.as_ref()].concat())
}

fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE])
}

fn wrapping(what: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([b"mvm small key\0".as_slice(), what].concat())
}
