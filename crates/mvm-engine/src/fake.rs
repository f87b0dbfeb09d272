//! A small world for unit tests: a host that keeps state and can be told to fail, guests that can
//! be told what to answer, locks between threads, and a clock that moves only when it is read.

mod build;
mod effects;
mod guest;
mod locks;
mod vault;
mod vmm;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use mvm_core::{
    disk::{DiskUse, Room},
    effect::{Effect, Firewall, Jail},
    error::{Error, ErrorKind},
    event::{Actor, EventKind, LoggedEvent},
    id::{ImageHash, InstanceId, InstanceRef, PoolRef, RequestKey, Subject, TenantId, VolumeId},
    instance::{Drain, Instance},
    layout::data,
    meter::{CopyReport, GuestMetrics, Meter, Pressure},
    net::{NetId, Network, Offset},
    observed::*,
    operation::{NewPool, Operation},
    pool::{Resources, Source},
    port::Wanted,
    port::*,
    quota::Quotas,
    state::{Move, State},
    units::{Generation, Mib, Timestamp, Vcpus},
};

mod rig;

pub(crate) use rig::*;

use crate::store::memory::MemoryStore;

#[derive(Default)]
pub(crate) struct Content {
    pub(crate) bridges: BTreeSet<NetId>,
    pub(crate) routes: BTreeSet<NetId>,
    pub(crate) taps: BTreeSet<(NetId, Offset)>,
    pub(crate) cgroups: BTreeSet<InstanceId>,
    pub(crate) jails: BTreeSet<InstanceId>,
    pub(crate) vmms: BTreeMap<InstanceId, ObservedVmm>,
    pub(crate) exits: BTreeMap<InstanceId, ExitRecord>,
    /// VMMs whose shim died.
    pub(crate) orphans: BTreeSet<InstanceId>,
    pub(crate) snapshots: BTreeMap<InstanceId, BTreeMap<Generation, SnapshotPhase>>,
    pub(crate) bases: BTreeSet<PathBuf>,
    pub(crate) volumes: BTreeMap<InstanceId, Mib>,
    pub(crate) mappings: BTreeSet<InstanceId>,
    pub(crate) kept: BTreeMap<VolumeId, Mib>,
    pub(crate) next_keys: BTreeSet<TenantId>,
    pub(crate) given_keys: BTreeSet<TenantId>,
    /// Instances that were brought to the next key.
    pub(crate) rekeyed: BTreeSet<InstanceId>,
    pub(crate) room: Option<Room>,
    pub(crate) pressure: Pressure,
    pub(crate) wanted: Vec<Wanted>,
    /// What guests measure; those that are not in it do not answer.
    pub(crate) metrics: BTreeMap<InstanceId, GuestMetrics>,
    pub(crate) keys: BTreeSet<TenantId>,
    /// Epochs of secrets: staged and in force.
    pub(crate) secrets: BTreeMap<TenantId, (BTreeSet<Generation>, Option<Generation>)>,
    /// Epochs of secrets drives.
    pub(crate) drives: BTreeMap<InstanceId, Generation>,
    pub(crate) firewall: Option<Firewall>,
    pub(crate) firewall_altered: bool,
    pub(crate) boots: u32,
    pub(crate) resolvers: Vec<Ipv4Addr>,
    pub(crate) listening: Vec<Listening>,
    /// What packets of guests reach.
    pub(crate) reached: BTreeSet<(Ipv4Addr, u16)>,
    pub(crate) done: Vec<&'static str>,
    pub(crate) asked: Vec<GuestAct>,
    /// Effects that fail, by name: how many more times, and how.
    pub(crate) failing: BTreeMap<&'static str, (u32, ErrorKind)>,
    /// Acts that guests answer otherwise than with Done.
    pub(crate) answers: BTreeMap<&'static str, GuestAnswer>,
    /// After how many more acts and commits the process dies: the last one happens, and its caller
    /// never hears of it.
    pub(crate) crash_after: Option<u32>,
    /// After how many more acts every VMM dies.
    pub(crate) vmms_die_after: Option<u32>,
    /// Lock files that were made and not retired.
    pub(crate) lock_files: BTreeSet<Subject>,
    /// Places that somebody has.
    pub(crate) places: BTreeSet<u32>,
    /// What building images comes to.
    pub(crate) building: build::Building,
    /// The effect at which the VMM of the instance dies while it fails.
    pub(crate) dying_at: Option<&'static str>,
}

