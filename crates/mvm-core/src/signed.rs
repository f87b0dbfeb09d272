//! A signed desired state: the envelope, what of it is signed, and whether a node takes it.
//!
//! ```text
//! envelope ─▶ authentic (signer known, signature holds, this node, this hour) ─▶ in turn ─▶ accepted
//!                 └──────────────── a named rejection ──────────────┴────────────────┘
//! ```
//!
//! The signature is asked first: nothing is said of an envelope that nobody trusted has signed. The two
//! halves exist because a signature is checked before, and a sequence within, the transaction that stores
//! the state; [`verdict`] is both. Cryptography comes in as a function, the time as an argument. This
//! module refuses to know where keys lie and what a state asks for. What is signed for no node and no hour is a
//! [`SignedDocument`], by the same keys and in the same way.

mod document;

pub use document::{Purpose, SignedDocument};

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    base64,
    error::{Error, ErrorKind},
    units::{Seconds, Timestamp},
};

/// What is signed begins with this, so that no signature for another purpose is one of a state.
const DOMAIN: &[u8] = b"mvm/desired-state/1";
/// By how much the clock of a node may be behind that of a signer.
pub const SKEW: Seconds = Seconds(300);
/// The longest text of a name in an envelope, in bytes.
const NAME_MAX: usize = 128;

/// An Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

/// The keys that a node trusts, by the ids of their signers.
pub type TrustedKeys = BTreeMap<String, PublicKey>;

/// Whether a signature (64 bytes) of a message holds.
pub type Verify<'a> = &'a dyn Fn(&PublicKey, &[u8], &[u8]) -> bool;

/// A desired state with a signature, as it is written and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The desired state: the bytes of its document in base64.
    pub payload: String,
    /// The Ed25519 signature over [`Envelope::message`] in base64.
    pub signature: String,
    /// Who signed: the first 32 hexadecimal digits of the SHA-256 of the public key.
    pub signer_id: String,
    /// The node that it is for.
    pub node_id: String,
    /// Rises with each state of a signer for a node.
    pub sequence: u64,
    /// From when it may be accepted.
    pub not_before: Timestamp,
    /// Until when it may be accepted; what was accepted stays in force.
    pub not_after: Timestamp,
}

impl Envelope {
    /// What is signed: all but the signature, each field with its length before it. Of the payload it is
    /// the text, so that not even its spelling can be another one.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let fields: [&[u8]; 7] = [
            DOMAIN,
            self.signer_id.as_bytes(),
            self.node_id.as_bytes(),
            &self.sequence.to_be_bytes(),
            &self.not_before.0.to_be_bytes(),
            &self.not_after.0.to_be_bytes(),
            self.payload.as_bytes(),
        ];
        framed(&fields)
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// [`Rejection::Malformed`].
    pub fn read(bytes: &[u8]) -> Result<Self, Rejection> {
        serde_json::from_slice(bytes).map_err(|error| Rejection::Malformed(error.to_string()))
    }
}

/// These fields, each with its length before it.
fn framed(fields: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::new();
    for field in fields {
        message.extend_from_slice(&(field.len() as u64).to_be_bytes());
        message.extend_from_slice(field);
    }
    message
}

/// Whether somebody trusted made this signature, in base64, of a message.
fn signed_by(
    signer_id: &str,
    message: &[u8],
    signature: &str,
    keys: &TrustedKeys,
    verify: Verify<'_>,
) -> Result<(), Rejection> {
    let signature = base64::decode(signature).filter(|bytes| bytes.len() == 64);
    let malformed = || Rejection::Malformed("the signature is not base64 of 64 bytes".to_owned());
    let signature = signature.ok_or_else(malformed)?;
    let unknown = || Rejection::UnknownSigner(signer_id.to_owned());
    let key = keys.get(signer_id).ok_or_else(unknown)?;
    if verify(key, message, &signature) { Ok(()) } else { Err(Rejection::BadSignature) }
}

/// Why a node does not take a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It makes no sense.
    #[error("it is malformed: {0}")]
    Malformed(String),
    /// It has no signature, and this node takes none without.
    #[error("it is not signed")]
    Unsigned,
    /// Nobody whom this node trusts has this id.
    #[error("its signer {0} is unknown")]
    UnknownSigner(String),
    /// The signature is not one of this content by that signer.
    #[error("its signature does not hold")]
    BadSignature,
    /// It is for another node.
    #[error("it is for the node {theirs}, this is {ours}")]
    WrongNode {
        /// Whom it is for.
        theirs: String,
        /// Who this is.
        ours: String,
    },
    /// Its time has not come.
    #[error("it is valid from {} on", .0.rfc3339())]
    NotYetValid(Timestamp),
    /// Its time is over.
    #[error("it expired at {}", .0.rfc3339())]
    Expired(Timestamp),
    /// A later one of this signer was accepted.
    #[error("its sequence {offered} is old: {last} was accepted")]
    OldSequence {
        /// What it has.
        offered: u64,
        /// What the last accepted one had.
        last: u64,
    },
}

