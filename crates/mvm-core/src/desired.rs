//! The desired state of a node: all of its tenants and pools as one document (SPEC §5, schema 1).
//!
//! ```text
//! bytes ─▶ strict (one JSON document, no key twice) ─▶ read (forms) ─▶ check (sense) ─▶ DesiredState
//!                                                        └── findings, all together, each with its path
//! ```
//!
//! Next: [`manifest`], the short form that a person writes for one tenant.
//!
//! There is one way in, whatever the document came by; unknown fields are found at every
//! level. What is written out is complete: defaults stand in it. This module refuses to know where
//! documents come from and what is done with them.

mod check;
pub mod manifest;
mod read;
mod strict;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use crate::{
    document::Findings,
    error::{Error, ErrorKind},
    id::{PoolId, TenantId},
    integration::Integration,
    net::{NetId, Subnet},
    pool::{Counts, PoolPolicy, Resources, Role, RuntimePolicy, Source},
    quota::Quotas,
    route::RoutingTable,
    secrets::Scope,
    tenant::TenantPolicy,
};

/// The version of the document's form.
pub const SCHEMA_VERSION: u32 = 1;
/// The name that stands for any node, in development only.
pub const ANY_NODE: &str = "local";
/// The largest document, in bytes.
pub const SIZE_MAX: usize = 16 << 20;

/// What a node shall have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DesiredState {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The node that it is for; [`ANY_NODE`] in development.
    pub node_id: String,
    /// Its tenants.
    pub tenants: Vec<DesiredTenant>,
    /// Whether tenants that are not named are destroyed.
    pub prune_unknown_tenants: bool,
    /// Whether pools of named tenants that are not named are destroyed.
    pub prune_unknown_pools: bool,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DesiredTenant {
    /// Its id.
    pub tenant_id: TenantId,
    /// Its network.
    pub network: DesiredNetwork,
    /// Its limits.
    pub quotas: Quotas,
    /// Its pools.
    pub pools: Vec<DesiredPool>,
    /// SHA-256 of the secrets that it shall have, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets_hash: Option<String>,
    /// What is decided for it without being asked.
    #[serde(flatten)]
    pub policy: TenantPolicy,
}

/// A tenant's network; the tenant is named above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DesiredNetwork {
    /// Its net-id.
    pub tenant_net_id: NetId,
    /// Its addresses.
    pub ipv4_subnet: Subnet,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DesiredPool {
    /// Its id.
    pub pool_id: PoolId,
    /// `flake_ref`, `template` or `image`.
    #[serde(flatten, serialize_with = "source")]
    pub source: Source,
    /// The profile of the source.
    pub profile: String,
    /// What its instances are for.
    pub role: Role,
    /// The size of one instance.
    pub instance_resources: Resources,
    /// How many there shall be.
    pub desired_counts: Counts,
    /// Waiting times.
    pub runtime_policy: RuntimePolicy,
    /// Where its gateways lead to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_table: Option<RoutingTable>,
    /// What its instances see of the tenant's secrets; everything when empty.
    pub secret_scopes: Vec<Scope>,
    /// What of its workload keeps state of its own.
    pub integrations: Vec<Integration>,
    /// What is decided for it without being asked.
    #[serde(flatten)]
    pub policy: PoolPolicy,
}

/// Which documents a node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressee<'a> {
    /// Those for this node, and in development those for any.
    Node {
        /// Its id.
        id: &'a str,
        /// Whether it takes nothing but what names it.
        production: bool,
    },
    /// Any; the document is only looked at.
    Anyone,
}

/// Reads and checks a document.
///
/// # Errors
/// `Invalid`, with one cause for each finding, its JSON path before it.
pub fn parse(bytes: &[u8], addressee: Addressee<'_>) -> Result<DesiredState, Error> {
    let what = "the desired state";
    if bytes.len() > SIZE_MAX {
        let message = format!("{what} has {} bytes (limit {SIZE_MAX})", bytes.len());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let value = strict::read(bytes).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("{what} is not a JSON document")).because(&error)
    })?;
    understand(&value, addressee)
}

fn understand(value: &Value, addressee: Addressee<'_>) -> Result<DesiredState, Error> {
    let what = "the desired state";
    let mut findings = Findings::new();
    let state = read::state(value, addressee, &mut findings);
    findings.settle(what)?;
    state.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{what} makes no sense")))
}

/// Checked like a document that came from anywhere, except that it may name any node.
impl<'de> Deserialize<'de> for DesiredState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        understand(&value, Addressee::Anyone).map_err(D::Error::custom)
    }
}

impl DesiredState {
    /// An empty state of a node, which prunes nothing.
    #[must_use]
    pub fn of(node_id: &str) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            node_id: node_id.to_owned(),
            tenants: Vec::new(),
            prune_unknown_tenants: false,
            prune_unknown_pools: false,
        }
    }
}

/// The field that a source stands in.
pub(crate) const fn source_key(source: &Source) -> &'static str {
    match source {
        Source::Flake(_) => "flake_ref",
        Source::Template(_) => "template",
        Source::Image(_) => "image",
    }
}

fn source<S: serde::Serializer>(source: &Source, serializer: S) -> Result<S::Ok, S::Error> {
    BTreeMap::from([(source_key(source), source.text())]).serialize(serializer)
}

#[cfg(test)]
mod tests;
