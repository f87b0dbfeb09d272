//! A node's side of getting a certificate that others sign: its request, its join token, what it installs.
//!
//! ```text
//! join.token   0600, until the certificate is there      node.csr   while it waits
//! ```
//!
//! What is installed was signed by the trusted authority (or by the one that the token names, which then is
//! the trusted one), is a node's, of this node's name and key, and not revoked. It is put in place by one
//! rename under the lock of the certificates. This module refuses to know how it came.

use std::path::{Path, PathBuf};

use mvm_core::{
    api::Role,
    error::{Error, ErrorKind},
    units::Timestamp,
};
use rustls::{
    client::danger::ServerCertVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use zeroize::Zeroizing;

use super::{
    Authority, Facts, Places, Revoked, Step, Token, authority, certificates, facts_of, first,
    identity, server_name, trust, write_request,
};
use crate::{
    files::{self, Readers},
    rpc::verifier,
};

/// The name that a node without a certificate shows.
pub(crate) const JOINING: &str = "joining.mvm.internal";

/// Where the token lies.
fn place(directory: &Path) -> PathBuf {
    directory.join("join.token")
}

/// A node that waits for its certificate.
pub struct Waiting {
    /// What it was given.
    pub token: Token,
    /// Its request, PEM.
    pub request: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Prepares a node for a join: its key, its request, the token, and trust in the authority where that is
/// given. A node that has a certificate keeps it.
///
/// # Errors
/// `Integrity` when the token is over or is not of the given authority; `Conflict` when another authority is
/// trusted.
pub fn prepare(
    directory: &Path,
    token: &Token,
    ca: Option<&Path>,
    name: &str,
    now: Timestamp,
) -> Result<Vec<Step>, Error> {
    let _turn = files::turn(directory)?;
    let places = Places::of(directory, Role::Node);
    if let Ok(there) = identity(&places, now) {
        let act = format!("the node certificate of {} is there", there.facts.name);
        return Ok(vec![Step::of(act, false)]);
    }
    if token.is_over(now) {
        return Err(over());
    }
    let trusted = match ca {
        Some(file) => Some(Authority::read(file)?),
        None if files::read(&places.ca)?.is_some() => Some(Authority::read(&places.ca)?),
        None => None,
    };
    if trusted.is_some_and(|authority| authority.fingerprint() != token.authority) {
        let message = "the join token is not of the authority that is trusted here";
        return Err(Error::new(ErrorKind::Integrity, message)
            .hint("a node belongs to one fleet: compare with mvm coordinator token, there"));
    }
    let mut steps = Vec::new();
    if let Some(file) = ca {
        trust(directory, file, &mut steps)?;
    }
    let present = files::read_text(&place(directory))?.map(Zeroizing::new);
    let text = token.text();
    let is_new = present.is_none_or(|present| present.trim() != text.as_str());
    if is_new {
        files::write(&place(directory), &text, Readers::Owner)?;
    }
    write_request(directory, Role::Node, name)?;
    let act = format!("waits for its approval as {name}, until {}", token.expires.rfc3339());
    steps.push(Step::of(act, is_new));
    Ok(steps)
}

fn over() -> Error {
    Error::new(ErrorKind::Integrity, "the join token is over")
        .hint("make another one: mvm coordinator token, where the authority's key is")
        .hint("and give it to this node: mvm add host --token TOKEN")
}

/// The node that waits here, if one was prepared; another token replaces what is there.
///
/// # Errors
/// `Integrity` when its token is over; `Permission` when others may read token or key.
pub fn waiting(directory: &Path, name: &str, now: Timestamp) -> Result<Option<Waiting>, Error> {
    let _turn = files::turn(directory)?;
    let place = place(directory);
    let Some(text) = files::read_text(&place)?.map(Zeroizing::new) else { return Ok(None) };
    files::guard(&place, Readers::Owner)?;
    let token: Token = text.parse()?;
    if token.is_over(now) {
        return Err(over());
    }
    let request = write_request(directory, Role::Node, name)?;
    let places = Places::of(directory, Role::Node);
    files::guard(&places.key, Readers::Owner)?;
    let pem = files::read_text(&places.key)?.map(Zeroizing::new).unwrap_or_default();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
        let message = format!("{} holds no private key", places.key.display());
        Error::new(ErrorKind::Invalid, message)
    })?;
    let chain = vec![authority::own(&pem, JOINING, now)?];
    Ok(Some(Waiting { token, request, chain, key }))
}

/// A request for a certificate of the key that is in use; nothing is written.
///
/// # Errors
/// `NotFound` without a key.
pub fn request_again(places: &Places, name: &str) -> Result<String, Error> {
    let key = files::read_text(&places.key)?.map(Zeroizing::new);
    let key = key.ok_or_else(|| super::missing(&places.key))?;
    authority::request(&key, Role::Node, name)
}

