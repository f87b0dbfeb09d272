//! Effects on VMMs and snapshots.

use mvm_core::{
    Error, ErrorKind,
    effect::{BaseAct, Jail},
    id::{ImageHash, InstanceId, InstanceRef, PoolRef},
    layout::data,
    net::{NetId, Offset},
    observed::{Origin, PausedFor, Phase, SnapshotPhase},
    pool::Resources,
    route::Routes,
    units::{Generation, Uid},
};

use super::{conflict, missing};
use crate::{
    disk::{Content, Path, Snapshot},
    world::{Memory, Run, Shim, Vmm, World},
};

/// The base of a pool's image for one size.
pub(super) fn base_path(pool: &PoolRef, image: &ImageHash, size: &Resources) -> Path {
    Path::Base(pool.clone(), image.clone(), data::base(pool, image, size))
}

impl World {
    pub(super) fn spawn(
        &mut self,
        instance: &InstanceRef,
        uid: Uid,
        epoch: Option<Generation>,
    ) -> Result<(), Error> {
        let id = &instance.instance;
        let version = self.version_for(instance, epoch)?;
        if let Some(vmm) = self.vmms.get(id) {
            if vmm.uid != uid {
                return Err(conflict(format!("the VMM of {id} runs as another user")));
            }
            if vmm.version == version {
                return Ok(());
            }
            if vmm.phase != Phase::Empty {
                return Err(conflict(format!("the VMM of {id} already has a guest")));
            }
            self.remove_vmm(id)?;
        }
        if self.shims.contains_key(id) {
            return Err(conflict(format!("a shim of {id} is still there")));
        }
        let Some(mount) = self.mounts.get(id) else {
            return Err(missing(format!("{id} has no jail to start a VMM in")));
        };
        if mount.uid != uid {
            return Err(conflict(format!("the jail of {id} belongs to another user")));
        }
        if !self.cgroups.contains_key(id) {
            return Err(missing(format!("{id} has no cgroup to start a VMM in")));
        }
        let vmm = Vmm {
            instance: instance.clone(),
            pid: self.pid(),
            uid,
            version,
            origin: Origin::Boot,
            phase: Phase::Empty,
            guest: None,
            fresh_from: None,
            tap: None,
        };
        self.make_directories(instance);
        self.vmms.insert(id.clone(), vmm);
        self.shims.insert(id.clone(), Shim::Parent);
        self.runs.insert(id.clone(), Run::default());
        Ok(())
    }

    pub(super) fn watch(&mut self, instance: &InstanceRef) -> Result<(), Error> {
        let id = &instance.instance;
        self.vmm(id)?;
        self.shims.entry(id.clone()).or_insert(Shim::Watcher);
        Ok(())
    }

    pub(super) fn remove_vmm(&mut self, id: &InstanceId) -> Result<(), Error> {
        self.vmms.remove(id);
        self.shims.remove(id);
        self.runs.remove(id);
        Ok(())
    }

    fn vmm(&self, id: &InstanceId) -> Result<&Vmm, Error> {
        self.vmms.get(id).ok_or_else(|| missing(format!("{id} has no VMM")))
    }

    fn check_tap(&self, vmm: &Vmm) -> Result<(NetId, Offset), Error> {
        let id = &vmm.instance.instance;
        let Some(mount) = self.mounts.get(id) else {
            return Err(missing(format!("{id} has no jail")));
        };
        match self.taps.get(&mount.tap) {
            Some(tap) if tap.uid == vmm.uid => Ok(mount.tap),
            Some(_) => Err(Error::new(
                ErrorKind::Failed,
                format!("{id} may not open its tap: it belongs to another user"),
            )),
            None => Err(Error::new(ErrorKind::Failed, format!("{id} has no tap to open"))),
        }
    }

    pub(super) fn boot(&mut self, jail: &Jail) -> Result<(), Error> {
        let id = &jail.instance.instance;
        let vmm = self.vmm(id)?;
        match vmm.phase {
            Phase::Running if vmm.origin == Origin::Boot => return Ok(()),
            Phase::Running | Phase::Paused(_) | Phase::Silent => {
                return Err(conflict(format!("the VMM of {id} already has a guest")));
            }
            Phase::Empty => {}
        }
        let tap = self.check_tap(vmm)?;
        if self.mounts.get(id).is_none_or(|mount| mount.image != jail.image) {
            return Err(conflict(format!("the jail of {id} holds another image")));
        }
        let mut guest = self.booted();
        self.furnish(&mut guest, jail);
        if let Some(vmm) = self.vmms.get_mut(id) {
            vmm.phase = Phase::Running;
            vmm.guest = Some(guest);
            vmm.tap = Some(tap);
        }
        Ok(())
    }

    pub(super) fn base_act(&mut self, act: BaseAct, jail: &Jail) -> Result<(), Error> {
        match act {
            BaseAct::Take => self.take_base(jail),
            BaseAct::Load => self.load_base(jail),
            BaseAct::Remove => {
                let pool = jail.instance.pool_ref();
                self.remove_files(&base_path(&pool, &jail.image, &jail.resources))
            }
        }
    }

