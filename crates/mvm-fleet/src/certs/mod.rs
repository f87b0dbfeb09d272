//! Certificates: who is who among nodes and coordinators.
//!
//! ```text
//! certs/ca.crt        who may sign           ca.key   only where this side made the authority itself
//! certs/ca.crl        whom nobody believes   ca.issued, ca.tokens   what this side's authority did
//! certs/<role>.crt    this side, 24 hours    <role>.key   0600    <role>.csr   while it waits
//! ```
//!
//! - [`Registry`] — the authority's side: signs, invites with a [`Token`], revokes.
//! - [`enroll`] — a node's side of getting a certificate that others sign.
//! - [`Revoked`] — lists of revoked certificates.
//!
//! A certificate's organisational unit is its role, its common name who it is; its one DNS name is that of
//! the role ([`server_name`]), so that no coordinator or observer can pose as a node. It begins five
//! minutes early, for clocks that are behind, and is renewed at half its life wherever the authority's key
//! is at hand. A key that signs for a whole fleet is never copied to a node: who gives it with `--ca`
//! gives it again for the next certificate. This module refuses to know who may do what.

mod authority;
pub mod enroll;
mod facts;
mod registry;
mod request;
mod revoked;
#[cfg(test)]
mod tests;
mod token;

use std::path::{Path, PathBuf};

use mvm_core::{
    api::Role,
    error::{Error, ErrorKind},
    units::{Seconds, Timestamp},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

pub use authority::Authority;
pub use facts::{Facts, facts_of};
pub use registry::{Registry, RevokedCertificate};
pub use request::{SigningRequest, is_name};
pub use revoked::{LIST_MAX, Revoked, revoke, revoked};
pub use token::{Side, Token};

use crate::files::{self, Readers};

/// How long a certificate lives.
pub const LIFE: Seconds = Seconds(24 * 3600);
/// By how much clocks may differ.
pub const SKEW: Seconds = Seconds(300);

/// The DNS name in the certificates of a role.
#[must_use]
pub fn server_name(role: Role) -> &'static str {
    match role {
        Role::Coordinator => "coordinator.mvm.internal",
        Role::Node => "node.mvm.internal",
        Role::Observer => "observer.mvm.internal",
    }
}

/// Where one side's authority, certificate and key lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Places {
    /// Those of a role in a directory of certificates.
    #[must_use]
    pub fn of(directory: &Path, role: Role) -> Self {
        let file = |end: &str| directory.join(format!("{}.{end}", role.name()));
        Self { ca: directory.join("ca.crt"), cert: file("crt"), key: file("key") }
    }
}

/// What one side shows and whom it believes.
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) revoked: Option<Revoked>,
    /// What is in the certificate.
    pub facts: Facts,
}

impl Identity {
    /// As who it is, but believing also who is on the list of revoked certificates: to tell them so.
    #[must_use]
    pub fn forgiving(self) -> Self {
        Self { revoked: None, ..self }
    }
}

/// Reads an identity.
///
/// # Errors
/// `NotFound` when a file is missing, with what makes it; `Permission` when others may read the key;
/// `Invalid` when a file holds something else; `Integrity` when the certificate is over or revoked.
pub fn identity(places: &Places, now: Timestamp) -> Result<Identity, Error> {
    let (authorities, chain) = (certificates(&places.ca)?, certificates(&places.cert)?);
    let pem = files::read(&places.key)?.map(Zeroizing::new).ok_or_else(|| missing(&places.key))?;
    files::guard(&places.key, Readers::Owner)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        Error::new(ErrorKind::Invalid, format!("{} holds no private key", places.key.display()))
    })?;
    let facts = first(&chain, &places.cert).and_then(|der| facts_of(der, now))?;
    if now > facts.not_after {
        let message = format!("the certificate {} is over", places.cert.display());
        return Err(Error::new(ErrorKind::Integrity, message)
            .hint("get another one: mvm agent certs rotate"));
    }
    let revoked = Revoked::beside(&places.ca, &authorities)?;
    if revoked.as_ref().is_some_and(|list| list.has(&facts.serial)) {
        let message = format!("the certificate {} is revoked", places.cert.display());
        return Err(Error::new(ErrorKind::Integrity, message)
            .hint("a node has to be approved again: mvm add host --token TOKEN"));
    }
    Ok(Identity { chain, key, authorities, revoked, facts })
}

/// What a command did to one file or found it to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which act, in words.
    pub act: String,
    /// Whether anything changed.
    pub changed: bool,
}

impl Step {
    fn of(act: impl Into<String>, changed: bool) -> Self {
        Self { act: act.into(), changed }
    }
}

