//! A new store from the exported files and what the machine shows, when the old one is lost.
//!
//! ```text
//! exported files ─▶ records ─▶ observe each ─▶ plan::rebuild::settle ─▶ new store, beside the old
//!                                                                   ─▶ in its place ─▶ ordinary work
//! ```
//! Nothing on the machine is changed, so what runs runs on; after it, every command finds the truth as
//! after a crash. It refuses to guess: what no file tells is named and left alone.

use std::collections::BTreeSet;

use mvm_core::{
    error::{Error, ErrorKind},
    event::{Actor, Event, EventKind, LoggedEvent},
    id::{InstanceId, InstanceRef, OperationId, TenantId, VolumeId},
    instance::Instance,
    net::Network,
    plan::rebuild::{settle, settle_volume},
    port::{Clock, Host, Table, Transaction},
    state::State,
    tenant::Tombstone,
    units::{Generation, Seconds},
};
use serde::{Deserialize, Serialize};

use crate::{
    operate::create,
    store::{
        records,
        recover::{Exported, FoundLog},
        sqlite::SqliteStore,
    },
};

/// An instance as it is in the new store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Which.
    pub instance: InstanceRef,
    /// Its state.
    pub state: State,
    /// What the machine showed otherwise than its file, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What was, or would be, in the new store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Why the old store was given up.
    pub reason: String,
    /// The tenants.
    pub tenants: Vec<TenantId>,
    /// How many pools.
    pub pools: usize,
    /// The instances.
    pub instances: Vec<Recovered>,
    /// The kept volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeId>,
    /// How many audit entries.
    pub events: usize,
    /// What could not be recovered, and why.
    pub lost: Vec<String>,
    /// Where the old store is now, if anything of it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// What the new store will hold.
#[derive(Debug)]
pub struct Salvage {
    found: Exported,
    tombstones: Vec<Tombstone>,
    generation: Generation,
    /// The report of it.
    pub report: Rebuilt,
}

/// Brings the exported records to what the machine shows.
///
/// # Errors
/// When the machine cannot be observed.
pub fn salvage(
    host: &dyn Host,
    clock: &dyn Clock,
    mut found: Exported,
    rest: Seconds,
    reason: String,
) -> Result<Salvage, Error> {
    let mut report = Rebuilt { reason, ..Rebuilt::default() };
    orphans(&mut found);
    for record in &mut found.instances {
        let (settled, note) = settle(record, &host.observe_instance(record)?);
        *record = settled;
        let (instance, state) = (record.instance.clone(), record.state);
        report.instances.push(Recovered { instance, state, note });
    }
    let node = host.observe_node()?;
    let known: BTreeSet<&InstanceId> =
        found.instances.iter().map(|one| &one.instance.instance).collect();
    let seen: BTreeSet<&InstanceId> =
        node.processes.iter().chain(&node.jails).chain(&node.cgroups).collect();
    for stray in seen.difference(&known) {
        found.lost.push(format!("{stray} is on this machine and no file tells whose it is"));
    }
    let taps: BTreeSet<_> = found.instances.iter().map(|i| (i.network.net, i.offset)).collect();
    for (net, offset) in node.taps.iter().filter(|tap| !taps.contains(tap)) {
        found.lost.push(format!("the tap at place {} of net-id {net} is nobody's", offset.0));
    }
    shelve(&mut found, &node.volumes.iter().cloned().collect());
    report.volumes = found.volumes.iter().map(|volume| volume.volume.clone()).collect();
    let tombstones = tombstones(&mut found, clock, rest);
    report.tenants = found.tenants.iter().map(|tenant| tenant.tenant_id.clone()).collect();
    report.pools = found.pools.len();
    report.events = found.logs.values().map(FoundLog::len).sum();
    report.lost.clone_from(&found.lost);
    let generation = Generation(node.firewall.map_or(0, |applied| applied.0) + 1);
    Ok(Salvage { found, tombstones, generation, report })
}

/// Leaves out what has no place: pools of no tenant, instances of no pool.
fn orphans(found: &mut Exported) {
    let pools: BTreeSet<String> = found.pools.iter().map(|pool| pool.pool.to_string()).collect();
    let (kept, left): (Vec<Instance>, Vec<Instance>) = std::mem::take(&mut found.instances)
        .into_iter()
        .partition(|one| pools.contains(&one.instance.pool_ref().to_string()));
    found.instances = kept;
    let left = left.iter().map(|one| format!("{}: its pool is lost", one.instance));
    found.lost.extend(left);
}

/// Brings the kept volumes to what is on the shelf, and names what is there without a record.
fn shelve(found: &mut Exported, shelf: &BTreeSet<VolumeId>) {
    let mut kept = Vec::new();
    for volume in std::mem::take(&mut found.volumes) {
        match settle_volume(&volume, &found.instances, shelf) {
            Some(settled) => kept.push(settled),
            None => found.lost.push(format!("volume {}: it is not there", volume.volume)),
        }
    }
    let known: BTreeSet<&VolumeId> = kept.iter().map(|volume| &volume.volume).collect();
    for stray in shelf.iter().filter(|name| !known.contains(name)) {
        found.lost.push(format!("volume {stray}: no file tells what it is; it stays where it is"));
    }
    found.volumes = kept;
}

