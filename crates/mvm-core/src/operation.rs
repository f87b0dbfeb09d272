//! Everything that may be asked and that changes something; one variant per command.
//!
//! Questions (list, info, events, node info, net verify) change nothing and are plain methods of
//! the engine.

use serde::{Deserialize, Serialize};

use crate::{
    desired::DesiredState,
    id::{InstanceRef, PoolRef, TemplateId, TenantId, VariantId, VolumeId},
    instance::Drain,
    integration::Integration,
    net::{NetId, Subnet},
    pool::{
        PoolChange, PoolPolicy, Resources, RevisionName, Role, RollFailure, RollPace,
        RuntimePolicy, Source,
    },
    publish::Publish,
    quota::{QuotaChange, Quotas},
    route::RoutingTable,
    secrets::{Scope, SecretsSource},
    state::Move,
    template::{SignedTemplate, TemplateSpec},
    tenant::TenantPolicy,
    units::{Mib, Seconds},
    volume::VolumeFate,
};

/// Whether a build that is there already is made again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rebuild {
    /// What is there is used.
    #[default]
    WhenChanged,
    /// It is made again, although nothing changed.
    Always,
}

/// An act that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Makes a tenant. Legal while no tenant has the id, the net-id or an address of the subnet.
    TenantCreate {
        /// Its id.
        tenant: TenantId,
        /// Its net-id; the lowest free one if absent.
        net: Option<NetId>,
        /// Its subnet; the automatic one of the net-id if absent.
        subnet: Option<Subnet>,
        /// Its limits.
        quotas: Quotas,
        /// Whether it gets a key. Without one snapshots are plain (development only).
        keyed: bool,
    },
    /// Changes limits of a tenant and what is decided for it without being asked. Legal while no limit
    /// is lowered below what is in use.
    TenantUpdate {
        /// Which.
        tenant: TenantId,
        /// The new limits; an absent one stays.
        quotas: QuotaChange,
        /// The new standing decisions; those that there are stay if absent.
        #[serde(default)]
        policy: Option<TenantPolicy>,
    },
    /// Gives a tenant other secrets. Legal while the tenant exists and, in production, has a key.
    TenantSecretsSet {
        /// Whose.
        tenant: TenantId,
        /// Where they come from.
        source: SecretsSource,
    },
    /// Reads a tenant's secrets again and seals them under a fresh key. Legal while there is a source
    /// that can be read.
    TenantSecretsRotate {
        /// Whose.
        tenant: TenantId,
        /// Where they come from; where they came from before if absent.
        source: Option<SecretsSource>,
        /// Whether running guests get them at once, and not at their next start or wake.
        live: bool,
    },
    /// Removes a tenant with all it has. Legal always; again after a failure.
    TenantDestroy {
        /// Which.
        tenant: TenantId,
        /// Also when it has pools.
        force: bool,
        /// What becomes of its instances' volumes.
        volumes: VolumeFate,
    },
    /// Gives a tenant another key and everything sealed to that; goes on where an earlier one was
    /// interrupted. Legal while it has a key.
    TenantKeyRotate {
        /// Which.
        tenant: TenantId,
    },
    /// Makes a pool. Legal while its tenant exists and has room.
    PoolCreate(Box<NewPool>),
    /// Changes what a pool's next builds and new instances are. Legal while the pool exists.
    PoolUpdate {
        /// Which.
        pool: PoolRef,
        /// What changes; at least one thing.
        change: Box<PoolChange>,
    },
    /// Makes or finds the pool's image and makes it current; Created instances become Ready.
    PoolBuild {
        /// Which.
        pool: PoolRef,
        /// How long it may take.
        timeout: Seconds,
        /// Whether it is made again although nothing changed.
        rebuild: Rebuild,
    },
    /// Makes an earlier build current; new starts use it. Legal while the pool has that build.
    PoolRollback {
        /// Which.
        pool: PoolRef,
        /// The build.
        revision: RevisionName,
    },
    /// Replaces what runs or is Warm on another build by the current one, a few at a time, each in its
    /// place; goes on where an earlier one was interrupted. Legal while the pool has a build.
    PoolRoll {
        /// Which.
        pool: PoolRef,
        /// How many at once, and how they are waited for.
        pace: RollPace,
        /// What becomes of it when one does not become ready.
        on_failure: RollFailure,
    },
    /// Removes a pool's builds that nothing uses, and what its instances left behind. Legal always.
    PoolGc {
        /// Which.
        pool: PoolRef,
        /// How many of the newest builds stay; the configured number if absent.
        keep: Option<u32>,
    },
    /// Removes everything of ours on the node that nothing uses. Legal always.
    NodeGc {
        /// How many of each pool's newest builds stay; the configured number if absent.
        keep: Option<u32>,
    },
    /// Sets the counts, and converges to them unless told not to. An absent count stays.
    PoolScale {
        /// Which.
        pool: PoolRef,
        /// Available instances.
        running: Option<u32>,
        /// Warm standby.
        warm: Option<u32>,
        /// Sleeping standby.
        sleeping: Option<u32>,
        /// Only record the counts.
        no_wait: bool,
    },
    /// Removes a pool with its instances. Legal always; again after a failure.
    PoolDestroy {
        /// Which.
        pool: PoolRef,
        /// Also when it has instances.
        force: bool,
        /// What becomes of its instances' volumes.
        volumes: VolumeFate,
    },
    /// Makes an instance, Ready if the pool has a build, else Created.
    InstanceCreate {
        /// Where.
        pool: PoolRef,
        /// The host's ports that lead to it.
        #[serde(default)]
        publish: Vec<Publish>,
        /// The kept volume that becomes its data volume.
        volume: Option<VolumeId>,
    },
    /// Lets ports of the host lead to an instance. Legal while nobody has them.
    InstancePublish {
        /// Which.
        instance: InstanceRef,
        /// The ports.
        publish: Vec<Publish>,
    },
    /// Ends that. Legal while the instance has them.
    InstanceUnpublish {
        /// Which.
        instance: InstanceRef,
        /// The ports.
        publish: Vec<Publish>,
    },
    /// Makes an instance's data volume larger. Legal unless it is being destroyed.
    InstanceGrow {
        /// Which.
        instance: InstanceRef,
        /// The new size; never less than it has.
        data_disk: Mib,
    },
    /// Destroys an instance. Legal always; again after a failure.
    InstanceDestroy {
        /// Which.
        instance: InstanceRef,
        /// What becomes of its volume.
        volumes: VolumeFate,
    },
    /// Removes a kept volume. Legal while no instance is to get it.
    VolumeRemove {
        /// Which.
        volume: VolumeId,
        /// Whether its bytes are overwritten first.
        wipe: bool,
    },
    /// Makes a template, or changes it to this. Legal while no pool uses a variant that would go.
    TemplateCreate(Box<TemplateSpec>),
    /// Makes or finds the images of a template's variants. Legal while the template exists.
    TemplateBuild {
        /// Which.
        template: TemplateId,
        /// Which of its variants; all if absent.
        variant: Option<VariantId>,
        /// In whose network a flake is built; anything else needs none.
        #[serde(default)]
        tenant: Option<TenantId>,
        /// How long each may take.
        timeout: Seconds,
        /// Whether it is made again although nothing changed.
        rebuild: Rebuild,
    },
    /// Takes over a template as somebody signed it; its signature was verified and its images are in the
    /// image store. Legal while the one that is there, if any, was signed too and is no newer.
    TemplatePull(Box<SignedTemplate>),
    /// Removes a template. Legal while no pool uses it.
    TemplateDelete {
        /// Which.
        template: TemplateId,
    },
    /// Brings the node to a desired state, by other operations. Legal always.
    AgentReconcile {
        /// What the node shall have.
        desired: Box<DesiredState>,
    },
    /// Moves an instance; legal as in [`crate::state::State::next`].
    InstanceMove {
        /// Which.
        instance: InstanceRef,
        /// How.
        wish: Move,
        /// Whether the guest is asked first.
        drain: Drain,
    },
}

