//! A node among others: what it and its coordinator trust, and the API between them.
//!
//! - `api` — the node's side: answers what is asked from afar over this machine's engine.
//! - `authority` — `coordinator token, approve, renew, revoke`: who is a node, and who no longer.
//! - `certs` — `agent certs …`: this side's certificates.
//! - `coordinator` — `coordinator …`: signs and asks nodes.
//! - `host` — `add host`: what makes a machine a node of a fleet.
//!
//! The crate `mvm-fleet` knows cryptography and connections; this module says where its files lie and what
//! a request means here.

pub(crate) mod api;
mod authority;
mod certs;
mod coordinator;
mod host;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mvm_core::{api::Role, error::Error, units::Timestamp};
use mvm_fleet::certs::{self as certificates, Identity, Places};
use mvm_host::clock::SystemClock;

pub use authority::{Approved, Asked, Invitation, PushedList, Revocation, SignedFile};
pub use certs::{CertificateRequest, CertsAsk};
pub use coordinator::{Peer, SignAsk, SignerKey};
pub use host::HostAsk;

use crate::Mvm;

/// Where certificates lie in the data directory.
/// Where the public keys of trusted signers lie in the configuration directory.
const TRUSTED: &str = "trusted_keys";
/// The key that signs, in the configuration directory.
const SIGNING: &str = "signing.key";

/// Where the API listens, and as whom.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// Certificates that lie elsewhere than in the data directory.
    pub tls: TlsFiles,
}

/// Certificates that lie elsewhere; what is absent lies where it always does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority's certificate.
    pub ca: Option<PathBuf>,
    /// The certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    fn over(&self, usual: Places) -> Places {
        Places {
            ca: self.ca.clone().unwrap_or(usual.ca),
            cert: self.cert.clone().unwrap_or(usual.cert),
            key: self.key.clone().unwrap_or(usual.key),
        }
    }
}

/// The time of day.
pub(crate) fn now() -> Timestamp {
    use mvm_core::port::Clock;
    SystemClock.now()
}

impl Mvm {
    fn certs(&self) -> PathBuf {
        self.roots.data.join(mvm_core::layout::data::CERTS)
    }

    fn places(&self, role: Role, tls: &TlsFiles) -> Places {
        tls.over(Places::of(&self.certs(), role))
    }

    pub(crate) fn trusted_keys(&self) -> PathBuf {
        self.config_dir.join(TRUSTED)
    }

    pub(crate) fn signing_key(&self, given: Option<&Path>) -> PathBuf {
        given.map_or_else(|| self.config_dir.join(SIGNING), Path::to_owned)
    }

    /// Who this side is in a role; its certificate is renewed first where that is due and can be done here.
    fn identity(&self, role: Role, tls: &TlsFiles) -> Result<Identity, Error> {
        if certificates::renew_if_due(&self.certs(), role, now())? {
            tracing::info!(%role, "the certificate was renewed");
        }
        certificates::identity(&self.places(role, tls), now())
    }
}
