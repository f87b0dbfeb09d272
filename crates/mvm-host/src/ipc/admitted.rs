//! A host that does nothing that was not admitted.
//!
//! ```text
//! bounds ─▶ turn on the subject, and on walls ─▶ scope ─▶ claims granted ─▶ kernel's truth ─▶ the act ─▶ claims released
//! ```
//! The kernel's truth counts where a claim cannot: no tap comes before the walls around it, new tables keep
//! every wall around a tap that is there, and a bridge goes only when no tap is on it.

use std::sync::Arc;

use mvm_core::{
    Error, ErrorKind,
    disk::{DiskUse, Room},
    effect::{Effect, Firewall},
    id::{InstanceRef, OperationId, PoolRef, Subject, TenantId},
    instance::Instance,
    meter::{Meter, Pressure},
    net::{NetId, Network, Offset},
    observed::{ObservedInstance, ObservedNode, ObservedPool, ObservedStock, ObservedTenant},
    port::{Console, Finding, Homes, Host, LogPlace, LogSource, Logs, Wanted},
};

use super::{
    admit::{self, Claim, Concern, Footing, Truth},
    home,
    ledger::Ledger,
    scope::Scope,
};
use crate::{local::LocalHost, net};

/// The host behind its ledger, for one caller.
#[derive(Debug, Clone)]
pub struct AdmittedHost {
    host: LocalHost,
    ledger: Ledger,
    scope: Scope,
}

impl AdmittedHost {
    /// The host for a caller of this scope.
    #[must_use]
    pub fn new(host: LocalHost, scope: Scope) -> Self {
        let ledger = Ledger::below(&host.roots().data);
        Self { host, ledger, scope }
    }

    /// # Errors
    /// `Permission` when the caller may not touch this tenant, or the node.
    pub fn admit(&self, tenant: Option<&TenantId>) -> Result<(), Error> {
        self.scope.admit(tenant)
    }

