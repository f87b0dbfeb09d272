//! A disk with two faces: what programs see, and what is left after the power went.
//!
//! Every file has its present version and the one that was last synced. [`Disk::power_cut`] makes
//! the synced one the present one, for some files or for all. It knows nothing of what the files
//! mean.

use std::collections::{BTreeMap, BTreeSet};

use mvm_core::{
    id::{ImageHash, InstanceId, InstanceRef, PoolRef, TenantId, VmmVersion, VolumeId},
    observed::SnapshotPhase,
    units::{Generation, Mib, Uid},
};

use crate::{chance::Chance, world::Memory};

/// A name on the disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// A tenant's key.
    Key(TenantId),
    /// The key that shall take its place.
    NextKey(TenantId),
    /// A kept volume.
    Kept(VolumeId),
    /// A kept volume's key.
    VolumeKey(VolumeId),
    /// A tenant's directory.
    Tenant(TenantId),
    /// A tenant's secrets in force.
    Secrets(TenantId),
    /// A tenant's staged secrets of an epoch.
    StagedSecrets(TenantId, Generation),
    /// A pool's directory.
    Pool(PoolRef),
    /// A revision of a pool.
    Revision(PoolRef, ImageHash),
    /// The name of a pool's current revision.
    Current(PoolRef),
    /// An instance's directory.
    Instance(InstanceRef),
    /// An instance's data volume.
    Volume(InstanceRef),
    /// One snapshot.
    Snapshot(InstanceRef, Generation),
    /// The base of a revision for one size, by its name.
    Base(PoolRef, ImageHash, std::path::PathBuf),
    /// An instance's jail.
    Jail(InstanceId),
    /// The archived audit log of a destroyed tenant.
    Archive(TenantId),
}

impl Path {
    /// Whether this name lies in the directory `above`, or is it.
    #[must_use]
    pub fn is_below(&self, above: &Self) -> bool {
        let (tenant, pool, instance) = match self {
            Self::Tenant(tenant) | Self::Secrets(tenant) | Self::StagedSecrets(tenant, _) => {
                (tenant, None, None)
            }
            Self::Pool(pool)
            | Self::Revision(pool, _)
            | Self::Current(pool)
            | Self::Base(pool, ..) => (&pool.tenant, Some(pool.clone()), None),
            Self::Instance(one) | Self::Volume(one) | Self::Snapshot(one, _) => {
                (&one.tenant, Some(one.pool_ref()), Some(one))
            }
            Self::Key(_)
            | Self::NextKey(_)
            | Self::Kept(_)
            | Self::VolumeKey(_)
            | Self::Jail(_)
            | Self::Archive(_) => return self == above,
        };
        match above {
            Self::Tenant(of) => of == tenant,
            Self::Pool(of) => Some(of) == pool.as_ref(),
            Self::Instance(of) => Some(of) == instance,
            Self::Revision(pool, image) => {
                let is_base =
                    |of: &Self| matches!(of, Self::Base(a, b, _) if (a, b) == (pool, image));
                self == above || is_base(self)
            }
            Self::Key(_)
            | Self::NextKey(_)
            | Self::Kept(_)
            | Self::VolumeKey(_)
            | Self::Secrets(_)
            | Self::StagedSecrets(..)
            | Self::Base(..)
            | Self::Current(_)
            | Self::Volume(_)
            | Self::Snapshot(..)
            | Self::Jail(_)
            | Self::Archive(_) => self == above,
        }
    }
}

/// A snapshot's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Unique among all snapshots ever written, so that two of one epoch are told apart.
    pub serial: u64,
    /// How far it is.
    pub phase: SnapshotPhase,
    /// Whether all of it was written.
    pub complete: bool,
    /// The version of Firecracker that wrote it.
    pub version: VmmVersion,
    /// The guest in it.
    pub memory: Memory,
    /// How often the data volume had been written then; none without one.
    pub volume_writes: Option<u64>,
    /// The tenant key that sealed it.
    pub sealed_with: Option<u64>,
}

/// Secrets, as far as a simulation needs them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secrets {
    /// Their epoch; 0 for none.
    pub epoch: Generation,
    /// Stands for their content: never the same for two sealings.
    pub content: u64,
    /// The key that opens them; none for plain ones.
    pub sealed_with: Option<u64>,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing but the name: a directory, or a file whose content does not matter.
    Bare,
    /// A tenant's key.
    Key(u64),
    /// A tenant's secrets.
    Secrets(Secrets),
    /// The image that a pool's `current` names.
    Current(ImageHash),
    /// A data volume.
    Volume {
        /// Who may open it.
        uid: Uid,
        /// Its size.
        size: Mib,
        /// How often it was written.
        writes: u64,
        /// The keys that open it; none of a plain one.
        keys: BTreeSet<u64>,
        /// Unique among all volumes ever made.
        serial: u64,
    },
    /// A snapshot.
    Snapshot(Box<Snapshot>),
    /// A base: the guest in it, and the model of the machine on which it was taken.
    Base(Box<Memory>, u64),
}

