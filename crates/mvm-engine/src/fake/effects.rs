//! What effects leave in the small world. It refuses to know which of them were told to fail.

use mvm_core::{
    effect::Effect, error::Error, id::InstanceRef, observed::SnapshotPhase, units::Generation,
    volume::VolumeEffect,
};

use super::Content;

impl Content {
    pub(super) fn apply(&mut self, effect: &Effect) -> Result<(), Error> {
        match effect {
            Effect::EnsureBridge(n) => drop(self.bridges.insert(n.net)),
            Effect::RemoveBridge(n) => drop(self.bridges.remove(n)),
            Effect::EnsureRoutes(n) => drop(self.routes.insert(n.net)),
            Effect::RemoveRoutes(n) => drop(self.routes.remove(n)),
            Effect::ReplaceFirewall(f) => {
                self.firewall = (!f.networks.is_empty()).then(|| f.clone());
                self.firewall_altered = false;
            }
            Effect::EnsureTenantKey(t) => drop(self.keys.insert(t.clone())),
            Effect::RemoveTenantFiles(t) => drop((self.keys.remove(t), self.secrets.remove(t))),
            Effect::RemoveImage(image) => drop(self.building.images.remove(image)),
            Effect::EnsureRevision { .. }
            | Effect::RemoveRevision { .. }
            | Effect::RemoveRotatedLogs(_)
            | Effect::RemoveDownloads
            | Effect::RemoveVersion(_)
            | Effect::RemovePoolFiles(_) => {}
            Effect::Volume(effect) => self.volume(effect),
            Effect::DrawNextKey(t) => drop(self.next_keys.insert(t.clone())),
            Effect::RekeyInstance { instance, .. } => {
                self.rekeyed.insert(instance.instance.clone());
            }
            Effect::PromoteNextKey(t) => drop(self.next_keys.remove(t)),
            Effect::RemoveInstanceFiles(i) => {
                self.volumes.remove(&i.instance);
                self.snapshots.remove(&i.instance);
            }
            Effect::EnsureTap { net, offset, .. } => drop(self.taps.insert((*net, *offset))),
            Effect::RemoveTap { net, offset } => drop(self.taps.remove(&(*net, *offset))),
            Effect::EnsureCgroup { instance, .. } => drop(self.cgroups.insert(instance.clone())),
            Effect::RemoveCgroup(i) => drop(self.cgroups.remove(i)),
            Effect::EnsureJail(_) | Effect::PublishSecrets { .. } | Effect::SwapSecrets { .. } => {
                return self.secret(effect);
            }
            Effect::RemoveJail(i) => drop((self.jails.remove(i), self.drives.remove(i))),
            Effect::EnsureShim { instance, .. } => drop(self.orphans.remove(&instance.instance)),
            Effect::SpawnVmm { .. }
            | Effect::RemoveVmm(_)
            | Effect::BootVmm(_)
            | Effect::Base { .. }
            | Effect::LoadSnapshot { .. }
            | Effect::PauseVmm { .. }
            | Effect::ResumeVmm(_) => return self.vmm(effect),
            Effect::WriteSnapshot { instance, epoch, .. } => {
                self.set_snapshot(instance, *epoch, SnapshotPhase::Partial);
            }
            Effect::PublishSnapshot { instance, epoch } => {
                self.set_snapshot(instance, *epoch, SnapshotPhase::Published);
            }
            Effect::RetireSnapshot { instance, epoch } => {
                self.set_snapshot(instance, *epoch, SnapshotPhase::Retired);
            }
            Effect::RemoveSnapshot { instance, epoch } => {
                if let Some(all) = self.snapshots.get_mut(&instance.instance) {
                    all.remove(epoch);
                }
            }
        }
        Ok(())
    }

    fn volume(&mut self, effect: &VolumeEffect) {
        match effect {
            VolumeEffect::Ensure { instance, size, .. } => {
                self.volumes.entry(instance.instance.clone()).or_insert(*size);
            }
            VolumeEffect::Open(instance) => drop(self.mappings.insert(instance.instance.clone())),
            VolumeEffect::Close(instance) => drop(self.mappings.remove(instance)),
            VolumeEffect::Grow { instance, size, .. } => {
                self.volumes.insert(instance.instance.clone(), *size);
            }
            VolumeEffect::Keep { instance, volume, .. } => {
                if let Some(size) = self.volumes.remove(&instance.instance) {
                    self.kept.insert(volume.clone(), size);
                }
            }
            VolumeEffect::Attach { volume, instance, .. } => {
                if let Some(size) = self.kept.remove(volume) {
                    self.volumes.insert(instance.instance.clone(), size);
                }
            }
            VolumeEffect::Wipe { instance, .. } => drop(self.volumes.remove(&instance.instance)),
            VolumeEffect::Remove { volume, .. } => drop(self.kept.remove(volume)),
        }
    }

    fn set_snapshot(&mut self, id: &InstanceRef, epoch: Generation, phase: SnapshotPhase) {
        self.snapshots.entry(id.instance.clone()).or_default().insert(epoch, phase);
    }
}
