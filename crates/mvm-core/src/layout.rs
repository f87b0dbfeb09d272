//! From ids to names: the only place where directories, devices and cgroups are named.
//!
//! Paths are relative to the data directory (`/var/lib/mvm`) or the runtime directory
//! (`/run/mvm`); who joins them decides the root. Everything here is a function of validated ids.

use std::path::PathBuf;

use crate::{
    id::{
        ImageHash, InstanceId, InstanceRef, PoolId, PoolRef, Subject, TemplateId, TenantId,
        VmmVersion, VolumeId,
    },
    net::{NetId, Offset},
    pool::Resources,
    units::Generation,
};

/// The bridge of a network.
#[must_use]
pub fn bridge(net: NetId) -> String {
    format!("br-tenant-{net}")
}

/// The tap of a guest; at most 13 characters (the kernel allows 15).
#[must_use]
pub fn tap(net: NetId, offset: Offset) -> String {
    format!("tn{net}i{}", offset.0)
}

/// Reads a bridge's name back.
#[must_use]
pub fn parse_bridge(name: &str) -> Option<NetId> {
    let net = NetId(name.strip_prefix("br-tenant-")?.parse().ok()?);
    (bridge(net) == name).then_some(net)
}

/// Reads a tap's name back.
#[must_use]
pub fn parse_tap(name: &str) -> Option<(NetId, Offset)> {
    let (net, offset) = name.strip_prefix("tn")?.split_once('i')?;
    let (net, offset) = (NetId(net.parse().ok()?), Offset(offset.parse().ok()?));
    (tap(net, offset) == name).then_some((net, offset))
}

/// The name of the cgroup under the cgroup root that holds all instances. It lies outside of every
/// systemd unit, so that no unit's restart ends a VM.
pub const CGROUP: &str = "mvm";

/// An instance's cgroup below [`CGROUP`]; its leaves are `vmm` and `shim`.
#[must_use]
pub fn cgroup(instance: &InstanceId) -> PathBuf {
    PathBuf::from(CGROUP).join(instance.as_str())
}

/// The name of the device of an instance's encrypted volume.
#[must_use]
pub fn mapping(instance: &InstanceId) -> String {
    format!("mvm-{instance}")
}

/// Reads a device's name back.
#[must_use]
pub fn parse_mapping(name: &str) -> Option<InstanceId> {
    name.strip_prefix("mvm-")?.parse().ok()
}

/// Paths below the data directory.
pub mod data {
    use super::{
        Generation, ImageHash, InstanceId, InstanceRef, PathBuf, PoolRef, Resources, TemplateId,
        TenantId, VmmVersion, VolumeId,
    };

    /// The store; a link to the file of this name below [`KEPT`] where an agent without root keeps it.
    pub const STATE: &str = "state.db";
    /// What an agent without root keeps for itself.
    pub const KEPT: &str = "store";
    /// The node's id, exported.
    pub const NODE_ID: &str = "node_id";
    /// All tenants' directories.
    pub const TENANTS: &str = "tenants";
    /// Archived audit logs of destroyed tenants.
    pub const ARCHIVE: &str = "archive";
    /// Images by hash.
    pub const IMAGES: &str = "images";
    /// Files that were fetched for making images.
    pub const DOWNLOADS: &str = "cache";
    /// Kernels by hash.
    pub const KERNELS: &str = "kernels";
    /// VMM binaries by version.
    pub const BINARIES: &str = "binaries";
    /// What this host granted to whom, by `mvm-host`; root's alone.
    pub const LEDGER: &str = "ledger";
    /// The node's certificates.
    pub const CERTS: &str = "certs";
    /// Tenant keys.
    pub const KEYS: &str = "keys";
    /// Chroot base of the jailer: the jails of instances that have a process. On the same file
    /// system as images and volumes, so that drives are hard links.
    pub const JAILS: &str = "jails";

    const VMM: &str = "firecracker-";

    /// VMM and jailer of one version.
    #[must_use]
    pub fn vmm(version: &VmmVersion) -> PathBuf {
        PathBuf::from(BINARIES).join(format!("{VMM}{version}"))
    }

