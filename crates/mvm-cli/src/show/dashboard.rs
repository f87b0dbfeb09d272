//! What `mvm connect` shows: a deployment at a glance, as laid out in the onboarding guide.

use std::fmt::Write as _;

use mvm::deploy::Deployed;
use serde::Serialize;

use super::{Instance, Pool, Tenant};

/// A deployment.
#[derive(Debug, Serialize)]
pub(crate) struct Dashboard {
    pub(crate) tenant: Tenant,
    pub(crate) bridge: String,
    pub(crate) pools: Vec<Pool>,
    pub(crate) instances: Vec<Instance>,
}

impl Dashboard {
    pub(crate) fn of(deployed: &Deployed) -> Self {
        Self {
            tenant: Tenant::of(&deployed.tenant),
            bridge: deployed.bridge.clone(),
            pools: deployed.pools.iter().map(Pool::of).collect(),
            instances: deployed.instances.iter().map(Instance::of).collect(),
        }
    }
}

pub(crate) fn dashboard(one: &Dashboard) -> String {
    let Dashboard { tenant, bridge, pools, instances } = one;
    let name = &tenant.tenant_id;
    let mut text = format!(
        "Deployment: {name}\n\nNetwork:\n  Gateway:  {}\n  Subnet:   {}\n  Bridge:   {bridge}\n\nPools:\n",
        tenant.gateway, tenant.network.subnet
    );
    let width = pools.iter().map(|pool| pool.pool.len()).max().unwrap_or_default();
    for pool in pools {
        let (size, counts) = (&pool.instance_resources, &pool.desired_counts);
        let _ = writeln!(
            text,
            "  {:<width$} (role: {}, {}vcpu/{}MiB, running: {}, warm: {})",
            pool.pool, pool.role, size.vcpus.0, size.mem_mib.0, counts.running, counts.warm
        );
    }
    text.push_str("\nInstances:\n");
    let width = instances.iter().map(|one| one.instance.len()).max().unwrap_or_default();
    let wide = instances.iter().map(|one| one.state.to_string().len()).max().unwrap_or_default();
    for one in instances {
        let address = one.address.as_deref().unwrap_or("-");
        let _ = writeln!(
            text,
            "  {:<width$} {:<wide$} ip={address}",
            one.instance,
            one.state.to_string()
        );
    }
    let workers = pools.iter().rev().map(|pool| pool.pool.as_str()).next();
    text.push_str("\nQuick reference:\n");
    let _ = write!(
        text,
        "  Set secrets:    mvm tenant secrets set {name} --from-file secrets.json\n  List instances: mvm instance list --tenant {name}"
    );
    if let Some(pool) = workers {
        let _ = write!(text, "\n  Scale workers:  mvm pool scale {pool} --running 4 --warm 2");
    }
    text
}
