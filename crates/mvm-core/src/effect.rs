//! Everything `mvm` may do to a machine, as data.
//!
//! Every effect is level-triggered and idempotent: doing it twice is doing it once, and what it
//! makes is visible in [`crate::observed`]. An effect carries ids and numbers, never a path, an
//! argument vector or a secret; the host derives names through [`crate::layout`].

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    id::{ImageHash, InstanceId, InstanceRef, PoolRef, TenantId, VmmVersion},
    integration::Integration,
    net::{Mac, NetId, Network, Offset},
    observed::PausedFor,
    pool::{Compression, Resources, Role, RuntimePolicy},
    publish::Publish,
    route::RoutingTable,
    secrets::Scope,
    units::{Generation, Mib, Uid},
    volume::{VolumeEffect, VolumeKind},
};

/// A guest's port on its tenant's bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// The network.
    pub net: NetId,
    /// The place in it.
    pub offset: Offset,
    /// The only source MAC let in.
    pub mac: Mac,
    /// The only source address let in.
    pub address: Ipv4Addr,
}

/// A published port with the guest that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// The guest's network.
    pub net: NetId,
    /// The guest.
    pub to: Ipv4Addr,
    /// The port of the host, and the guest's.
    pub publish: Publish,
}

/// Everything the two nftables tables hold; replaced as a whole (SPEC §9).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// The store's count of changes that this intent reflects.
    pub generation: Generation,
    /// All tenants' networks.
    pub networks: Vec<Network>,
    /// All guests' ports, whether the guest runs or not.
    pub ports: Vec<Port>,
    /// Where guests' name queries go, in the order of the host's own configuration; none leaves
    /// them to whatever the host has on its port 53.
    #[serde(default)]
    pub resolvers: Vec<Ipv4Addr>,
    /// The host's ports that lead to guests.
    #[serde(default)]
    pub published: Vec<Published>,
}

/// What a guest is told about itself through its config drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its network.
    pub network: Network,
    /// Its place in it.
    pub offset: Offset,
    /// What it is for.
    pub role: Role,
    /// Its waiting times, for workloads that plan by them.
    pub policy: RuntimePolicy,
    /// What the guest itself runs around a sleep. The host writes it down and reads nothing in it.
    #[serde(default)]
    pub integrations: Vec<Integration>,
    /// Where the guest leads to, if it is a gateway.
    #[serde(default)]
    pub routing_table: Option<RoutingTable>,
}

/// What a secrets drive holds, by number and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveSecrets {
    /// Of which epoch the tenant's secrets must be at least; 0 for none.
    pub epoch: Generation,
    /// Which of them; all when empty.
    pub scopes: Vec<Scope>,
}

/// What is needed to lay out a jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// Whose it is.
    pub instance: InstanceRef,
    /// The user and group that own it.
    pub uid: Uid,
    /// The image whose root is linked in, read-only.
    pub image: ImageHash,
    /// Its size.
    pub resources: Resources,
    /// How its volume lies on disk.
    pub volume: VolumeKind,
    /// What the config drive says.
    pub identity: Identity,
    /// What the secrets drive holds.
    pub secrets: DriveSecrets,
}

/// Limits of an instance's cgroup (SPEC §9), all read back after writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `memory.max`: guest memory and the VMM's overhead.
    pub memory: Mib,
    /// `cpu.max` in whole CPUs.
    pub cpus: u32,
    /// `pids.max`.
    pub pids: u32,
}

impl Limits {
    /// What a VMM needs besides its guest's memory. Firecracker's own overhead is at most 5 MiB
    /// (its SPECIFICATION.md); page tables, vhost buffers and the snapshot's tmpfs pages that the
    /// VMM touches are charged to the same cgroup.
    pub const OVERHEAD: Mib = Mib(64);

    /// The limits of an instance of this size: threads are one per vCPU, the API and the VMM
    /// thread, and room for none besides.
    #[must_use]
    pub const fn of(resources: Resources) -> Self {
        Self {
            memory: Mib(resources.mem_mib.0 + Self::OVERHEAD.0),
            cpus: resources.vcpus.0,
            pids: resources.vcpus.0 + 16,
        }
    }
}

/// An act on a base (SPEC §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseAct {
    /// What a paused guest that is still held at its start gate has in memory, kept as the base of its
    /// pool's image and of this size → `base`, origin Base. One that is there and fits stays, and so
    /// does the guest then. Nothing happens while another guest's is being kept. Inverse:
    /// [`BaseAct::Remove`].
    Take,
    /// A clone of the base loaded and running, held at its start gate → phase Running, origin Base.
    /// Nothing is lost with one that nobody tells who it is.
    Load,
    /// No base of this image and size → `base`. What runs or sleeps on it keeps its pages.
    Remove,
}

impl BaseAct {
    const fn name(self) -> &'static str {
        match self {
            Self::Take => "take_base",
            Self::Load => "load_base",
            Self::Remove => "remove_base",
        }
    }
}

