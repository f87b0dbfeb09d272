//! What differs between a desired state and the records, as the changes that people's commands take.

use crate::{
    desired::DesiredPool,
    pool::{Pool, PoolChange, Resources, RuntimePolicy},
    quota::{QuotaChange, Quotas},
    route::RoutingTable,
};

/// What differs, except for where routes lead: that comes when all pools are there.
pub(super) fn difference(pool: &DesiredPool, record: &Pool) -> PoolChange {
    fn other<T: PartialEq + Clone>(is: &T, shall: &T) -> Option<T> {
        (is != shall).then(|| shall.clone())
    }
    let Resources { vcpus, mem_mib, data_disk_mib, disk_iops, disk_mbps, net_mbps } =
        record.instance_resources;
    let size = &pool.instance_resources;
    // A limit of 0 lifts it.
    let limit =
        |is: Option<u32>, shall: Option<u32>| (is != shall).then(|| shall.unwrap_or_default());
    let RuntimePolicy {
        min_running_seconds,
        min_warm_seconds,
        drain_timeout_seconds,
        graceful_shutdown_seconds,
    } = record.runtime_policy;
    let times = &pool.runtime_policy;
    let graceful = &times.graceful_shutdown_seconds;
    PoolChange {
        source: other(&record.source, &pool.source),
        profile: other(&record.profile, &pool.profile),
        role: other(&record.role, &pool.role),
        vcpus: other(&vcpus, &size.vcpus),
        mem_mib: other(&mem_mib, &size.mem_mib),
        data_disk_mib: other(&data_disk_mib, &size.data_disk_mib),
        disk_iops: limit(disk_iops, size.disk_iops),
        disk_mbps: limit(disk_mbps, size.disk_mbps),
        net_mbps: limit(net_mbps, size.net_mbps),
        min_running_seconds: other(&min_running_seconds, &times.min_running_seconds),
        min_warm_seconds: other(&min_warm_seconds, &times.min_warm_seconds),
        drain_timeout_seconds: other(&drain_timeout_seconds, &times.drain_timeout_seconds),
        graceful_shutdown_seconds: other(&graceful_shutdown_seconds, graceful),
        secret_scopes: other(&record.secret_scopes, &pool.secret_scopes),
        integrations: other(&record.integrations, &pool.integrations),
        routing_table: (with_routes(pool.routing_table.as_ref()).is_none()
            && with_routes(record.routing_table.as_ref()).is_some())
        .then(RoutingTable::default),
        policy: other(&record.policy, &pool.policy),
        readiness: None,
    }
}

/// A table that leads anywhere.
pub(super) fn with_routes(table: Option<&RoutingTable>) -> Option<&RoutingTable> {
    table.filter(|table| !table.routes.is_empty())
}

/// Each limit at the greater of its two values.
pub(super) fn highest(a: &Quotas, b: &Quotas) -> Quotas {
    Quotas {
        max_vcpus: a.max_vcpus.max(b.max_vcpus),
        max_mem_mib: a.max_mem_mib.max(b.max_mem_mib),
        max_running: a.max_running.max(b.max_running),
        max_warm: a.max_warm.max(b.max_warm),
        max_pools: a.max_pools.max(b.max_pools),
        max_instances_per_pool: a.max_instances_per_pool.max(b.max_instances_per_pool),
        max_disk_gib: a.max_disk_gib.max(b.max_disk_gib),
    }
}

pub(super) fn quota_change(is: &Quotas, shall: &Quotas) -> QuotaChange {
    fn other<T: PartialEq>(is: T, shall: T) -> Option<T> {
        (is != shall).then_some(shall)
    }
    QuotaChange {
        max_vcpus: other(is.max_vcpus, shall.max_vcpus),
        max_mem_mib: other(is.max_mem_mib, shall.max_mem_mib),
        max_running: other(is.max_running, shall.max_running),
        max_warm: other(is.max_warm, shall.max_warm),
        max_pools: other(is.max_pools, shall.max_pools),
        max_instances_per_pool: other(is.max_instances_per_pool, shall.max_instances_per_pool),
        max_disk_gib: other(is.max_disk_gib, shall.max_disk_gib),
    }
}