    fn take_base(&mut self, jail: &Jail) -> Result<(), Error> {
        let id = &jail.instance.instance;
        let vmm = self.vmm(id)?;
        let guest = match (vmm.phase, &vmm.guest) {
            (Phase::Paused(_), Some(guest)) => guest.clone(),
            (Phase::Empty | Phase::Running | Phase::Paused(_) | Phase::Silent, _) => {
                return Err(conflict(format!("{id} is not paused")));
            }
        };
        let path = base_path(&jail.instance.pool_ref(), &jail.image, &jail.resources);
        let fits = |there: &Content| matches!(there, Content::Base(_, of) if *of == self.model);
        if vmm.origin == Origin::Base || self.disk.get(&path).is_some_and(fits) {
            return Ok(());
        }
        if !guest.is_held {
            self.violations.push(format!("a base was made of {id}, which knows who it is"));
        }
        self.admit_write("a base")?;
        // A workload that could refuse to sleep is not in it.
        let guest = Memory { refuses_drain: None, ..guest };
        self.disk.put(path.clone(), Content::Base(Box::new(guest), self.model));
        self.disk.sync(&path);
        if let Some(vmm) = self.vmms.get_mut(id) {
            vmm.origin = Origin::Base;
        }
        Ok(())
    }

    fn load_base(&mut self, jail: &Jail) -> Result<(), Error> {
        let id = &jail.instance.instance;
        let vmm = self.vmm(id)?;
        match vmm.phase {
            Phase::Running | Phase::Paused(_) if vmm.origin == Origin::Base => return Ok(()),
            Phase::Running | Phase::Paused(_) | Phase::Silent => {
                return Err(conflict(format!("the VMM of {id} already has a guest")));
            }
            Phase::Empty => {}
        }
        let tap = self.check_tap(vmm)?;
        let path = base_path(&jail.instance.pool_ref(), &jail.image, &jail.resources);
        let mut guest = match self.disk.get(&path) {
            Some(Content::Base(guest, model)) if *model == self.model => (**guest).clone(),
            Some(_) => return Err(conflict(format!("the base of {id} is another machine's"))),
            None => return Err(missing(format!("there is no base for {id}"))),
        };
        guest.is_unaware = true;
        self.furnish(&mut guest, jail);
        if let Some(vmm) = self.vmms.get_mut(id) {
            vmm.phase = Phase::Running;
            vmm.origin = Origin::Base;
            vmm.guest = Some(guest);
            vmm.tap = Some(tap);
        }
        Ok(())
    }

    /// What a guest finds on its drives.
    fn furnish(&self, guest: &mut Memory, jail: &Jail) {
        let id = &jail.instance.instance;
        guest.is_saved = (!jail.identity.integrations.is_empty()).then_some(false);
        guest.routes = jail.identity.routing_table.as_ref().map(Routes::alone);
        guest.secrets = self.mounts.get(id).map(|mount| mount.secrets).unwrap_or_default();
    }

    pub(super) fn load(&mut self, instance: &InstanceRef, epoch: Generation) -> Result<(), Error> {
        let id = &instance.instance;
        let vmm = self.vmm(id)?;
        let is_loaded = vmm.origin == Origin::Snapshot(epoch) && vmm.fresh_from.is_some();
        match vmm.phase {
            Phase::Paused(_) if is_loaded => return Ok(()),
            Phase::Running | Phase::Paused(_) | Phase::Silent => {
                return Err(conflict(format!("the VMM of {id} already has a guest")));
            }
            Phase::Empty => {}
        }
        let tap = self.check_tap(vmm)?;
        let Some(snapshot) = self.disk.snapshot(instance, epoch) else {
            return Err(missing(format!("{id} has no snapshot {epoch}")));
        };
        if snapshot.phase != SnapshotPhase::Published {
            return Err(conflict(format!("snapshot {epoch} of {id} may not be resumed")));
        }
        if snapshot.version != vmm.version {
            let (taken, runs) = (&snapshot.version, &vmm.version);
            return Err(conflict(format!(
                "snapshot {epoch} of {id} was taken with {taken}, and its VMM runs {runs}"
            )));
        }
        let keyed = snapshot.sealed_with.is_some();
        let ring = self.ring(&instance.tenant);
        if !snapshot.complete
            || (keyed && !snapshot.sealed_with.is_some_and(|key| ring.contains(&key)))
        {
            return Err(Error::new(
                ErrorKind::Integrity,
                format!("snapshot {epoch} of {id} does not verify"),
            ));
        }
        let (serial, mut guest) = (snapshot.serial, snapshot.memory.clone());
        guest.is_unaware = true;
        self.check_volume(instance, epoch);
        if let Some(vmm) = self.vmms.get_mut(id) {
            vmm.phase = Phase::Paused(PausedFor::Warm);
            vmm.origin = Origin::Snapshot(epoch);
            vmm.guest = Some(guest);
            vmm.fresh_from = Some(serial);
            vmm.tap = Some(tap);
        }
        Ok(())
    }