impl Rejection {
    /// Its name in audit logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Unsigned => "unsigned",
            Self::UnknownSigner(_) => "unknown signer",
            Self::BadSignature => "bad signature",
            Self::WrongNode { .. } => "wrong node",
            Self::NotYetValid(_) => "not yet valid",
            Self::Expired(_) => "expired",
            Self::OldSequence { .. } => "old sequence",
        }
    }

    const fn kind(&self) -> ErrorKind {
        match self {
            Self::Malformed(_) => ErrorKind::Invalid,
            Self::Unsigned
            | Self::UnknownSigner(_)
            | Self::BadSignature
            | Self::NotYetValid(_)
            | Self::Expired(_) => ErrorKind::Integrity,
            Self::WrongNode { .. } => ErrorKind::Permission,
            Self::OldSequence { .. } => ErrorKind::Conflict,
        }
    }

    fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Malformed(_) => return None,
            Self::Unsigned => "sign it: mvm coordinator push signs unless told otherwise",
            Self::UnknownSigner(_) => {
                "let the node trust that key: mvm add host --signing-key FILE.pub, on the node"
            }
            Self::BadSignature => "sign it again: mvm coordinator sign",
            Self::WrongNode { .. } => "name the right node in it: mvm node info, on the node",
            Self::NotYetValid(_) | Self::Expired(_) => {
                "compare the clocks of signer and node, and sign it again: mvm coordinator sign"
            }
            Self::OldSequence { .. } => "sign it again: each signature has a higher sequence",
        })
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        let message = "the desired state is rejected";
        let error = Self::new(rejection.kind(), message).because(&rejection);
        match rejection.advice() {
            Some(advice) => error.hint(advice),
            None => error,
        }
    }
}

/// Against what an envelope is checked.
pub struct Surroundings<'a> {
    /// This node's id.
    pub node_id: &'a str,
    /// Whom it trusts.
    pub keys: &'a TrustedKeys,
    /// The time.
    pub now: Timestamp,
    /// How a signature is checked.
    pub verify: Verify<'a>,
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node_id, keys, now, verify: _ } = self;
        f.debug_struct("Surroundings")
            .field("node_id", node_id)
            .field("keys", keys)
            .field("now", now)
            .finish_non_exhaustive()
    }
}

/// The content of an envelope that a trusted signer made for this node and this hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentic {
    /// The document.
    pub document: Vec<u8>,
    /// Who signed.
    pub signer_id: String,
    /// Its place among that signer's.
    pub sequence: u64,
}

impl Authentic {
    /// Whether it comes after the last accepted one of its signer.
    ///
    /// # Errors
    /// [`Rejection::OldSequence`], also for the very same one.
    pub const fn in_turn(&self, last: Option<u64>) -> Result<(), Rejection> {
        match last {
            Some(last) if self.sequence <= last => {
                Err(Rejection::OldSequence { offered: self.sequence, last })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether a trusted signer made it for this node and this hour.
///
/// # Errors
/// The first reason against it.
pub fn authentic(
    envelope: &Envelope,
    surroundings: &Surroundings<'_>,
) -> Result<Authentic, Rejection> {
    let malformed = |what: &str| Rejection::Malformed(what.to_owned());
    if envelope.signer_id.len() > NAME_MAX || envelope.node_id.len() > NAME_MAX {
        return Err(malformed("a name in it is too long"));
    }
    let (signer_id, signature) = (&envelope.signer_id, &envelope.signature);
    signed_by(signer_id, &envelope.message(), signature, surroundings.keys, surroundings.verify)?;
    if envelope.node_id != surroundings.node_id {
        let (theirs, ours) = (envelope.node_id.clone(), surroundings.node_id.to_owned());
        return Err(Rejection::WrongNode { theirs, ours });
    }
    if surroundings.now.plus(SKEW) < envelope.not_before {
        return Err(Rejection::NotYetValid(envelope.not_before));
    }
    if surroundings.now > envelope.not_after {
        return Err(Rejection::Expired(envelope.not_after));
    }
    let document = base64::decode(&envelope.payload);
    let document = document.ok_or_else(|| malformed("the payload is not base64"))?;
    let (signer_id, sequence) = (envelope.signer_id.clone(), envelope.sequence);
    Ok(Authentic { document, signer_id, sequence })
}

/// Whether a node takes an envelope, when `last` is the last accepted sequence of its signer.
///
/// # Errors
/// The first reason against it.
pub fn verdict(
    envelope: &Envelope,
    surroundings: &Surroundings<'_>,
    last: Option<u64>,
) -> Result<Authentic, Rejection> {
    let authentic = authentic(envelope, surroundings)?;
    authentic.in_turn(last)?;
    Ok(authentic)
}

/// The state that a node follows, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedState {
    /// What is known of it.
    pub acceptance: Acceptance,
    /// The document.
    pub document: String,
}

/// That a state was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Who signed it; nobody in development.
    #[serde(default)]
    pub signer_id: Option<String>,
    /// Its place among that signer's.
    #[serde(default)]
    pub sequence: Option<u64>,
    /// When.
    pub accepted_at: Timestamp,
    /// How many tenants it names.
    #[serde(default)]
    pub tenants: u64,
}

#[cfg(test)]
mod tests;
