//! Making and removing tenants.
//!
//! The record comes first, then what it asks of the machine: a crash in between is healed by the
//! next operation that makes something in the tenant. Removal goes the other way round: the record
//! goes last, so that a removal that was cut off can be asked again.

use std::collections::BTreeSet;

use mvm_core::{
    alloc,
    effect::Effect,
    error::{Error, ErrorKind},
    event::{Actor, EventKind},
    id::{PoolRef, Subject, TenantId},
    instance::Instance,
    net::{InvalidSubnet, MAX_TENANT_NET, NetId, Network, Subnet},
    port::{Table, Transaction},
    quota::{Holdings, QuotaChange, Quotas},
    tenant::{Tenant, TenantPolicy, Tombstone},
    units::{Generation, Timestamp},
    volume::VolumeFate,
};

use super::refuse_destroying;
use crate::{
    converge::FirewallAfter,
    engine::{Context, Engine, Telling},
    outcome::{Made, Outcome},
    store::{records, tally},
};

/// What is asked of a new tenant.
#[derive(Debug, Clone)]
pub(crate) struct NewTenant {
    pub(crate) tenant: TenantId,
    pub(crate) net: Option<NetId>,
    pub(crate) subnet: Option<Subnet>,
    pub(crate) quotas: Quotas,
    pub(crate) keyed: bool,
}

impl Engine {
    pub(crate) fn tenant_create(&self, cx: &Context, ask: &NewTenant) -> Result<Outcome, Error> {
        valid(ask)?;
        self.tenant_make(cx, ask)
    }

    pub(super) fn tenant_make(&self, cx: &Context, ask: &NewTenant) -> Result<Outcome, Error> {
        let lock = self.lock(&Subject::Tenant(ask.tenant.clone()))?;
        let remnants = self.remnants()?;
        let found = self.within(|tx| records::find::<Tenant>(tx, ask.tenant.as_str()))?;
        if let Some(tenant) = found {
            refuse_destroying("tenant", &ask.tenant, tenant.destroying)?;
            self.tenant_effects(&cx.actor, &tenant)?;
            return Err(exists(&ask.tenant));
        }
        let made = cx
            .cancel
            .check()
            .and_then(|()| self.within(|tx| self.tenant_allocate(tx, cx, ask, &remnants)));
        let tenant = match made {
            Ok(tenant) => tenant,
            Err(error) => {
                lock.retire();
                return Err(error);
            }
        };
        self.tenant_effects(&cx.actor, &tenant)?;
        Ok(Outcome { made: Some(Made::Tenant(tenant)), ..Outcome::default() })
    }

    /// Net-ids of which something is on this host; those of known tenants among them.
    pub(crate) fn remnants(&self) -> Result<BTreeSet<NetId>, Error> {
        let node = self.ports.host.observe_node()?;
        let taps = node.taps.iter().map(|(net, _)| *net);
        Ok(node.bridges.into_iter().chain(node.routes).chain(taps).collect())
    }

    /// Chooses the network of a new tenant and puts its record.
    pub(crate) fn tenant_allocate(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        ask: &NewTenant,
        remnants: &BTreeSet<NetId>,
    ) -> Result<Tenant, Error> {
        if records::find::<Tenant>(tx, ask.tenant.as_str())?.is_some() {
            return Err(exists(&ask.tenant));
        }
        let now = self.ports.clock.now();
        let network = choose_network(tx, ask, remnants, now)?;
        let mut tenant = Tenant {
            tenant_id: ask.tenant.clone(),
            network,
            quotas: ask.quotas,
            keyed: ask.keyed,
            rotating: false,
            secrets: None,
            policy: TenantPolicy::default(),
            destroying: false,
            created_at: now,
            generation: Generation(0),
        };
        tx.claim(&format!("net/{}", tenant.network.net), ask.tenant.as_str())?;
        records::put(tx, &mut tenant)?;
        records::raise_network_generation(tx)?;
        let event = self.event(&cx.actor, &ask.tenant, EventKind::TenantCreated);
        // Whoever recovers a lost store needs them of tenants that are gone.
        let Network { net, subnet, .. } = &tenant.network;
        tx.append(&event.with("net_id", net).with("subnet", subnet))?;
        Ok(tenant)
    }

