//! The host port over the simulated machine: one arm per effect, one reader per observation.
//!
//! Each arm keeps what [`mvm_core::effect::Effect`] promises and fails where a kernel would: a tap
//! without its bridge, a cgroup that is not empty, a VMM without a jail, a snapshot that may not be
//! resumed. The arms of VMMs and snapshots are in `vmm`, those of files in `files`, those of
//! secrets in `secrets`, those on what VMMs run in `versions`.

mod files;
mod observe;
mod secrets;
mod versions;
mod vmm;
mod volumes;

use mvm_core::{
    Error, ErrorKind,
    disk::{DiskUse, Room},
    effect::{Effect, Firewall},
    id::{InstanceId, InstanceRef, PoolRef},
    instance::Instance,
    meter::{Meter, Pressure},
    net::{NetId, Network, Offset},
    observed::{ObservedInstance, ObservedNode, ObservedPool, ObservedStock, ObservedTenant},
    port::{Console, Finding, Host, Logs, Wanted},
    units::Uid,
};

use crate::{
    disk::Path,
    world::{Machine, Tap, World},
};

/// The host port of a simulated machine.
#[derive(Debug, Clone)]
pub struct SimHost {
    machine: Machine,
}

impl SimHost {
    /// The host port of `machine`.
    #[must_use]
    pub const fn new(machine: Machine) -> Self {
        Self { machine }
    }
}

pub(crate) fn conflict(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Conflict, message)
}

pub(crate) fn missing(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotFound, message)
}

impl Host for SimHost {
    fn execute(&self, effect: &Effect) -> Result<(), Error> {
        let mut guard = self.machine.world();
        let world = &mut *guard;
        match effect {
            Effect::EnsureBridge(network) => {
                world.bridges.insert(network.net, network.clone());
                Ok(())
            }
            Effect::RemoveBridge(net) => world.remove_bridge(*net),
            Effect::EnsureRoutes(network) => {
                world.routes.insert(network.net, network.clone());
                Ok(())
            }
            Effect::RemoveRoutes(net) => world.forget(|world| world.routes.remove(net).is_some()),
            Effect::ReplaceFirewall(intent) => world.replace_firewall(intent),
            Effect::EnsureTenantKey(tenant) => world.ensure_key(Path::Key(tenant.clone())),
            Effect::PublishSecrets { tenant, epoch } => world.publish_secrets(tenant, *epoch),
            Effect::RemoveTenantFiles(tenant) => world.remove_tenant_files(tenant),
            Effect::EnsureRevision { pool, image } => world.ensure_revision(pool, image),
            Effect::RemoveRevision { pool, image } => world.remove_revision(pool, image),
            Effect::RemoveImage(image) => world.forget(|world| world.images.remove(image)),
            Effect::RemoveRotatedLogs(of) => world.forget(|world| world.rotated_logs.remove(of)),
            Effect::RemoveDownloads => {
                world.forget(|world| std::mem::take(&mut world.has_downloads))
            }
            Effect::RemoveVersion(version) => world.remove_version(version),
            Effect::RemovePoolFiles(pool) => world.remove_files(&Path::Pool(pool.clone())),
            Effect::Volume(effect) => world.volume(effect),
            Effect::DrawNextKey(tenant) => world.ensure_key(Path::NextKey(tenant.clone())),
            Effect::RekeyInstance { instance, .. } => world.rekey(instance),
            Effect::PromoteNextKey(tenant) => world.promote_next_key(tenant),
            Effect::RemoveInstanceFiles(instance) => {
                world.remove_files(&Path::Instance(instance.clone()))
            }
            Effect::EnsureTap { net, offset, uid } => world.ensure_tap(*net, *offset, *uid),
            Effect::RemoveTap { net, offset } => {
                world.forget(|world| world.taps.remove(&(*net, *offset)).is_some())
            }
            Effect::EnsureCgroup { instance, limits } => {
                world.cgroups.insert(instance.clone(), *limits);
                Ok(())
            }
            Effect::RemoveCgroup(instance) => world.remove_cgroup(instance),
            Effect::EnsureJail(jail) => world.ensure_jail(jail),
            Effect::RemoveJail(instance) => world.remove_jail(instance),
            Effect::SpawnVmm { instance, uid, epoch } => world.spawn(instance, *uid, *epoch),
            Effect::EnsureShim { instance, .. } => world.watch(instance),
            Effect::RemoveVmm(instance) => world.remove_vmm(instance),
            Effect::BootVmm(jail) => world.boot(jail),
            Effect::Base { act, jail } => world.base_act(*act, jail),
            Effect::LoadSnapshot { instance, epoch } => world.load(instance, *epoch),
            Effect::SwapSecrets { instance, secrets, .. } => world.swap_secrets(instance, secrets),
            Effect::PauseVmm { instance, purpose } => world.pause(instance, *purpose),
            Effect::ResumeVmm(instance) => world.resume(instance),
            Effect::WriteSnapshot { instance, epoch, keyed, .. } => {
                world.write_snapshot(instance, *epoch, *keyed)
            }
            Effect::PublishSnapshot { instance, epoch } => world.publish(instance, *epoch),
            Effect::RetireSnapshot { instance, epoch } => world.retire(instance, *epoch),
            Effect::RemoveSnapshot { instance, epoch } => world.remove_snapshot(instance, *epoch),
        }
    }