#[derive(Clone, Default)]
pub(crate) struct World(Arc<(Mutex<Content>, Mutex<BTreeSet<Subject>>, Condvar)>);

pub(crate) const MEMORY: u64 = 100_000;

impl World {
    pub(crate) fn look(&self) -> MutexGuard<'_, Content> {
        self.0.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn fail(&self, effect: &'static str, times: u32, kind: ErrorKind) {
        self.look().failing.insert(effect, (times, kind));
    }

    /// One act or commit happened; the process may be told to die right after it.
    fn tick(&self) {
        let mut content = self.look();
        match content.vmms_die_after.as_mut() {
            Some(0) => {
                content.vmms_die_after = None;
                let died: Vec<InstanceId> = content.vmms.keys().cloned().collect();
                for id in died {
                    content.die(&id);
                }
            }
            Some(left) => *left -= 1,
            None => {}
        }
        match content.crash_after.as_mut() {
            Some(0) => {
                content.crash_after = None;
                drop(content);
                std::panic::resume_unwind(Box::new("crash"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
    }

    pub(crate) fn kill(&self, id: &InstanceRef) {
        self.look().die(&id.instance);
    }
}

impl Host for World {
    fn execute(&self, effect: &Effect) -> Result<(), Error> {
        let mut content = self.look();
        let name = effect.name();
        if let Some((left, kind)) = content.failing.get_mut(name)
            && *left > 0
        {
            *left -= 1;
            let kind = *kind;
            if content.dying_at == Some(name)
                && let Effect::BootVmm(jail) = effect
            {
                drop(content);
                self.kill(&jail.instance);
            }
            return Err(Error::new(kind, format!("{name} was told to fail")));
        }
        content.done.push(name);
        content.apply(effect)?;
        drop(content);
        self.tick();
        Ok(())
    }

    fn observe_instance(&self, record: &Instance) -> Result<ObservedInstance, Error> {
        let content = self.look();
        let id = &record.instance.instance;
        let snapshots = content.snapshots.get(id).cloned().unwrap_or_default();
        Ok(ObservedInstance {
            vmm: content.vmms.get(id).copied(),
            shim: content.vmms.contains_key(id) && !content.orphans.contains(id),
            exit: content.exits.get(id).cloned(),
            bridge: content.bridges.contains(&record.network.net),
            routes: content.routes.contains(&record.network.net),
            tap: content.taps.contains(&(record.network.net, record.offset)),
            cgroup: content.cgroups.contains(id),
            jail: content.jails.contains(id),
            base: match &record.image {
                Some(image)
                    if content.bases.contains(&data::base(
                        &record.instance.pool_ref(),
                        image,
                        &record.resources,
                    )) =>
                {
                    ObservedBase::Fits
                }
                Some(_) | None => ObservedBase::Absent,
            },
            files: !snapshots.is_empty() || content.volumes.contains_key(id),
            snapshots,
            volume: content.volumes.get(id).copied(),
            mapping: content.mappings.contains(id),
            secrets: content.drives.get(id).copied(),
            firewall: content.firewall_generation(),
            boot: BootId(format!("boot-{}", content.boots)),
        })
    }

    fn observe_tenant(&self, network: &Network) -> Result<ObservedTenant, Error> {
        let content = self.look();
        Ok(ObservedTenant {
            bridge: content.bridges.contains(&network.net),
            routes: content.routes.contains(&network.net),
            key: content.keys.contains(&network.tenant),
            key_given: content.given_keys.contains(&network.tenant),
            next_key: content.next_keys.contains(&network.tenant),
            files: content.keys.contains(&network.tenant),
            secrets: content.secrets.get(&network.tenant).and_then(|(_, there)| *there),
            secrets_staged: content
                .secrets
                .get(&network.tenant)
                .is_some_and(|(staged, _)| !staged.is_empty()),
            firewall: content.firewall_generation(),
            firewall_altered: content.firewall_altered,
            firewall_cut_off: false,
            resolvers: content.resolvers.clone(),
        })
    }

    fn observe_pool(&self, _: &PoolRef) -> Result<ObservedPool, Error> {
        Ok(ObservedPool::default())
    }

    fn observe_stock(&self) -> Result<ObservedStock, Error> {
        let images = self.look().building.images.iter().cloned().collect();
        Ok(ObservedStock { images, ..ObservedStock::default() })
    }

    fn weigh(&self, removals: &[Effect]) -> Result<Vec<u64>, Error> {
        Ok(removals.iter().map(|_| 0).collect())
    }

    fn observe_node(&self) -> Result<ObservedNode, Error> {
        let content = self.look();
        Ok(ObservedNode {
            bridges: content.bridges.iter().copied().collect(),
            listening: content.listening.clone(),
            volumes: content.kept.keys().cloned().collect(),
            facts: NodeFacts { mem_mib: MEMORY, vcpus: 64, ..NodeFacts::default() },
            ..ObservedNode::default()
        })
    }

    fn room(&self) -> Result<Room, Error> {
        Ok(self.look().room.unwrap_or(Room {
            total_mib: 10_000,
            free_mib: 9_000,
            reserve_mib: 1_000,
        }))
    }

    fn disk_use(&self) -> Result<DiskUse, Error> {
        Ok(DiskUse::default())
    }

    fn verify_network(&self, _: &Firewall) -> Result<Vec<Finding>, Error> {
        Ok(Vec::new())
    }

    fn meter(&self, _: &Instance) -> Result<Meter, Error> {
        Ok(Meter::default())
    }

    fn pressure(&self) -> Result<Pressure, Error> {
        Ok(self.look().pressure)
    }

    fn wanted(&self) -> Result<Vec<Wanted>, Error> {
        Ok(self.look().wanted.clone())
    }

    fn console(&self, _: &InstanceRef) -> Result<Console, Error> {
        refuse("has no console").map(|()| unreachable!())
    }

    fn logs(&self, _: &InstanceRef, _: usize) -> Result<Logs, Error> {
        Ok(Logs::default())
    }
}

fn base_of(jail: &Jail) -> PathBuf {
    data::base(&jail.instance.pool_ref(), &jail.image, &jail.resources)
}

fn refuse(what: &str) -> Result<(), Error> {
    Err(Error::new(ErrorKind::Failed, what.to_owned()))
}

impl Content {
    fn firewall_generation(&self) -> Option<Generation> {
        let in_force = self.firewall.as_ref().filter(|_| !self.firewall_altered)?;
        (in_force.resolvers == self.resolvers).then_some(in_force.generation)
    }

    fn die(&mut self, id: &InstanceId) {
        assert!(self.vmms.remove(id).is_some(), "{id} has no VMM to kill");
        let ending = Ending::Signaled(9);
        let record = ExitRecord::of(ending);
        self.exits.insert(id.clone(), record);
    }

    /// Whether nothing of any instance is left.
    pub(crate) fn is_bare(&self) -> bool {
        self.taps.is_empty()
            && self.cgroups.is_empty()
            && self.jails.is_empty()
            && self.vmms.is_empty()
            && self.exits.is_empty()
            && self.volumes.is_empty()
            && self.mappings.is_empty()
            && self.snapshots.values().all(BTreeMap::is_empty)
    }
}

#[derive(Default)]
pub(crate) struct Ticks {
    pub(crate) now: AtomicU64,
    draws: AtomicU32,
}

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.fetch_add(1, Ordering::SeqCst))
    }
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now.load(Ordering::SeqCst))
    }
    fn pause(&self, span: Duration) {
        self.now.fetch_add(u64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }
    fn draw(&self) -> u32 {
        self.draws.fetch_add(1, Ordering::SeqCst)
    }
}

/// The store of a process that may be told to die after a commit.
struct Dying(MemoryStore, World);

impl Store for Dying {
    fn transact(
        &self,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.0.transact(work)?;
        self.1.tick();
        Ok(())
    }

    fn events(&self, id: &TenantId, after: u64, limit: usize) -> Result<Vec<LoggedEvent>, Error> {
        self.0.events(id, after, limit)
    }
    fn first_events(
        &self,
        id: &TenantId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        self.0.first_events(id, after, limit)
    }
    fn audit(&self, id: &TenantId) -> Result<mvm_core::audit::AuditReport, Error> {
        self.0.audit(id)
    }
    fn audit_archives(
        &self,
        id: Option<&TenantId>,
    ) -> Result<Vec<mvm_core::audit::AuditReport>, Error> {
        self.0.audit_archives(id)
    }
    fn archived_ends(&self) -> Result<Vec<mvm_core::audit::LogEnd>, Error> {
        self.0.archived_ends()
    }
    fn archived_events(&self, id: &TenantId) -> Result<Vec<LoggedEvent>, Error> {
        self.0.archived_events(id)
    }
}
