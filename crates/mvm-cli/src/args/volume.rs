//! The arguments of `mvm volume …`, and what becomes of volumes when something is destroyed.

use clap::{Args, Subcommand};
use mvm::{VolumeFate, VolumeId};

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List the volumes that outlived their instance
    List,
    /// Show a kept volume
    Info {
        /// The volume
        volume: VolumeId,
    },
    /// Remove a kept volume with its data
    Remove {
        /// The volume
        volume: VolumeId,
        /// Make its data unreadable first
        #[arg(long)]
        wipe: bool,
        /// Do not ask
        #[arg(long, visible_alias = "yes")]
        force: bool,
    },
}

/// What becomes of the data volumes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Volumes {
    /// Keep the data volumes: see `mvm volume list`
    #[arg(long, conflicts_with = "wipe_volumes")]
    keep_volumes: bool,
    /// Destroy the volumes' keys and overwrite unencrypted ones before they go
    #[arg(long)]
    wipe_volumes: bool,
}

impl Volumes {
    /// What the flags ask for.
    pub(crate) const fn fate(self) -> VolumeFate {
        match (self.keep_volumes, self.wipe_volumes) {
            (true, _) => VolumeFate::Keep,
            (false, true) => VolumeFate::Wipe,
            (false, false) => VolumeFate::Delete,
        }
    }

    /// How it is said.
    pub(crate) const fn words(self) -> &'static str {
        match self.fate() {
            VolumeFate::Keep => "but for its data volumes",
            VolumeFate::Wipe => "and wipe its data volumes",
            VolumeFate::Delete => "with its data",
        }
    }
}
