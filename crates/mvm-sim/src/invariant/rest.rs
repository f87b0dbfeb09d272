//! What must hold when nothing is under way: the records are true and nothing is without an owner.

use std::collections::BTreeSet;

use mvm_core::{
    effect::Port,
    id::{InstanceId, Subject},
    instance::Instance,
    net::NetId,
    observed::{ObservedInstance, Phase, SnapshotPhase},
    state::State,
    volume::VolumeKind,
};

use super::Monitor;
use crate::{disk::Path, world::World};

impl Monitor {
    /// Checks a machine on which every operation ended and every instance was looked at since.
    pub fn check_rest(&mut self, world: &World, held: &[Subject]) {
        for subject in held {
            self.violations.push(format!("{subject} is still locked"));
        }
        for record in self.instances.values().cloned().collect::<Vec<_>>() {
            let seen = world.observe_instance(&record);
            if let Err(what) = rests(&record, &seen) {
                self.violations.push(format!(
                    "{} rests as {} wanting {:?}: {what}",
                    record.instance, record.state, record.want
                ));
            }
            self.check_guest(world, &record);
        }
        self.check_owners(world);
        self.check_shelf(world);
        self.check_firewall(world);
    }

    fn check_guest(&mut self, world: &World, record: &Instance) {
        let id = &record.instance.instance;
        let guest = world.vmms.get(id).and_then(|vmm| vmm.guest.as_ref());
        if record.state == State::Running
            && guest.is_none_or(|guest| guest.is_held || guest.is_frozen || guest.is_unaware)
        {
            self.violations.push(format!("{id} is Running and its workload is not: {guest:?}"));
        }
        if record.state != State::Sleeping {
            return;
        }
        let Some(life) = self.lives.get(id) else { return };
        let slept = world.disk.snapshot(&record.instance, record.epoch);
        if let Some(snapshot) = slept
            && (snapshot.memory.counter < life.counter || !life.is_alive)
        {
            self.violations.push(format!(
                "{id} sleeps with its memory at {}, it was at {}",
                snapshot.memory.counter, life.counter
            ));
        }
    }

    fn check_owners(&mut self, world: &World) {
        let node = world.observe_node();
        let lists = [
            ("a cgroup", &node.cgroups),
            ("a jail", &node.jails),
            ("a runtime directory", &node.runs),
            ("a process", &node.processes),
            ("an open volume", &node.mappings),
        ];
        let mut orphans = Vec::new();
        for (what, list) in lists {
            for id in list.iter().filter(|id| !self.instances.contains_key(*id)) {
                orphans.push(format!("{what} of {id}, which has no record"));
            }
        }
        let nets: BTreeSet<NetId> = self.tenants.values().map(|one| one.network.net).collect();
        for net in node.bridges.iter().chain(&node.routes).filter(|net| !nets.contains(*net)) {
            orphans.push(format!("bridge or routes of network {net}, which has no tenant"));
        }
        let ports: BTreeSet<_> =
            self.instances.values().map(|one| (one.network.net, one.offset)).collect();
        for tap in node.taps.iter().filter(|tap| !ports.contains(*tap)) {
            orphans.push(format!("a tap {tap:?} of no instance"));
        }
        for (path, _) in world.disk.iter() {
            if !self.owns(path) {
                orphans.push(format!("{path:?} of nobody"));
            }
        }
        self.violations.extend(orphans.into_iter().map(|what| format!("at rest there is {what}")));
    }

    fn owns(&self, path: &Path) -> bool {
        match path {
            Path::Archive(_) => true,
            Path::NextKey(_) => false,
            Path::Kept(volume) | Path::VolumeKey(volume) => self.volumes.contains_key(volume),
            Path::Key(tenant) | Path::Tenant(tenant) => self.tenants.contains_key(tenant),
            Path::Secrets(tenant) => {
                self.tenants.get(tenant).is_some_and(|one| one.secrets.is_some())
            }
            // The next operation that makes something in the tenant clears them away.
            Path::StagedSecrets(..) => false,
            Path::Pool(pool)
            | Path::Revision(pool, _)
            | Path::Current(pool)
            | Path::Base(pool, ..) => self.pools.iter().any(|one| one.pool == *pool),
            Path::Instance(one) | Path::Volume(one) | Path::Snapshot(one, _) => {
                self.has_record(&one.instance)
            }
            Path::Jail(id) => self.state_of(id).is_some_and(State::has_process),
        }
    }

    fn has_record(&self, id: &InstanceId) -> bool {
        self.state_of(id).is_some()
    }

    /// The tables in force hold exactly what is recorded, unless nothing needs them.
    fn check_firewall(&mut self, world: &World) {
        let is_needed = self.instances.values().any(|one| one.state == State::Running);
        let Some(firewall) = world.firewall.as_ref().filter(|_| !world.firewall_altered) else {
            if is_needed {
                self.violations.push("guests run and no firewall is in force".to_owned());
            }
            return;
        };
        let mut recorded: Vec<Port> = self
            .instances
            .values()
            .filter_map(|one| {
                Some(Port {
                    net: one.network.net,
                    offset: one.offset,
                    mac: one.mac(),
                    address: one.address()?,
                })
            })
            .collect();
        let mut in_force = firewall.ports.clone();
        recorded.sort();
        in_force.sort();
        if recorded != in_force {
            self.violations.push(format!(
                "at rest the firewall holds {} ports, {} are recorded",
                in_force.len(),
                recorded.len()
            ));
        }
    }
}

/// Whether what is seen is all that the record needs and nothing else.
fn rests(record: &Instance, seen: &ObservedInstance) -> Result<(), String> {
    if record.state == State::Running && record.secrets.is_due() {
        return Err("it was granted secrets that it did not get".to_owned());
    }
    if record.in_flight() {
        return Err("something that was asked of it is not done".to_owned());
    }
    let parts = seen.shim && seen.tap && seen.cgroup && seen.jail && seen.bridge && seen.routes;
    let is_open = record.volume_kind() == Some(VolumeKind::Luks);
    if record.state.has_process() && seen.mapping != is_open {
        return Err("its volume is not open, or open and plain".to_owned());
    }
    if record.state == State::Running && record.volume.is_growing {
        return Err("its guest was not given its larger volume".to_owned());
    }
    let is_empty = seen.vmm.is_none()
        && !seen.mapping
        && !(seen.shim || seen.tap || seen.cgroup || seen.jail)
        && seen.exit.is_none();
    let phase = seen.vmm.map(|vmm| vmm.phase);
    let only_retired = seen.snapshots.values().all(|phase| *phase == SnapshotPhase::Retired);
    let no_snapshot = seen.snapshots.is_empty();
    let is_true = match record.state {
        State::Created | State::Ready | State::Stopped => is_empty && no_snapshot,
        // SPEC §8: the files of a retired snapshot stay until the next sleep or stop.
        State::Running => phase == Some(Phase::Running) && parts && only_retired,
        State::Warm => {
            matches!(phase, Some(Phase::Paused(_)))
                && parts
                && (only_retired || seen.snapshots.keys().all(|epoch| *epoch == record.epoch))
        }
        State::Sleeping => {
            is_empty
                && seen.snapshots.len() == 1
                && seen.snapshots.get(&record.epoch) == Some(&SnapshotPhase::Published)
        }
        State::Destroyed => false,
    };
    if is_true { Ok(()) } else { Err(format!("{seen:?}")) }
}
