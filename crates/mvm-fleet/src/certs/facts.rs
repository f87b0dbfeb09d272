//! What a certificate says.
//!
//! It refuses to know whether anybody believes it; TLS does.

use mvm_core::{
    api::{self, Role},
    error::{Error, ErrorKind},
    units::Timestamp,
};
use ring::digest;
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, x509::X509Name};

/// What is in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its subject, as one line.
    pub subject: String,
    /// Who it is of.
    pub name: String,
    /// What its holder may be; none in one that is not of this kind.
    pub role: Option<Role>,
    /// Who signed it.
    pub issuer: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// Its number among those of its authority, hexadecimal.
    pub serial: String,
    /// The SHA-256 of it, hexadecimal.
    pub fingerprint: String,
    /// The SHA-256 of its public key (SubjectPublicKeyInfo), hexadecimal.
    pub key: String,
    /// Whether half its life is over, so that it shall be renewed.
    pub is_due: bool,
}

/// Reads a certificate.
///
/// # Errors
/// `Invalid` when it is none.
pub fn facts_of(der: &CertificateDer<'_>, now: Timestamp) -> Result<Facts, Error> {
    let invalid = || Error::new(ErrorKind::Invalid, "this is no certificate");
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| invalid().because(&error))?;
    let moment = |seconds: i64| u64::try_from(seconds).map(|s| Timestamp(s.saturating_mul(1000)));
    let validity = certificate.validity();
    let not_before = moment(validity.not_before.timestamp()).map_err(|_| invalid())?;
    let not_after = moment(validity.not_after.timestamp()).map_err(|_| invalid())?;
    let subject = certificate.subject();
    let units = subject.iter_organizational_unit().filter_map(|unit| unit.as_str().ok());
    // Two units could be read as two roles: then it has none.
    let roles: Vec<Option<Role>> = units.map(|unit| unit.parse().ok()).collect();
    let role = if let [Some(role)] = roles.as_slice() { Some(*role) } else { None };
    Ok(Facts {
        subject: subject.to_string(),
        name: common_name(subject),
        role,
        issuer: common_name(certificate.issuer()),
        not_before,
        not_after,
        serial: serial_text(certificate.raw_serial()),
        fingerprint: fingerprint(der),
        key: fingerprint(certificate.public_key().raw),
        is_due: now.0 >= not_before.0.midpoint(not_after.0),
    })
}

impl Facts {
    /// What is told of it from afar.
    #[must_use]
    pub fn told(&self) -> api::Certificate {
        api::Certificate {
            name: self.name.clone(),
            serial: self.serial.clone(),
            fingerprint: self.fingerprint.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
            renewal_due: self.is_due,
        }
    }
}

/// The SHA-256 of something, hexadecimal.
pub(super) fn fingerprint(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// A serial number, hexadecimal, without what only says that it is no negative one.
pub(super) fn serial_text(raw: &[u8]) -> String {
    let start = raw.iter().position(|byte| *byte != 0).unwrap_or(raw.len());
    hex::encode(raw.get(start..).unwrap_or_default())
}

fn common_name(name: &X509Name<'_>) -> String {
    let found = name.iter_common_name().next().and_then(|name| name.as_str().ok());
    found.unwrap_or_default().to_owned()
}
