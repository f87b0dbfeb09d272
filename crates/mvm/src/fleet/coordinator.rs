//! `coordinator …`: signs desired states, and asks nodes.
//!
//! It refuses to know how a connection is made.

use std::path::{Path, PathBuf};

use mvm_core::{
    api::{
        Answer, InstanceRow, Moved, NodeFigures, NodeInfo, PAGE_MAX, Page, PageOf, Request, Role,
        TenantRow,
    },
    desired::{self, ANY_NODE, Addressee},
    error::{Error, ErrorKind},
    event::LoggedEvent,
    id::{InstanceRef, TenantId},
    signed::{Acceptance, Envelope},
    units::Seconds,
};
use mvm_fleet::{
    certs::{Identity, Places},
    keys::{SigningKey, Terms, signer_id},
    rpc::Client,
};

use super::{TlsFiles, now};
use crate::Mvm;

/// A node that is asked, and as whom.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `HOST:PORT`.
    pub node: String,
    /// Certificates that lie elsewhere.
    pub tls: TlsFiles,
}

/// A key that signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerKey {
    /// Its id in envelopes and audit logs.
    pub signer_id: String,
    /// The public key, base64.
    pub public_key: String,
    /// Where the key is.
    pub key: PathBuf,
    /// Where the public key is, for nodes.
    pub public_file: PathBuf,
}

/// Under which terms a state is signed.
#[derive(Debug, Clone, Default)]
pub struct SignAsk {
    /// The key; the usual one when it is not given.
    pub key: Option<PathBuf>,
    /// The node that it is for; the one that the document names when it is not given.
    pub node_id: Option<String>,
    /// Its place among the signer's; the time when it is not given.
    pub sequence: Option<u64>,
    /// For how long it may be accepted.
    pub valid: Seconds,
}

impl Mvm {
    /// Makes a key that signs desired states.
    ///
    /// # Errors
    /// `Conflict` when there is one.
    pub fn coordinator_keygen(&self, key: Option<&Path>) -> Result<SignerKey, Error> {
        let file = self.signing_key(key);
        let made = SigningKey::make(&file)?;
        Ok(SignerKey {
            signer_id: signer_id(&made.public()),
            public_key: made.public_text(),
            public_file: file.with_extension("pub"),
            key: file,
        })
    }

