//! The authority's side: who signs, and what it signed, invited and revoked.
//!
//! ```text
//! beside F.crt or F.pem:  F.issued   what was signed and is not long over
//!                         F.tokens   a hash of each join token, and for which key it was used
//!                         F.crl      the list of revoked certificates, as it is pushed
//!                         F.lock     one at a time
//! ```
//!
//! All of it is for the owner's eyes; none of it lets anybody sign. A token is for one key: used again for
//! that key it gives another certificate until it is over, so that a join that was cut off is repeated. This
//! module refuses to know where nodes are.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use mvm_core::{
    api::Role,
    error::{Error, ErrorKind},
    units::{Seconds, Timestamp},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use x509_parser::prelude::FromDer;

use super::{
    Authority, Facts, LIFE, Revoked, SigningRequest, Token, authority::Issued as IssuedPair,
    facts_of, known, revoked,
};
use crate::files::{self, Readers};

/// How long after its end a certificate is still known, and after its use or end a token.
const KEPT: Seconds = LIFE;
/// Tokens that may wait at a time.
const TOKENS_MAX: usize = 256;

/// A certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Issued {
    serial: String,
    name: String,
    role: Role,
    fingerprint: String,
    not_after: Timestamp,
}

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Invitation {
    id: String,
    expires: Timestamp,
    /// For which key it was used.
    #[serde(default)]
    key: Option<String>,
}

/// A certificate that was revoked, or was already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// Its serial, hexadecimal.
    pub serial: String,
    /// Whose it is; nothing for one that is not known here.
    pub name: Option<String>,
}

/// Who signs for a fleet.
pub struct Registry {
    authority: Authority,
    ca: PathBuf,
}