/// Makes what this side needs in a directory of certificates: an authority of its own, or with `ca` trust in
/// that one; and a certificate for each role, or a request where no key is at hand that could sign it. What
/// is there and valid stays.
///
/// # Errors
/// `Conflict` when another authority is trusted already; `Invalid` when `ca` is none; `Failed` when a file
/// cannot be written.
pub fn init(
    directory: &Path,
    ca: Option<&Path>,
    wanted: &[(Role, String)],
    now: Timestamp,
) -> Result<Vec<Step>, Error> {
    let _turn = files::turn(directory)?;
    let mut steps = Vec::new();
    let authority = match ca {
        Some(file) => trust(directory, file, &mut steps)?,
        None => own(directory, now, &mut steps)?,
    };
    for (role, name) in wanted {
        let places = Places::of(directory, *role);
        let there = present(&places, &authority, now)?;
        if let Some(facts) = there.filter(|facts| !facts.is_due) {
            steps.push(Step::of(
                format!("the {role} certificate of {} is there", facts.name),
                false,
            ));
        } else if authority.can_sign() {
            let at = ca.map_or_else(|| directory.join("ca.crt"), Path::to_owned);
            issue(&places, &Registry::of(&authority, &at), *role, name, now)?;
            steps.push(Step::of(format!("made a {role} certificate for {name}"), true));
        } else {
            write_request(directory, *role, name)?;
            let file = places.cert.with_extension("csr");
            let act = format!("wrote a request for a {role} certificate: {}", file.display());
            steps.push(Step::of(act, true));
        }
    }
    Ok(steps)
}

/// Trusts the authority in a file.
fn trust(directory: &Path, file: &Path, steps: &mut Vec<Step>) -> Result<Authority, Error> {
    let given = Authority::read(file)?;
    let place = directory.join("ca.crt");
    if files::read(&place)?.is_none() {
        files::write(&place, &given.pem(), Readers::All)?;
        steps.push(Step::of("trusted the given authority", true));
    } else if Authority::read(&place)?.fingerprint() == given.fingerprint() {
        steps.push(Step::of("the given authority is trusted", false));
    } else {
        let message = format!("another authority is trusted here: {}", place.display());
        return Err(Error::new(ErrorKind::Conflict, message).hint(format!(
            "a node belongs to one fleet; to change it, move {} away first",
            directory.display()
        )));
    }
    Ok(given)
}

/// The authority that is trusted here; a new one of this side's own when there is none.
fn own(directory: &Path, now: Timestamp, steps: &mut Vec<Step>) -> Result<Authority, Error> {
    if let Some(there) = known(directory)? {
        steps.push(Step::of("an authority is trusted", false));
        return Ok(there);
    }
    let made = Authority::make("mvm development CA", now)?;
    files::write(&directory.join("ca.key"), &made.key_pem(), Readers::Owner)?;
    files::write(&directory.join("ca.crt"), &made.pem(), Readers::All)?;
    steps.push(Step::of("made an authority of its own, for development", true));
    Ok(made)
}

/// The authority of a directory, with its key where that is there.
fn known(directory: &Path) -> Result<Option<Authority>, Error> {
    let (place, key) = (directory.join("ca.crt"), directory.join("ca.key"));
    if files::read(&place)?.is_none() {
        return Ok(None);
    }
    let authority = Authority::read(&place)?;
    if files::read(&key)?.is_none() {
        return Ok(Some(authority));
    }
    files::guard(&key, Readers::Owner)?;
    authority.with_key(&key).map(Some)
}

/// What the certificate of these places says, if it is one of this authority, not revoked and not over.
fn present(places: &Places, authority: &Authority, now: Timestamp) -> Result<Option<Facts>, Error> {
    let Some(key) = files::read_text(&places.key)?.map(Zeroizing::new) else { return Ok(None) };
    if files::read(&places.cert)?.is_none() {
        return Ok(None);
    }
    let chain = certificates(&places.cert)?;
    let der = first(&chain, &places.cert)?;
    let facts = facts_of(der, now)?;
    let is_ours = facts.issuer == authority.name() && authority::belongs(&key, der);
    let list = Revoked::beside(&places.ca, std::slice::from_ref(authority.certificate()))?;
    let is_revoked = list.is_some_and(|list| list.has(&facts.serial));
    Ok((is_ours && !is_revoked && now <= facts.not_after).then_some(facts))
}

