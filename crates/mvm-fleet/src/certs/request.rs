//! A request for a certificate, as the authority's side reads it.
//!
//! Only its key is taken over, and only after the request was found to be signed by it; role and name are
//! words that whoever signs has to agree with. It refuses to know who brought it.

use mvm_core::{
    api::Role,
    error::{Error, ErrorKind},
};
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, PublicKey, PublicKeyData};

use super::facts::fingerprint;

/// The longest request, PEM.
const REQUEST_MAX: usize = 16 << 10;
/// The longest name in a certificate.
const NAME_MAX: usize = 64;

/// Whether this may be the name in a certificate.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_plain =
        name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    !name.is_empty() && name.len() <= NAME_MAX && is_plain
}

/// A request for a certificate.
pub struct SigningRequest {
    /// What the holder wants to be.
    pub role: Role,
    /// Who it is.
    pub name: String,
    /// The SHA-256 of its public key (SubjectPublicKeyInfo), hexadecimal.
    pub key: String,
    pub(super) public: PublicKey,
}

impl SigningRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// `Invalid` when it is none, when its own key did not sign it, or when its role or name is none.
    pub fn read(pem: &str) -> Result<Self, Error> {
        let invalid = |what: &str| {
            Error::new(ErrorKind::Invalid, format!("this is no request for a certificate: {what}"))
                .hint("write one: mvm agent certs request")
        };
        if pem.len() > REQUEST_MAX {
            return Err(invalid("it is too long"));
        }
        let read = CertificateSigningRequestParams::from_pem(pem)
            .map_err(|error| invalid("it makes no sense").because(&error))?;
        let word = |kind: DnType| match read.params.distinguished_name.get(&kind) {
            Some(DnValue::Utf8String(text)) => Some(text.clone()),
            Some(DnValue::PrintableString(text)) => Some(text.as_str().to_owned()),
            _ => None,
        };
        let role = word(DnType::OrganizationalUnitName).and_then(|unit| unit.parse().ok());
        let role = role.ok_or_else(|| invalid("it names no role"))?;
        let name = word(DnType::CommonName).filter(|name| is_name(name));
        let name = name.ok_or_else(|| invalid("it has no proper name"))?;
        let key = fingerprint(&read.public_key.subject_public_key_info());
        Ok(Self { role, name, key, public: read.public_key })
    }
}