    pub(crate) fn tenant_update(
        &self,
        cx: &Context,
        id: &TenantId,
        change: &QuotaChange,
        policy: Option<&TenantPolicy>,
    ) -> Result<Outcome, Error> {
        self.within(|tx| records::tenant(tx, id))?;
        let _lock = self.lock(&Subject::Tenant(id.clone()))?;
        cx.cancel.check()?;
        let tenant = self.within(|tx| self.tenant_change(tx, cx, id, change, policy))?;
        Ok(Outcome { made: Some(Made::Tenant(tenant)), ..Outcome::default() })
    }

    /// Puts the record of a tenant with other limits and decisions, unless they are the same.
    pub(crate) fn tenant_change(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        id: &TenantId,
        change: &QuotaChange,
        policy: Option<&TenantPolicy>,
    ) -> Result<Tenant, Error> {
        let mut tenant = records::tenant(tx, id)?;
        refuse_destroying("tenant", id, tenant.destroying)?;
        let (before, after) = (tenant.quotas, change.apply(&tenant.quotas));
        before.admit_change(&after, &holdings(tx, &tenant)?)?;
        let policy = policy.filter(|policy| **policy != tenant.policy);
        if after == before && policy.is_none() {
            return Ok(tenant);
        }
        let mut event = self.event(&cx.actor, id, EventKind::TenantUpdated);
        if let Some(policy) = policy {
            let before = std::mem::replace(&mut tenant.policy, policy.clone());
            if before.pinned != policy.pinned {
                let change = format_args!("{} -> {}", before.pinned, policy.pinned);
                event = event.with("pinned", change);
            }
            if before.egress != policy.egress {
                let change = format_args!("{:?} -> {:?}", before.egress, policy.egress);
                event = event.with("egress", change);
            }
        }
        tenant.quotas = after;
        records::put(tx, &mut tenant)?;
        for ((name, old), (_, new)) in before.figures().into_iter().zip(after.figures()) {
            if old != new {
                event = event.with(name, format!("{old} -> {new}"));
            }
        }
        tx.append(&event)?;
        Ok(tenant)
    }

    /// Makes whatever the machine lacks of a tenant; nothing when it is being destroyed.
    pub(crate) fn converge_tenant(&self, id: &TenantId) -> Result<(), Error> {
        let tenant = self.within(|tx| records::tenant(tx, id))?;
        if tenant.destroying || self.tenant_missing(&tenant)?.is_empty() {
            return Ok(());
        }
        let _lock = self.lock(&Subject::Tenant(id.clone()))?;
        let tenant = self.within(|tx| records::tenant(tx, id))?;
        if tenant.destroying { Ok(()) } else { self.tenant_effects(&Actor::Engine, &tenant) }
    }

    /// The effects that a tenant lacks, besides the firewall.
    pub(crate) fn tenant_missing(&self, tenant: &Tenant) -> Result<Vec<Effect>, Error> {
        let seen = self.ports.host.observe_tenant(&tenant.network)?;
        let mut effects = Vec::new();
        if tenant.keyed && !seen.key {
            effects.push(Effect::EnsureTenantKey(tenant.tenant_id.clone()));
        }
        if seen.secrets_staged {
            effects.push(Effect::PublishSecrets {
                tenant: tenant.tenant_id.clone(),
                epoch: tenant.secrets_epoch(),
            });
        }
        if !seen.bridge {
            effects.push(Effect::EnsureBridge(tenant.network.clone()));
        }
        if !seen.routes {
            effects.push(Effect::EnsureRoutes(tenant.network.clone()));
        }
        Ok(effects)
    }