/// A fresh key and a certificate of it.
fn issue(
    places: &Places,
    registry: &Registry,
    role: Role,
    name: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let issued = registry.issue(role, name, now)?;
    // An authority that was brought along may lie where nothing can be written.
    if let Err(error) = registry.note(&issued.certificate, now) {
        tracing::warn!(%error, "a certificate can be revoked by its serial only");
    }
    // A crash between the two leaves a key without its certificate, which the next command replaces.
    files::write(&places.key, &issued.key, Readers::Owner)?;
    files::write(&places.cert, &issued.certificate, Readers::All)
}

/// Writes a request for a certificate, with a key of its own if there is none; the request's text.
///
/// # Errors
/// `Failed` when a file cannot be written.
pub fn request(directory: &Path, role: Role, name: &str) -> Result<String, Error> {
    let _turn = files::turn(directory)?;
    write_request(directory, role, name)
}

fn write_request(directory: &Path, role: Role, name: &str) -> Result<String, Error> {
    let places = Places::of(directory, role);
    let key = files::read_text(&places.key)?.map(Zeroizing::new);
    let (key, is_new) = match key {
        Some(key) => (key, false),
        None => (authority::new_key()?, true),
    };
    let text = authority::request(&key, role, name)?;
    if is_new {
        files::write(&places.key, &key, Readers::Owner)?;
    }
    files::write(&places.cert.with_extension("csr"), &text, Readers::All)?;
    Ok(text)
}

/// Gives a role another certificate with another key; the authority stays. Its key is found here, or with
/// `ca` in that file.
///
/// # Errors
/// `NotFound` when there is no certificate; `Conflict` when no key is at hand that could sign.
pub fn rotate(
    directory: &Path,
    role: Role,
    ca: Option<&Path>,
    now: Timestamp,
) -> Result<Facts, Error> {
    let _turn = files::turn(directory)?;
    let places = Places::of(directory, role);
    let chain = certificates(&places.cert)?;
    let old = first(&chain, &places.cert).and_then(|der| facts_of(der, now))?;
    let trusted = known(directory)?.ok_or_else(|| missing(&places.ca))?;
    let authority = match ca {
        Some(file) => Authority::read(file)?,
        None => trusted.clone(),
    };
    if authority.fingerprint() != trusted.fingerprint() {
        let message = "the given authority is not the one that is trusted here";
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    if !authority.can_sign() {
        let message = "the authority's key is not here, so nothing can sign a certificate";
        return Err(Error::new(ErrorKind::Conflict, message)
            .hint("give a file with its certificate and its key: mvm agent certs rotate --ca FILE")
            .hint("or have the request signed: mvm agent certs request"));
    }
    let at = ca.map_or_else(|| places.ca.clone(), Path::to_owned);
    issue(&places, &Registry::of(&authority, &at), role, &old.name, now)?;
    let chain = certificates(&places.cert)?;
    first(&chain, &places.cert).and_then(|der| facts_of(der, now))
}

/// Renews a certificate that is due, where the authority's key is at hand; whether it did.
///
/// # Errors
/// Why the files cannot be read or written.
pub fn renew_if_due(directory: &Path, role: Role, now: Timestamp) -> Result<bool, Error> {
    let places = Places::of(directory, role);
    if files::read(&places.cert)?.is_none() {
        return Ok(false);
    }
    let chain = certificates(&places.cert)?;
    let facts = first(&chain, &places.cert).and_then(|der| facts_of(der, now))?;
    if !facts.is_due || !known(directory)?.is_some_and(|authority| authority.can_sign()) {
        return Ok(false);
    }
    rotate(directory, role, None, now).map(|_| true)
}

/// What the certificates of a directory say, by role.
///
/// # Errors
/// `Invalid` when a file holds something else.
pub fn status(directory: &Path, now: Timestamp) -> Result<Vec<Facts>, Error> {
    let mut all = Vec::new();
    for role in Role::ALL {
        let places = Places::of(directory, role);
        if files::read(&places.cert)?.is_some() {
            let chain = certificates(&places.cert)?;
            all.push(first(&chain, &places.cert).and_then(|der| facts_of(der, now))?);
        }
    }
    Ok(all)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = files::read(path)?.ok_or_else(|| missing(path))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("{} is no PEM file", path.display())).because(&error)
    })?;
    first(&all, path)?;
    Ok(all)
}

fn first<'a, 'b>(
    all: &'a [CertificateDer<'b>],
    path: &Path,
) -> Result<&'a CertificateDer<'b>, Error> {
    all.first().ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("{} holds no certificate", path.display()))
    })
}

fn missing(path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no {}", path.display()))
        .hint("make it: mvm agent certs init, or mvm add host --ca FILE")
}
