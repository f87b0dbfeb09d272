//! What `mvm tenant …` shows.

use mvm::{Quotas, SecretsView, TenantSecrets, TenantView, Usage, units::Timestamp};
use serde::Serialize;

use crate::render::table::{facts, table};

/// A tenant, as `tenant list` and `tenant info` show it.
#[derive(Debug, Serialize)]
pub(crate) struct Tenant {
    pub(crate) tenant_id: String,
    pub(crate) network: mvm::Network,
    pub(crate) gateway: String,
    pub(crate) quotas: Quotas,
    pub(crate) usage: Usage,
    pub(crate) pools: usize,
    pub(crate) instances: usize,
    pub(crate) keyed: bool,
    pub(crate) secrets: Option<TenantSecrets>,
    pub(crate) destroying: bool,
    pub(crate) created_at: Timestamp,
}

impl Tenant {
    pub(crate) fn of(view: &TenantView) -> Self {
        let record = &view.record;
        Self {
            tenant_id: record.tenant_id.to_string(),
            network: record.network.clone(),
            gateway: record.network.subnet.gateway().to_string(),
            quotas: record.quotas,
            usage: view.usage,
            pools: view.pools,
            instances: view.instances,
            keyed: record.keyed,
            secrets: record.secrets.clone(),
            destroying: record.destroying,
            created_at: record.created_at,
        }
    }
}

pub(crate) fn tenants(all: &[Tenant]) -> String {
    let row = |one: &Tenant| {
        [
            one.tenant_id.clone(),
            one.network.net.to_string(),
            one.network.subnet.to_string(),
            one.pools.to_string(),
            one.instances.to_string(),
            format!("{}/{}", one.usage.running, one.quotas.max_running),
            format!("{}/{} MiB", one.usage.mem_mib, one.quotas.max_mem_mib.0),
        ]
    };
    table(
        ["TENANT", "NET", "SUBNET", "POOLS", "INSTANCES", "RUNNING", "MEMORY"],
        all.iter().map(row).collect(),
    )
}

pub(crate) fn tenant(one: &Tenant) -> String {
    let (used, most) = (&one.usage, &one.quotas);
    facts(vec![
        ("Tenant", one.tenant_id.clone()),
        (
            "Network",
            format!("{} (net-id {}), gateway {}", one.network.subnet, one.network.net, one.gateway),
        ),
        ("vCPUs", format!("{} of {}", used.vcpus, most.max_vcpus)),
        ("Memory", format!("{} of {}", used.mem_mib, most.max_mem_mib)),
        ("Running", format!("{} of {}", used.running, most.max_running)),
        ("Warm", format!("{} of {}", used.warm, most.max_warm)),
        ("Pools", format!("{} of {}", one.pools, most.max_pools)),
        (
            "Instances",
            format!("{} (at most {} per pool)", one.instances, most.max_instances_per_pool),
        ),
        ("Disk", format!("{} MiB of {}", used.disk_mib, most.max_disk_gib)),
        (
            "Secrets",
            one.secrets.as_ref().map_or_else(
                || "none".to_owned(),
                |secrets| format!("{}, epoch {}", secrets.count, secrets.epoch),
            ),
        ),
        (
            "Key",
            if one.keyed { "yes" } else { "none: snapshots are stored in the clear" }.to_owned(),
        ),
    ])
}

/// A tenant's secrets, as `tenant secrets list` shows them.
#[derive(Debug, Serialize)]
pub(crate) struct Secrets {
    pub(crate) tenant: String,
    pub(crate) epoch: u64,
    pub(crate) keys: Vec<String>,
    pub(crate) source: Option<String>,
    pub(crate) updated_at: Option<Timestamp>,
    pub(crate) sealed: bool,
}

impl Secrets {
    pub(crate) fn of(view: SecretsView) -> Self {
        let record = view.record.as_ref();
        Self {
            tenant: view.tenant.to_string(),
            epoch: record.map_or(0, |record| record.epoch.0),
            source: record.map(|record| record.source.to_string()),
            updated_at: record.map(|record| record.updated_at),
            keys: view.keys,
            sealed: view.sealed,
        }
    }
}

pub(crate) fn secrets(one: &Secrets) -> String {
    let Some(source) = &one.source else {
        return format!("Tenant {} has no secrets.", one.tenant);
    };
    let how = if one.sealed { "sealed with the tenant's key" } else { "in the clear" };
    let time = one.updated_at.map(super::events::time).unwrap_or_default();
    let mut lines = vec![facts(vec![
        ("Tenant", one.tenant.clone()),
        ("Epoch", one.epoch.to_string()),
        ("Source", source.clone()),
        ("Time", time),
        ("Kept", how.to_owned()),
        ("Keys", one.keys.len().to_string()),
    ])];
    lines.extend(one.keys.iter().map(|key| format!("  {key}")));
    lines.join("\n")
}
