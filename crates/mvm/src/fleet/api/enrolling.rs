//! Certificates that come from afar: the first one, later ones, and lists of revoked ones.
//!
//! Each change is told in the node's log and shown at once. It refuses to know what makes one believable;
//! `mvm_fleet::certs` does.

use std::{net::SocketAddr, sync::atomic::Ordering};

use mvm_core::{
    api::{self, Answer, CertificateRequest, Role, join::Grant},
    error::Error,
    event::EventKind,
};
use mvm_fleet::{
    certs::{
        self as certificates, Identity,
        enroll::{self, Given},
    },
    rpc::Joining,
};

use super::Behind;
use crate::{Mvm, fleet::now};

/// Strangers that the log tells of in one life of an agent: they shall not fill it.
const STRANGERS_TOLD: u32 = 100;

impl Joining for Behind {
    fn install(&self, address: SocketAddr, grant: &Grant) -> Result<Identity, Error> {
        let given = Given {
            certificate: &grant.certificate,
            authority: Some(&grant.authority),
            revocations: grant.revocations.as_deref(),
        };
        let places = self.mvm.places(Role::Node, &self.tls);
        let (facts, _) = enroll::install(&places, given, &self.mvm.engine.node_id()?, now())?;
        let told = format!("approved from {address} by {}, {}", facts.issuer, facts.fingerprint);
        self.mvm.engine.tell_certificate(EventKind::CertificateIssued, &told)?;
        tracing::info!(%address, authority = facts.issuer, "the node is one of the fleet");
        self.mvm.identity(Role::Node, &self.tls)
    }

    fn refused(&self, address: SocketAddr, why: &str) {
        tracing::warn!(%address, why, "an approval is refused");
        if self.refused.fetch_add(1, Ordering::Relaxed) >= STRANGERS_TOLD {
            return;
        }
        let told = format!("from {address}: {why}");
        if let Err(error) = self.mvm.engine.tell_certificate(EventKind::JoinRefused, &told) {
            tracing::warn!(%error, "a refused approval could not be told");
        }
    }
}

impl Behind {
    /// What is shown, as far as it can be read.
    pub(super) fn certificate(&self, mvm: &Mvm) -> Option<api::Certificate> {
        mvm.identity(Role::Node, &self.tls).ok().map(|identity| identity.facts.told())
    }

    pub(super) fn request_again(&self, mvm: &Mvm) -> Result<Answer, Error> {
        let places = mvm.places(Role::Node, &self.tls);
        let request = enroll::request_again(&places, &mvm.engine.node_id()?)?;
        Ok(Answer::Requested(CertificateRequest { request }))
    }

    pub(super) fn install_again(&self, mvm: &Mvm, certificate: &str) -> Result<Answer, Error> {
        let given = Given { certificate, authority: None, revocations: None };
        let places = mvm.places(Role::Node, &self.tls);
        let (facts, is_new) = enroll::install(&places, given, &mvm.engine.node_id()?, now())?;
        if is_new {
            let told = format!("another node certificate, {}", facts.fingerprint);
            mvm.engine.tell_certificate(EventKind::CertificateRotated, &told)?;
        }
        let identity = mvm.identity(Role::Node, &self.tls)?;
        self.face.get().map_or(Ok(()), |face| face.show(&identity))?;
        Ok(Answer::Certificate(identity.facts.told()))
    }

    pub(super) fn revoke(&self, mvm: &Mvm, list: &str) -> Result<Answer, Error> {
        let places = mvm.places(Role::Node, &self.tls);
        let (list, is_new) = certificates::revoke(&places.ca, list)?;
        let told = list.told();
        if is_new {
            let what = format!("list {}, {} certificates", told.number, told.certificates);
            mvm.engine.tell_certificate(EventKind::CertificateRevoked, &what)?;
        }
        if let Some(face) = self.face.get() {
            face.refuse(list);
            // A node whose own certificate is on the list has nothing else to show; nobody believes it.
            match mvm.identity(Role::Node, &self.tls) {
                Ok(identity) => face.show(&identity)?,
                Err(error) => tracing::warn!(%error, "this node is no longer one of the fleet"),
            }
        }
        Ok(Answer::Revoked(told))
    }
}
