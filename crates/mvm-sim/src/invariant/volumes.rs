//! What must hold of volumes, keys and figures.

use std::collections::{BTreeMap, BTreeSet};

use mvm_core::{
    id::InstanceRef,
    quota::Usage,
    state::State,
    volume::{VolumeKind, VolumeStage},
};

use super::Monitor;
use crate::{
    disk::{Content, Path},
    world::World,
};

impl Monitor {
    /// The figures that admission reads are the sums of what is recorded.
    pub(super) fn check_figures(&mut self) {
        if self.figures.is_empty() && self.instances.is_empty() {
            return;
        }
        let mut sums: BTreeMap<String, Usage> = BTreeMap::new();
        sums.insert("usage".to_owned(), Usage::of(self.instances.values()));
        for one in self.instances.values() {
            sums.entry(format!("usage/{}", one.instance.tenant)).or_default().add(one);
        }
        sums.retain(|name, usage| name == "usage" || *usage != Usage::default());
        if sums != self.figures {
            let what = format!("the figures are {:?}, the sums {sums:?}", self.figures);
            self.violations.push(what);
        }
    }

    /// No volume is in two places, and what is sealed can be opened.
    pub(super) fn check_volumes(&mut self, world: &World) {
        let mut serials = BTreeSet::new();
        let mut broken = Vec::new();
        for (path, content) in world.disk.iter() {
            match (path, content) {
                (Path::Volume(one), Content::Volume { keys, serial, .. }) => {
                    if !serials.insert(*serial) {
                        broken.push(format!("the volume of {one} is also elsewhere"));
                    }
                    if self.is_lost(world, one, keys) {
                        broken.push(format!("no key opens the volume of {one}"));
                    }
                }
                (Path::Kept(volume), Content::Volume { keys, serial, .. }) => {
                    if !serials.insert(*serial) {
                        broken.push(format!("the kept volume {volume} is also elsewhere"));
                    }
                    let own = world.disk.key_at(&Path::VolumeKey(volume.clone()));
                    let is_open = keys.is_empty() || own.is_some_and(|key| keys.contains(&key));
                    let goes =
                        self.volumes.get(volume).is_some_and(|v| v.stage == VolumeStage::Removing);
                    if !is_open && !goes {
                        broken.push(format!("no key opens the kept volume {volume}"));
                    }
                }
                (Path::Snapshot(one, epoch), Content::Snapshot(snapshot)) => {
                    let keys = snapshot.sealed_with.into_iter().collect();
                    let is_needed = self.instances.get(&one.instance).is_some_and(|record| {
                        record.state == State::Sleeping && record.epoch == *epoch
                    });
                    if is_needed && self.is_lost(world, one, &keys) {
                        broken.push(format!("no key opens snapshot {epoch} of {one}"));
                    }
                }
                _ => {}
            }
        }
        broken.into_iter().for_each(|what| self.broken(what));
    }

    fn is_lost(&self, world: &World, of: &InstanceRef, keys: &BTreeSet<u64>) -> bool {
        let ring = world.ring(&of.tenant);
        !keys.is_empty()
            && self.instances.contains_key(&of.instance)
            && !ring.iter().any(|key| keys.contains(key))
    }

    /// At rest every kept volume is where its record says, and its key with it.
    pub(super) fn check_shelf(&mut self, world: &World) {
        let mut broken = Vec::new();
        for volume in self.volumes.values() {
            let id = &volume.volume;
            let is_there = world.disk.get(&Path::Kept(id.clone())).is_some();
            let has_key = world.disk.get(&Path::VolumeKey(id.clone())).is_some();
            match &volume.stage {
                VolumeStage::Kept if !is_there => broken.push(format!("volume {id} is gone")),
                VolumeStage::Kept if has_key != (volume.kind == VolumeKind::Luks) => {
                    broken.push(format!("volume {id} has no key, or one that it does not need"));
                }
                VolumeStage::Kept => {}
                VolumeStage::Joining(one) if self.instances.contains_key(&one.instance) => {}
                VolumeStage::Leaving(_) | VolumeStage::Joining(_) | VolumeStage::Removing => {
                    broken.push(format!("volume {id} rests as {:?}", volume.stage));
                }
            }
        }
        let rotating = self.tenants.values().filter(|one| one.rotating);
        broken.extend(rotating.map(|one| format!("the key of {} is half replaced", one.tenant_id)));
        self.violations.extend(broken);
    }
}
