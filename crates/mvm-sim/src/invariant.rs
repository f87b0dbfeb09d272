//! What must hold after every port call, and what must hold when nothing is under way.
//!
//! The monitor reads the store as a person would, and looks at the machine from outside of every
//! port. It knows no plan: only what may never be, whoever did it.

use std::collections::{BTreeMap, BTreeSet};

use mvm_core::{
    Error,
    event::{EventKind, LoggedEvent},
    id::{InstanceId, Subject, TenantId, VolumeId},
    instance::{Instance, Want},
    observed::{Phase, SnapshotPhase},
    pool::Pool,
    port::{Store, Table},
    quota::Usage,
    state::State,
    tenant::Tenant,
    volume::Volume,
};
use serde::de::DeserializeOwned;

use crate::{disk::Content, world::World};

mod rest;
mod volumes;

/// What the audit log says about the memory of an instance.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    /// Between a recorded start and a recorded end.
    is_alive: bool,
    /// The greatest value that its counter had.
    counter: u64,
}

/// Watches a simulation.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Everything that was broken, oldest first.
    pub violations: Vec<String>,
    /// Whether anything went wrong so far. Then places may be exceeded: a guest whose sleep failed
    /// is never refused its old place, whoever took it meanwhile.
    pub is_troubled: bool,
    instances: BTreeMap<InstanceId, Instance>,
    pools: Vec<Pool>,
    tenants: BTreeMap<TenantId, Tenant>,
    volumes: BTreeMap<VolumeId, Volume>,
    figures: BTreeMap<String, Usage>,
    lives: BTreeMap<InstanceId, Life>,
    last_seq: BTreeMap<TenantId, u64>,
}

fn parse<T: DeserializeOwned>(rows: Vec<(String, String)>, broken: &mut Vec<String>) -> Vec<T> {
    rows.into_iter()
        .filter_map(|(key, text)| match serde_json::from_str(&text) {
            Ok(record) => Some(record),
            Err(error) => {
                broken.push(format!("the record {key} does not parse: {error}"));
                None
            }
        })
        .collect()
}

impl Monitor {
    /// Reads the store again, after a commit.
    pub fn refresh(&mut self, store: &dyn Store) {
        let (mut tenants, mut pools, mut instances) = (Vec::new(), Vec::new(), Vec::new());
        let (mut volumes, mut figures) = (Vec::new(), Vec::new());
        let read: Result<(), Error> = store.transact(&mut |tx| {
            tenants = tx.list(Table::Tenants, "")?;
            pools = tx.list(Table::Pools, "")?;
            instances = tx.list(Table::Instances, "")?;
            volumes = tx.list(Table::Volumes, "")?;
            figures = tx.list(Table::Meta, "usage")?;
            Ok(())
        });
        if let Err(error) = read {
            self.violations.push(format!("the store cannot be read: {error}"));
        }
        let tenants: Vec<Tenant> = parse(tenants, &mut self.violations);
        let instances: Vec<Instance> = parse(instances, &mut self.violations);
        self.pools = parse(pools, &mut self.violations);
        let names: Vec<String> = figures.iter().map(|(name, _)| name.clone()).collect();
        let usages: Vec<Usage> = parse(figures, &mut self.violations);
        self.figures = names.into_iter().zip(usages).collect();
        let volumes: Vec<Volume> = parse(volumes, &mut self.violations);
        self.volumes = volumes.into_iter().map(|one| (one.volume.clone(), one)).collect();
        self.tenants = tenants.into_iter().map(|one| (one.tenant_id.clone(), one)).collect();
        self.instances =
            instances.into_iter().map(|one| (one.instance.instance.clone(), one)).collect();
        self.last_seq.retain(|tenant, _| self.tenants.contains_key(tenant));
        for tenant in self.tenants.keys().cloned().collect::<Vec<_>>() {
            self.read_events(store, &tenant);
        }
        self.check_records();
    }

    fn read_events(&mut self, store: &dyn Store, tenant: &TenantId) {
        let after = self.last_seq.get(tenant).copied().unwrap_or(0);
        match store.events(tenant, after, usize::MAX) {
            Ok(events) => {
                for LoggedEvent { seq, event, .. } in events {
                    self.last_seq.insert(tenant.clone(), seq);
                    if let Some(instance) = &event.instance {
                        self.live(instance, event.event);
                    }
                }
            }
            Err(error) => self.violations.push(format!("the events cannot be read: {error}")),
        }
    }