    /// # Errors
    /// As [`AdmittedHost::admit`]; `Permission` for an instance whose id is another pool's.
    pub fn admit_instance(&self, instance: &InstanceRef) -> Result<(), Error> {
        self.admit(Some(&instance.tenant))?;
        match self.ledger.instance(&instance.instance)? {
            Some(owner) if owner != *instance => Err(Error::new(
                ErrorKind::Permission,
                format!("{} belongs to {owner} on this host", instance.instance),
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn tenant_of(&self, concern: &Concern) -> Result<Option<TenantId>, Error> {
        Ok(match concern {
            Concern::Instance(instance) => Some(instance.tenant.clone()),
            Concern::Id(id) => self.ledger.instance(id)?.map(|instance| instance.tenant),
            Concern::Tenant(tenant) => Some(tenant.clone()),
            Concern::Net(net) => self.ledger.tenant(*net)?,
            Concern::Node => None,
        })
    }

    /// # Errors
    /// Why the effect is not done.
    fn admit_effect(&self, footing: &Footing) -> Result<(), Error> {
        self.admit(self.tenant_of(&footing.concern)?.as_ref())?;
        for claim in &footing.claims {
            // Root may give a kept volume to another tenant: it is a person's decision. Whose it was when it
            // was kept is claimed all the same, for everybody else.
            let is_given_away = claim.is_volume() && footing.released.contains(&claim.name);
            if !(is_given_away && self.scope == Scope::Root) {
                self.ledger.grant(claim)?;
            }
        }
        Ok(())
    }

    fn admit_truth(&self, effect: &Effect, truth: Truth) -> Result<(), Error> {
        match (truth, effect) {
            (Truth::KeepsWalls, Effect::ReplaceFirewall(intent)) => self.keeps_the_walls(intent),
            (Truth::HasWalls(net, offset), _) => self.has_walls(net, offset),
            (Truth::NoTaps(net), _) => free_of_taps(net),
            (Truth::Any | Truth::KeepsWalls, _) => Ok(()),
        }
    }

    /// No tap comes before the walls around it.
    fn has_walls(&self, net: NetId, offset: Offset) -> Result<(), Error> {
        if net::has_walls(self.host.roots(), net, offset)? {
            return Ok(());
        }
        let message = format!("no walls are in force around guest {} of network {net}", offset.0);
        Err(Error::new(ErrorKind::Conflict, message))
    }

    /// What is in the kernel stays within walls: every tap's port is in the new tables, as it was claimed.
    fn keeps_the_walls(&self, intent: &Firewall) -> Result<(), Error> {
        for (net, offset) in net::list()?.taps {
            if !intent.ports.iter().any(|port| (port.net, port.offset) == (net, offset)) {
                let message = format!(
                    "the new tables have no walls around guest {} of network {net}",
                    offset.0
                );
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        }
        for network in &intent.networks {
            let claim = Claim::network(network);
            if let Some(owner) = self.ledger.owner(&claim.name)?
                && owner != claim.owner
            {
                let message = format!("network {} belongs to {owner} on this host", network.net);
                return Err(Error::new(ErrorKind::Permission, message));
            }
        }
        let own = net::resolvers(self.host.roots()).resolvers;
        if let Some(foreign) = intent.resolvers.iter().find(|resolver| !own.contains(resolver)) {
            let message = format!("{foreign} is not a resolver of this host");
            return Err(Error::new(ErrorKind::Permission, message));
        }
        Ok(())
    }
}

fn free_of_taps(net: NetId) -> Result<(), Error> {
    match net::list()?.taps.iter().find(|(of, _)| *of == net) {
        None => Ok(()),
        Some((_, offset)) => Err(Error::new(
            ErrorKind::Conflict,
            format!("the bridge of network {net} has guest {} on it", offset.0),
        )),
    }
}

fn subject(concern: &Concern) -> String {
    match concern {
        Concern::Instance(instance) => instance.instance.to_string(),
        Concern::Id(id) => id.to_string(),
        Concern::Tenant(tenant) => format!("tenant.{tenant}"),
        Concern::Net(net) => format!("net.{net}"),
        Concern::Node => "node".to_owned(),
    }
}

impl Homes for AdmittedHost {
    fn ensure_home(&self, subject: &Subject) -> Result<(), Error> {
        let tenant = match subject {
            Subject::Tenant(tenant) => Some(tenant),
            Subject::Pool(pool) => Some(&pool.tenant),
            Subject::Instance(instance) => Some(&instance.tenant),
            Subject::Firewall => None,
        };
        self.admit(tenant)?;
        home::ensure(self.host.roots(), subject)
    }
}

impl Host for AdmittedHost {
    fn for_operation(&self, operation: &OperationId) -> Option<Arc<dyn Host>> {
        Some(Arc::new(Self { host: self.host.named(operation), ..self.clone() }))
    }

    fn execute(&self, effect: &Effect) -> Result<(), Error> {
        let refused = |error: Error| error.context(format!("{} is refused", effect.name()));
        let footing = admit::footing(effect).map_err(refused)?;
        let turn = self.ledger.turn(&subject(&footing.concern))?;
        // What the kernel says of walls and taps must still hold when the act is done.
        let is_of_walls = footing.truth != Truth::Any;
        let walls = is_of_walls.then(|| self.ledger.turn("walls")).transpose()?;
        self.admit_effect(&footing).map_err(refused)?;
        self.admit_truth(effect, footing.truth).map_err(refused)?;
        self.host.execute(effect)?;
        for name in &footing.released {
            self.ledger.release(name)?;
        }
        drop((walls, turn));
        Ok(())
    }

    fn observe_instance(&self, instance: &Instance) -> Result<ObservedInstance, Error> {
        self.admit_instance(&instance.instance)?;
        self.host.observe_instance(instance)
    }

    fn observe_tenant(&self, network: &Network) -> Result<ObservedTenant, Error> {
        self.admit(Some(&network.tenant))?;
        self.host.observe_tenant(network)
    }

    fn observe_pool(&self, pool: &PoolRef) -> Result<ObservedPool, Error> {
        self.admit(Some(&pool.tenant))?;
        self.host.observe_pool(pool)
    }

    fn observe_stock(&self) -> Result<ObservedStock, Error> {
        self.admit(None)?;
        self.host.observe_stock()
    }

    fn weigh(&self, removals: &[Effect]) -> Result<Vec<u64>, Error> {
        self.admit(None)?;
        self.host.weigh(removals)
    }

    fn observe_node(&self) -> Result<ObservedNode, Error> {
        self.admit(None)?;
        self.host.observe_node()
    }

    fn room(&self) -> Result<Room, Error> {
        self.host.room()
    }

    fn disk_use(&self) -> Result<DiskUse, Error> {
        self.admit(None)?;
        self.host.disk_use()
    }

    fn verify_network(&self, intent: &Firewall) -> Result<Vec<Finding>, Error> {
        self.admit(None)?;
        self.host.verify_network(intent)
    }

    fn meter(&self, instance: &Instance) -> Result<Meter, Error> {
        self.admit_instance(&instance.instance)?;
        self.host.meter(instance)
    }

    fn pressure(&self) -> Result<Pressure, Error> {
        self.host.pressure()
    }

    fn wanted(&self) -> Result<Vec<Wanted>, Error> {
        self.admit(None)?;
        self.host.wanted()
    }

    fn console(&self, instance: &InstanceRef) -> Result<Console, Error> {
        self.admit_instance(instance)?;
        self.host.console(instance)
    }

    fn logs(&self, instance: &InstanceRef, lines: usize) -> Result<Logs, Error> {
        self.admit_instance(instance)?;
        self.host.logs(instance, lines)
    }

    fn logs_after(
        &self,
        instance: &InstanceRef,
        source: LogSource,
        from: Option<LogPlace>,
    ) -> Result<(Vec<u8>, LogPlace), Error> {
        self.admit_instance(instance)?;
        self.host.logs_after(instance, source, from)
    }
}