    fn observe_instance(&self, instance: &Instance) -> Result<ObservedInstance, Error> {
        Ok(self.machine.world().observe_instance(instance))
    }

    fn observe_tenant(&self, network: &Network) -> Result<ObservedTenant, Error> {
        Ok(self.machine.world().observe_tenant(network))
    }

    fn observe_pool(&self, pool: &PoolRef) -> Result<ObservedPool, Error> {
        Ok(self.machine.world().observe_pool(pool))
    }

    fn observe_stock(&self) -> Result<ObservedStock, Error> {
        Ok(self.machine.world().observe_stock())
    }

    fn weigh(&self, removals: &[Effect]) -> Result<Vec<u64>, Error> {
        Ok(removals.iter().map(|_| 0).collect())
    }

    fn observe_node(&self) -> Result<ObservedNode, Error> {
        Ok(self.machine.world().observe_node())
    }

    fn room(&self) -> Result<Room, Error> {
        let free_mib = if self.machine.world().disk.full { 0 } else { 1 << 20 };
        Ok(Room { total_mib: 1 << 20, free_mib, reserve_mib: 1 << 16 })
    }

    fn disk_use(&self) -> Result<DiskUse, Error> {
        Ok(DiskUse::default())
    }

    fn verify_network(&self, intent: &Firewall) -> Result<Vec<Finding>, Error> {
        Ok(self.machine.world().verify(intent))
    }

    fn meter(&self, _: &Instance) -> Result<Meter, Error> {
        Ok(Meter::default())
    }

    fn pressure(&self) -> Result<Pressure, Error> {
        Ok(Pressure::default())
    }

    fn wanted(&self) -> Result<Vec<Wanted>, Error> {
        Ok(Vec::new())
    }

    fn console(&self, instance: &InstanceRef) -> Result<Console, Error> {
        let message = format!("nobody holds the console of {instance}");
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    fn logs(&self, instance: &InstanceRef, _lines: usize) -> Result<Logs, Error> {
        let world = self.machine.world();
        if world.disk.get(&Path::Instance(instance.clone())).is_none() {
            return Err(missing(format!("{instance} has no logs")));
        }
        Ok(Logs::default())
    }
}

impl World {
    /// Removes something, whether it was there or not.
    fn forget(&mut self, remove: impl FnOnce(&mut Self) -> bool) -> Result<(), Error> {
        remove(self);
        Ok(())
    }

    fn remove_bridge(&mut self, net: NetId) -> Result<(), Error> {
        if let Some((_, offset)) = self.taps.keys().find(|(of, _)| *of == net) {
            let guest = offset.0;
            return Err(conflict(format!("the bridge of network {net} has guest {guest} on it")));
        }
        self.bridges.remove(&net);
        Ok(())
    }

    fn replace_firewall(&mut self, intent: &Firewall) -> Result<(), Error> {
        if let Some(current) = &self.firewall
            && current.generation > intent.generation
        {
            return Err(conflict(format!(
                "the firewall is at generation {}, this intent is older: {}",
                current.generation, intent.generation
            )));
        }
        let stands = |(net, offset): &&(NetId, Offset)| {
            intent.ports.iter().any(|port| (port.net, port.offset) == (*net, *offset))
        };
        if let Some((net, offset)) = self.taps.keys().find(|place| !stands(place)) {
            return Err(conflict(format!(
                "the new tables have no walls around guest {} of network {net}",
                offset.0
            )));
        }
        self.firewall = (!intent.networks.is_empty()).then(|| intent.clone());
        self.firewall_altered = false;
        Ok(())
    }

    fn ensure_tap(&mut self, net: NetId, offset: Offset, uid: Uid) -> Result<(), Error> {
        if !self.bridges.contains_key(&net) {
            return Err(missing(format!("cannot put a tap on the bridge of network {net}")));
        }
        let walls = self.firewall.iter().filter(|_| !self.firewall_altered);
        let mut ports = walls.flat_map(|intent| &intent.ports);
        if !ports.any(|port| (port.net, port.offset) == (net, offset)) {
            let place = format!("guest {} of network {net}", offset.0);
            return Err(conflict(format!("no walls are in force around {place}")));
        }
        self.taps.insert((net, offset), Tap { uid });
        Ok(())
    }

    fn remove_cgroup(&mut self, instance: &InstanceId) -> Result<(), Error> {
        if self.vmms.contains_key(instance) || self.shims.contains_key(instance) {
            return Err(conflict(format!("the cgroup of {instance} is not empty")));
        }
        self.cgroups.remove(instance);
        Ok(())
    }
}
