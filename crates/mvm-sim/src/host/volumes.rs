//! Effects on volumes, and on the keys that open them.

use std::collections::BTreeSet;

use mvm_core::{
    Error, ErrorKind,
    id::{InstanceId, InstanceRef, TenantId, VolumeId},
    units::{Mib, Uid},
    volume::{VolumeEffect, VolumeKind},
};

use super::{conflict, missing};
use crate::{
    disk::{Content, Path},
    world::World,
};

pub(super) fn locked(what: &str) -> Error {
    Error::new(ErrorKind::Integrity, format!("no key opens {what}"))
}

impl World {
    pub(super) fn volume(&mut self, effect: &VolumeEffect) -> Result<(), Error> {
        match effect {
            VolumeEffect::Ensure { instance, uid, size, kind } => {
                self.ensure_volume(instance, *uid, *size, *kind)
            }
            VolumeEffect::Open(instance) => self.open_volume(instance),
            VolumeEffect::Close(instance) => self.close_volume(instance),
            VolumeEffect::Grow { instance, size, .. } => self.grow_volume(instance, *size),
            VolumeEffect::Keep { instance, volume, kind } => {
                self.keep_volume(instance, volume, *kind)
            }
            VolumeEffect::Attach { volume, instance, kind, uid } => {
                self.attach_volume(volume, instance, *kind, *uid)
            }
            VolumeEffect::Wipe { instance, .. } => {
                self.is_closed(&instance.instance)?;
                self.remove_files(&Path::Volume(instance.clone()))
            }
            VolumeEffect::Remove { volume, .. } => {
                self.remove_files(&Path::VolumeKey(volume.clone()))?;
                self.remove_files(&Path::Kept(volume.clone()))
            }
        }
    }

    fn is_closed(&self, instance: &InstanceId) -> Result<(), Error> {
        if self.mappings.contains(instance) {
            return Err(conflict(format!("the volume of {instance} is open")));
        }
        Ok(())
    }

    /// The keys that open what a tenant has sealed, the one that seals first.
    pub fn ring(&self, tenant: &TenantId) -> Vec<u64> {
        let paths = [Path::NextKey(tenant.clone()), Path::Key(tenant.clone())];
        paths.iter().filter_map(|path| self.disk.key_at(path)).collect()
    }

    fn ensure_volume(
        &mut self,
        instance: &InstanceRef,
        uid: Uid,
        size: Mib,
        kind: VolumeKind,
    ) -> Result<(), Error> {
        let path = Path::Volume(instance.clone());
        if self.disk.get(&path).is_some() {
            return Ok(());
        }
        let keys = match kind {
            VolumeKind::Plain => BTreeSet::new(),
            VolumeKind::Luks => {
                let newest = self.ring(&instance.tenant).first().copied();
                BTreeSet::from([newest.ok_or_else(|| missing("the tenant has no key"))?])
            }
        };
        self.admit_write("a volume")?;
        self.mappings.remove(&instance.instance);
        self.make_directories(instance);
        let serial = self.serial();
        self.disk.put(path.clone(), Content::Volume { uid, size, writes: 0, keys, serial });
        self.disk.sync(&path);
        Ok(())
    }

    fn open_volume(&mut self, instance: &InstanceRef) -> Result<(), Error> {
        let ring = self.ring(&instance.tenant);
        match self.disk.get(&Path::Volume(instance.clone())) {
            Some(Content::Volume { keys, .. }) if ring.iter().any(|key| keys.contains(key)) => {
                self.mappings.insert(instance.instance.clone());
                Ok(())
            }
            Some(_) => Err(locked(&format!("the volume of {instance}"))),
            None => Err(missing(format!("{instance} has no volume to open"))),
        }
    }

    fn close_volume(&mut self, instance: &InstanceId) -> Result<(), Error> {
        if self.vmms.get(instance).is_some_and(|vmm| vmm.guest.is_some()) {
            return Err(conflict(format!("the volume of {instance} is in use")));
        }
        self.mappings.remove(instance);
        Ok(())
    }

    fn grow_volume(&mut self, instance: &InstanceRef, to: Mib) -> Result<(), Error> {
        self.admit_write("a larger volume")?;
        let path = Path::Volume(instance.clone());
        let Some(Content::Volume { size, .. }) = self.disk.get_mut(&path) else {
            return Err(missing(format!("{instance} has no volume to grow")));
        };
        *size = (*size).max(to);
        self.disk.sync(&path);
        Ok(())
    }

