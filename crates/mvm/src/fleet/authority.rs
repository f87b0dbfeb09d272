//! `coordinator token`, `approve`, `renew`, `revoke`: who is a node of the fleet, and who no longer.
//!
//! It runs where the authority's key is. It refuses to know how a certificate or a proof is made.

use std::path::{Path, PathBuf};

use mvm_core::{
    api::{self, Answer, Request, Role, join::Grant},
    error::{Error, ErrorKind},
    event::EventKind,
    units::{Seconds, Timestamp},
};
use mvm_fleet::{
    certs::{self as certificates, Registry, Revoked, RevokedCertificate, SigningRequest, Token},
    rpc::{self, Client},
};

use super::{Peer, coordinator::strange, now};
use crate::Mvm;

/// A join token for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Its text; whoever has it may become a node.
    pub token: String,
    /// Until when it may be used.
    pub expires: Timestamp,
    /// The SHA-256 of the authority's certificate, which the token holds.
    pub authority: String,
}

/// What asks for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What it wants to be.
    pub role: Role,
    /// Who it is.
    pub name: String,
    /// The SHA-256 of its public key, hexadecimal.
    pub key: String,
}

/// What was approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// What was asked for.
    pub asked: Asked,
    /// The certificate that the node has.
    pub certificate: api::Certificate,
}

/// What was signed for a node that is not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFile {
    /// What was approved.
    pub approved: Approved,
    /// The certificate and the authority's, PEM.
    pub bundle: String,
}

/// What was revoked, and who knows.
#[derive(Debug)]
pub struct Revocation {
    /// The certificates.
    pub certificates: Vec<RevokedCertificate>,
    /// The list in force.
    pub list: api::Revocations,
    /// Where it lies.
    pub file: PathBuf,
    /// The nodes that it was pushed to.
    pub pushed: Vec<PushedList>,
}

/// A node that a list was pushed to.
#[derive(Debug)]
pub struct PushedList {
    /// `HOST:PORT`.
    pub node: String,
    /// The number of the list that is in force there, or why it is not this one.
    pub number: Result<u64, Error>,
}

impl From<&SigningRequest> for Asked {
    fn from(request: &SigningRequest) -> Self {
        let SigningRequest { role, name, key, .. } = request;
        Self { role: *role, name: name.clone(), key: key.clone() }
    }
}

impl Mvm {
    fn registry(&self, ca: Option<&Path>) -> Result<Registry, Error> {
        Registry::open(&self.certs(), ca)
    }

    /// Makes a join token for one node.
    ///
    /// # Errors
    /// `NotFound` without an authority; `Conflict` without its key.
    pub fn coordinator_token(
        &self,
        ca: Option<&Path>,
        valid: Seconds,
    ) -> Result<Invitation, Error> {
        let token = self.registry(ca)?.invite(valid, now())?;
        let Token { expires, authority, .. } = &token;
        let (expires, authority) = (*expires, authority.clone());
        Ok(Invitation { token: token.text().to_string(), expires, authority })
    }

    /// Approves a node that waits: each side shows that it knows the token, and the node's own request is
    /// signed. `look` sees the request before that, and may refuse.
    ///
    /// # Errors
    /// As [`rpc::approve`]; `Integrity` when the token was not made here or is over; `Conflict` when it was
    /// used for another key; what `look` says.
    pub fn coordinator_approve(
        &self,
        node: &str,
        token: &Token,
        ca: Option<&Path>,
        look: &mut dyn FnMut(&Asked) -> Result<(), Error>,
    ) -> Result<Approved, Error> {
        let registry = self.registry(ca)?;
        // Before anything is said to anybody.
        registry.examine(token, now())?;
        let mut signed = None;
        let certificate = rpc::approve(node, token, &mut |request| {
            refuse_other_role(request, Role::Node)?;
            let asked = Asked::from(request);
            look(&asked)?;
            registry.redeem(token, &request.key, now())?;
            let (certificate, facts) = registry.sign(request, now())?;
            self.tell_signed(&asked, &facts.fingerprint)?;
            signed = Some(asked);
            let revocations = registry.revoked()?.map(|list| list.pem());
            Ok(Grant { certificate, authority: registry.authority(), revocations })
        })?;
        let asked = signed.ok_or_else(strange)?;
        Ok(Approved { asked, certificate })
    }

