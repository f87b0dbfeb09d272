//! One simulated machine: kernel objects, processes, the runtime directory, guests and a disk.
//!
//! [`World`] is plain data with the laws of a machine: what a death, a reboot or a passing moment
//! does to it. Guests work while their vCPUs run: they count in memory, write to their disk and
//! draw random numbers, so that what went wrong with them shows. A law of the guests that is
//! broken is written down in [`World::violations`]; the world never stops by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mvm_core::{
    effect::{Firewall, Limits},
    id::{ImageHash, InstanceId, InstanceRef, VmmVersion},
    net::{NetId, Network, Offset},
    observed::{BootId, Ending, ExitRecord, Origin, PausedFor, Phase, SnapshotPhase},
    route::Routes,
    units::{Generation, Uid},
};

use crate::{
    chance::{Chance, mix},
    disk::{Disk, Path, Secrets},
};

/// What a guest holds in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Counts the workload's steps since the cold boot.
    pub counter: u64,
    /// The state of the guest's random number generator.
    pub random: u64,
    /// Whether it is held at its start gate: it does not know who it is, and no workload was started.
    pub is_held: bool,
    /// Whether the workload is frozen.
    pub is_frozen: bool,
    /// Whether it was restored and nobody told it so.
    pub is_unaware: bool,
    /// The secrets that it read.
    pub secrets: Secrets,
    /// The generation it was told at its last wake.
    pub generation: u64,
    /// Whether its agent answers.
    pub agent_answers: bool,
    /// Whether it was put to sleep by force, unfrozen because its agent did not answer: then
    /// nobody can keep its workload still until it is told that it was restored.
    pub is_forced: bool,
    /// Whether it refuses to drain, and why.
    pub refuses_drain: Option<String>,
    /// Whether its integrations are saved since its workload last ran freely, or could not be asked
    /// to be; none if it has none.
    pub is_saved: Option<bool>,
    /// What it leads traffic by, if it is a gateway.
    pub routes: Option<Routes>,
}

/// A VMM process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vmm {
    /// Whose it is.
    pub instance: InstanceRef,
    /// Its pid.
    pub pid: u32,
    /// Its user.
    pub uid: Uid,
    /// The version of Firecracker that it runs.
    pub version: VmmVersion,
    /// How it came to its guest.
    pub origin: Origin,
    /// What it is doing.
    pub phase: Phase,
    /// Its guest, once there is one.
    pub guest: Option<Memory>,
    /// Which snapshot it was loaded from and has not run since.
    pub fresh_from: Option<u64>,
    /// The tap it has open.
    pub tap: Option<(NetId, Offset)>,
}

/// A jail that was laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailMount {
    /// Its owner.
    pub uid: Uid,
    /// The image linked in.
    pub image: ImageHash,
    /// The tap that its configuration names.
    pub tap: (NetId, Offset),
    /// What is on the secrets drive.
    pub secrets: Secrets,
}

/// Records of an instance below the runtime directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// How the last VMM ended.
    pub exit: Option<ExitRecord>,
}

/// A tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tap {
    /// Its owner.
    pub uid: Uid,
}

/// The machine.
#[derive(Debug, Default)]
pub struct World {
    /// Bridges that are up.
    pub bridges: BTreeMap<NetId, Network>,
    /// Policy routes.
    pub routes: BTreeMap<NetId, Network>,
    /// Taps.
    pub taps: BTreeMap<(NetId, Offset), Tap>,
    /// Cgroups.
    pub cgroups: BTreeMap<InstanceId, Limits>,
    /// Instances whose encrypted volume is open.
    pub mappings: BTreeSet<InstanceId>,
    /// The tables in force.
    pub firewall: Option<Firewall>,
    /// Whether someone altered the tables since.
    pub firewall_altered: bool,
    /// The machine's own resolvers.
    pub resolvers: Vec<Ipv4Addr>,
    /// VMM processes.
    pub vmms: BTreeMap<InstanceId, Vmm>,
    /// Shim processes.
    pub shims: BTreeMap<InstanceId, Shim>,
    /// Runtime directories.
    pub runs: BTreeMap<InstanceId, Run>,
    /// Jails with their mounts; the directory of each is on the disk.
    pub mounts: BTreeMap<InstanceId, JailMount>,
    /// The disk.
    pub disk: Disk,
    /// What kind of machine this is: bases of another kind cannot be loaded.
    pub model: u64,
    /// The version of Firecracker that new VMMs run.
    pub version: VmmVersion,
    /// Versions that are installed besides that one.
    pub versions: BTreeSet<VmmVersion>,
    /// Images that the builder made.
    pub images: BTreeSet<ImageHash>,
    /// Instances with an older file of a log.
    pub rotated_logs: BTreeSet<InstanceRef>,
    /// Whether the builder kept what it fetched.
    pub has_downloads: bool,
    /// Snapshots by serial number that ever ran again.
    pub resumed: BTreeSet<u64>,
    /// Everything guests ever drew.
    pub draws: BTreeSet<u64>,
    /// Laws that were broken.
    pub violations: Vec<String>,
    boots: u64,
    last_serial: u64,
    last_pid: u32,
    entropy: u64,
}

/// What a shim is to its VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shim {
    /// Its parent, who gets its exit status.
    Parent,
    /// It came later and sees the end, not how.
    Watcher,
}

/// A shared machine.
#[derive(Debug, Clone, Default)]
pub struct Machine(Arc<Mutex<World>>);

impl Machine {
    /// A new machine that has `image` in its cache.
    #[must_use]
    pub fn with_image(image: ImageHash) -> Self {
        let machine = Self::default();
        machine.world().images.insert(image);
        machine
    }

