//! Ed25519 keys that sign desired states and templates, and which of them a node trusts.
//!
//! A signing key is a file of its owner: the base64 of the 32 bytes that it is made from. A trusted key is
//! a `*.pub` file: the base64 of the 32 bytes of the public key. Whose it is follows from the key alone
//! ([`signer_id`]), so that the name of a file decides nothing. Signatures come from `ring`, like all
//! cryptography here; what it leaves open, keys of small order that verify anything, is refused when a
//! trusted key is read. This module refuses to know where the files lie.

use std::{fs, path::Path};

use mvm_core::{
    base64,
    error::{Error, ErrorKind},
    signed::{Envelope, PublicKey, Purpose, SignedDocument, TrustedKeys},
    units::{Seconds, Timestamp},
};
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use zeroize::Zeroizing;

use crate::files::{self, Readers};

/// The points whose order divides 8, without their sign bit: a signature by such a "key" holds for
/// messages that nobody signed. The list is that of libsodium's `ge25519_has_small_order`.
const SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// A key that signs desired states.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Makes a key and keeps it in a file of its owner; the public one is put beside it as `.pub`.
    ///
    /// # Errors
    /// `Conflict` when there is a file already, which is never replaced; `Failed` when it cannot be
    /// written.
    pub fn make(path: &Path) -> Result<Self, Error> {
        if path.exists() {
            let message = format!("there is a signing key in {}", path.display());
            return Err(Error::new(ErrorKind::Conflict, message).hint(
                "another one would be unknown to the nodes: give another file, or move it away",
            ));
        }
        let mut seed = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(&mut *seed).map_err(|_| {
            Error::new(ErrorKind::Failed, "the system gave no random bytes for a key")
        })?;
        let key = Self::from_seed(&*seed, path)?;
        let text = Zeroizing::new(base64::encode(&*seed) + "\n");
        files::write(path, &text, Readers::Owner)?;
        key.publish(&path.with_extension("pub"))?;
        Ok(key)
    }

    /// Reads a key.
    ///
    /// # Errors
    /// `NotFound`; `Permission` when others may read the file; `Invalid` when it holds no key.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = files::read_text(path)?.map(Zeroizing::new).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no signing key {}", path.display()))
                .hint("make one: mvm coordinator keygen")
        })?;
        files::guard(path, Readers::Owner)?;
        let seed = base64::decode(text.trim()).map(Zeroizing::new);
        Self::from_seed(&seed.unwrap_or_default(), path)
    }

    fn from_seed(seed: &[u8], path: &Path) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| {
            let message = format!("{} is no signing key: not base64 of 32 bytes", path.display());
            Error::new(ErrorKind::Invalid, message)
        })?;
        Ok(Self { pair })
    }

    /// Writes the public key into a file, as nodes want it.
    ///
    /// # Errors
    /// `Failed` when it cannot be written.
    pub fn publish(&self, path: &Path) -> Result<(), Error> {
        files::write(path, &format!("{}\n", self.public_text()), Readers::All)
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(self.pair.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(bytes)
    }

    /// The public key in base64.
    #[must_use]
    pub fn public_text(&self) -> String {
        base64::encode(&self.public().0)
    }

    /// Signs bytes that have a meaning of their own, as the list of a release's files has: the 64 bytes of
    /// the signature.
    #[must_use]
    pub fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// Signs a document for whoever trusts this key.
    #[must_use]
    pub fn sign_document(&self, purpose: Purpose, document: &[u8]) -> SignedDocument {
        let mut signed = SignedDocument {
            payload: base64::encode(document),
            signature: String::new(),
            signer_id: signer_id(&self.public()),
        };
        signed.signature = base64::encode(self.pair.sign(&signed.message(purpose)).as_ref());
        signed
    }

    /// Signs a document for a node.
    #[must_use]
    pub fn sign(&self, document: &[u8], node_id: &str, terms: &Terms) -> Envelope {
        let mut envelope = Envelope {
            payload: base64::encode(document),
            signature: String::new(),
            signer_id: signer_id(&self.public()),
            node_id: node_id.to_owned(),
            sequence: terms.sequence.unwrap_or(terms.now.0),
            not_before: terms.now,
            not_after: terms.now.plus(terms.valid),
        };
        envelope.signature = base64::encode(self.pair.sign(&envelope.message()).as_ref());
        envelope
    }
}

/// Under which terms a document is signed.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The time.
    pub now: Timestamp,
    /// Its place among the signer's; without one the time in milliseconds, which rises by itself.
    pub sequence: Option<u64>,
    /// For how long it may be accepted.
    pub valid: Seconds,
}

/// Whose key it is.
#[must_use]
pub fn signer_id(key: &PublicKey) -> String {
    let digest = digest::digest(&digest::SHA256, &key.0);
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a signature of a message holds.
#[must_use]
pub fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key.0).verify(message, signature).is_ok()
}

/// Reads the text of a public key.
///
/// # Errors
/// What is wrong with it.
pub fn read_public(text: &str) -> Result<PublicKey, String> {
    let bytes = base64::decode(text.trim()).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let bytes = bytes.ok_or("not base64 of 32 bytes")?;
    let mut unsigned = bytes;
    unsigned[31] &= 0x7f;
    if SMALL_ORDER.contains(&hex::encode(unsigned).as_str()) {
        return Err("a key of small order, which verifies anything".to_owned());
    }
    Ok(PublicKey(bytes))
}

/// The trusted keys of a directory, and what of it is no key.
#[derive(Debug, Default)]
pub struct Trusted {
    /// The keys, by signer.
    pub keys: TrustedKeys,
    /// Each file that was skipped, and why.
    pub skipped: Vec<(String, String)>,
}

/// Reads all `*.pub` files of a directory; one without any when it is not there. What others may write is
/// skipped like what is no key.
///
/// # Errors
/// `Failed` when the directory cannot be read.
pub fn trusted(directory: &Path) -> Result<Trusted, Error> {
    let mut found = Trusted::default();
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Failed, format!("cannot read {}", directory.display()))
            .because(&error)
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed(error)),
    };
    files::guard(directory, Readers::All)?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    for path in paths {
        if path.extension().is_none_or(|extension| extension != "pub") {
            continue;
        }
        match read_trusted(&path) {
            Ok(key) => drop(found.keys.insert(signer_id(&key), key)),
            Err(reason) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                tracing::warn!(file = %path.display(), reason, "a trusted key is skipped");
                found.skipped.push((name, reason));
            }
        }
    }
    Ok(found)
}

fn read_trusted(path: &Path) -> Result<PublicKey, String> {
    files::guard(path, Readers::All).map_err(|error| error.to_string())?;
    let text = files::read_text(path).map_err(|error| error.to_string())?;
    read_public(&text.unwrap_or_default())
}

/// Puts a public key among the trusted ones; whether it was not there before.
///
/// # Errors
/// `Invalid` when the text is no key; `Failed` when it cannot be written.
pub fn trust(directory: &Path, text: &str) -> Result<(String, bool), Error> {
    let key = read_public(text).map_err(|reason| {
        Error::new(ErrorKind::Invalid, format!("this is no public key: {reason}"))
            .hint("give the .pub file that mvm coordinator keygen wrote")
    })?;
    let signer = signer_id(&key);
    if trusted(directory)?.keys.contains_key(&signer) {
        return Ok((signer, false));
    }
    let text = base64::encode(&key.0) + "\n";
    files::write(&directory.join(format!("{signer}.pub")), &text, Readers::All)?;
    Ok((signer, true))
}

#[cfg(test)]
mod tests;
