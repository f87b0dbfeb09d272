//! Data volumes: their kinds, what is asked of one, those that outlive their instance, and every
//! act on them.
//!
//! ```text
//!            create --volume                     destroy --keep-volumes
//!  Kept ──────────────────────▶ Joining ──▶ (an instance's) ──▶ Leaving ──▶ Kept ──▶ Removing
//! ```
//! A volume is in one place at a time: with its instance, or below `volumes/`. It refuses to know
//! how a volume is encrypted; `mvm-host` does.

use serde::{Deserialize, Serialize};

use crate::{
    id::{InstanceId, InstanceRef, VolumeId},
    units::{Generation, Mib, Timestamp, Uid},
};

/// How a volume lies on the host's disk; recorded when it is made, never guessed from its bytes,
/// which are the guest's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeKind {
    /// A raw image, readable by whoever has the disk.
    #[default]
    Plain,
    /// LUKS2.
    Luks,
}

impl VolumeKind {
    /// What a new volume of a tenant is.
    #[must_use]
    pub const fn of_tenant(keyed: bool) -> Self {
        if keyed { Self::Luks } else { Self::Plain }
    }
}

/// What becomes of the volume of a destroyed instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeFate {
    /// Its files are removed.
    #[default]
    Delete,
    /// It becomes a named volume of `local`.
    Keep,
    /// Its keys are destroyed, or its bytes overwritten, before its files are removed.
    Wipe,
}

/// What is recorded of an instance's volume besides its size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VolumePlan {
    /// How it lies on disk.
    pub kind: VolumeKind,
    /// Whether the audit log says that it was made.
    pub is_told: bool,
    /// Whether it has a new size that its guest was not given yet.
    pub is_growing: bool,
    /// What becomes of it when the instance is destroyed.
    pub fate: VolumeFate,
    /// The name under which it is being kept.
    pub kept_as: Option<VolumeId>,
    /// The kept volume that it shall be made from.
    pub joining: Option<VolumeId>,
}

/// Where a kept volume is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeStage {
    /// Its instance is being destroyed.
    Leaving(InstanceRef),
    /// It waits for an instance.
    Kept,
    /// It is being given to this instance.
    Joining(InstanceRef),
    /// It is being removed.
    Removing,
}

/// A volume that outlived its instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub volume: VolumeId,
    /// Whose it was.
    pub origin: InstanceRef,
    /// Its size.
    pub size: Mib,
    /// How it lies on disk.
    pub kind: VolumeKind,
    /// Whether its file system may not fill it yet.
    pub is_growing: bool,
    /// Where it is in its life.
    pub stage: VolumeStage,
    /// When it began to be kept.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub generation: Generation,
}

/// One act on volumes. What it makes shows in `volume` and `mapping` of the instance, or in
/// `volumes` of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeEffect {
    /// An empty volume of this size unless one is there → `volume`, `files`. A closed one: a mapping
    /// that a crash left is gone.
    Ensure {
        /// Whose it is.
        instance: InstanceRef,
        /// The owner of the file.
        uid: Uid,
        /// Its size; never 0.
        size: Mib,
        /// How it lies on disk.
        kind: VolumeKind,
    },
    /// An encrypted volume's device open → `mapping`. Inverse: [`VolumeEffect::Close`].
    Open(InstanceRef),
    /// No such device; the VMM that had it must be gone.
    Close(InstanceId),
    /// File, open device and the drive of a VMM that has a guest as large as this → `volume`. A
    /// smaller size changes nothing.
    Grow {
        /// Whose it is.
        instance: InstanceRef,
        /// How it lies on disk.
        kind: VolumeKind,
        /// Its new size.
        size: Mib,
    },
    /// The closed volume moved below `volumes/`, if encrypted under a key of its own → `volume`,
    /// `volumes`. One that is there already stays.
    Keep {
        /// Whose it was.
        instance: InstanceRef,
        /// Its name.
        volume: VolumeId,
        /// How it lies on disk.
        kind: VolumeKind,
    },
    /// A kept volume moved to the instance, if encrypted under the tenant's key → `volume`,
    /// `volumes`. Inverse of [`VolumeEffect::Keep`].
    Attach {
        /// Its name.
        volume: VolumeId,
        /// Whose it becomes.
        instance: InstanceRef,
        /// How it lies on disk.
        kind: VolumeKind,
        /// The owner of the file.
        uid: Uid,
    },
    /// The closed volume unreadable for ever, and gone → `volume`.
    Wipe {
        /// Whose it is.
        instance: InstanceRef,
        /// How it lies on disk.
        kind: VolumeKind,
    },
    /// A kept volume gone with its key → `volumes`; its bytes overwritten first if it is plain and
    /// shall be wiped.
    Remove {
        /// Its name.
        volume: VolumeId,
        /// How it lies on disk.
        kind: VolumeKind,
        /// Delete or wipe.
        fate: VolumeFate,
    },
}

impl VolumeEffect {
    /// The name of the effect, as in serialised plans, logs and crash points.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ensure { .. } => "ensure_volume",
            Self::Open(_) => "open_volume",
            Self::Close(_) => "close_volume",
            Self::Grow { .. } => "grow_volume",
            Self::Keep { .. } => "keep_volume",
            Self::Attach { .. } => "attach_volume",
            Self::Wipe { .. } => "wipe_volume",
            Self::Remove { .. } => "remove_volume",
        }
    }

    /// The instance that the effect is about.
    #[must_use]
    pub const fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Ensure { instance, .. }
            | Self::Open(instance)
            | Self::Grow { instance, .. }
            | Self::Keep { instance, .. }
            | Self::Attach { instance, .. }
            | Self::Wipe { instance, .. } => Some(&instance.instance),
            Self::Close(instance) => Some(instance),
            Self::Remove { .. } => None,
        }
    }
}