impl Registry {
    /// The authority with its key: the one in `ca`, or the own one of a directory of certificates.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Conflict` when its key is not here; as [`Authority::read`].
    pub fn open(directory: &Path, ca: Option<&Path>) -> Result<Self, Error> {
        let (authority, ca) = match ca {
            Some(file) => (Authority::read(file)?, file.to_owned()),
            None => {
                let found = known(directory)?.ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "there is no authority here")
                        .hint("give the file with its certificate and its key: --ca FILE")
                        .hint("or make one for development: mvm agent certs init")
                })?;
                (found, directory.join("ca.crt"))
            }
        };
        if !authority.can_sign() {
            let message = format!("the key of the authority {} is not here", authority.name());
            return Err(Error::new(ErrorKind::Conflict, message)
                .hint("give the file with its certificate and its key: --ca FILE"));
        }
        Ok(Self { authority, ca })
    }

    /// Books beside the authority in a file; nothing is read yet.
    pub(super) fn of(authority: &Authority, ca: &Path) -> Self {
        Self { authority: authority.clone(), ca: ca.to_owned() }
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn authority(&self) -> String {
        self.authority.pem()
    }

    /// The list of revoked certificates; none before the first.
    ///
    /// # Errors
    /// When the file holds something else.
    pub fn revoked(&self) -> Result<Option<Revoked>, Error> {
        Revoked::beside(&self.ca, std::slice::from_ref(self.authority.certificate()))
    }

    fn place(&self, what: &str) -> PathBuf {
        self.ca.with_extension(what)
    }

    fn hold(&self) -> Result<File, Error> {
        files::hold(&self.place("lock"))
    }

    fn read<T: DeserializeOwned>(&self, what: &str) -> Result<Vec<T>, Error> {
        let place = self.place(what);
        let Some(text) = files::read_text(&place)? else { return Ok(Vec::new()) };
        serde_json::from_str(&text).map_err(|error| {
            let message = format!("{} is damaged", place.display());
            Error::new(ErrorKind::Integrity, message).because(&error)
        })
    }

    fn write<T: Serialize>(&self, what: &str, all: &[T]) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(all).map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot write the authority's books").because(&error)
        })?;
        files::write(&self.place(what), &(text + "\n"), Readers::Owner)
    }

    /// Makes a join token that may be used for so long.
    ///
    /// # Errors
    /// `Refused` when too many wait; `Failed` when it cannot be noted.
    pub fn invite(&self, valid: Seconds, now: Timestamp) -> Result<Token, Error> {
        let token = Token::draw(&self.authority.fingerprint(), now.plus(valid))?;
        let _held = self.hold()?;
        let mut all: Vec<Invitation> = self.read("tokens")?;
        all.retain(|one| one.expires.plus(KEPT) >= now);
        if all.len() >= TOKENS_MAX {
            let message = format!("{TOKENS_MAX} join tokens wait or were used within a day");
            return Err(Error::new(ErrorKind::Refused, message)
                .hint("let them be over, or give them a shorter time: --valid"));
        }
        all.push(Invitation { id: token.id(), expires: token.expires, key: None });
        self.write("tokens", &all)?;
        Ok(token)
    }

    /// Whether a token may be used, by which key if it was used already.
    ///
    /// # Errors
    /// `Integrity` when it is of another authority, was not made here, or is over.
    pub fn examine(&self, token: &Token, now: Timestamp) -> Result<Option<String>, Error> {
        examined(&self.read::<Invitation>("tokens")?, token, &self.authority, now)
            .map(|found| found.key.clone())
    }

    /// Uses a token for a key: from now on it is for that key only.
    ///
    /// # Errors
    /// As [`Registry::examine`]; `Conflict` when it was used for another key.
    pub fn redeem(&self, token: &Token, key: &str, now: Timestamp) -> Result<(), Error> {
        let _held = self.hold()?;
        let mut all: Vec<Invitation> = self.read("tokens")?;
        let found = examined(&all, token, &self.authority, now)?;
        match &found.key {
            Some(used) if used == key => return Ok(()),
            Some(_) => {
                return Err(Error::new(ErrorKind::Conflict, "the join token was used already")
                    .hint("each node needs its own: mvm coordinator token"));
            }
            None => {}
        }
        let id = found.id.clone();
        for one in all.iter_mut().filter(|one| one.id == id) {
            one.key = Some(key.to_owned());
        }
        self.write("tokens", &all)
    }

    /// Signs a request; its certificate, PEM, and what it says.
    ///
    /// # Errors
    /// `Failed` when it cannot be signed or noted.
    pub fn sign(&self, request: &SigningRequest, now: Timestamp) -> Result<(String, Facts), Error> {
        let SigningRequest { role, name, public, .. } = request;
        let certificate = self.authority.certify(public, *role, name, now)?;
        let facts = self.note(&certificate, now)?;
        Ok((certificate, facts))
    }

    /// A fresh key, and a certificate of it; it is yet to be noted.
    pub(crate) fn issue(
        &self,
        role: Role,
        name: &str,
        now: Timestamp,
    ) -> Result<IssuedPair, Error> {
        self.authority.issue(role, name, now)
    }

    /// Notes a certificate that was signed.
    pub(super) fn note(&self, certificate: &str, now: Timestamp) -> Result<Facts, Error> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| Error::new(ErrorKind::Failed, "what was signed is no certificate"))?;
        let facts = facts_of(&der, now)?;
        let _held = self.hold()?;
        let mut all: Vec<Issued> = self.read("issued")?;
        all.retain(|one| one.not_after.plus(KEPT) >= now);
        let Facts { serial, name, role, fingerprint, not_after, .. } = facts.clone();
        let role = role.unwrap_or(Role::Observer);
        all.push(Issued { serial, name, role, fingerprint, not_after });
        self.write("issued", &all)?;
        Ok(facts)
    }

    /// Revokes certificates: all of a node by its name, or one by its serial or fingerprint. The next list is
    /// signed and lies beside the authority; who shall believe it gets it pushed.
    ///
    /// # Errors
    /// `NotFound` when no certificate that was signed here is meant; `Failed` when it cannot be signed.
    pub fn revoke(
        &self,
        what: &str,
        now: Timestamp,
    ) -> Result<(Revoked, Vec<RevokedCertificate>), Error> {
        let _held = self.hold()?;
        let meant = meant(&self.read("issued")?, what)?;
        let present = self.revoked()?;
        let is_new =
            |one: &RevokedCertificate| !present.as_ref().is_some_and(|list| list.has(&one.serial));
        if let Some(list) = present.as_ref().filter(|_| !meant.iter().any(is_new)) {
            return Ok((list.clone(), meant));
        }
        let mut all = present.as_ref().map(entries).transpose()?.unwrap_or_default();
        // A certificate lives a day, so what was revoked before that is over by itself.
        all.retain(|(_, at)| at.plus(LIFE).plus(KEPT) >= now);
        for one in meant.iter().filter(|one| is_new(one)) {
            let serial = hex::decode(&one.serial).map_err(|error| {
                Error::new(ErrorKind::Invalid, "a serial is not hexadecimal").because(&error)
            })?;
            all.push((serial, now));
        }
        let number = present.as_ref().map_or(0, Revoked::number).saturating_add(1);
        let list = self.authority.revoke(number, &all, now)?;
        let (list, _) = revoked::take(&self.ca, &list)?;
        Ok((list, meant))
    }
}

