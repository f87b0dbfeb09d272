//! The agent API, generation 1: what may be asked of a node from afar, and what it answers.
//!
//! ```text
//! connection: Hello ─▶ ◀─ Welcome          on its first stream
//! each later stream: Request (and Parts) ─▶ ◀─ Reply
//! ```
//!
//! Every message is one frame: 4 bytes of length, big-endian, and JSON, at most [`FRAME_MAX`] bytes. Both
//! sides of a connection have certificates; the caller's holds its [`Role`]. Within a generation unknown
//! fields are refused. `schema/api-1.json` has an example of each message; a change shows there.
//! [`join`] is what a node says before it has a certificate: another protocol, so that nothing of this one can
//! be asked there. This module refuses to know connections and how certificates are made.

mod code;
pub mod join;
mod role;

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

pub use code::{Code, Refusal};
pub use role::{Rate, Role};

use crate::{
    event::LoggedEvent,
    id::{InstanceRef, TenantId},
    instance::ParkedBy,
    net::{NetId, Subnet},
    observed::NodeFacts,
    pool::Role as PoolRole,
    quota::{Quotas, Usage},
    signed::{Acceptance, Envelope},
    state::State,
    units::{Mib, Timestamp, Vcpus},
};

/// The protocol's name in the TLS handshake.
pub const ALPN: &[u8] = b"mvm/1";
/// Where a node listens unless told otherwise.
pub const PORT: u16 = 4433;
/// The largest frame, in bytes, without its length.
pub const FRAME_MAX: usize = 1 << 20;
/// The oldest and the newest generation that this `mvm` speaks: its own and the one before, of which there
/// is none yet.
pub const GENERATIONS: [u16; 2] = [1, 1];
/// The longest part of a payload, in bytes: with its field it fits a frame.
pub const PART_MAX: usize = 768 << 10;
/// The most parts of one payload: 16 MiB of a state in base64.
pub const PARTS_MAX: usize = 30;
/// The most items of a page.
pub const PAGE_MAX: u32 = 500;

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The oldest and the newest generation that the caller speaks.
    pub generations: [u16; 2],
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// The generation of this connection.
    pub generation: u16,
}

/// The answer to the first frame, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Greeting {
    /// Requests may follow.
    Welcome(Welcome),
    /// None may.
    Refused(Refusal),
}

/// The highest generation that both ranges hold.
#[must_use]
pub fn common_generation(ours: [u16; 2], theirs: [u16; 2]) -> Option<u16> {
    let ([low, high], [other_low, other_high]) = (ours, theirs);
    let top = high.min(other_high);
    (top >= low && top >= other_low).then_some(top)
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageOf {
    /// What comes after this item; from the beginning without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// How many at most; [`PAGE_MAX`] when it is 0 or more than that.
    #[serde(default)]
    pub limit: u32,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page<T> {
    /// The items, in order.
    pub items: Vec<T>,
    /// What to ask for to get more; nothing at the end.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The part of a whole list that is asked for; `key` is unique and the list's order.
    #[must_use]
    pub fn of(mut all: Vec<T>, asked: &PageOf, key: impl Fn(&T) -> String) -> Self {
        all.sort_by_key(&key);
        if let Some(after) = &asked.after {
            all.retain(|item| key(item) > *after);
        }
        let limit = asked.size();
        let next = (all.len() > limit)
            .then(|| limit.checked_sub(1).and_then(|last| all.get(last)).map(&key))
            .flatten();
        all.truncate(limit);
        Self { items: all, next }
    }
}

impl PageOf {
    /// How many items it asks for.
    #[must_use]
    pub const fn size(&self) -> usize {
        let is_given = self.limit > 0 && self.limit < PAGE_MAX;
        (if is_given { self.limit } else { PAGE_MAX }) as usize
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Accept a signed desired state.
    ReconcileSigned {
        /// The state; without its payload when that comes in parts.
        envelope: Envelope,
        /// The SHA-256 of each [`Part`] that follows, hexadecimal.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        parts: Vec<String>,
    },
    /// Accept a desired state that nobody signed; in development only.
    Reconcile {
        /// The document.
        document: String,
    },
    /// What the node is.
    NodeInfo {},
    /// What it holds.
    NodeStats {},
    /// Its tenants.
    TenantList {
        /// Which of them.
        #[serde(default)]
        page: PageOf,
    },
    /// Its instances.
    InstanceList {
        /// Only of this tenant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<TenantId>,
        /// Which of them.
        #[serde(default)]
        page: PageOf,
    },
    /// Wake an instance.
    WakeInstance {
        /// Which.
        instance: InstanceRef,
    },
    /// Put an instance to sleep.
    SleepInstance {
        /// Which.
        instance: InstanceRef,
    },
    /// What happened to a tenant, from one entry on.
    Events {
        /// Whose log.
        tenant: TenantId,
        /// The entries after this one.
        #[serde(default)]
        after_seq: u64,
        /// How many at most; [`PAGE_MAX`] when it is 0 or more than that.
        #[serde(default)]
        limit: u32,
    },
    /// Write a request for a certificate of the node's own key.
    CertificateRequest {},
    /// Take a certificate of the node's own key into use.
    InstallCertificate {
        /// The certificate, PEM.
        certificate: String,
    },
    /// Believe no certificate of this list; its number is higher than that of the list before.
    Revoke {
        /// The authority's list (X.509 CRL), PEM.
        list: String,
    },
}

impl Request {
    /// Its name in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ReconcileSigned { .. } => "reconcile_signed",
            Self::Reconcile { .. } => "reconcile",
            Self::NodeInfo {} => "node_info",
            Self::NodeStats {} => "node_stats",
            Self::TenantList { .. } => "tenant_list",
            Self::InstanceList { .. } => "instance_list",
            Self::WakeInstance { .. } => "wake_instance",
            Self::SleepInstance { .. } => "sleep_instance",
            Self::Events { .. } => "events",
            Self::CertificateRequest {} => "certificate_request",
            Self::InstallCertificate { .. } => "install_certificate",
            Self::Revoke { .. } => "revoke",
        }
    }
}

/// A piece of a payload's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// At most [`PART_MAX`] bytes.
    pub text: String,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// What was asked.
    Done(Answer),
    /// Why not.
    Refused(Refusal),
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The state is stored, and the agent follows it.
    Accepted(Acceptance),
    /// The node.
    Node(Box<NodeInfo>),
    /// What it holds.
    Stats(NodeFigures),
    /// Tenants.
    Tenants(Page<TenantRow>),
    /// Instances.
    Instances(Page<InstanceRow>),
    /// The instance is in this state.
    Moved(Moved),
    /// Events, oldest first.
    Events(Page<LoggedEvent>),
    /// A request for a certificate.
    Requested(CertificateRequest),
    /// The certificate that is in use.
    Certificate(Certificate),
    /// The list of revoked certificates that is in force.
    Revoked(Revocations),
}

