//! Accepting a desired state from afar: it is stored with its signer's sequence in one transaction, or
//! rejected; the node's log tells either.
//!
//! What was accepted stays in force until the next one, also after its time: a node that hears of nobody
//! goes on. This module refuses to know how a state came and what is done towards it.

use mvm_core::{
    desired::{self, Addressee},
    error::{Error, ErrorKind},
    event::{Actor, EventKind},
    id::TenantId,
    port::{Table, Transaction},
    signed::{
        self, Acceptance, AcceptedState, Envelope, Rejection, Surroundings, TrustedKeys, Verify,
    },
};

use crate::{
    engine::{Context, Engine, Telling},
    store::records,
};

const ACCEPTED: &str = "desired/accepted";

/// What a node takes.
pub struct Trust<'a> {
    /// Whose signatures count.
    pub keys: &'a TrustedKeys,
    /// How one is checked.
    pub verify: Verify<'a>,
}

impl Engine {
    /// This node's id, made on first use.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn node_id(&self) -> Result<String, Error> {
        let draw = self.ports.clock.draw();
        self.within(|tx| records::node_id(tx, draw))
    }

    /// Stores a signed state as the one to follow.
    ///
    /// # Errors
    /// Why it is rejected, which the node's log tells; `Invalid` when it makes no sense; why the store
    /// failed.
    pub fn accept_signed(
        &self,
        cx: &Context,
        envelope: &Envelope,
        trust: &Trust<'_>,
    ) -> Result<Acceptance, Error> {
        let node_id = self.node_id()?;
        let surroundings = Surroundings {
            node_id: &node_id,
            keys: trust.keys,
            now: self.ports.clock.now(),
            verify: trust.verify,
        };
        let rejected = |rejection: Rejection| self.reject(&cx.actor, Some(envelope), rejection);
        let authentic = signed::authentic(envelope, &surroundings).map_err(rejected)?;
        let state = self.understood(&node_id, &authentic.document);
        let (document, tenants) = state.map_err(|error| {
            let told =
                self.reject(&cx.actor, Some(envelope), Rejection::Malformed(error.to_string()));
            if told.kind == ErrorKind::Invalid { error } else { told }
        })?;
        let acceptance = Acceptance {
            signer_id: Some(authentic.signer_id.clone()),
            sequence: Some(authentic.sequence),
            accepted_at: self.ports.clock.now(),
            tenants,
        };
        let state = AcceptedState { acceptance: acceptance.clone(), document };
        let kept = self.within(|tx| {
            let last = last_sequence(tx, &authentic.signer_id)?;
            if let Err(rejection) = authentic.in_turn(last) {
                return Ok(Err(rejection));
            }
            let key = sequence_key(&authentic.signer_id);
            tx.put(Table::Meta, &key, &authentic.sequence.to_string())?;
            self.keep(tx, cx, &state)?;
            Ok(Ok(()))
        })?;
        kept.map_err(rejected)?;
        Ok(acceptance)
    }

    /// Stores a state that nobody signed as the one to follow; in development only.
    ///
    /// # Errors
    /// As [`Engine::accept_signed`].
    pub fn accept_unsigned(&self, cx: &Context, document: &str) -> Result<Acceptance, Error> {
        if self.config.production {
            return Err(self.reject(&cx.actor, None, Rejection::Unsigned));
        }
        let node_id = self.node_id()?;
        let understood = self.understood(&node_id, document.as_bytes());
        let (document, tenants) = understood.inspect_err(|error| {
            self.reject(&cx.actor, None, Rejection::Malformed(error.to_string()));
        })?;
        let accepted_at = self.ports.clock.now();
        let acceptance = Acceptance { signer_id: None, sequence: None, accepted_at, tenants };
        let state = AcceptedState { acceptance: acceptance.clone(), document };
        self.within(|tx| self.keep(tx, cx, &state))?;
        Ok(acceptance)
    }

    /// The state that was accepted last.
    ///
    /// # Errors
    /// `Integrity` when the record is damaged; why the store failed.
    pub fn accepted(&self) -> Result<Option<AcceptedState>, Error> {
        let stored = self.within(|tx| tx.get(Table::Meta, ACCEPTED))?;
        let read = stored.map(|text| serde_json::from_str(&text)).transpose();
        read.map_err(|error| {
            Error::new(ErrorKind::Integrity, "the accepted desired state is damaged")
                .because(&error)
        })
    }

    /// The document of a state that makes sense for this node, and how many tenants it names.
    fn understood(&self, node_id: &str, document: &[u8]) -> Result<(String, u64), Error> {
        let addressee = Addressee::Node { id: node_id, production: self.config.production };
        let state = desired::parse(document, addressee)?;
        let text = String::from_utf8_lossy(document).into_owned();
        Ok((text, state.tenants.len() as u64))
    }

    fn keep(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        state: &AcceptedState,
    ) -> Result<(), Error> {
        let text = serde_json::to_string(state).map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot store the desired state").because(&error)
        })?;
        tx.put(Table::Meta, ACCEPTED, &text)?;
        let kind = EventKind::DesiredStateAccepted;
        let event = self.event(&cx.actor, &TenantId::node(), kind).because("pushed");
        let Acceptance { signer_id, sequence, tenants, .. } = &state.acceptance;
        let event = event.with("signer", signer_id.as_deref().unwrap_or("nobody"));
        let event = sequence.iter().fold(event, |event, number| event.with("sequence", number));
        tx.append(&event.with("tenants", tenants))
    }

    /// Tells of a rejection, and says what it is to who asked.
    fn reject(&self, actor: &Actor, envelope: Option<&Envelope>, rejection: Rejection) -> Error {
        let kind = EventKind::DesiredStateRejected;
        let event = self.event(actor, &TenantId::node(), kind).because(rejection.name());
        let event = envelope.into_iter().fold(event, |event, envelope| {
            let event = event.with("signer", shown(&envelope.signer_id));
            let event = event.with("node", shown(&envelope.node_id));
            event.with("sequence", envelope.sequence)
        });
        match self.within(|tx| tx.append(&event)) {
            Ok(()) => rejection.into(),
            Err(error) => error.context("a rejected desired state could not be told"),
        }
    }
}

impl Engine {
    /// Tells in the node's log what became of a certificate of this side.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn tell_certificate(&self, kind: EventKind, what: &str) -> Result<(), Error> {
        let event = self.event(&Actor::Engine, &TenantId::node(), kind).because(what);
        self.within(|tx| tx.append(&event))
    }
}

/// A name that a stranger gave, as it may stand in a log.
fn shown(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_control()).take(64).collect()
}

/// A signer's id is hexadecimal once a key was found for it, so that it is a key of the store.
fn sequence_key(signer: &str) -> String {
    format!("desired/sequence/{signer}")
}

fn last_sequence(tx: &mut dyn Transaction, signer: &str) -> Result<Option<u64>, Error> {
    let Some(text) = tx.get(Table::Meta, &sequence_key(signer))? else { return Ok(None) };
    let read = text.parse();
    read.map(Some).map_err(|error: std::num::ParseIntError| {
        Error::new(ErrorKind::Integrity, format!("the last sequence of {signer} is damaged"))
            .because(&error)
    })
}
