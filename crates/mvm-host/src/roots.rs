//! Where this host keeps things: the directories under which `core::layout` names everything.

use std::{path::PathBuf, sync::Arc};

use mvm_core::id::VmmVersion;

use crate::disk::given::GivenKeys;

/// The roots of all paths that this crate touches.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The data directory, `/var/lib/mvm`; images, volumes and jails share its file system.
    pub data: PathBuf,
    /// The runtime directory, `/run/mvm`, on a tmpfs that a reboot empties.
    pub run: PathBuf,
    /// Where cgroup v2 is mounted, `/sys/fs/cgroup`.
    pub cgroup: PathBuf,
    /// The share of the data file system that stays free, in percent.
    pub reserve_percent: u8,
    /// The version of Firecracker that new VMMs run.
    pub firecracker: VmmVersion,
    /// The shim's program.
    pub shim: PathBuf,
    /// The page server's program.
    pub pager: PathBuf,
    /// The host's resolvers, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Keys of tenants that are not kept below the data directory.
    pub given: Arc<GivenKeys>,
}
