//! The record of a tenant.

use serde::{Deserialize, Serialize};

use crate::{
    id::TenantId,
    net::Network,
    quota::Quotas,
    secrets::TenantSecrets,
    units::{Generation, Timestamp},
};

/// What was asked of a tenant, and where it is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Its id.
    pub tenant_id: TenantId,
    /// Its network.
    pub network: Network,
    /// Its limits.
    pub quotas: Quotas,
    /// Whether it has a key; without one its snapshots are plain (development only).
    pub keyed: bool,
    /// Whether its key is being replaced.
    #[serde(default)]
    pub rotating: bool,
    /// What is known of its secrets; none before the first were set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<TenantSecrets>,
    /// Whether it is being destroyed: nothing new may be made in it.
    pub destroying: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub generation: Generation,
}

impl Tenant {
    /// The epoch of its secrets, 0 without any.
    #[must_use]
    pub fn secrets_epoch(&self) -> Generation {
        self.secrets.as_ref().map_or(Generation(0), |secrets| secrets.epoch)
    }
}

/// What remains of a destroyed tenant: its net-id stays taken for a while (SPEC §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// Who had it.
    pub tenant_id: TenantId,
    /// The network that may not be reused yet.
    pub network: Network,
    /// When the tenant was destroyed.
    pub destroyed_at: Timestamp,
    /// From when on the net-id is free.
    pub free_at: Timestamp,
}