    fn keep_volume(
        &mut self,
        instance: &InstanceRef,
        volume: &VolumeId,
        kind: VolumeKind,
    ) -> Result<(), Error> {
        self.is_closed(&instance.instance)?;
        let (from, to) = (Path::Volume(instance.clone()), Path::Kept(volume.clone()));
        let Some(Content::Volume { size, writes, keys, serial, .. }) =
            self.disk.get(&from).cloned()
        else {
            return match self.disk.get(&to) {
                Some(_) => Ok(()),
                None => Err(missing(format!("{instance} has no volume to keep"))),
            };
        };
        let keys = match kind {
            VolumeKind::Plain => keys,
            VolumeKind::Luks => {
                if !self.ring(&instance.tenant).iter().any(|key| keys.contains(key)) {
                    return Err(locked(&format!("the volume of {instance}")));
                }
                let own = self.entropy();
                let path = Path::VolumeKey(volume.clone());
                self.disk.put(path.clone(), Content::Key(own));
                self.disk.sync(&path);
                BTreeSet::from([own])
            }
        };
        let content = Content::Volume { uid: Uid(0), size, writes, keys, serial };
        self.shift(&from, to, content);
        Ok(())
    }

    fn attach_volume(
        &mut self,
        volume: &VolumeId,
        instance: &InstanceRef,
        kind: VolumeKind,
        uid: Uid,
    ) -> Result<(), Error> {
        let (from, to) = (Path::Kept(volume.clone()), Path::Volume(instance.clone()));
        let Some(Content::Volume { size, writes, keys, serial, .. }) =
            self.disk.get(&from).cloned()
        else {
            return match self.disk.get(&to) {
                Some(_) => Ok(()),
                None => Err(missing(format!("there is no kept volume {volume}"))),
            };
        };
        let own = Path::VolumeKey(volume.clone());
        let keys = match kind {
            VolumeKind::Plain => keys,
            VolumeKind::Luks => {
                if !self.disk.key_at(&own).is_some_and(|key| keys.contains(&key)) {
                    return Err(locked(&format!("volume {volume}")));
                }
                let newest = self.ring(&instance.tenant).first().copied();
                BTreeSet::from([newest.ok_or_else(|| missing("the tenant has no key"))?])
            }
        };
        self.make_directories(instance);
        self.shift(&from, to, Content::Volume { uid, size, writes, keys, serial });
        self.remove_files(&own)
    }

    /// Moves a file, durably.
    fn shift(&mut self, from: &Path, to: Path, content: Content) {
        self.disk.put(to.clone(), content);
        self.disk.remove(from);
        self.disk.sync(&to);
        self.disk.sync(from);
    }

    pub(super) fn rekey(&mut self, instance: &InstanceRef) -> Result<(), Error> {
        let ring = self.ring(&instance.tenant);
        let Some(newest) = ring.first().copied() else {
            return Err(missing("the tenant has no key"));
        };
        self.admit_write("keys")?;
        let all: Vec<(Path, Content)> = self
            .disk
            .iter()
            .filter(|(path, _)| path.is_below(&Path::Instance(instance.clone())))
            .map(|(path, content)| (path.clone(), content.clone()))
            .collect();
        for (path, mut content) in all {
            match &mut content {
                Content::Volume { keys, .. } if !keys.is_empty() => {
                    if !ring.iter().any(|key| keys.contains(key)) {
                        return Err(locked(&format!("the volume of {instance}")));
                    }
                    *keys = BTreeSet::from([newest]);
                }
                Content::Snapshot(snapshot) => match snapshot.sealed_with {
                    Some(key) if ring.contains(&key) => snapshot.sealed_with = Some(newest),
                    // The power brought back what was removed; it is removed again.
                    Some(_) | None => continue,
                },
                Content::Volume { .. }
                | Content::Bare
                | Content::Key(_)
                | Content::Secrets(_)
                | Content::Current(_)
                | Content::Base(..) => continue,
            }
            self.disk.put(path.clone(), content);
            self.disk.sync(&path);
        }
        Ok(())
    }

    pub(super) fn promote_next_key(&mut self, tenant: &TenantId) -> Result<(), Error> {
        let (next, present) = (Path::NextKey(tenant.clone()), Path::Key(tenant.clone()));
        if let Some(key) = self.disk.key_at(&next) {
            self.rekey_secrets(tenant, key)?;
            self.shift(&next, present, Content::Key(key));
        }
        Ok(())
    }
}