    /// Reads back the name of a version's directory in [`BINARIES`].
    #[must_use]
    pub fn parse_vmm(name: &str) -> Option<VmmVersion> {
        name.strip_prefix(VMM)?.parse().ok()
    }

    /// A tenant's directory.
    #[must_use]
    pub fn tenant(id: &TenantId) -> PathBuf {
        PathBuf::from(TENANTS).join(id.as_str())
    }

    /// A tenant's key, 32 bytes or hexadecimal, 0600.
    #[must_use]
    pub fn key(id: &TenantId) -> PathBuf {
        PathBuf::from(KEYS).join(format!("{id}.key"))
    }

    /// The key that shall take the place of a tenant's key. Ids hold no dot, so it is nobody's key.
    #[must_use]
    pub fn next_key(id: &TenantId) -> PathBuf {
        PathBuf::from(KEYS).join(format!("{id}.next.key"))
    }

    /// All templates.
    pub const TEMPLATES: &str = "templates";

    /// What is recorded of a template, exported.
    #[must_use]
    pub fn template_record(id: &TemplateId) -> PathBuf {
        PathBuf::from(TEMPLATES).join(id.as_str()).join("template.json")
    }

    /// All kept volumes.
    pub const VOLUMES: &str = "volumes";

    /// A kept volume's directory.
    #[must_use]
    pub fn kept_volume(id: &VolumeId) -> PathBuf {
        PathBuf::from(VOLUMES).join(id.as_str())
    }

    /// What is recorded of a kept volume, exported; beside its directory, which moves.
    #[must_use]
    pub fn kept_volume_record(id: &VolumeId) -> PathBuf {
        PathBuf::from(VOLUMES).join(format!("{id}.json"))
    }

    /// The key of an encrypted kept volume, 32 bytes, 0600; not beside it.
    #[must_use]
    pub fn volume_key(id: &VolumeId) -> PathBuf {
        PathBuf::from(KEYS).join("volumes").join(format!("{id}.key"))
    }

    /// A tenant's secrets in force, 0600.
    #[must_use]
    pub fn secrets(id: &TenantId) -> PathBuf {
        tenant(id).join("secrets.json")
    }

    /// A tenant's secrets of an epoch that is not in force yet.
    #[must_use]
    pub fn staged_secrets(id: &TenantId, epoch: Generation) -> PathBuf {
        tenant(id).join(format!("secrets.{}.json", epoch.0))
    }

    /// A pool's directory.
    #[must_use]
    pub fn pool(id: &PoolRef) -> PathBuf {
        tenant(&id.tenant).join("pools").join(id.pool.as_str())
    }

    /// What the last build of a pool, or of a template, in a builder said.
    #[must_use]
    pub fn build_log(id: &PoolRef) -> PathBuf {
        let home = if id.is_of_template() {
            PathBuf::from(TEMPLATES).join(id.pool.as_str())
        } else {
            pool(id)
        };
        home.join("build.log")
    }

    /// A pool's builds.
    #[must_use]
    pub fn artifacts(id: &PoolRef) -> PathBuf {
        pool(id).join("artifacts")
    }

    /// One build of a pool: links to the image's files.
    #[must_use]
    pub fn revision(id: &PoolRef, image: &ImageHash) -> PathBuf {
        artifacts(id).join("revisions").join(image.as_str())
    }

    /// The base of one build for instances of one size: everything that a VMM keeps of its devices is in
    /// the name.
    #[must_use]
    pub fn base(id: &PoolRef, image: &ImageHash, size: &Resources) -> PathBuf {
        let disk = if size.data_disk_mib.0 > 0 { "disk" } else { "diskless" };
        let limits = [size.disk_iops, size.disk_mbps, size.net_mbps];
        let limits = limits.map(|limit| limit.map_or_else(|| "free".to_owned(), |n| n.to_string()));
        let name = format!("base-{}-{}-{disk}-{}", size.vcpus.0, size.mem_mib.0, limits.join("-"));
        revision(id, image).join(name)
    }

    /// An image's directory.
    #[must_use]
    pub fn image(hash: &ImageHash) -> PathBuf {
        PathBuf::from(IMAGES).join(hash.as_str())
    }

