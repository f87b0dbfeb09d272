//! Who has files below the data directory, read from the names of directories alone.
//!
//! Names that are not ids of ours are skipped: a person may put notes beside them.

use mvm_core::{
    id::{ImageHash, InstanceRef, PoolId, PoolRef, TenantId},
    layout,
    observed::ObservedPool,
};

use super::{durable, error::Act};
use crate::roots::Roots;

/// The tenants that have a directory, sorted.
///
/// # Errors
/// When the directory of tenants cannot be read.
pub fn tenants(roots: &Roots) -> Result<Vec<TenantId>, mvm_core::Error> {
    let names = durable::names(&roots.data.join(layout::data::TENANTS))?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The pools of a tenant that have a directory, sorted.
///
/// # Errors
/// When a directory cannot be read.
pub fn pools_of(roots: &Roots, tenant: &TenantId) -> Result<Vec<PoolRef>, mvm_core::Error> {
    let names = durable::names(&roots.data.join(layout::data::tenant(tenant)).join("pools"))?;
    let pools = names.iter().filter_map(|name| name.parse().ok());
    Ok(pools.map(|pool| PoolRef { tenant: tenant.clone(), pool }).collect())
}

/// All pools that have a directory, sorted.
///
/// # Errors
/// When a directory cannot be read.
pub fn pools(roots: &Roots) -> Result<Vec<(TenantId, PoolId)>, mvm_core::Error> {
    let mut found = Vec::new();
    for tenant in tenants(roots)? {
        found.extend(pools_of(roots, &tenant)?.into_iter().map(|pool| (pool.tenant, pool.pool)));
    }
    Ok(found)
}

/// The instances of a pool that have a directory, sorted.
///
/// # Errors
/// When the directory of instances cannot be read.
pub fn instances(roots: &Roots, pool: &PoolRef) -> Result<Vec<InstanceRef>, mvm_core::Error> {
    let names = durable::names(&roots.data.join(layout::data::pool(pool)).join("instances"))?;
    let ids = names.iter().filter_map(|name| name.parse().ok());
    let reference =
        |instance| InstanceRef { tenant: pool.tenant.clone(), pool: pool.pool.clone(), instance };
    Ok(ids.map(reference).collect())
}

/// Whether a tenant has a directory.
///
/// # Errors
/// When that cannot be found out.
pub fn tenant_is_there(roots: &Roots, tenant: &TenantId) -> Result<bool, mvm_core::Error> {
    Ok(durable::exists(&roots.data.join(layout::data::tenant(tenant)))?)
}

/// Whether an instance has a directory.
///
/// # Errors
/// When that cannot be found out.
pub fn instance_is_there(roots: &Roots, id: &InstanceRef) -> Result<bool, mvm_core::Error> {
    Ok(durable::exists(&roots.data.join(layout::data::instance(id)))?)
}

/// A pool's directory, revisions (sorted) and the revision that `current` names.
///
/// # Errors
/// When a directory cannot be read.
pub fn observe_pool(roots: &Roots, pool: &PoolRef) -> Result<ObservedPool, mvm_core::Error> {
    let artifacts = roots.data.join(layout::data::artifacts(pool));
    let revisions: Vec<ImageHash> = durable::names(&artifacts.join("revisions"))?
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    let link = artifacts.join("current");
    let current = if durable::exists(&link)? {
        let target = std::fs::read_link(&link).act("read the link", &link)?;
        let name = target.strip_prefix("revisions").ok().and_then(|name| name.to_str());
        name.and_then(|name| name.parse().ok()).filter(|hash| revisions.contains(hash))
    } else {
        None
    };
    let files = durable::exists(&roots.data.join(layout::data::pool(pool)))?;
    Ok(ObservedPool { revisions, current, files })
}
