//! A document with a signature that holds for whoever trusts the signer, anywhere and at any time.
//!
//! What a signature is for is a part of what is signed, so that none for one purpose is one for another.
//! It refuses to know what is in a document.

use serde::{Deserialize, Serialize};

use super::{NAME_MAX, Rejection, TrustedKeys, Verify, framed, signed_by};
use crate::base64;

/// What a document is signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be taken over as a template.
    Template,
}

impl Purpose {
    const fn domain(self) -> &'static [u8] {
        match self {
            Self::Template => b"mvm/template/1",
        }
    }
}

/// A document with a signature, as it is written and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedDocument {
    /// The bytes of the document in base64.
    pub payload: String,
    /// The Ed25519 signature over [`SignedDocument::message`] in base64.
    pub signature: String,
    /// Who signed: the first 32 hexadecimal digits of the SHA-256 of the public key.
    pub signer_id: String,
}

impl SignedDocument {
    /// What is signed: purpose, signer and the text of the payload, each with its length before it.
    #[must_use]
    pub fn message(&self, purpose: Purpose) -> Vec<u8> {
        framed(&[purpose.domain(), self.signer_id.as_bytes(), self.payload.as_bytes()])
    }

    /// The document, if somebody trusted signed it for this purpose.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn open(
        &self,
        purpose: Purpose,
        keys: &TrustedKeys,
        verify: Verify<'_>,
    ) -> Result<Vec<u8>, Rejection> {
        let malformed = |what: &str| Rejection::Malformed(what.to_owned());
        if self.signer_id.len() > NAME_MAX {
            return Err(malformed("a name in it is too long"));
        }
        let message = self.message(purpose);
        signed_by(&self.signer_id, &message, &self.signature, keys, verify)?;
        base64::decode(&self.payload).ok_or_else(|| malformed("the payload is not base64"))
    }
}