    fn live(&mut self, instance: &InstanceId, event: EventKind) {
        let life = self.lives.entry(instance.clone()).or_default();
        match event {
            EventKind::InstanceStarted => {
                if life.is_alive {
                    self.violations.push(format!(
                        "{instance} was booted anew while its memory was to be kept"
                    ));
                }
                *life = Life { is_alive: true, counter: 0 };
            }
            EventKind::InstanceFailed | EventKind::InstanceStopped => *life = Life::default(),
            EventKind::InstanceDestroyed => {
                self.lives.remove(instance);
            }
            EventKind::TenantCreated
            | EventKind::TenantUpdated
            | EventKind::SecretsSet
            | EventKind::SecretsRotated
            | EventKind::SecretsDelivered
            | EventKind::TenantDestroyed
            | EventKind::PoolCreated
            | EventKind::PoolUpdated
            | EventKind::PoolBuilt
            | EventKind::PoolRolledBack
            | EventKind::PoolCollected
            | EventKind::PoolScaled
            | EventKind::PoolDestroyed
            | EventKind::InstanceCreated
            | EventKind::InstancePublished
            | EventKind::InstanceUnpublished
            | EventKind::IsolationViolation
            | EventKind::InstanceWarmed
            | EventKind::InstanceSlept
            | EventKind::InstanceWoken
            | EventKind::SnapshotPublished
            | EventKind::SnapshotDiscarded
            | EventKind::DrainForced
            | EventKind::QuotaExceeded
            | EventKind::ShimLost
            | EventKind::VolumeCreated
            | EventKind::VolumeGrown
            | EventKind::VolumeKept
            | EventKind::VolumeAttached
            | EventKind::VolumeRemoved
            | EventKind::VolumeWiped
            | EventKind::KeyRotated
            | EventKind::FirewallRepaired => {}
        }
    }

    /// The lock that protects an instance which has a record.
    #[must_use]
    pub fn subject_of(&self, instance: &InstanceId) -> Option<Subject> {
        self.instances.get(instance).map(|record| Subject::Instance(record.instance.clone()))
    }

    fn broken(&mut self, what: String) {
        if self.violations.last() != Some(&what) {
            self.violations.push(what);
        }
    }

