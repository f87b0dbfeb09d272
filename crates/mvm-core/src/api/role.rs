//! What callers may be, what each may ask, and how often.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Request;

/// What a certificate lets its holder be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Says what nodes shall have.
    Coordinator,
    /// Runs microVMs.
    Node,
    /// Looks, and changes nothing.
    Observer,
}

/// How often a peer may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second, on average.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Coordinator, Self::Node, Self::Observer];

    /// The word in certificates and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Node => "node",
            Self::Observer => "observer",
        }
    }

    /// How often it may ask (SPEC §6).
    #[must_use]
    pub const fn rate(self) -> Rate {
        match self {
            Self::Coordinator => Rate { per_second: 500, burst: 1000 },
            Self::Node => Rate { per_second: 20, burst: 40 },
            Self::Observer => Rate { per_second: 10, burst: 20 },
        }
    }

    /// Whether it may ask this. A node is no observer of others: what it may know of them is that they are
    /// there.
    #[must_use]
    pub const fn may(self, request: &Request) -> bool {
        match request {
            Request::NodeInfo {} => true,
            Request::NodeStats {}
            | Request::TenantList { .. }
            | Request::InstanceList { .. }
            | Request::Events { .. } => matches!(self, Self::Coordinator | Self::Observer),
            Request::ReconcileSigned { .. }
            | Request::Reconcile { .. }
            | Request::WakeInstance { .. }
            | Request::SleepInstance { .. }
            | Request::CertificateRequest {}
            | Request::InstallCertificate { .. }
            | Request::Revoke { .. } => matches!(self, Self::Coordinator),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("{text:?} is no role: coordinator, node or observer"))
    }
}
