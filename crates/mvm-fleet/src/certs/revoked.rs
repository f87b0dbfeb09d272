//! Lists of revoked certificates (X.509 CRL, RFC 5280), as those read them who believe an authority.
//!
//! A list is one of the authority's own signature, whole, and in force until one with a higher number is. It
//! lies beside the authority's certificate: `ca.crl` by `ca.crt`. This module refuses to know who is on it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use mvm_core::{
    api,
    error::{Error, ErrorKind},
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{Authority, authority::armored, facts::serial_text};
use crate::{
    files::{self, Readers},
    rpc::verifier,
};

/// The longest list, PEM: some thousand certificates.
pub const LIST_MAX: usize = 192 << 10;

/// A list of revoked certificates that an authority signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    number: u64,
    serials: BTreeSet<String>,
    der: CertificateRevocationListDer<'static>,
}

impl Revoked {
    /// Reads a list that one of these authorities signed.
    ///
    /// # Errors
    /// `Invalid` when it is none; `Integrity` when none of them signed it.
    pub(crate) fn read(pem: &str, by: &[CertificateDer<'_>]) -> Result<Self, Error> {
        let invalid = || Error::new(ErrorKind::Invalid, "this is no list of revoked certificates");
        if pem.len() > LIST_MAX {
            return Err(invalid());
        }
        let der =
            CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).map_err(|_| invalid())?;
        let (rest, list) =
            CertificateRevocationList::from_der(&der).map_err(|error| invalid().because(&error))?;
        if !rest.is_empty() || !by.iter().any(|authority| is_signed(&list, authority)) {
            let message = "the list of revoked certificates is not one of the trusted authority";
            return Err(Error::new(ErrorKind::Integrity, message));
        }
        let number = list.crl_number().map(|number| number.to_u64_digits());
        let number = match number.as_deref() {
            Some([]) => 0,
            Some([number]) => *number,
            Some(_) | None => return Err(invalid()),
        };
        let all = list.iter_revoked_certificates();
        let serials = all.map(|one| serial_text(one.raw_serial())).collect();
        let read = Self { number, serials, der };
        // TLS reads more strictly: a list that it cannot read would leave a node without a server.
        let authorities: Vec<_> = by.iter().map(|one| one.clone().into_owned()).collect();
        verifier(&authorities, Some(&read)).map_err(|error| invalid().because(&error))?;
        Ok(read)
    }

    /// The list that is in force beside an authority's certificate; none before the first.
    ///
    /// # Errors
    /// As [`Revoked::read`]: who cannot read the list believes nobody.
    pub(super) fn beside(ca: &Path, by: &[CertificateDer<'_>]) -> Result<Option<Self>, Error> {
        let place = place(ca);
        let Some(pem) = files::read_text(&place)? else { return Ok(None) };
        let read = Self::read(&pem, by);
        read.map(Some).map_err(|error| error.context(format!("{} is of no use", place.display())))
    }

    /// Its number; rises with each list.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Whether a certificate is on it, by its serial.
    #[must_use]
    pub fn has(&self, serial: &str) -> bool {
        self.serials.contains(serial)
    }

    /// What is told of it from afar.
    #[must_use]
    pub fn told(&self) -> api::Revocations {
        api::Revocations { number: self.number, certificates: self.serials.len() as u64 }
    }

    /// Its text.
    #[must_use]
    pub fn pem(&self) -> String {
        armored("X509 CRL", &self.der)
    }

    pub(crate) fn der(&self) -> CertificateRevocationListDer<'static> {
        self.der.clone()
    }
}

fn is_signed(list: &CertificateRevocationList<'_>, by: &CertificateDer<'_>) -> bool {
    let Ok((_, authority)) = x509_parser::parse_x509_certificate(by) else { return false };
    list.issuer().as_raw() == authority.subject().as_raw()
        && list.verify_signature(authority.public_key()).is_ok()
}

fn place(ca: &Path) -> PathBuf {
    ca.with_extension("crl")
}

/// The list that is in force beside an authority's certificate; none before the first, nor before there is
/// an authority.
///
/// # Errors
/// `Invalid` or `Integrity` when the file holds something else.
pub fn revoked(ca: &Path) -> Result<Option<Revoked>, Error> {
    if files::read(ca)?.is_none() {
        return Ok(None);
    }
    let authority = Authority::read(ca)?;
    Revoked::beside(ca, std::slice::from_ref(authority.certificate()))
}

/// Takes a list into force beside an authority's certificate; it and whether it was not so before.
///
/// # Errors
/// `Invalid` when it is none; `Integrity` when it is not the authority's; `Conflict` when a later one, or
/// another one of the same number, is in force.
pub fn revoke(ca: &Path, list: &str) -> Result<(Revoked, bool), Error> {
    let _turn = files::turn(files::directory_of(ca))?;
    take(ca, list)
}

/// As [`revoke`]; the caller has its turn.
pub(super) fn take(ca: &Path, list: &str) -> Result<(Revoked, bool), Error> {
    let authority = Authority::read(ca)?;
    let by = std::slice::from_ref(authority.certificate());
    let offered = Revoked::read(list, by)?;
    if let Some(present) = Revoked::beside(ca, by)? {
        if present == offered {
            return Ok((present, false));
        }
        if offered.number <= present.number {
            let message = format!(
                "the list of revoked certificates has the number {}, and {} is in force",
                offered.number, present.number
            );
            return Err(Error::new(ErrorKind::Conflict, message)
                .hint("push the latest one: mvm coordinator revoke --node HOST:PORT"));
        }
    }
    files::write(&place(ca), &offered.pem(), Readers::All)?;
    Ok((offered, true))
}
