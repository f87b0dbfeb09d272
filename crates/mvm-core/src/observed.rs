//! What a host reports: the kernel's and the disk's truth, never a memory of it.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::{
    id::{ImageHash, InstanceId, InstanceRef, PoolId, TenantId, VmmVersion, VolumeId},
    net::{NetId, Offset},
    publish::Protocol,
    units::{Generation, Mib},
};

/// One boot of the host: nothing that lives in its memory outlives it. The kernel draws it anew each
/// time (`/proc/sys/kernel/random/boot_id`); empty where it is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a VMM came to its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Cold boot, or not yet decided.
    Boot,
    /// A clone of its pool's base, or the guest of which that was made.
    Base,
    /// Loaded from the snapshot of this epoch.
    Snapshot(Generation),
}

/// What a VMM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It never got a guest, whether its API answers or not.
    Empty,
    /// The vCPUs run.
    Running,
    /// The vCPUs are paused.
    Paused(PausedFor),
    /// It got a guest, and its API does not answer: nothing is known of the vCPUs.
    Silent,
}

/// What a pause was made for; only a guest paused for sleep may be written to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PausedFor {
    /// Warm standby, or a snapshot just loaded.
    Warm,
    /// The guest was drained and quiesced (or that was skipped by force).
    Sleep,
}

/// A live VMM process, verified by pid and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedVmm {
    /// How it came to its guest.
    pub origin: Origin,
    /// What it is doing.
    pub phase: Phase,
    /// Its pid on the host.
    pub pid: u32,
    /// Resident memory of the process, in KiB.
    pub resident_kib: u64,
}

impl ObservedVmm {
    /// Whether nothing is known of its guest.
    #[must_use]
    pub fn is_silent(self) -> bool {
        self.phase == Phase::Silent
    }
}

/// How a VMM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It exited by itself with this status; 0 is a guest that shut down.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
    /// Nobody saw how: the shim that was its parent had died.
    Unseen,
}

/// What the shim wrote when the VMM was gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitRecord {
    /// How it ended.
    pub ending: Ending,
    /// How many processes of its cgroup the kernel's OOM killer ended (`memory.events` oom_kill).
    pub oom_kills: u64,
    /// Why it had to be ended because its page server could not go on; none if it was for another
    /// reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpaged: Option<String>,
    /// The last lines of the guest's console.
    pub console_tail: Vec<String>,
}

impl ExitRecord {
    /// An end of which nothing more is known.
    #[must_use]
    pub const fn of(ending: Ending) -> Self {
        Self { ending, oom_kills: 0, unpaged: None, console_tail: Vec::new() }
    }

    /// The reason for people: OOM before panic before status.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.oom_kills > 0 {
            return "OOM: the kernel killed the VMM because its cgroup reached memory.max"
                .to_owned();
        }
        if let Some(why) = &self.unpaged {
            return format!("the VMM was ended: {why}");
        }
        if let Some(line) = self.console_tail.iter().find(|line| line.contains("Kernel panic")) {
            return format!("guest panic: {}", line.trim());
        }
        match &self.ending {
            Ending::Exited(0) => "the guest shut itself down".to_owned(),
            Ending::Exited(status) => format!("the VMM exited with status {status}"),
            Ending::Signaled(signal) => format!("the VMM was killed by signal {signal}"),
            Ending::Unseen => {
                "the VMM is gone and nobody saw how (its shim had died before it)".to_owned()
            }
        }
    }
}

/// How far a snapshot on disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotPhase {
    /// Being written, or left half-written.
    Partial,
    /// Complete and resumable.
    Published,
    /// Was resumed once: never again.
    Retired,
}

/// Whether there is a base from which an instance can be cloned (SPEC §8).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservedBase {
    /// There is none of its image and size.
    #[default]
    Absent,
    /// There is one.
    Fits,
    /// There is one, which cannot be used on this host as it is now; why, for people.
    Unfit(String),
}

/// Everything about one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedInstance {
    /// The live VMM.
    pub vmm: Option<ObservedVmm>,
    /// Whether its shim lives.
    pub shim: bool,
    /// How the last VMM ended, while nothing cleaned that away. Unseen when its runtime records are
    /// there, but no exit record, no VMM and no shim: else nothing would ever remove those records.
    pub exit: Option<ExitRecord>,
    /// Whether the tenant's bridge is there and up with its gateway address.
    pub bridge: bool,
    /// Whether the tenant's policy routes are there.
    pub routes: bool,
    /// Whether its tap is there.
    pub tap: bool,
    /// Whether its cgroup is there.
    pub cgroup: bool,
    /// Whether its jail (with the tmpfs in it) or a part of it is there.
    pub jail: bool,
    /// The base of its image and size.
    #[serde(default)]
    pub base: ObservedBase,
    /// Snapshots by epoch.
    pub snapshots: BTreeMap<Generation, SnapshotPhase>,
    /// Of which epoch the drive with its secrets is; none without such a drive.
    pub secrets: Option<Generation>,
    /// The size of its data volume.
    pub volume: Option<Mib>,
    /// Whether the device of its encrypted volume is open.
    pub mapping: bool,
    /// Whether its directory is there.
    pub files: bool,
    /// Which generation of the firewall is in force; none when it is absent, was altered, or hands
    /// name queries to resolvers that are the host's no more.
    pub firewall: Option<Generation>,
    /// The host's present boot.
    pub boot: BootId,
}