    pub(super) fn pause(&mut self, id: &InstanceId, purpose: PausedFor) -> Result<(), Error> {
        if self.vmm(id)?.phase == Phase::Empty {
            return Err(conflict(format!("the VMM of {id} has no guest to pause")));
        }
        if let Some(vmm) = self.vmms.get_mut(id) {
            vmm.phase = Phase::Paused(purpose);
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, id: &InstanceId) -> Result<(), Error> {
        let vmm = self.vmm(id)?.clone();
        match vmm.phase {
            Phase::Running => return Ok(()),
            Phase::Empty | Phase::Silent => {
                return Err(conflict(format!("the VMM of {id} has no guest to resume")));
            }
            Phase::Paused(_) => {}
        }
        if let (Some(_), Origin::Snapshot(epoch)) = (vmm.fresh_from, vmm.origin) {
            self.check_volume(&vmm.instance, epoch);
        }
        self.check_resume(&vmm);
        if let Some(vmm) = self.vmms.get_mut(id) {
            vmm.phase = Phase::Running;
            vmm.fresh_from = None;
        }
        Ok(())
    }

    pub(super) fn write_snapshot(
        &mut self,
        instance: &InstanceRef,
        epoch: Generation,
        keyed: bool,
    ) -> Result<(), Error> {
        let id = &instance.instance;
        let (memory, version) = match self.vmm(id)? {
            Vmm {
                phase: Phase::Paused(PausedFor::Sleep),
                guest: Some(guest),
                origin,
                version,
                ..
            } => {
                // The pages that it did not touch since it woke lie there and nowhere else.
                if let Origin::Snapshot(from) = origin
                    && !self
                        .disk
                        .snapshot(instance, *from)
                        .is_some_and(|there| there.phase == SnapshotPhase::Retired)
                {
                    return Err(conflict(format!("what {id} woke from is gone")));
                }
                (guest.clone(), version.clone())
            }
            Vmm { .. } => return Err(conflict(format!("{id} is not paused for sleep"))),
        };
        if self
            .disk
            .snapshot(instance, epoch)
            .is_some_and(|there| there.phase != SnapshotPhase::Partial)
        {
            return Err(conflict(format!("{id} already has a snapshot {epoch}")));
        }
        let sealed_with = match (keyed, self.ring(&instance.tenant).first().copied()) {
            (false, _) => None,
            (true, Some(key)) => Some(key),
            (true, None) => {
                return Err(missing(format!("tenant {} has no key to seal with", instance.tenant)));
            }
        };
        self.admit_write("a snapshot")?;
        let snapshot = Snapshot {
            serial: self.serial(),
            phase: SnapshotPhase::Partial,
            complete: true,
            version,
            memory,
            volume_writes: self.disk.volume_writes(instance),
            sealed_with,
        };
        self.make_directories(instance);
        let path = Path::Snapshot(instance.clone(), epoch);
        self.disk.put(path.clone(), Content::Snapshot(Box::new(snapshot)));
        self.disk.sync(&path);
        self.disk.sync(&Path::Volume(instance.clone()));
        Ok(())
    }

    pub(super) fn publish(
        &mut self,
        instance: &InstanceRef,
        epoch: Generation,
    ) -> Result<(), Error> {
        self.advance(instance, epoch, SnapshotPhase::Partial, SnapshotPhase::Published)
    }

    pub(super) fn retire(
        &mut self,
        instance: &InstanceRef,
        epoch: Generation,
    ) -> Result<(), Error> {
        self.advance(instance, epoch, SnapshotPhase::Published, SnapshotPhase::Retired)
    }

    pub(super) fn remove_snapshot(
        &mut self,
        instance: &InstanceRef,
        epoch: Generation,
    ) -> Result<(), Error> {
        self.disk.remove(&Path::Snapshot(instance.clone(), epoch));
        Ok(())
    }

    fn advance(
        &mut self,
        instance: &InstanceRef,
        epoch: Generation,
        from: SnapshotPhase,
        to: SnapshotPhase,
    ) -> Result<(), Error> {
        let Some(snapshot) = self.disk.snapshot(instance, epoch) else {
            return Err(missing(format!("{instance} has no snapshot {epoch}")));
        };
        if snapshot.phase != to {
            if snapshot.phase != from {
                return Err(conflict(format!(
                    "snapshot {epoch} of {instance} is {:?}, not {from:?}",
                    snapshot.phase
                )));
            }
            let changed = Snapshot { phase: to, ..snapshot.clone() };
            let path = Path::Snapshot(instance.clone(), epoch);
            self.disk.put(path, Content::Snapshot(Box::new(changed)));
        }
        self.disk.sync(&Path::Snapshot(instance.clone(), epoch));
        Ok(())
    }
}