impl Operation {
    /// How long a build may take unless told otherwise (SPEC §10).
    pub const BUILD_TIMEOUT: Seconds = Seconds(1800);

    /// A build of a pool within the usual time, of what changed.
    #[must_use]
    pub const fn build(pool: PoolRef) -> Self {
        Self::PoolBuild { pool, timeout: Self::BUILD_TIMEOUT, rebuild: Rebuild::WhenChanged }
    }

    /// The name of the operation, as in its serialised form.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TenantCreate { .. } => "tenant_create",
            Self::TenantUpdate { .. } => "tenant_update",
            Self::TenantSecretsSet { .. } => "tenant_secrets_set",
            Self::TenantSecretsRotate { .. } => "tenant_secrets_rotate",
            Self::TenantDestroy { .. } => "tenant_destroy",
            Self::PoolCreate(_) => "pool_create",
            Self::PoolUpdate { .. } => "pool_update",
            Self::TenantKeyRotate { .. } => "tenant_key_rotate",
            Self::InstanceGrow { .. } => "instance_grow",
            Self::InstanceDestroy { .. } => "instance_destroy",
            Self::VolumeRemove { .. } => "volume_remove",
            Self::PoolBuild { .. } => "pool_build",
            Self::PoolRollback { .. } => "pool_rollback",
            Self::PoolRoll { .. } => "pool_roll",
            Self::PoolScale { .. } => "pool_scale",
            Self::PoolGc { .. } => "pool_gc",
            Self::PoolDestroy { .. } => "pool_destroy",
            Self::NodeGc { .. } => "node_gc",
            Self::InstanceCreate { .. } => "instance_create",
            Self::InstancePublish { .. } => "instance_publish",
            Self::InstanceUnpublish { .. } => "instance_unpublish",
            Self::TemplateCreate(_) => "template_create",
            Self::TemplateBuild { .. } => "template_build",
            Self::TemplatePull(_) => "template_pull",
            Self::TemplateDelete { .. } => "template_delete",
            Self::AgentReconcile { .. } => "agent_reconcile",
            Self::InstanceMove { .. } => "instance_move",
        }
    }
}