/// One act on the machine. The doc of each names the field of the observation that shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Bridge up with the gateway address, IPv6 off → `bridge`. Inverse: [`Effect::RemoveBridge`].
    EnsureBridge(Network),
    /// No such bridge.
    RemoveBridge(NetId),
    /// The second wall: policy routes → `routes`. Inverse: [`Effect::RemoveRoutes`].
    EnsureRoutes(Network),
    /// No such policy routes.
    RemoveRoutes(NetId),
    /// Both tables in one transaction → `firewall`. An intent without networks removes the tables.
    ReplaceFirewall(Firewall),
    /// A 32-byte key from the OS unless one is there → `key`. Inverse: [`Effect::RemoveTenantFiles`].
    EnsureTenantKey(TenantId),
    /// A second key from the OS unless one is there → `next_key`. From then on it seals whatever is
    /// written; both keys open.
    DrawNextKey(TenantId),
    /// Everything of an instance that the tenant's key opens opens with the next one, and not with
    /// the present one any more.
    RekeyInstance {
        /// Whose.
        instance: InstanceRef,
        /// How its volume lies on disk; none without one.
        volume: Option<VolumeKind>,
    },
    /// What the tenant itself has sealed under the next key, which takes the place of the present
    /// one → `next_key`. Without a next key nothing happens.
    PromoteNextKey(TenantId),
    /// The tenant's staged secrets of this epoch in force, and no others staged → `secrets`,
    /// `secrets_staged`. Epoch 0 removes all. An epoch older than the one in force is refused.
    PublishSecrets {
        /// Whose.
        tenant: TenantId,
        /// Which.
        epoch: Generation,
    },
    /// Key and directory gone, the audit log archived → `files`, `key`.
    RemoveTenantFiles(TenantId),
    /// The image linked into the pool's artifacts and `current` naming it → `revisions`, `current`.
    EnsureRevision {
        /// The pool.
        pool: PoolRef,
        /// The image.
        image: ImageHash,
    },
    /// The pool's links to an image gone → `revisions`. The one that `current` names is refused.
    RemoveRevision {
        /// The pool.
        pool: PoolRef,
        /// The image.
        image: ImageHash,
    },
    /// The image gone from the image store → `images` of the stock. Links of pools and jails to its
    /// files stay.
    RemoveImage(ImageHash),
    /// The older file of each log of an instance gone → `rotated_logs` of the stock.
    RemoveRotatedLogs(InstanceRef),
    /// What was fetched and is in an image or installed by now gone → `downloads` of the stock.
    RemoveDownloads,
    /// VMM and jailer of a version gone → `versions` of the stock. One that new VMMs run, or that a jail or
    /// a snapshot needs, is refused.
    RemoveVersion(VmmVersion),
    /// The pool's directory gone → `files`.
    RemovePoolFiles(PoolRef),
    /// An act on volumes.
    Volume(VolumeEffect),
    /// The instance's directory gone: volumes, snapshots, logs → `files`, `volume`, `snapshots`.
    RemoveInstanceFiles(InstanceRef),
    /// Tap owned by the uid, on the bridge, up → `tap`. Inverse: [`Effect::RemoveTap`].
    EnsureTap {
        /// The network.
        net: NetId,
        /// The place in it.
        offset: Offset,
        /// The owner.
        uid: Uid,
    },
    /// No such tap.
    RemoveTap {
        /// The network.
        net: NetId,
        /// The place in it.
        offset: Offset,
    },
    /// Cgroup with its limits read back → `cgroup`. Inverse: [`Effect::RemoveCgroup`].
    EnsureCgroup {
        /// Whose it is.
        instance: InstanceId,
        /// The limits.
        limits: Limits,
    },
    /// No such cgroup; it must be empty.
    RemoveCgroup(InstanceId),
    /// Jail directory with the drives, the image and a private tmpfs → `jail`, `secrets`. Inverse:
    /// [`Effect::RemoveJail`].
    EnsureJail(Box<Jail>),
    /// Jail, its mount and its tmpfs gone; durably, for a jail that came back with the power would
    /// hold a link to the volume of an instance that may be destroyed by then.
    RemoveJail(InstanceId),
    /// Shim, jailer and a VMM whose API answers → `vmm` with phase Empty, `shim`. An earlier exit
    /// record is gone. It is of the version that new VMMs run, or of the one that wrote the snapshot that
    /// it shall load. Inverse: [`Effect::RemoveVmm`].
    SpawnVmm {
        /// Whose it is.
        instance: InstanceRef,
        /// The user and group of VMM and shim.
        uid: Uid,
        /// The published snapshot that it shall load, if it shall.
        #[serde(default)]
        epoch: Option<Generation>,
    },
    /// A shim in place of one that died while its VMM lives on → `shim`. It watches a VMM that is not
    /// its child: how that ends, but for its `memory.events`, nobody sees.
    EnsureShim {
        /// Whose it is.
        instance: InstanceRef,
        /// The user and group of VMM and shim.
        uid: Uid,
    },
    /// VMM and shim killed and gone, runtime records too → `vmm`, `shim`, `exit`.
    RemoveVmm(InstanceId),
    /// The guest started, held at its start gate: it knows nothing of itself and runs no workload
    /// before [`crate::port::GuestAct::Configure`] → phase Running, origin Boot.
    BootVmm(Box<Jail>),
    /// An act on the base of an image and a size.
    Base {
        /// Which.
        act: BaseAct,
        /// Whose, and of which image and size.
        jail: Box<Jail>,
    },
    /// The snapshot loaded, vCPUs paused → phase Paused(Warm), origin Snapshot.
    LoadSnapshot {
        /// Whose it is.
        instance: InstanceRef,
        /// Which.
        epoch: Generation,
    },
    /// The secrets drive of a VM that has a guest replaced by one of at least this epoch → `secrets`.
    /// The guest is not told.
    SwapSecrets {
        /// Whose it is.
        instance: InstanceRef,
        /// The user and group of the VMM.
        uid: Uid,
        /// What it holds.
        secrets: DriveSecrets,
    },
    /// vCPUs paused, for this purpose → phase.
    PauseVmm {
        /// Whose they are.
        instance: InstanceId,
        /// What for.
        purpose: PausedFor,
    },
    /// vCPUs run → phase.
    ResumeVmm(InstanceId),
    /// A partial snapshot written, sealed with the tenant's key if `keyed`, and synced →
    /// `snapshots` Partial. What does not fit is refused before anything is written. The data volume
    /// is synced too: a guest that was put to sleep by force did not do it, and after a power cut
    /// its memory would wake over an older disk. An epoch that was published or retired is refused.
    WriteSnapshot {
        /// Whose it is.
        instance: InstanceRef,
        /// Which.
        epoch: Generation,
        /// The guest's memory.
        memory: Mib,
        /// Whether it is sealed.
        keyed: bool,
        /// How its chunks are packed.
        #[serde(default)]
        compression: Compression,
    },
    /// The partial snapshot renamed, directory synced → Published.
    PublishSnapshot {
        /// Whose it is.
        instance: InstanceRef,
        /// Which.
        epoch: Generation,
    },
    /// The published snapshot made unresumable, durably → Retired.
    RetireSnapshot {
        /// Whose it is.
        instance: InstanceRef,
        /// Which.
        epoch: Generation,
    },
    /// The snapshot's files gone, whatever its phase.
    RemoveSnapshot {
        /// Whose it is.
        instance: InstanceRef,
        /// Which.
        epoch: Generation,
    },
}