    /// An instance's directory.
    #[must_use]
    pub fn instance(id: &InstanceRef) -> PathBuf {
        pool(&id.pool_ref()).join("instances").join(id.instance.as_str())
    }

    /// An instance's data volume.
    #[must_use]
    pub fn volume(id: &InstanceRef) -> PathBuf {
        instance(id).join("volumes").join("data.img")
    }

    /// An instance's snapshots: `<epoch>.partial`, `<epoch>` when published, `<epoch>.retired`.
    #[must_use]
    pub fn snapshots(id: &InstanceRef) -> PathBuf {
        instance(id).join("snapshots")
    }

    /// The directory name of a published snapshot.
    #[must_use]
    pub fn snapshot(epoch: Generation) -> String {
        epoch.0.to_string()
    }

    /// An instance's logs.
    #[must_use]
    pub fn logs(id: &InstanceRef) -> PathBuf {
        instance(id).join("logs")
    }

    /// What the jailer makes of its base directory, the executable's name and the id.
    #[must_use]
    pub fn jail(id: &InstanceId) -> PathBuf {
        PathBuf::from(JAILS).join("firecracker").join(id.as_str())
    }
}

/// Paths below the runtime directory, which is on a tmpfs and empty after a reboot.
pub mod run {
    use super::{InstanceId, PathBuf, PoolId, Subject};

    /// Lock files.
    pub const LOCKS: &str = "locks";
    /// Which boot of the host the directory is of.
    pub const BOOT: &str = "boot_id";
    /// Held with `flock` by the agent while it serves.
    pub const AGENT: &str = "agent.lock";
    /// Where `mvm-hostd` listens.
    pub const HOSTD: &str = "hostd.sock";
    /// Held with `flock` by the one that serves.
    pub const HOSTD_LOCK: &str = "hostd.lock";
    /// Records of all instances' VMMs and shims.
    pub const VM: &str = "vm";
    /// The firewall's stamp: which generation was applied and the kernel's ruleset id after it.
    pub const FIREWALL: &str = "firewall.json";
    /// Base of the sized tmpfs with the instances' private directories.
    pub const RAM: &str = "ram";

    /// Records of an instance's VMM and shim.
    #[must_use]
    pub fn instance(id: &InstanceId) -> PathBuf {
        PathBuf::from(VM).join(id.as_str())
    }

    /// An instance's private directory on the tmpfs, mounted into its jail at `ram`.
    #[must_use]
    pub fn ram(id: &InstanceId) -> PathBuf {
        PathBuf::from(RAM).join(id.as_str())
    }

    /// The lock file of a subject.
    #[must_use]
    pub fn lock(subject: &Subject) -> PathBuf {
        let name = match subject {
            Subject::Tenant(id) => format!("tenant.{id}"),
            Subject::Pool(id) => format!("pool.{}.{}", id.tenant, id.pool),
            Subject::Instance(id) => format!("instance.{}", id.instance),
            Subject::Firewall => "firewall".to_owned(),
        };
        PathBuf::from(LOCKS).join(name)
    }

    /// Held by who runs a command in a VM of its own, for as long as that is there.
    #[must_use]
    pub fn of_run(pool: &PoolId) -> PathBuf {
        PathBuf::from(LOCKS).join(format!("run.{pool}"))
    }

    /// The lock file of one of the node's places.
    #[must_use]
    pub fn place(place: u32) -> PathBuf {
        PathBuf::from(LOCKS).join(format!("place.{place}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn device_names_fit_the_kernel_and_read_back(net: u16, offset: u16) {
            let (net, offset) = (NetId(net), Offset(offset));
            prop_assert!(bridge(net).len() <= 15 && tap(net, offset).len() <= 15);
            prop_assert_eq!(parse_bridge(&bridge(net)), Some(net));
            prop_assert_eq!(parse_tap(&tap(net, offset)), Some((net, offset)));
        }
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in
            ["br-tenant-01", "br-tenant-", "br-tenant-65536", "tn1", "tn01i3", "tni3", "eth0"]
        {
            assert!(parse_bridge(name).is_none() && parse_tap(name).is_none(), "{name}");
        }
    }
}
