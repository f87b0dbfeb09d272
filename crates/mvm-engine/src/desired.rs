//! The desired state that this node's records amount to: what `agent desired` writes.
//!
//! What is being destroyed is not desired, and the built-in tenant is nobody's to ask for. It refuses to
//! know whether anything of it is so at the moment.

use std::collections::BTreeMap;

use mvm_core::{
    desired::{DesiredNetwork, DesiredPool, DesiredState, DesiredTenant},
    error::Error,
    id::TenantId,
    pool::Pool,
    tenant::Tenant,
};

use crate::{engine::Engine, store::records};

impl Engine {
    /// The desired state of all tenants, or of one.
    ///
    /// # Errors
    /// `NotFound` of the tenant; why the store failed.
    pub fn desired(&self, only: Option<&TenantId>) -> Result<DesiredState, Error> {
        let draw = self.ports.clock.draw();
        self.within(|tx| {
            let node_id = records::node_id(tx, draw)?;
            let tenants = match only {
                Some(id) => vec![records::tenant(tx, id)?],
                None => records::list::<Tenant>(tx, "")?,
            };
            let mut pools: BTreeMap<TenantId, Vec<DesiredPool>> = BTreeMap::new();
            for pool in records::pools(tx, "")?.into_iter().filter(|pool| !pool.destroying) {
                pools.entry(pool.pool.tenant.clone()).or_default().push(of_pool(pool));
            }
            let wanted = tenants
                .into_iter()
                .filter(|tenant| !tenant.destroying && !tenant.tenant_id.is_own());
            let tenants = wanted.map(|tenant| {
                let pools = pools.remove(&tenant.tenant_id).unwrap_or_default();
                of_tenant(tenant, pools)
            });
            Ok(DesiredState { tenants: tenants.collect(), ..DesiredState::of(&node_id) })
        })
    }
}

fn of_tenant(tenant: Tenant, pools: Vec<DesiredPool>) -> DesiredTenant {
    DesiredTenant {
        tenant_id: tenant.tenant_id,
        network: DesiredNetwork {
            tenant_net_id: tenant.network.net,
            ipv4_subnet: tenant.network.subnet,
        },
        quotas: tenant.quotas,
        pools,
        secrets_hash: None,
        policy: tenant.policy,
    }
}

fn of_pool(pool: Pool) -> DesiredPool {
    DesiredPool {
        pool_id: pool.pool.pool,
        source: pool.source,
        profile: pool.profile,
        role: pool.role,
        instance_resources: pool.instance_resources,
        desired_counts: pool.desired_counts,
        runtime_policy: pool.runtime_policy,
        routing_table: pool.routing_table,
        secret_scopes: pool.secret_scopes,
        integrations: pool.integrations,
        policy: pool.policy,
    }
}