    /// The world, for one moment.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// A number that no other snapshot has.
    pub const fn serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    /// A pid that no other process has.
    pub const fn pid(&mut self) -> u32 {
        self.last_pid += 1;
        1000 + self.last_pid
    }

    /// What the host's random number generator gives: never the same twice.
    pub const fn entropy(&mut self) -> u64 {
        self.entropy += 1;
        mix(self.entropy ^ 0x6d76_6d00_0000_0000)
    }

    /// A guest after a cold boot.
    pub fn booted(&mut self) -> Memory {
        Memory {
            counter: 0,
            random: self.entropy(),
            is_held: true,
            is_frozen: false,
            is_unaware: false,
            secrets: Secrets::default(),
            generation: 0,
            agent_answers: true,
            is_forced: false,
            refuses_drain: None,
            is_saved: None,
            routes: None,
        }
    }

    /// The VMM ends; its shim, while it lives, writes how, and ends too.
    pub fn end_vmm(&mut self, instance: &InstanceId, ending: Ending) {
        if self.vmms.remove(instance).is_none() {
            return;
        }
        if let Some(shim) = self.shims.remove(instance) {
            let ending = if shim == Shim::Parent { ending } else { Ending::Unseen };
            let exit = ExitRecord::of(ending);
            self.runs.entry(instance.clone()).or_default().exit = Some(exit);
        }
    }

    /// The shim is killed; its VMM lives on.
    pub fn end_shim(&mut self, instance: &InstanceId) {
        self.shims.remove(instance);
    }

    /// The host starts again: what is not on the disk vanishes. Unsynced writes survive.
    pub fn reboot(&mut self) {
        self.disk.sync_all();
        self.vanish();
    }

    /// The power goes: also unsynced writes are lost, some of them as `chance` has it or all.
    pub fn power_cut(&mut self, chance: Option<&mut Chance>) {
        self.disk.power_cut(chance);
        self.vanish();
    }

    /// The present boot.
    #[must_use]
    pub fn present_boot(&self) -> BootId {
        BootId(format!("boot-{}", self.boots))
    }

    fn vanish(&mut self) {
        self.boots += 1;
        self.bridges.clear();
        self.routes.clear();
        self.taps.clear();
        self.cgroups.clear();
        self.firewall = None;
        self.firewall_altered = false;
        self.vmms.clear();
        self.shims.clear();
        self.runs.clear();
        self.mounts.clear();
        self.mappings.clear();
    }

    /// A moment passes: every workload that can run does a little.
    pub fn tick(&mut self) {
        let running: Vec<InstanceId> = self
            .vmms
            .iter()
            .filter(|(_, vmm)| vmm.phase == Phase::Running)
            .map(|(id, _)| id.clone())
            .collect();
        for id in running {
            self.work(&id);
        }
    }

    fn work(&mut self, id: &InstanceId) {
        let Some(vmm) = self.vmms.get_mut(id) else { return };
        let works = |guest: &&mut Memory| !guest.is_frozen && !guest.is_held;
        let Some(guest) = vmm.guest.as_mut().filter(works) else { return };
        if guest.is_unaware && !guest.is_forced {
            self.violations.push(format!(
                "the workload of {id} ran after a restore that its guest was not told of"
            ));
        }
        guest.counter += 1;
        let writes = guest.counter % 3 == 0;
        let drawn = guest.draw();
        let instance = vmm.instance.clone();
        if writes {
            self.disk.write_volume(&instance);
        }
        if !self.draws.insert(drawn) {
            self.violations.push(format!("{id} drew a random number that was drawn before"));
        }
    }

    /// Checks that the snapshot which `vmm` was loaded from may run, and that it never did.
    pub fn check_resume(&mut self, vmm: &Vmm) {
        let Some(serial) = vmm.fresh_from else { return };
        let id = &vmm.instance;
        if !self.resumed.insert(serial) {
            self.violations.push(format!("a snapshot of {id} was resumed twice"));
        }
        let Origin::Snapshot(epoch) = vmm.origin else { return };
        match self.disk.snapshot(id, epoch) {
            Some(snapshot) if snapshot.phase != SnapshotPhase::Retired => {
                self.violations
                    .push(format!("{id} runs from snapshot {epoch}, which could be resumed again"));
            }
            Some(_) | None => {}
        }
    }

    /// Checks that the volume is as it was when the snapshot was taken.
    pub fn check_volume(&mut self, id: &InstanceRef, epoch: Generation) {
        let Some(snapshot) = self.disk.snapshot(id, epoch) else { return };
        let then = snapshot.volume_writes;
        let now = self.disk.volume_writes(id);
        if then != now {
            self.violations.push(format!(
                "snapshot {epoch} of {id} was loaded over another disk: {then:?} writes then, \
                 {now:?} now"
            ));
        }
    }

    /// The pause that a VMM is in.
    #[must_use]
    pub fn paused_for(&self, id: &InstanceId) -> Option<PausedFor> {
        match self.vmms.get(id)?.phase {
            Phase::Paused(purpose) => Some(purpose),
            Phase::Empty | Phase::Running | Phase::Silent => None,
        }
    }

    /// Whether the instance has a jail or a part of one.
    #[must_use]
    pub fn has_jail(&self, id: &InstanceId) -> bool {
        self.mounts.contains_key(id) || self.disk.get(&Path::Jail(id.clone())).is_some()
    }
}

impl Memory {
    /// It is told that it is another one than it was, and gets fresh randomness.
    pub const fn learn(&mut self, generation: u64, fresh: u64) {
        if self.is_unaware || self.generation != generation {
            self.random ^= fresh;
        }
        self.is_unaware = false;
        self.generation = generation;
    }

    /// The next random number of the guest's generator.
    pub const fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }
}