    /// Signs a desired state.
    ///
    /// # Errors
    /// `Invalid` when the document makes no sense; `NotFound` without a key.
    pub fn coordinator_sign(&self, document: &[u8], ask: &SignAsk) -> Result<Envelope, Error> {
        let state = desired::parse(document, Addressee::Anyone)?;
        let named = Some(state.node_id).filter(|id| id != ANY_NODE);
        let node_id = match (&ask.node_id, named) {
            (Some(asked), Some(named)) if *asked != named => {
                let message = format!("the document is for the node {named}, not for {asked}");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            (Some(asked), _) => asked.clone(),
            (None, Some(named)) => named,
            (None, None) => {
                let message = "the document is for any node, and a signature is for one";
                return Err(Error::new(ErrorKind::Usage, message)
                    .hint("name it: --node-id ID; mvm node info on the node shows it"));
            }
        };
        let key = SigningKey::read(&self.signing_key(ask.key.as_deref()))?;
        let terms = Terms { now: now(), sequence: ask.sequence, valid: ask.valid };
        Ok(key.sign(document, &node_id, &terms))
    }

    /// Pushes a desired state to a node, signed.
    ///
    /// # Errors
    /// As [`Mvm::coordinator_sign`]; why the node rejects it.
    pub fn coordinator_push(
        &self,
        peer: &Peer,
        document: &[u8],
        ask: &SignAsk,
    ) -> Result<Acceptance, Error> {
        let state = desired::parse(document, Addressee::Anyone)?;
        let client = self.client(peer)?;
        // A document for any node is signed for the one that is asked: its certificate says which.
        let is_open = ask.node_id.is_none() && state.node_id == ANY_NODE;
        let node_id = if is_open { Some(client.node_id.clone()) } else { ask.node_id.clone() };
        let envelope = self.coordinator_sign(document, &SignAsk { node_id, ..ask.clone() })?;
        accepted(client.push(envelope)?)
    }

    /// Pushes a state that was signed before.
    ///
    /// # Errors
    /// Why the node rejects it.
    pub fn push_envelope(&self, peer: &Peer, envelope: Envelope) -> Result<Acceptance, Error> {
        accepted(self.client(peer)?.push(envelope)?)
    }

    /// Pushes a state as it is; a node takes it in development only.
    ///
    /// # Errors
    /// Why the node rejects it.
    pub fn push_unsigned(&self, peer: &Peer, document: &[u8]) -> Result<Acceptance, Error> {
        desired::parse(document, Addressee::Anyone)?;
        let document = String::from_utf8_lossy(document).into_owned();
        accepted(self.client(peer)?.ask(&Request::Reconcile { document })?)
    }

    /// What a node is, and which state it follows.
    ///
    /// # Errors
    /// Why it does not say so.
    pub fn coordinator_status(&self, peer: &Peer) -> Result<NodeInfo, Error> {
        let answer = self.client(peer)?.ask(&Request::NodeInfo {})?;
        let Answer::Node(info) = answer else { return Err(strange()) };
        Ok(*info)
    }

    /// All instances of a node, or of one of its tenants.
    ///
    /// # Errors
    /// Why it does not say so.
    pub fn coordinator_list_instances(
        &self,
        peer: &Peer,
        tenant: Option<&TenantId>,
    ) -> Result<Vec<InstanceRow>, Error> {
        let client = self.client(peer)?;
        paged(|page| {
            let request = Request::InstanceList { tenant: tenant.cloned(), page };
            let Answer::Instances(page) = client.ask(&request)? else { return Err(strange()) };
            Ok(page)
        })
    }

    /// All tenants of a node.
    ///
    /// # Errors
    /// Why it does not say so.
    pub fn coordinator_list_tenants(&self, peer: &Peer) -> Result<Vec<TenantRow>, Error> {
        let client = self.client(peer)?;
        paged(|page| {
            let Answer::Tenants(page) = client.ask(&Request::TenantList { page })? else {
                return Err(strange());
            };
            Ok(page)
        })
    }

    /// What a node holds.
    ///
    /// # Errors
    /// Why it does not say so.
    pub fn coordinator_stats(&self, peer: &Peer) -> Result<NodeFigures, Error> {
        let answer = self.client(peer)?.ask(&Request::NodeStats {})?;
        let Answer::Stats(figures) = answer else { return Err(strange()) };
        Ok(figures)
    }

    /// The first `limit` entries of a tenant's log on a node after one, oldest first; page by page.
    ///
    /// # Errors
    /// Why it does not say so.
    pub fn coordinator_events(
        &self,
        peer: &Peer,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        let client = self.client(peer)?;
        let (mut all, mut after_seq) = (Vec::new(), after_seq);
        loop {
            let rest = u32::try_from(limit.saturating_sub(all.len())).unwrap_or(PAGE_MAX);
            if rest == 0 {
                return Ok(all);
            }
            let tenant = tenant.clone();
            let request = Request::Events { tenant, after_seq, limit: rest.min(PAGE_MAX) };
            let Answer::Events(page) = client.ask(&request)? else { return Err(strange()) };
            let last = page.items.last().map(|one| one.seq);
            all.extend(page.items);
            match last.filter(|last| page.next.is_some() && *last > after_seq) {
                Some(last) => after_seq = last,
                None => return Ok(all),
            }
        }
    }

    /// Wakes an instance of a node.
    ///
    /// # Errors
    /// Why it is not awake.
    pub fn coordinator_wake(&self, peer: &Peer, instance: &InstanceRef) -> Result<Moved, Error> {
        self.moved(peer, &Request::WakeInstance { instance: instance.clone() })
    }

    /// Puts an instance of a node to sleep.
    ///
    /// # Errors
    /// Why it does not sleep.
    pub fn coordinator_sleep(&self, peer: &Peer, instance: &InstanceRef) -> Result<Moved, Error> {
        self.moved(peer, &Request::SleepInstance { instance: instance.clone() })
    }

    fn moved(&self, peer: &Peer, request: &Request) -> Result<Moved, Error> {
        let Answer::Moved(moved) = self.client(peer)?.ask(request)? else { return Err(strange()) };
        Ok(moved)
    }

    pub(super) fn client(&self, peer: &Peer) -> Result<Client, Error> {
        Client::connect(&peer.node, &self.caller(&peer.tls)?)
    }

    /// Who asks: this side's coordinator, else its observer, else its node.
    pub(super) fn caller(&self, tls: &TlsFiles) -> Result<Identity, Error> {
        let order = [Role::Coordinator, Role::Observer, Role::Node];
        let is_there = |role: &Role| Places::of(&self.certs(), *role).cert.exists();
        let role = order.into_iter().find(is_there).unwrap_or(Role::Coordinator);
        self.identity(role, tls).map_err(|error| {
            let is_missing = error.kind == ErrorKind::NotFound;
            let hint = "a coordinator's, by the fleet's authority: \
                        mvm agent certs init --ca FILE --role coordinator";
            if is_missing { error.hint(hint) } else { error }
        })
    }
}

/// All pages of a list.
fn paged<T>(mut ask: impl FnMut(PageOf) -> Result<Page<T>, Error>) -> Result<Vec<T>, Error> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = ask(PageOf { after, limit: PAGE_MAX })?;
        all.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

fn accepted(answer: Answer) -> Result<Acceptance, Error> {
    let Answer::Accepted(acceptance) = answer else { return Err(strange()) };
    Ok(acceptance)
}

pub(super) fn strange() -> Error {
    Error::new(ErrorKind::Failed, "the node answered something that was not asked")
}