impl Effect {
    /// The name of the effect, as in serialised plans, logs and crash points.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::EnsureBridge(_) => "ensure_bridge",
            Self::RemoveBridge(_) => "remove_bridge",
            Self::EnsureRoutes(_) => "ensure_routes",
            Self::RemoveRoutes(_) => "remove_routes",
            Self::ReplaceFirewall(_) => "replace_firewall",
            Self::EnsureTenantKey(_) => "ensure_tenant_key",
            Self::DrawNextKey(_) => "draw_next_key",
            Self::RekeyInstance { .. } => "rekey_instance",
            Self::PromoteNextKey(_) => "promote_next_key",
            Self::PublishSecrets { .. } => "publish_secrets",
            Self::RemoveTenantFiles(_) => "remove_tenant_files",
            Self::EnsureRevision { .. } => "ensure_revision",
            Self::RemoveRevision { .. } => "remove_revision",
            Self::RemoveImage(_) => "remove_image",
            Self::RemoveRotatedLogs(_) => "remove_rotated_logs",
            Self::RemoveDownloads => "remove_downloads",
            Self::RemoveVersion(_) => "remove_version",
            Self::RemovePoolFiles(_) => "remove_pool_files",
            Self::Volume(effect) => effect.name(),
            Self::RemoveInstanceFiles(_) => "remove_instance_files",
            Self::EnsureTap { .. } => "ensure_tap",
            Self::RemoveTap { .. } => "remove_tap",
            Self::EnsureCgroup { .. } => "ensure_cgroup",
            Self::RemoveCgroup(_) => "remove_cgroup",
            Self::EnsureJail(_) => "ensure_jail",
            Self::RemoveJail(_) => "remove_jail",
            Self::SpawnVmm { .. } => "spawn_vmm",
            Self::EnsureShim { .. } => "ensure_shim",
            Self::RemoveVmm(_) => "remove_vmm",
            Self::BootVmm(_) => "boot_vmm",
            Self::Base { act, .. } => act.name(),
            Self::LoadSnapshot { .. } => "load_snapshot",
            Self::SwapSecrets { .. } => "swap_secrets",
            Self::PauseVmm { .. } => "pause_vmm",
            Self::ResumeVmm(_) => "resume_vmm",
            Self::WriteSnapshot { .. } => "write_snapshot",
            Self::PublishSnapshot { .. } => "publish_snapshot",
            Self::RetireSnapshot { .. } => "retire_snapshot",
            Self::RemoveSnapshot { .. } => "remove_snapshot",
        }
    }
}