    fn tenant_effects(&self, actor: &Actor, tenant: &Tenant) -> Result<(), Error> {
        for effect in self.tenant_missing(tenant)? {
            self.execute(&effect)?;
            if let Effect::EnsureTenantKey(id) = &effect {
                self.within(|tx| tx.append(&self.event(actor, id, EventKind::KeyCreated)))?;
            }
        }
        self.sync_firewall(&tenant.network)
    }

    pub(crate) fn tenant_destroy(
        &self,
        cx: &Context,
        id: &TenantId,
        force: bool,
        volumes: VolumeFate,
    ) -> Result<Outcome, Error> {
        self.within(|tx| records::tenant(tx, id))?;
        let lock = self.lock(&Subject::Tenant(id.clone()))?;
        let begun = self.within(|tx| begin(tx, id, force));
        let (tenant, pools) = match begun {
            Ok(begun) => begun,
            Err(error) if error.kind == ErrorKind::NotFound => {
                lock.retire();
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let mut outcome = Outcome::default();
        for pool in &pools {
            cx.cancel.check()?;
            self.remove_pool(cx, pool, (FirewallAfter::All, volumes), &mut outcome)?;
        }
        if !outcome.failures.is_empty() {
            return Ok(outcome);
        }
        self.tenant_farewell(cx, &tenant)?;
        self.sync_firewall(&tenant.network)?;
        self.execute(&Effect::RemoveRoutes(tenant.network.net))?;
        self.execute(&Effect::RemoveBridge(tenant.network.net))?;
        self.execute(&Effect::RemoveTenantFiles(id.clone()))?;
        self.within(|tx| self.bury_tenant(tx, &tenant))?;
        lock.retire();
        outcome.made = Some(Made::Removed(id.to_string()));
        Ok(outcome)
    }

    /// The last entry of the audit log, before that is archived; once, however often it is asked.
    fn tenant_farewell(&self, cx: &Context, tenant: &Tenant) -> Result<(), Error> {
        let last = self.ports.store.events(&tenant.tenant_id, 0, 1)?;
        let is_told = last.first().is_some_and(|e| e.event.event == EventKind::TenantDestroyed);
        self.within(|tx| {
            records::raise_network_generation(tx)?;
            if is_told {
                return Ok(());
            }
            tx.append(&self.event(&cx.actor, &tenant.tenant_id, EventKind::TenantDestroyed))
        })
    }

    fn bury_tenant(&self, tx: &mut dyn Transaction, tenant: &Tenant) -> Result<(), Error> {
        let now = self.ports.clock.now();
        tx.delete(Table::Tenants, tenant.tenant_id.as_str())?;
        if tenant.tenant_id.is_own() {
            return Ok(());
        }
        records::bury(
            tx,
            &Tombstone {
                tenant_id: tenant.tenant_id.clone(),
                network: tenant.network.clone(),
                destroyed_at: now,
                free_at: now.plus(self.config.net_id_rest),
            },
        )
    }
}

fn holdings(tx: &mut dyn Transaction, tenant: &Tenant) -> Result<Holdings, Error> {
    let pools = records::pools(tx, tenant.tenant_id.as_str())?;
    let mut largest = 0;
    for pool in &pools {
        largest = largest.max(records::list::<Instance>(tx, &pool.pool.to_string())?.len());
    }
    Ok(Holdings {
        usage: tally::of_tenant(tx, &tenant.tenant_id)?,
        pools: pools.len() as u64,
        instances_of_a_pool: largest as u64,
    })
}

fn exists(id: &TenantId) -> Error {
    Error::new(ErrorKind::Conflict, format!("tenant {id} exists already"))
        .hint(format!("see it: mvm tenant info {id}"))
}

pub(crate) fn valid(ask: &NewTenant) -> Result<(), Error> {
    TenantId::parse_new(ask.tenant.as_str())
        .map_err(|e| Error::new(ErrorKind::Invalid, "cannot create the tenant").because(&e))?;
    if let Some(subnet) = ask.subnet.filter(|subnet| !subnet.is_of_cluster()) {
        let outside = InvalidSubnet::OutsideCluster(subnet.to_string());
        return Err(Error::new(ErrorKind::Invalid, "cannot create the tenant").because(&outside));
    }
    match ask.net {
        Some(net) if !(1..=MAX_TENANT_NET).contains(&net.0) => Err(Error::new(
            ErrorKind::Invalid,
            format!("net-id {net} is not a tenant's: it must be 1 to {MAX_TENANT_NET}"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Marks a tenant as going, and names its pools and that of its builders.
pub(crate) fn begin(
    tx: &mut dyn Transaction,
    id: &TenantId,
    force: bool,
) -> Result<(Tenant, Vec<PoolRef>), Error> {
    let mut tenant = records::tenant(tx, id)?;
    let mut pools: Vec<PoolRef> =
        records::pools(tx, id.as_str())?.into_iter().map(|pool| pool.pool).collect();
    if !pools.is_empty() && !force && !tenant.destroying {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("tenant {id} is not empty: it has {} pools", pools.len()),
        )
        .hint(format!("destroy it with all it has: mvm tenant destroy {id} --force")));
    }
    if !tenant.destroying {
        tenant.destroying = true;
        records::put(tx, &mut tenant)?;
    }
    // One may be there that a killed command left behind, or its lock.
    pools.push(PoolRef::of_builders(id));
    Ok((tenant, pools))
}

fn choose_network(
    tx: &mut dyn Transaction,
    ask: &NewTenant,
    remnants: &BTreeSet<NetId>,
    now: Timestamp,
) -> Result<Network, Error> {
    if let Some(network) = Network::built_in(&ask.tenant) {
        return Ok(network);
    }
    let mut stones = BTreeSet::new();
    for stone in records::tombstones(tx)? {
        if stone.free_at > now {
            stones.insert(stone.network.net);
        } else {
            records::unbury(tx, &stone)?;
        }
    }
    let tenants = records::list::<Tenant>(tx, "")?;
    let subnets: Vec<Subnet> = tenants.iter().map(|t| t.network.subnet).collect();
    let mut taken: BTreeSet<NetId> = tenants.iter().map(|t| t.network.net).collect();
    taken.extend(&stones);
    let (net, subnet) = match (ask.net, ask.subnet) {
        (Some(net), _) if stones.contains(&net) => {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("net-id {net} belonged to a destroyed tenant and is not free yet"),
            )
            .hint("leave --net-id away to get a free one"));
        }
        (Some(net), _) if taken.contains(&net) => {
            return Err(Error::new(ErrorKind::Conflict, format!("net-id {net} is taken"))
                .hint("see who has it: mvm tenant list"));
        }
        (Some(net), Some(subnet)) => (net, subnet),
        (Some(net), None) => (net, Subnet::automatic(net).ok_or_else(full)?),
        (None, Some(subnet)) => {
            taken.extend(remnants);
            let free = (1..=MAX_TENANT_NET).map(NetId).find(|net| !taken.contains(net));
            (free.ok_or_else(full)?, subnet)
        }
        (None, None) => {
            taken.extend(remnants);
            alloc::net_id(&taken, &subnets).ok_or_else(full)?
        }
    };
    if let Some(other) = tenants.iter().find(|t| t.network.subnet.overlaps(subnet)) {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "subnet {subnet} overlaps {} of tenant {}",
                other.network.subnet, other.tenant_id
            ),
        )
        .hint("give another --subnet, or leave it away"));
    }
    Ok(Network { tenant: ask.tenant.clone(), net, subnet })
}

fn full() -> Error {
    Error::new(ErrorKind::Refused, "every net-id is taken")
        .hint("destroy a tenant first: mvm tenant list")
}
