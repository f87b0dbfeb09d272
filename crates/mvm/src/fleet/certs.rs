//! `agent certs …`: this side's certificates.
//!
//! It refuses to know how one is made.

use std::path::{Path, PathBuf};

use mvm_core::{
    api::Role,
    error::{Error, ErrorKind},
    event::EventKind,
};
use mvm_fleet::certs::{
    self as certificates, Facts, Places, Step, Token,
    enroll::{self, Given},
};

use super::now;
use crate::Mvm;

/// Which certificate is wanted.
#[derive(Debug, Clone, Default)]
pub struct CertsAsk {
    /// The authority's file; with its key in it certificates are signed at once.
    pub ca: Option<PathBuf>,
    /// The role; a node's, and for an authority of one's own also a coordinator's, when it is not given.
    pub role: Option<Role>,
    /// Whose it is; the node's id, or the role's name, when it is not given.
    pub name: Option<String>,
}

/// A request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The role.
    pub role: Role,
    /// Whose the certificate shall be.
    pub name: String,
    /// The request, PEM.
    pub request: String,
    /// Where it was written.
    pub file: PathBuf,
}

impl Mvm {
    /// Makes what this side needs to talk to others.
    ///
    /// # Errors
    /// `Conflict` when another authority is trusted; `Invalid` when the given one is none.
    pub fn agent_certs_init(&self, ask: &CertsAsk) -> Result<Vec<Step>, Error> {
        let roles = match (ask.role, &ask.ca) {
            (Some(role), _) => vec![role],
            (None, Some(_)) => vec![Role::Node],
            // Who has a fleet of one machine is its coordinator too.
            (None, None) => vec![Role::Node, Role::Coordinator],
        };
        let named =
            roles.into_iter().map(|role| Ok((role, self.named(role, ask.name.as_deref())?)));
        let wanted = named.collect::<Result<Vec<_>, Error>>()?;
        let steps = certificates::init(&self.certs(), ask.ca.as_deref(), &wanted, now())?;
        for step in steps.iter().filter(|step| step.changed) {
            self.engine.tell_certificate(EventKind::CertificateIssued, &step.act)?;
        }
        Ok(steps)
    }

    /// Writes a request for a certificate, for whoever holds the authority's key.
    ///
    /// # Errors
    /// `Failed` when it cannot be written.
    pub fn agent_certs_request(&self, ask: &CertsAsk) -> Result<CertificateRequest, Error> {
        let role = ask.role.unwrap_or(Role::Node);
        let name = self.named(role, ask.name.as_deref())?;
        let request = certificates::request(&self.certs(), role, &name)?;
        let file = self.certs().join(format!("{role}.csr"));
        Ok(CertificateRequest { role, name, request, file })
    }

    /// Prepares this node for a join: its request and the token, with which `agent serve` listens for its
    /// approval.
    ///
    /// # Errors
    /// `Integrity` when the token is over or of another authority than the trusted one.
    pub fn prepare_join(&self, token: &Token, ca: Option<&Path>) -> Result<Vec<Step>, Error> {
        let name = self.named(Role::Node, None)?;
        enroll::prepare(&self.certs(), token, ca, &name, now())
    }

    /// Installs what `coordinator approve` signed: the certificate, and the authority's where none is trusted
    /// yet and a join token names it.
    ///
    /// # Errors
    /// `Integrity` when it is not a valid one of the trusted authority; `Permission` when it is another's.
    pub fn agent_certs_install(&self, bundle: &str) -> Result<Facts, Error> {
        let parts = split(bundle);
        let [certificate, rest @ ..] = parts.as_slice() else {
            return Err(Error::new(ErrorKind::Invalid, "there is no certificate in PEM")
                .hint("give the file that mvm coordinator approve --out wrote"));
        };
        let authority = rest.first().map(String::as_str);
        let given = Given { certificate, authority, revocations: None };
        let places = Places::of(&self.certs(), Role::Node);
        let (facts, is_new) = enroll::install(&places, given, &self.engine.node_id()?, now())?;
        if is_new {
            let told = format!("installed, by {}, {}", facts.issuer, facts.fingerprint);
            self.engine.tell_certificate(EventKind::CertificateIssued, &told)?;
        }
        Ok(facts)
    }

    /// Gives this side another certificate with another key; the authority stays.
    ///
    /// # Errors
    /// `NotFound` without a certificate; `Conflict` when the authority's key is not at hand.
    pub fn agent_certs_rotate(&self, ask: &CertsAsk) -> Result<Facts, Error> {
        let role = ask.role.unwrap_or(Role::Node);
        let facts = certificates::rotate(&self.certs(), role, ask.ca.as_deref(), now())?;
        let told = format!("another {role} certificate, {}", facts.fingerprint);
        self.engine.tell_certificate(EventKind::CertificateRotated, &told)?;
        Ok(facts)
    }

    /// What this side's certificates say.
    ///
    /// # Errors
    /// `Invalid` when a file holds something else.
    pub fn agent_certs_status(&self) -> Result<Vec<Facts>, Error> {
        certificates::status(&self.certs(), now())
    }

    fn named(&self, role: Role, given: Option<&str>) -> Result<String, Error> {
        let name = match (given, role) {
            (Some(name), _) => name.to_owned(),
            (None, Role::Node) => self.engine.node_id()?,
            (None, Role::Coordinator | Role::Observer) => role.name().to_owned(),
        };
        if !certificates::is_name(&name) {
            let message = format!("{name:?} is no name for a certificate");
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("use 1 to 64 letters, digits, hyphens, dots and underscores"));
        }
        Ok(name)
    }
}

/// The PEM blocks of certificates in a text.
fn split(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = bundle.split_inclusive(END).filter(|block| block.ends_with(END));
    blocks.map(|block| format!("{}\n", block.trim_start())).collect()
}
