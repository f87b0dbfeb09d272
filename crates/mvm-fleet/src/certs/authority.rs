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
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{
    LIFE, SKEW,
    facts::{facts_of, fingerprint},
    server_name,
};
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
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: Zeroizing<String>,
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

    /// Reads an authority's certificate that came from afar.
    pub(super) fn of_pem(pem: &str) -> Result<Self, Error> {
        let invalid = || Error::new(ErrorKind::Invalid, "this is no authority's certificate");
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| invalid())?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| invalid())?;
        if !parsed.is_ca() {
            return Err(invalid());
        }
        Self::of(certificate.clone(), None)
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
        fingerprint(&self.certificate)
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

    /// Its certificate.
    pub(super) const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Error> {
        let Some(signer) = self.pair()? else {
            return Err(Error::new(ErrorKind::Conflict, "the authority's key is not here"));
        };
        Issuer::from_ca_cert_der(&self.certificate, signer)
            .map_err(|error| cannot("read the authority", &error))
    }

    /// A fresh key, and a certificate of it.
    pub(super) fn issue(&self, role: Role, name: &str, now: Timestamp) -> Result<Issued, Error> {
        let key = KeyPair::generate().map_err(|error| cannot("make a key", &error))?;
        let certificate = self.certify(&key, role, name, now)?;
        Ok(Issued { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }

    /// A certificate of a key, in PEM.
    pub(super) fn certify(
        &self,
        key: &impl PublicKeyData,
        role: Role,
        name: &str,
        now: Timestamp,
    ) -> Result<String, Error> {
        let mut params = params(role, name)?;
        params.use_authority_key_identifier_extension = true;
        // Left to itself rcgen makes it of the key, and a renewed certificate could not be told from a
        // revoked one.
        let mut serial = random::<16>()?;
        serial[0] = serial[0] & 0x3f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        lasting(&mut params, now, LIFE);
        let made = params
            .signed_by(key, &self.issuer()?)
            .map_err(|error| cannot("sign a certificate", &error))?;
        Ok(armored("CERTIFICATE", made.der()))
    }

    /// A list of revoked certificates, by serial and when it was revoked; PEM.
    pub(super) fn revoke(
        &self,
        number: u64,
        all: &[(Vec<u8>, Timestamp)],
        now: Timestamp,
    ) -> Result<String, Error> {
        let epoch = date_time_ymd(1970, 1, 1);
        let revoked = |(serial, at): &(Vec<u8>, Timestamp)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: epoch + since(*at),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: epoch + since(now),
            // A list is in force until a later one is, however late that comes.
            next_update: epoch + since(now.plus(AUTHORITY_LIFE)),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: all.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let made = params.signed_by(&self.issuer()?);
        let made = made.map_err(|error| cannot("sign a list of revoked certificates", &error))?;
        Ok(armored("X509 CRL", made.der()))
    }
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::new(ErrorKind::Failed, "the system gave no random bytes"))?;
    Ok(bytes)
}

/// A certificate of a key by itself, in DER: it says nothing but that its holder has the key.
pub(super) fn own(key: &str, name: &str, now: Timestamp) -> Result<CertificateDer<'static>, Error> {
    let pair = KeyPair::from_pem(key).map_err(|error| cannot("read the key", &error))?;
    let mut params = CertificateParams::new(vec![name.to_owned()])
        .map_err(|error| cannot("name a certificate", &error))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    lasting(&mut params, now, LIFE);
    let made = params.self_signed(&pair).map_err(|error| cannot("make a certificate", &error))?;
    Ok(made.der().clone())
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
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since(Timestamp(now.0.saturating_sub(u64::from(SKEW.0) * 1000)));
    params.not_after = epoch + since(now.plus(life));
}

/// From the epoch to a moment, to the second, as certificates have it.
const fn since(at: Timestamp) -> Duration {
    Duration::from_secs(at.0 / 1000)
}

fn private_key(pem: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
    Some(Zeroizing::new(key.secret_der().to_vec()))
}

/// DER in PEM (RFC 7468).
pub(super) fn armored(label: &str, der: &[u8]) -> String {
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

pub(super) fn cannot(act: &str, error: &rcgen::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("cannot {act}")).because(error)
}
