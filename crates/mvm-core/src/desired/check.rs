//! What makes no sense although every field by itself does: things that stand twice, networks that
//! overlap, counts that the quota does not hold.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{DesiredNetwork, DesiredPool, DesiredTenant};
use crate::{
    document::{Findings, below},
    id::PoolId,
    net::{InvalidSubnet, Subnet},
    quota::Quotas,
    route::Surroundings,
};

/// What a pool's routes are checked against.
#[derive(Debug)]
pub(super) struct Around {
    pools: BTreeSet<PoolId>,
    subnet: Option<Subnet>,
}

impl Around {
    pub(super) fn of(pools: &[Value], network: Option<DesiredNetwork>) -> Self {
        let names = pools.iter().filter_map(|pool| pool.get("pool_id")?.as_str()?.parse().ok());
        Self { pools: names.collect(), subnet: network.map(|network| network.ipv4_subnet) }
    }

    /// None while the network cannot be read.
    pub(super) fn of_pool(&self, own: &PoolId) -> Option<Surroundings> {
        Some(Surroundings { own: own.clone(), pools: self.pools.clone(), subnet: self.subnet? })
    }
}

pub(super) fn tenants(all: &[(String, Option<DesiredTenant>)], findings: &mut Findings) {
    let mut before: Vec<&DesiredTenant> = Vec::new();
    for (at, tenant) in all {
        let Some(tenant) = tenant else { continue };
        let (id, network) = (&tenant.tenant_id, &tenant.network);
        if before.iter().any(|other| other.tenant_id == *id) {
            findings.add(below(at, "tenant_id"), format!("{id} is there twice"));
        }
        let net = network.tenant_net_id;
        if let Some(other) = before.iter().find(|one| one.network.tenant_net_id == net) {
            let problem = format!("{net} is the net-id of {} already", other.tenant_id);
            findings.add(below(at, "network.tenant_net_id"), problem);
        }
        let subnet = network.ipv4_subnet;
        if !subnet.is_of_cluster() {
            let problem = InvalidSubnet::OutsideCluster(subnet.to_string()).to_string();
            findings.add(below(at, "network.ipv4_subnet"), problem);
        }
        if let Some(other) = before.iter().find(|one| one.network.ipv4_subnet.overlaps(subnet)) {
            let theirs = other.network.ipv4_subnet;
            let problem = format!("{subnet} overlaps {theirs} of {}", other.tenant_id);
            findings.add(below(at, "network.ipv4_subnet"), problem);
        }
        before.push(tenant);
    }
}

pub(super) fn pools(
    all: &[(String, Option<DesiredPool>)],
    quotas: &Quotas,
    tenant: &str,
    findings: &mut Findings,
) {
    let mut before: BTreeSet<&PoolId> = BTreeSet::new();
    for (at, pool) in all {
        let Some(pool) = pool else { continue };
        if !before.insert(&pool.pool_id) {
            findings.add(below(at, "pool_id"), format!("{} is there twice", pool.pool_id));
        }
        let counts = pool.desired_counts;
        let total = counts.running + counts.warm + counts.sleeping;
        let limit = quotas.max_instances_per_pool;
        if total > limit {
            let problem = format!("ask for {total} instances (max_instances_per_pool {limit})");
            findings.add(below(at, "desired_counts"), problem);
        }
    }
    let known = all.iter().filter_map(|(_, pool)| pool.as_ref());
    for (key, asked, limit) in sums(known, all.len(), quotas) {
        if asked > limit {
            let problem = format!("the pools ask for {asked} ({key} {limit})");
            findings.add(below(tenant, "pools"), problem);
        }
    }
}

/// What the pools ask for together, beside what the quota allows.
fn sums<'a>(
    pools: impl Iterator<Item = &'a DesiredPool>,
    count: usize,
    quotas: &Quotas,
) -> [(&'static str, u64, u64); 6] {
    let mut sum: BTreeMap<&str, u64> = BTreeMap::new();
    for pool in pools {
        let (counts, size) = (pool.desired_counts, pool.instance_resources);
        let [running, warm, sleeping] =
            [counts.running, counts.warm, counts.sleeping].map(u64::from);
        let (mem, disk) = (u64::from(size.mem_mib.0), u64::from(size.data_disk_mib.0));
        let mut add = |key, more| *sum.entry(key).or_default() += more;
        add("running", running);
        add("warm", warm);
        add("vcpus", u64::from(size.vcpus.0) * (running + warm));
        add("mem", mem * (running + warm));
        add("disk", disk * (running + warm + sleeping) + mem * sleeping);
    }
    let of = |key| sum.get(key).copied().unwrap_or_default();
    [
        ("max_pools", count as u64, u64::from(quotas.max_pools)),
        ("max_running", of("running"), u64::from(quotas.max_running)),
        ("max_warm", of("warm"), u64::from(quotas.max_warm)),
        ("max_vcpus", of("vcpus"), u64::from(quotas.max_vcpus.0)),
        ("max_mem_mib", of("mem"), u64::from(quotas.max_mem_mib.0)),
        ("max_disk_gib", of("disk").div_ceil(1024), u64::from(quotas.max_disk_gib.0)),
    ]
}
