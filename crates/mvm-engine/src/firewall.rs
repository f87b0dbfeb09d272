//! The firewall's intent from the records, and bringing it into force.
//!
//! The firewall's lock is a leaf: nothing is locked under it. The intent is read under that lock,
//! so that what is applied last is what was recorded last. It refuses to know any rule.

use std::net::Ipv4Addr;

use mvm_core::{
    effect::{Effect, Firewall, Port, Published},
    error::Error,
    event::{Actor, EventKind},
    id::{Subject, TenantId},
    instance::{Instance, Want},
    net::Network,
    pool::Pool,
    port::Transaction,
    tenant::Tenant,
};

use crate::{engine::Engine, run, store::records};

/// What the firewall shall hold. A tenant that is being destroyed and has no pool left is out of it.
pub(crate) fn intent(tx: &mut dyn Transaction, resolvers: &[Ipv4Addr]) -> Result<Firewall, Error> {
    let mut networks = Vec::new();
    for tenant in records::list::<Tenant>(tx, "")? {
        let is_leaving =
            tenant.destroying && records::list::<Pool>(tx, tenant.tenant_id.as_str())?.is_empty();
        if !is_leaving {
            networks.push(tenant.network);
        }
    }
    let instances = records::list::<Instance>(tx, "")?;
    let ports = instances.iter().filter_map(port).collect();
    let published = instances.iter().flat_map(published).collect();
    let (generation, resolvers) = (records::network_generation(tx)?, resolvers.to_vec());
    Ok(Firewall { generation, networks, ports, resolvers, published })
}

fn published(instance: &Instance) -> impl Iterator<Item = Published> {
    let (net, to) = (instance.network.net, instance.address());
    instance
        .publish
        .iter()
        .filter_map(move |publish| Some(Published { net, to: to?, publish: *publish }))
}

fn port(instance: &Instance) -> Option<Port> {
    Some(Port {
        net: instance.network.net,
        offset: instance.offset,
        mac: instance.mac(),
        address: instance.address()?,
    })
}

/// Whether a plan for this wish may launch a process and so asks for the firewall.
pub(crate) const fn is_asked_by(want: Want) -> bool {
    matches!(want, Want::Running | Want::Warm | Want::Sleeping)
}

impl Engine {
    /// Brings the firewall to the present intent unless it is in force.
    pub(crate) fn sync_firewall(&self, network: &Network) -> Result<(), Error> {
        let lock = self.lock(&Subject::Firewall)?;
        let is_empty = run::patiently(&*self.ports.clock, || {
            let seen = self.ports.host.observe_tenant(network)?;
            let intent = self.within(|tx| intent(tx, &seen.resolvers))?;
            if seen.firewall == Some(intent.generation) {
                return Ok(false);
            }
            if seen.firewall_altered {
                self.tell_repair(&network.tenant)?;
            }
            tracing::debug!(generation = intent.generation.0, "replaces the firewall");
            let is_empty = intent.networks.is_empty();
            self.ports.host.execute(&Effect::ReplaceFirewall(intent))?;
            Ok(is_empty)
        })
        .map_err(|e| e.context("cannot bring the firewall into force"))?;
        if is_empty {
            lock.retire();
        }
        Ok(())
    }

    /// Tells the tenant in whose service it was found, unless its log is closed by now.
    fn tell_repair(&self, tenant: &TenantId) -> Result<(), Error> {
        self.within(|tx| match records::find::<Tenant>(tx, tenant.as_str())? {
            // The log of a tenant that is going may be in the archive by now.
            Some(of) if of.destroying => Ok(()),
            Some(_) => tx.append(&self.event(&Actor::Engine, tenant, EventKind::FirewallRepaired)),
            None => Ok(()),
        })
    }
}