    fn check_records(&mut self) {
        let (mut uids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let mut shared = Vec::new();
        for one in self.instances.values() {
            if !uids.insert(one.uid) {
                shared.push(format!("{} shares uid {}", one.instance, one.uid));
            }
            if !addresses.insert((one.network.net, one.offset)) {
                shared.push(format!("{} shares its address", one.instance));
            }
            if !self.tenants.contains_key(&one.instance.tenant) {
                shared.push(format!("{} has no tenant", one.instance));
            }
        }
        self.violations.extend(shared);
        self.check_figures();
        self.check_quotas();
    }

    fn check_quotas(&mut self) {
        let mut exceeded = Vec::new();
        for (id, tenant) in &self.tenants {
            let own = self.instances.values().filter(|one| one.instance.tenant == *id);
            let mut usage = Usage::of(own);
            if self.is_troubled {
                (usage.running, usage.warm) = (0, 0);
            }
            if let Err(error) = tenant.quotas.admit(&usage) {
                exceeded.push(format!("the quota of {id} is exceeded: {error}"));
            }
            let pools: Vec<&Pool> =
                self.pools.iter().filter(|pool| pool.pool.tenant == *id).collect();
            if pools.len() > tenant.quotas.max_pools as usize {
                exceeded.push(format!("{id} has {} pools", pools.len()));
            }
            for pool in pools {
                let held = self
                    .instances
                    .values()
                    .filter(|one| one.instance.pool_ref() == pool.pool)
                    .count();
                if held > tenant.quotas.max_instances_per_pool as usize {
                    exceeded.push(format!("{} has {held} instances", pool.pool));
                }
            }
        }
        self.violations.extend(exceeded);
    }

    /// Checks what must hold at any moment.
    pub fn check(&mut self, world: &mut World) {
        self.violations.append(&mut world.violations);
        for (_, content) in world.disk.iter() {
            if let Content::Snapshot(snapshot) = content
                && snapshot.phase == SnapshotPhase::Published
                && !snapshot.complete
            {
                self.broken(format!("snapshot {} is published and not whole", snapshot.serial));
            }
        }
        self.check_sleepers(world);
        self.check_volumes(world);
        self.check_secrets(world);
        let (mut taps, mut uids) = (BTreeSet::new(), BTreeSet::new());
        for (id, vmm) in &world.vmms {
            if !uids.insert(vmm.uid) {
                self.broken(format!("the VMM of {id} shares its uid"));
            }
            if vmm.tap.is_some_and(|tap| !taps.insert(tap)) {
                self.broken(format!("the VMM of {id} shares its tap"));
            }
            if vmm.phase == Phase::Running {
                self.check_wall(world, id);
            }
            self.check_memory(world, id);
        }
    }

    /// Recorded secrets can be opened, and no guest has older ones than its record says.
    fn check_secrets(&mut self, world: &World) {
        let mut wrong = Vec::new();
        for tenant in self.tenants.values().filter(|one| !one.destroying && one.secrets.is_some()) {
            let (id, epoch) = (&tenant.tenant_id, tenant.secrets_epoch());
            let found = world.disk.secrets(id, epoch);
            match found.map(|secrets| secrets.sealed_with) {
                None => wrong.push(format!("the recorded secrets {epoch} of {id} are gone")),
                Some(Some(key)) if !world.ring(id).contains(&key) => {
                    wrong.push(format!("no key opens the secrets {epoch} of {id}"));
                }
                Some(_) => {}
            }
        }
        for one in self.instances.values().filter(|one| one.state == State::Running) {
            let vmm = world.vmms.get(&one.instance.instance);
            let Some(guest) = vmm.and_then(|vmm| vmm.guest.as_ref()) else { continue };
            if guest.secrets.epoch < one.secrets.delivered {
                wrong.push(format!(
                    "{} has secrets {} and its record says {}",
                    one.instance, guest.secrets.epoch, one.secrets.delivered
                ));
            }
        }
        wrong.into_iter().for_each(|what| self.broken(what));
    }

    /// What is recorded as Sleeping can be woken, or is being woken.
    fn check_sleepers(&mut self, world: &World) {
        let mut lost = Vec::new();
        for one in self.instances.values().filter(|one| one.state == State::Sleeping) {
            let phase = world.disk.snapshot(&one.instance, one.epoch).map(|there| there.phase);
            let is_kept = matches!(phase, Some(SnapshotPhase::Published | SnapshotPhase::Retired));
            if !is_kept && !matches!(one.want, Want::Stopped | Want::Destroyed) {
                lost.push(format!("{} is recorded as Sleeping and is not on disk", one.instance));
            }
        }
        lost.into_iter().for_each(|what| self.broken(what));
    }

    /// A guest's packets pass its tenant's walls or nothing.
    fn check_wall(&mut self, world: &World, id: &InstanceId) {
        let Some(record) = self.instances.get(id) else {
            return self.broken(format!("{id} runs without a record"));
        };
        let (net, offset) = (record.network.net, record.offset);
        let is_walled = world.firewall.as_ref().is_some_and(|firewall| {
            firewall.networks.contains(&record.network)
                && firewall.ports.iter().any(|port| (port.net, port.offset) == (net, offset))
        });
        let is_routed = world.bridges.contains_key(&net) && world.routes.contains_key(&net);
        let own_tap = world.vmms.get(id).is_none_or(|vmm| vmm.tap == Some((net, offset)));
        if !is_walled {
            self.broken(format!("{id} runs outside of the firewall"));
        }
        if !is_routed {
            self.broken(format!("{id} runs without bridge or routes"));
        }
        if !own_tap {
            self.broken(format!("{id} runs on a tap that is not its own"));
        }
    }

    /// A guest's memory never goes back between a recorded start and a recorded end.
    fn check_memory(&mut self, world: &World, id: &InstanceId) {
        let Some(life) = self.lives.get_mut(id).filter(|life| life.is_alive) else { return };
        let guest = world.vmms.get(id).and_then(|vmm| vmm.guest.as_ref());
        let Some(counter) = guest.map(|guest| guest.counter) else { return };
        let before = life.counter;
        life.counter = counter;
        if counter < before {
            self.broken(format!("the memory of {id} went back from {before} to {counter}"));
        }
    }

    fn state_of(&self, id: &InstanceId) -> Option<State> {
        self.instances.get(id).map(|record| record.state)
    }
}