/// What is asked of a new pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPool {
    /// Its address.
    pub pool: PoolRef,
    /// Where its image comes from.
    pub source: Source,
    /// The profile of the source.
    pub profile: String,
    /// What it is for.
    pub role: Role,
    /// The size of its instances.
    pub resources: Resources,
    /// Waiting times of its instances.
    #[serde(default)]
    pub runtime_policy: RuntimePolicy,
    /// What its instances see of the tenant's secrets; everything when empty.
    #[serde(default)]
    pub secret_scopes: Vec<Scope>,
    /// What of the workload keeps state of its own.
    #[serde(default)]
    pub integrations: Vec<Integration>,
    /// Where its gateways lead to; for the role `gateway` only.
    #[serde(default)]
    pub routing_table: Option<RoutingTable>,
    /// What is decided for it without being asked.
    #[serde(default)]
    pub policy: PoolPolicy,
}

impl NewPool {
    /// A pool of workers of this size, with everything else as it is by default.
    #[must_use]
    pub fn of_workers(pool: PoolRef, source: Source, resources: Resources) -> Self {
        Self {
            pool,
            source,
            profile: "minimal".to_owned(),
            role: Role::Worker,
            resources,
            runtime_policy: RuntimePolicy::default(),
            secret_scopes: Vec::new(),
            integrations: Vec::new(),
            routing_table: None,
            policy: PoolPolicy::default(),
        }
    }
}