/// Everything about one tenant, besides its pools and instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedTenant {
    /// Whether the bridge is there and up with its gateway address.
    pub bridge: bool,
    /// Whether the policy routes are there.
    pub routes: bool,
    /// Whether its key is there.
    pub key: bool,
    /// Whether its key is brought along by each command and kept nowhere on this host.
    pub key_given: bool,
    /// Whether a key that shall take the place of that is there.
    pub next_key: bool,
    /// The epoch of its secrets in force; none without secrets.
    pub secrets: Option<Generation>,
    /// Whether secrets are staged that are not in force.
    pub secrets_staged: bool,
    /// Whether its directory is there.
    pub files: bool,
    /// Which generation of the firewall is in force; none when it is absent or was altered.
    pub firewall: Option<Generation>,
    /// Whether a firewall was applied since the host booted and is not what is in force: somebody
    /// altered it, or a crash came between applying it and writing that down.
    pub firewall_altered: bool,
    /// Whether tables of ours were being replaced when whoever did it ended; what is there is one or the other.
    #[serde(default)]
    pub firewall_cut_off: bool,
    /// The host's resolvers that guests can use, in its order.
    pub resolvers: Vec<Ipv4Addr>,
}

/// Everything about one pool, besides its instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedPool {
    /// The revisions on disk.
    pub revisions: Vec<ImageHash>,
    /// The revision that `current` names.
    pub current: Option<ImageHash>,
    /// Whether its directory is there.
    pub files: bool,
}

/// What is kept on disk and could be made or fetched again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedStock {
    /// The images of the image store, the oldest first.
    pub images: Vec<ImageHash>,
    /// The instances with an older file of a log.
    pub rotated_logs: Vec<InstanceRef>,
    /// Whether something that was fetched is kept.
    pub downloads: bool,
    /// The installed versions of Firecracker.
    #[serde(default)]
    pub versions: Vec<InstalledVersion>,
}

/// An installed version of Firecracker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledVersion {
    /// Which.
    pub version: VmmVersion,
    /// Whether new VMMs run it, it is the built-in one, or a jail or a snapshot needs it.
    pub is_used: bool,
}

/// Everything on this host that bears one of our names; whoever it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedNode {
    /// Bridges by net-id.
    pub bridges: Vec<NetId>,
    /// Networks with policy routes.
    pub routes: Vec<NetId>,
    /// Taps.
    pub taps: Vec<(NetId, Offset)>,
    /// Instances with a cgroup.
    pub cgroups: Vec<InstanceId>,
    /// Instances with a jail or a mount in it.
    pub jails: Vec<InstanceId>,
    /// Instances with a runtime directory (records of shim and VMM).
    pub runs: Vec<InstanceId>,
    /// Instances with a live VMM or shim process.
    pub processes: Vec<InstanceId>,
    /// Instances whose encrypted volume is open.
    pub mappings: Vec<InstanceId>,
    /// Kept volumes.
    pub volumes: Vec<VolumeId>,
    /// Tenants with a directory.
    pub tenants: Vec<TenantId>,
    /// Pools with a directory.
    pub pools: Vec<(TenantId, PoolId)>,
    /// Which generation of the firewall is in force; none when it is absent or was altered.
    pub firewall: Option<Generation>,
    /// Whether the agent serves. Without it everything that a command does works; what needs time
    /// passing does not happen (SPEC §3).
    pub agent: bool,
    /// Ports of the host that a program listens on.
    #[serde(default)]
    pub listening: Vec<Listening>,
    /// What the host is.
    pub facts: NodeFacts,
}

/// How a host resolves names for guests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The resolvers that guests' queries are handed to, in the host's order.
    pub resolvers: Vec<Ipv4Addr>,
    /// Why there are none, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A port that a program of the host listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listening {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// The only address at which it is open; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

/// What a host is and can do (SPEC §5, reports).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Its name.
    pub hostname: String,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    /// The present boot.
    pub boot: BootId,
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub mem_mib: u64,
    /// Memory available now, in MiB.
    pub mem_available_mib: u64,
    /// Free bytes on the data file system, in MiB.
    pub disk_free_mib: u64,
    /// Whether a guest boots under KVM; where none was tried yet, whether `/dev/kvm` opens and
    /// speaks API version 12.
    pub kvm: bool,
    /// How that was found out.
    pub kvm_detail: String,
    /// Whether cgroup v2 with memory, cpu, pids and io is there.
    pub cgroup_v2: bool,
    /// Whether `nft` works.
    pub nftables: bool,
    /// Installed Firecracker versions.
    pub firecracker: Vec<String>,
    /// The one that new VMMs run.
    #[serde(default)]
    pub firecracker_new: VmmVersion,
    /// Whether the jailer is installed beside each.
    pub jailer: bool,
    /// Where guests' name queries go, and what is wrong with that.
    #[serde(default)]
    pub dns: Dns,
}