/// A request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRequest {
    /// The request (PKCS #10), PEM.
    pub request: String,
}

/// A node's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Whose it is.
    pub name: String,
    /// Its number among those of its authority, hexadecimal.
    pub serial: String,
    /// Its SHA-256, hexadecimal.
    pub fingerprint: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// Whether half its life is over.
    pub renewal_due: bool,
}

/// A list of revoked certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// Its number; rises with each list.
    pub number: u64,
    /// How many certificates are on it.
    pub certificates: u64,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeInfo {
    /// Its id.
    pub node_id: String,
    /// The version of its `mvm`.
    pub version: String,
    /// Whether it takes nothing unsigned.
    pub production: bool,
    /// The machine.
    pub facts: NodeFacts,
    /// What its instances cost.
    pub usage: Usage,
    /// The state that it accepted last.
    #[serde(default)]
    pub desired: Option<Acceptance>,
    /// How its last pass towards it ended.
    #[serde(default)]
    pub pass: Option<Pass>,
    /// The certificate that it shows.
    #[serde(default)]
    pub certificate: Option<Certificate>,
    /// The list of revoked certificates that is in force there; none before the first.
    #[serde(default)]
    pub revocations: Option<Revocations>,
}

/// How a pass towards the desired state ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// When.
    pub ended_at: Timestamp,
    /// What failed, and why.
    pub failures: Vec<String>,
}

/// What a node holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFigures {
    /// Instances by state.
    pub states: BTreeMap<State, u32>,
    /// What all cost.
    pub usage: Usage,
    /// What each tenant's cost.
    pub tenants: BTreeMap<TenantId, Usage>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRow {
    /// Its id.
    pub tenant_id: TenantId,
    /// Its net-id.
    pub net_id: NetId,
    /// Its addresses.
    pub subnet: Subnet,
    /// Its limits.
    pub quotas: Quotas,
    /// What its instances cost.
    pub usage: Usage,
    /// How many pools it has.
    pub pools: u64,
    /// How many instances it has.
    pub instances: u64,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceRow {
    /// Its address.
    pub instance: InstanceRef,
    /// Its true state.
    pub state: State,
    /// Whether it is on its way to another one.
    pub in_flight: bool,
    /// What it is for.
    pub role: PoolRole,
    /// Its IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// Its virtual CPUs.
    pub vcpus: Vcpus,
    /// Its memory.
    pub mem_mib: Mib,
    /// Who parked it, while Warm or Sleeping.
    #[serde(default)]
    pub parked_by: Option<ParkedBy>,
    /// Why it stopped by itself.
    #[serde(default)]
    pub last_failure: Option<String>,
    /// Since when it is in its state.
    pub state_since: Timestamp,
}

/// The state that an instance is in after what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moved {
    /// Which.
    pub instance: InstanceRef,
    /// Its state.
    pub state: State,
}

#[cfg(test)]
mod tests;