/// What shall be installed.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The certificate, PEM.
    pub certificate: &'a str,
    /// The authority's, PEM, where it came along.
    pub authority: Option<&'a str>,
    /// The authority's list of revoked certificates, PEM, where it came along.
    pub revocations: Option<&'a str>,
}

/// Installs a certificate of this node's key; what it says, and whether it was not there before.
///
/// # Errors
/// `Integrity` when it is not the trusted authority's, revoked, or not in its time; `Permission` when it is
/// another's or no node's; `NotFound` when nothing here says which authority to trust.
pub fn install(
    places: &Places,
    given: Given<'_>,
    name: &str,
    now: Timestamp,
) -> Result<(Facts, bool), Error> {
    let directory = files::directory_of(&places.cert);
    let _turn = files::turn(directory)?;
    let authority = believed(places, given, now)?;
    let by = std::slice::from_ref(authority.certificate());
    let list = match given.revocations {
        Some(pem) => Some(Revoked::read(pem, by)?),
        None => Revoked::beside(&places.ca, by)?,
    };
    let der = CertificateDer::from_pem_slice(given.certificate.as_bytes())
        .map_err(|_| Error::new(ErrorKind::Invalid, "this is no certificate in PEM"))?;
    let facts = facts_of(&der, now)?;
    verify(&der, by, list.as_ref(), now)?;
    let refuse = |what: String| Err(Error::new(ErrorKind::Permission, what));
    if facts.role != Some(Role::Node) {
        return refuse(format!("the certificate of {} is not a node's", facts.name));
    }
    if facts.name != name {
        return refuse(format!("the certificate is for {}, this is {name}", facts.name));
    }
    let key = files::read_text(&places.key)?.map(Zeroizing::new);
    let key = key.ok_or_else(|| super::missing(&places.key))?;
    if !authority::belongs(&key, &der) {
        return refuse("the certificate is not of this node's key".to_owned());
    }
    if files::read(&places.ca)?.is_none() {
        files::write(&places.ca, &authority.pem(), Readers::All)?;
    }
    if let Some(pem) = given.revocations {
        // One that is older than what is in force here is not needed.
        match super::revoked::take(&places.ca, pem) {
            Err(error) if error.kind != ErrorKind::Conflict => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    let is_new = present(places, now)?.is_none_or(|there| there.fingerprint != facts.fingerprint);
    files::write(&places.cert, &authority::armored("CERTIFICATE", &der), Readers::All)?;
    files::remove(&place(directory))?;
    files::remove(&places.cert.with_extension("csr"))?;
    Ok((facts, is_new))
}

fn present(places: &Places, now: Timestamp) -> Result<Option<Facts>, Error> {
    if files::read(&places.cert)?.is_none() {
        return Ok(None);
    }
    let chain = certificates(&places.cert)?;
    first(&chain, &places.cert).and_then(|der| facts_of(der, now)).map(Some)
}

/// The authority that is trusted here, else the given one if the token names it.
fn believed(places: &Places, given: Given<'_>, now: Timestamp) -> Result<Authority, Error> {
    if files::read(&places.ca)?.is_some() {
        return Authority::read(&places.ca);
    }
    let unknown = || {
        Error::new(ErrorKind::NotFound, "nothing here says which authority to trust")
            .hint("give the join token or the authority first: mvm add host --token TOKEN")
    };
    let token = files::read_text(&place(files::directory_of(&places.cert)))?.map(Zeroizing::new);
    let token: Token = token.ok_or_else(unknown)?.parse()?;
    if token.is_over(now) {
        return Err(over());
    }
    let pem = given.authority.ok_or_else(unknown)?;
    let authority = Authority::of_pem(pem)?;
    if authority.fingerprint() != token.authority {
        let message = "the certificate comes with another authority than the token names";
        return Err(Error::new(ErrorKind::Integrity, message));
    }
    Ok(authority)
}

fn verify(
    der: &CertificateDer<'_>,
    by: &[CertificateDer<'static>],
    list: Option<&Revoked>,
    now: Timestamp,
) -> Result<(), Error> {
    let refuse = |error: &(dyn std::error::Error + 'static)| {
        let message = "the certificate is not a valid one of the trusted authority";
        Error::new(ErrorKind::Integrity, message).because(error)
    };
    let node = ServerName::try_from(server_name(Role::Node)).map_err(|error| refuse(&error))?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0));
    let verifier = verifier(by, list)?;
    verifier.verify_server_cert(der, &[], &node, &[], at).map_err(|error| refuse(&error))?;
    Ok(())
}
