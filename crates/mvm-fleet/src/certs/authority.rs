//! A certificate authority, and the certificates and requests that it is about.
//!
//! It refuses to know where they lie.

use std::{path::Path, time::Duration};

use mvm_core::{
    api::Role,
    base64,
    error::{Error, ErrorKind},
    units::{Seconds, Timestamp},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use ring::digest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{LIFE, SKEW, facts_of, server_name};
use crate::files;

/// How long an authority lives: ten years.
const AUTHORITY_LIFE: Seconds = Seconds(3650 * 24 * 3600);

/// Who signs certificates.
#[derive(Clone)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    name: String,
    key: Option<Zeroizing<Vec<u8>>>,
}

/// A certificate with its key, both in PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: Zeroizing<String>,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Errors
    /// `Failed` without random bytes.
    pub fn make(name: &str, now: Timestamp) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(|error| cannot("make a key", &error))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "mvm");
        // Two authorities never have the same name, so that who trusts one is not confused by another.
        let mark = hex::encode(digest::digest(&digest::SHA256, key.public_key_raw()));
        let mark = mark.get(..8).unwrap_or_default();
        params.distinguished_name.push(DnType::CommonName, format!("{name} {mark}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        lasting(&mut params, now, AUTHORITY_LIFE);
        let made = params.self_signed(&key).map_err(|error| cannot("make an authority", &error))?;
        let der = Zeroizing::new(key.serialized_der().to_vec());
        Self::of(made.der().clone(), Some(der))
    }

    /// Reads an authority from a file with its certificate and, if it may sign here, its key.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the file holds no authority; `Permission` when it holds a key that others
    /// may read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let pem = files::read(path)?.map(Zeroizing::new).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no {}", path.display()))
        })?;
        let invalid = |what: &str| {
            Error::new(ErrorKind::Invalid, format!("{} {what}", path.display()))
                .hint("give the PEM file of the fleet's certificate authority")
        };
        let certificate = CertificateDer::from_pem_slice(&pem)
            .map_err(|_| invalid("holds no certificate in PEM"))?;
        let key = private_key(&pem);
        if key.is_some() {
            files::guard(path, files::Readers::Owner)?;
        }
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|_| invalid("holds no certificate"))?;
        if !parsed.is_ca() {
            return Err(invalid("holds a certificate that may not sign others"));
        }
        let authority = Self::of(certificate.clone(), key)?;
        authority.check(path)?;
        Ok(authority)
    }

    /// The same authority with its key from another file.
    pub(super) fn with_key(&self, path: &Path) -> Result<Self, Error> {
        let pem = files::read(path)?.map(Zeroizing::new).unwrap_or_default();
        let authority = Self { key: private_key(&pem), ..self.clone() };
        authority.check(path)?;
        Ok(authority)
    }

    fn of(
        certificate: CertificateDer<'static>,
        key: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Self, Error> {
        let name = facts_of(&certificate, Timestamp(0))?.name;
        Ok(Self { certificate, name, key })
    }

    /// Refuses a key that is not the one in the certificate: what it signs would be believed by nobody.
    fn check(&self, path: &Path) -> Result<(), Error> {
        let Some(key) = self.pair()? else { return Ok(()) };
        if is_of(&key, &self.certificate) {
            return Ok(());
        }
        let message = format!("the key in {} is not that of the authority", path.display());
        Err(Error::new(ErrorKind::Invalid, message))
    }

    fn pair(&self) -> Result<Option<KeyPair>, Error> {
        let Some(der) = &self.key else { return Ok(None) };
        let pair = KeyPair::try_from(der.as_slice());
        pair.map(Some).map_err(|error| cannot("read the authority's key", &error))
    }

    /// Whether its key is here.
    #[must_use]
    pub const fn can_sign(&self) -> bool {
        self.key.is_some()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SHA-256 of its certificate, hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, &self.certificate))
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        armored("CERTIFICATE", &self.certificate)
    }

    /// Its key in PEM; empty when it is not here.
    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        let key = self.key.as_ref();
        Zeroizing::new(key.map(|der| armored("PRIVATE KEY", der)).unwrap_or_default())
    }

    /// A fresh key, and a certificate of it.
    pub(super) fn issue(&self, role: Role, name: &str, now: Timestamp) -> Result<Issued, Error> {
        let Some(signer) = self.pair()? else {
            return Err(Error::new(ErrorKind::Conflict, "the authority's key is not here"));
        };
        let issuer = Issuer::from_ca_cert_der(&self.certificate, signer)
            .map_err(|error| cannot("read the authority", &error))?;
        let key = KeyPair::generate().map_err(|error| cannot("make a key", &error))?;
        let mut params = params(role, name)?;
        params.use_authority_key_identifier_extension = true;
        lasting(&mut params, now, LIFE);
        let made = params
            .signed_by(&key, &issuer)
            .map_err(|error| cannot("sign a certificate", &error))?;
        let key = Zeroizing::new(key.serialize_pem());
        Ok(Issued { certificate: armored("CERTIFICATE", made.der()), key })
    }
}

fn is_of(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| {
        parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
    })
}

/// Whether a key in PEM is the one that a certificate is of.
pub(super) fn belongs(key: &str, certificate: &CertificateDer<'_>) -> bool {
    KeyPair::from_pem(key).is_ok_and(|key| is_of(&key, certificate))
}

/// A fresh key in PEM.
pub(super) fn new_key() -> Result<Zeroizing<String>, Error> {
    let key = KeyPair::generate().map_err(|error| cannot("make a key", &error))?;
    Ok(Zeroizing::new(key.serialize_pem()))
}

/// A request for a certificate of a key, in PEM.
pub(super) fn request(key: &str, role: Role, name: &str) -> Result<String, Error> {
    let pair = KeyPair::from_pem(key).map_err(|error| cannot("read the key", &error))?;
    let made = params(role, name)?.serialize_request(&pair);
    let made = made.map_err(|error| cannot("make a request", &error))?;
    Ok(armored("CERTIFICATE REQUEST", made.der()))
}

/// What certificates of a role say.
fn params(role: Role, name: &str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(vec![server_name(role).to_owned()])
        .map_err(|error| cannot("name a certificate", &error))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "mvm");
    params.distinguished_name.push(DnType::OrganizationalUnitName, role.name());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match role {
        Role::Node => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
        Role::Coordinator | Role::Observer => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    Ok(params)
}

/// From a little before this moment on.
fn lasting(params: &mut CertificateParams, now: Timestamp, life: Seconds) {
    let at = |seconds: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let seconds = now.0 / 1000;
    params.not_before = at(seconds.saturating_sub(SKEW.0.into()));
    params.not_after = at(seconds + u64::from(life.0));
}

fn private_key(pem: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
    Some(Zeroizing::new(key.secret_der().to_vec()))
}

/// DER in PEM (RFC 7468).
fn armored(label: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(base64::encode(der));
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem + "-----END " + label + "-----\n"
}

fn cannot(act: &str, error: &rcgen::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("cannot {act}")).because(error)
}
