//! Which version of Firecracker a VMM runs, and which ones nothing needs.

use mvm_core::{
    Error,
    id::{InstanceRef, VmmVersion},
    observed::{InstalledVersion, SnapshotPhase},
    units::Generation,
};

use super::{conflict, missing};
use crate::{
    disk::{Content, Path},
    world::World,
};

impl World {
    /// The version of a VMM that shall load this snapshot, or none.
    pub(super) fn version_for(
        &self,
        instance: &InstanceRef,
        epoch: Option<Generation>,
    ) -> Result<VmmVersion, Error> {
        let Some(epoch) = epoch else { return Ok(self.version.clone()) };
        let Some(snapshot) = self.disk.snapshot(instance, epoch) else {
            return Err(missing(format!("{instance} has no snapshot {epoch}")));
        };
        if snapshot.phase != SnapshotPhase::Published {
            return Err(conflict(format!("snapshot {epoch} of {instance} may not be resumed")));
        }
        let version = snapshot.version.clone();
        if version != self.version && !self.versions.contains(&version) {
            return Err(missing(format!("Firecracker {version} is not installed")));
        }
        Ok(version)
    }

    fn is_used(&self, version: &VmmVersion) -> bool {
        let needs = |path: &Path| match self.disk.get(path) {
            Some(Content::Snapshot(snapshot)) => snapshot.version == *version,
            _ => false,
        };
        *version == self.version
            || *version == VmmVersion::built_in()
            || self.vmms.values().any(|vmm| vmm.version == *version)
            || self.disk.iter().any(|(path, _)| needs(path))
    }

    /// The installed versions.
    pub(super) fn installed(&self) -> Vec<InstalledVersion> {
        let mut all = self.versions.clone();
        all.insert(self.version.clone());
        let seen =
            |version: VmmVersion| InstalledVersion { is_used: self.is_used(&version), version };
        all.into_iter().map(seen).collect()
    }

    pub(super) fn remove_version(&mut self, version: &VmmVersion) -> Result<(), Error> {
        if self.is_used(version) {
            return Err(conflict(format!("Firecracker {version} is in use")));
        }
        self.versions.remove(version);
        Ok(())
    }
}