fn examined<'a>(
    all: &'a [Invitation],
    token: &Token,
    authority: &Authority,
    now: Timestamp,
) -> Result<&'a Invitation, Error> {
    let refuse = |what: &str| {
        Err(Error::new(ErrorKind::Integrity, format!("the join token {what}"))
            .hint("make another one: mvm coordinator token"))
    };
    if token.authority != authority.fingerprint() {
        return refuse("is of another authority");
    }
    let id = token.id();
    let Some(found) = all.iter().find(|one| one.id == id) else {
        return refuse("was not made by this authority");
    };
    if token.is_over(now) {
        return refuse("is over");
    }
    Ok(found)
}

/// The certificates that a word means.
fn meant(all: &[Issued], what: &str) -> Result<Vec<RevokedCertificate>, Error> {
    let word = what.to_ascii_lowercase();
    let is_meant = |one: &&Issued| {
        one.fingerprint == word
            || one.serial == word
            || (one.role == Role::Node && one.name == what)
    };
    let found: Vec<_> = all
        .iter()
        .filter(is_meant)
        .map(|one| RevokedCertificate { serial: one.serial.clone(), name: Some(one.name.clone()) })
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let is_serial = (2..=40).contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_hexdigit())
        && word.len().is_multiple_of(2)
        && !word.starts_with("00");
    if is_serial {
        // Signed elsewhere with the same key: its number is all that is needed.
        return Ok(vec![RevokedCertificate { serial: word, name: None }]);
    }
    let message = format!("no certificate of {what:?} was signed here");
    Err(Error::new(ErrorKind::NotFound, message)
        .hint("give a node's id, or a serial or fingerprint: mvm agent certs status, on the node"))
}

/// What is on a list, and since when.
fn entries(list: &Revoked) -> Result<Vec<(Vec<u8>, Timestamp)>, Error> {
    use x509_parser::revocation_list::CertificateRevocationList;
    let der = list.der();
    let (_, read) = CertificateRevocationList::from_der(&der).map_err(|error| {
        Error::new(ErrorKind::Integrity, "the list of revoked certificates is damaged")
            .because(&error)
    })?;
    let entry = |one: &x509_parser::revocation_list::RevokedCertificate<'_>| {
        let seconds = u64::try_from(one.revocation_date.timestamp()).unwrap_or(0);
        (one.raw_serial().to_vec(), Timestamp(seconds.saturating_mul(1000)))
    };
    Ok(read.iter_revoked_certificates().map(entry).collect())
}