/// The net-ids that rest, from what the archived logs of destroyed tenants say.
fn tombstones(found: &mut Exported, clock: &dyn Clock, rest: Seconds) -> Vec<Tombstone> {
    let mut stones: Vec<Tombstone> = Vec::new();
    let taken: BTreeSet<_> = found.tenants.iter().map(|tenant| tenant.network.net).collect();
    for (tenant, log) in &found.archives {
        let (Some(network), Some(last)) = (network(tenant, log), log.last()) else {
            found.lost.push(format!("the network of the destroyed tenant {tenant}"));
            continue;
        };
        let (destroyed_at, free_at) = (last.event.time, last.event.time.plus(rest));
        if free_at > clock.now() && !taken.contains(&network.net) {
            stones.retain(|stone| stone.network.net != network.net);
            stones.push(Tombstone { tenant_id: tenant.clone(), network, destroyed_at, free_at });
        }
    }
    stones
}

fn network(tenant: &TenantId, log: &[LoggedEvent]) -> Option<Network> {
    let created = log.iter().find(|entry| entry.event.event == EventKind::TenantCreated)?;
    let detail = |name: &str| created.event.detail.get(name);
    Some(Network {
        tenant: tenant.clone(),
        net: mvm_core::net::NetId(detail("net_id")?.parse().ok()?),
        subnet: detail("subnet")?.parse().ok()?,
    })
}

impl Salvage {
    /// Fills an empty store.
    ///
    /// # Errors
    /// `Conflict` when two records claim the same; why the store failed.
    pub fn fill(&self, store: &SqliteStore, clock: &dyn Clock) -> Result<(), Error> {
        records::within(store, |tx| {
            self.put(tx, clock.draw())?;
            // Which number the gateways were told last, nobody knows; milliseconds are above any count.
            records::set_routes_generation(tx, clock.now().0)
        })?;
        for (tenant, log) in &self.found.logs {
            store.import(tenant, log)?;
        }
        self.found.archives.iter().try_for_each(|(tenant, log)| store.import_archive(tenant, log))
    }

    fn put(&self, tx: &mut dyn Transaction, draw: u32) -> Result<(), Error> {
        match &self.found.node_id {
            Some(id) => records::set_node_id(tx, id)?,
            None => records::node_id(tx, draw).map(drop)?,
        }
        for tenant in &self.found.tenants {
            put(tx, Table::Tenants, tenant.tenant_id.as_str(), tenant)?;
            tx.claim(&format!("net/{}", tenant.network.net), tenant.tenant_id.as_str())?;
        }
        for pool in &self.found.pools {
            put(tx, Table::Pools, &pool.pool.to_string(), pool)?;
        }
        for instance in &self.found.instances {
            put(tx, Table::Instances, &instance.instance.to_string(), instance)?;
            create::claim(tx, instance)?;
        }
        for volume in &self.found.volumes {
            put(tx, Table::Volumes, volume.volume.as_str(), volume)?;
        }
        for template in &self.found.templates {
            put(tx, Table::Templates, template.template_id.as_str(), template)?;
        }
        for stone in &self.tombstones {
            records::bury(tx, stone)?;
        }
        records::set_network_generation(tx, self.generation)
    }

    /// Tells each tenant's log, through the ordinary store, which writes the files anew.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn tell(
        &self,
        store: &SqliteStore,
        clock: &dyn Clock,
        actor: &Actor,
        operation: &OperationId,
    ) -> Result<(), Error> {
        records::within(store, |tx| {
            let tenants = self.found.tenants.iter().map(|tenant| tenant.tenant_id.clone());
            for tenant in tenants.chain([TenantId::node()]) {
                let mut event = Event {
                    time: clock.now(),
                    tenant,
                    pool: None,
                    instance: None,
                    event: EventKind::StoreRebuilt,
                    actor: actor.clone(),
                    reason: self.report.reason.clone(),
                    detail: std::collections::BTreeMap::new(),
                };
                event.detail.insert("operation".to_owned(), operation.to_string());
                tx.append(&event)?;
            }
            for instance in &self.found.instances {
                put(tx, Table::Instances, &instance.instance.to_string(), instance)?;
            }
            for volume in &self.found.volumes {
                put(tx, Table::Volumes, volume.volume.as_str(), volume)?;
            }
            for template in &self.found.templates {
                put(tx, Table::Templates, template.template_id.as_str(), template)?;
            }
            let id = records::node_id(tx, clock.draw())?;
            records::set_node_id(tx, &id)
        })
    }
}

fn put<T: Serialize>(
    tx: &mut dyn Transaction,
    table: Table,
    key: &str,
    record: &T,
) -> Result<(), Error> {
    let value = serde_json::to_string(record)
        .map_err(|e| Error::new(ErrorKind::Failed, format!("cannot write {key}")).because(&e))?;
    tx.put(table, key, &value)
}
