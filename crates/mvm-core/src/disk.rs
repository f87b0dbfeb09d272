//! Disk as a resource: the room there is, the reserve that stays free, and what lies there.
//!
//! A volume is a file with holes: what it may still grow into is not set aside. What is admitted is
//! what an act may write at worst, against what is free now.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    id::TenantId,
};

/// The room on the data file system, in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// All of it.
    pub total_mib: u64,
    /// What is free.
    pub free_mib: u64,
    /// What stays free, for the store, the logs and the host.
    pub reserve_mib: u64,
}

impl Room {
    /// What may be taken.
    #[must_use]
    pub const fn available_mib(&self) -> u64 {
        self.free_mib.saturating_sub(self.reserve_mib)
    }

    /// Checks that `needed` MiB may be taken for `what`.
    ///
    /// # Errors
    /// `Refused` with the figures.
    pub fn admit(&self, what: &str, needed: u64) -> Result<(), Error> {
        if needed <= self.available_mib() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Refused,
            format!(
                "no room on the disk for {what}: it may take {needed} MiB, and of {} MiB that are \
                 free {} MiB are the reserve",
                self.free_mib, self.reserve_mib
            ),
        )
        .hint("see what takes the room: mvm node disk")
        .hint("destroy instances or kept volumes, or lower disk_reserve_percent"))
    }
}

/// What a kind of file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskClass {
    /// Images and the pools' links to them.
    Images,
    /// Kernels.
    Kernels,
    /// VMM binaries, and their copies in jails.
    Binaries,
    /// Data volumes of instances.
    Volumes,
    /// Volumes that outlived their instance.
    KeptVolumes,
    /// Snapshots.
    Snapshots,
    /// Logs, and archived ones.
    Logs,
    /// Downloads.
    Cache,
    /// The store, records, keys and the rest.
    Other,
}

impl DiskClass {
    /// All classes.
    pub const ALL: [Self; 9] = [
        Self::Images,
        Self::Kernels,
        Self::Binaries,
        Self::Volumes,
        Self::KeptVolumes,
        Self::Snapshots,
        Self::Logs,
        Self::Cache,
        Self::Other,
    ];

    /// Its name for people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Kernels => "kernels",
            Self::Binaries => "binaries",
            Self::Volumes => "volumes",
            Self::KeptVolumes => "kept volumes",
            Self::Snapshots => "snapshots",
            Self::Logs => "logs",
            Self::Cache => "cache",
            Self::Other => "other",
        }
    }
}

/// What lies below the data directory, in bytes on the disk; a file with several names counts once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// By class.
    pub classes: BTreeMap<DiskClass, u64>,
    /// By tenant and class, what lies in the tenant's directory.
    pub tenants: BTreeMap<TenantId, BTreeMap<DiskClass, u64>>,
}

impl DiskUse {
    /// Counts `bytes` of a file.
    pub fn add(&mut self, class: DiskClass, tenant: Option<&TenantId>, bytes: u64) {
        *self.classes.entry(class).or_default() += bytes;
        if let Some(tenant) = tenant {
            *self.tenants.entry(tenant.clone()).or_default().entry(class).or_default() += bytes;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn what_would_eat_into_the_reserve_is_refused_with_the_figures() {
        let room = Room { total_mib: 1000, free_mib: 300, reserve_mib: 100 };
        room.admit("a volume", 200).unwrap();
        let error = room.admit("a volume", 201).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        for figure in ["201 MiB", "300 MiB", "100 MiB"] {
            assert!(error.message.contains(figure), "{error}");
        }
        let full = Room { total_mib: 1000, free_mib: 50, reserve_mib: 100 };
        assert_eq!(full.available_mib(), 0);
    }
}