/// The disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    now: BTreeMap<Path, Content>,
    synced: BTreeMap<Path, Content>,
    /// Whether nothing more fits.
    pub full: bool,
}

impl Disk {
    /// The content of `path`.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&Content> {
        self.now.get(path)
    }

    /// All names and contents.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Content)> {
        self.now.iter()
    }

    /// Whether `path` or something below it is there.
    #[must_use]
    pub fn has_any(&self, path: &Path) -> bool {
        self.now.keys().any(|name| name.is_below(path))
    }

    /// Writes `path`; lost with the power until it is synced.
    pub fn put(&mut self, path: Path, content: Content) {
        self.now.insert(path, content);
    }

    /// Removes `path` and all below it; back with the power until that is synced.
    pub fn remove(&mut self, path: &Path) {
        self.now.retain(|name, _| !name.is_below(path));
    }

    /// Makes the present version of `path`, and of all below it, the one that stays.
    pub fn sync(&mut self, path: &Path) {
        self.synced.retain(|name, _| !name.is_below(path));
        let here = self.now.iter().filter(|(name, _)| name.is_below(path));
        self.synced.extend(here.map(|(name, content)| (name.clone(), content.clone())));
    }

    /// The present version of everything stays: an orderly reboot.
    pub fn sync_all(&mut self) {
        self.synced = self.now.clone();
    }

    /// The power goes: each unsynced change is lost or not, as `chance` has it; all are lost
    /// without it.
    pub fn power_cut(&mut self, mut chance: Option<&mut Chance>) {
        let names: Vec<Path> = self.now.keys().chain(self.synced.keys()).cloned().collect();
        for name in names {
            let changed = self.now.get(&name) != self.synced.get(&name);
            let is_kept = chance.as_mut().is_some_and(|chance| chance.one_in(2));
            if !changed || is_kept {
                continue;
            }
            match self.synced.get(&name) {
                Some(content) => self.now.insert(name, content.clone()),
                None => self.now.remove(&name),
            };
        }
        self.synced = self.now.clone();
    }

    /// The snapshots of an instance.
    pub fn snapshots<'a>(
        &'a self,
        of: &'a InstanceRef,
    ) -> impl Iterator<Item = (Generation, &'a Snapshot)> {
        self.now.iter().filter_map(move |(path, content)| match (path, content) {
            (Path::Snapshot(instance, epoch), Content::Snapshot(snapshot)) if instance == of => {
                Some((*epoch, snapshot.as_ref()))
            }
            _ => None,
        })
    }

    /// One snapshot of an instance.
    #[must_use]
    pub fn snapshot(&self, of: &InstanceRef, epoch: Generation) -> Option<&Snapshot> {
        match self.now.get(&Path::Snapshot(of.clone(), epoch)) {
            Some(Content::Snapshot(snapshot)) => Some(snapshot),
            _ => None,
        }
    }

    /// How often an instance's volume was written; none without a volume.
    #[must_use]
    pub fn volume_writes(&self, of: &InstanceRef) -> Option<u64> {
        match self.now.get(&Path::Volume(of.clone())) {
            Some(Content::Volume { writes, .. }) => Some(*writes),
            _ => None,
        }
    }

    /// A guest writes to its volume; lost with the power until the guest syncs.
    pub fn write_volume(&mut self, of: &InstanceRef) {
        if let Some(Content::Volume { writes, .. }) = self.now.get_mut(&Path::Volume(of.clone())) {
            *writes += 1;
        }
    }

    /// The secrets of a tenant of this epoch, or later ones in force.
    #[must_use]
    pub fn secrets(&self, of: &TenantId, at_least: Generation) -> Option<Secrets> {
        [Path::Secrets(of.clone()), Path::StagedSecrets(of.clone(), at_least)]
            .iter()
            .filter_map(|path| match self.now.get(path) {
                Some(Content::Secrets(secrets)) => Some(*secrets),
                _ => None,
            })
            .find(|secrets| secrets.epoch >= at_least)
    }

    /// The key of a tenant.
    #[must_use]
    pub fn key(&self, of: &TenantId) -> Option<u64> {
        self.key_at(&Path::Key(of.clone()))
    }

    /// The key in a file.
    #[must_use]
    pub fn key_at(&self, path: &Path) -> Option<u64> {
        match self.now.get(path) {
            Some(Content::Key(key)) => Some(*key),
            _ => None,
        }
    }

    /// The content of `path`, to be changed; lost with the power until it is synced.
    pub fn get_mut(&mut self, path: &Path) -> Option<&mut Content> {
        self.now.get_mut(path)
    }
}