    /// Signs a request that came as a file.
    ///
    /// # Errors
    /// `Invalid` when it is none; `Permission` when it is for another role; as [`Registry::open`].
    pub fn approve_request(
        &self,
        request: &str,
        role: Role,
        ca: Option<&Path>,
        look: &mut dyn FnMut(&Asked) -> Result<(), Error>,
    ) -> Result<SignedFile, Error> {
        let registry = self.registry(ca)?;
        let request = SigningRequest::read(request)?;
        refuse_other_role(&request, role)?;
        let asked = Asked::from(&request);
        look(&asked)?;
        let (certificate, facts) = registry.sign(&request, now())?;
        self.tell_signed(&asked, &facts.fingerprint)?;
        let approved = Approved { asked, certificate: facts.told() };
        Ok(SignedFile { approved, bundle: certificate + &registry.authority() })
    }

    fn tell_signed(&self, asked: &Asked, fingerprint: &str) -> Result<(), Error> {
        let Asked { role, name, key } = asked;
        let told = format!("signed a {role} certificate of {name}, {fingerprint}, key {key}");
        self.engine.tell_certificate(EventKind::CertificateIssued, &told)
    }

    /// Renews the certificate of a node that is one of the fleet: its own key, another day.
    ///
    /// # Errors
    /// Why the node does not ask for it or take it; as [`Registry::open`].
    pub fn coordinator_renew(
        &self,
        peer: &Peer,
        ca: Option<&Path>,
    ) -> Result<api::Certificate, Error> {
        let registry = self.registry(ca)?;
        let client = self.client(peer)?;
        let Answer::Requested(asked) = client.ask(&Request::CertificateRequest {})? else {
            return Err(strange());
        };
        let request = SigningRequest::read(&asked.request)?;
        refuse_other_role(&request, Role::Node)?;
        if request.name != client.node_id {
            let message = format!("{} asks for a certificate of {}", client.node_id, request.name);
            return Err(Error::new(ErrorKind::Permission, message));
        }
        let (certificate, facts) = registry.sign(&request, now())?;
        self.tell_signed(&Asked::from(&request), &facts.fingerprint)?;
        let answer = client.ask(&Request::InstallCertificate { certificate })?;
        let Answer::Certificate(certificate) = answer else { return Err(strange()) };
        Ok(certificate)
    }

    /// Revokes certificates, or without `what` none, and pushes the list to nodes.
    ///
    /// # Errors
    /// `NotFound` when no certificate is meant, or there is no list; as [`Registry::open`]. What a node says
    /// stands in the report.
    pub fn coordinator_revoke(
        &self,
        what: Option<&str>,
        ca: Option<&Path>,
        peers: &[Peer],
    ) -> Result<Revocation, Error> {
        let registry = self.registry(ca)?;
        let (list, certificates) = match what {
            Some(what) => registry.revoke(what, now())?,
            None => {
                let list = registry.revoked()?.ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "no certificate was revoked yet")
                        .hint("name one: mvm coordinator revoke NODE|SERIAL|FINGERPRINT")
                })?;
                (list, Vec::new())
            }
        };
        let usual = self.certs().join("ca.crt");
        let file = ca.map_or_else(|| usual.clone(), Path::to_owned).with_extension("crl");
        self.believe(&usual, ca, &list);
        for one in &certificates {
            let name = one.name.as_deref().unwrap_or("unknown");
            let told = format!("the certificate {} of {name}, list {}", one.serial, list.number());
            self.engine.tell_certificate(EventKind::CertificateRevoked, &told)?;
        }
        let push = |peer: &Peer| PushedList {
            node: peer.node.clone(),
            number: self.push_list(peer, &list),
        };
        let pushed = peers.iter().map(push).collect();
        Ok(Revocation { certificates, list: list.told(), file, pushed })
    }

    /// This side believes the list too, where it trusts the authority that was given in a file.
    fn believe(&self, usual: &Path, ca: Option<&Path>, list: &Revoked) {
        if ca.is_some()
            && usual.exists()
            && let Err(error) = certificates::revoke(usual, &list.pem())
        {
            tracing::debug!(%error, "this side does not take the list");
        }
    }

    fn push_list(&self, peer: &Peer, list: &Revoked) -> Result<u64, Error> {
        // A node that is on the list hears of it too.
        let caller = self.caller(&peer.tls)?.forgiving();
        let answer = Client::connect(&peer.node, &caller)?;
        let answer = answer.ask(&Request::Revoke { list: list.pem() })?;
        let Answer::Revoked(now) = answer else { return Err(strange()) };
        Ok(now.number)
    }
}

/// A request for more than was meant is refused: who signs says what it is for.
fn refuse_other_role(request: &SigningRequest, role: Role) -> Result<(), Error> {
    if request.role == role {
        return Ok(());
    }
    let message =
        format!("{} asks for a certificate of the role {}, not {role}", request.name, request.role);
    Err(Error::new(ErrorKind::Permission, message)
        .hint("if that is meant: mvm coordinator approve --request FILE --role ROLE"))
}
