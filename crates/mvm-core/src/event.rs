//! What happened, for the audit log; one closed list (SPEC §5).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    id::{InstanceId, PoolId, TenantId},
    units::Timestamp,
};

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// A tenant exists.
    TenantCreated,
    /// A tenant's limits were changed; the detail has each, before and after.
    TenantUpdated,
    /// A tenant's secrets were given anew; the detail has epoch and count.
    SecretsSet,
    /// A tenant's secrets were read again and sealed under a fresh key; detail as above.
    SecretsRotated,
    /// A running guest has its tenant's newest secrets.
    SecretsDelivered,
    /// A tenant is gone.
    TenantDestroyed,
    /// A pool exists.
    PoolCreated,
    /// A pool's next builds and new instances are different.
    PoolUpdated,
    /// A pool has a new current build.
    PoolBuilt,
    /// A pool's current build is an earlier one.
    PoolRolledBack,
    /// A pool's running instances are being replaced by its current build.
    PoolRolling,
    /// All of a pool's running instances run its current build.
    PoolRolled,
    /// A pool's current build did not become ready in an instance; the reason says why.
    PoolRollFailed,
    /// Builds of a pool or leftovers of its instances were removed.
    PoolCollected,
    /// A pool's counts were set.
    PoolScaled,
    /// A pool is gone.
    PoolDestroyed,
    /// An instance exists.
    InstanceCreated,
    /// A build of a pool failed; what was current stays so.
    PoolBuildFailed,
    /// An instance has an image to boot.
    InstanceReady,
    /// An instance runs; the detail says whether by a boot or as a clone of its pool's base.
    InstanceStarted,
    /// An instance's vCPUs are paused.
    InstanceWarmed,
    /// An instance is on disk.
    InstanceSlept,
    /// An instance runs again, from Warm or Sleeping.
    InstanceWoken,
    /// An instance was stopped.
    InstanceStopped,
    /// An instance died by itself; the reason says how.
    InstanceFailed,
    /// An instance is gone.
    InstanceDestroyed,
    /// Ports of the host lead to an instance.
    InstancePublished,
    /// Ports of the host lead to an instance no more.
    InstanceUnpublished,
    /// A snapshot was published.
    SnapshotPublished,
    /// A snapshot was resumed from, and never can be again.
    SnapshotRetired,
    /// A snapshot was discarded unresumed.
    SnapshotDiscarded,
    /// A base was not used, or none was taken; the reason says why. The instance booted instead.
    BaseRefused,
    /// A guest did not answer the drain in time and was put to sleep all the same.
    DrainForced,
    /// An integration was saved before a sleep.
    IntegrationCheckpointed,
    /// An integration was restored after a wake.
    IntegrationRestored,
    /// An integration could not be saved or restored; the reason says why.
    IntegrationFailed,
    /// A quota refused something.
    QuotaExceeded,
    /// Counts or policy left an instance alone that they would have moved.
    TransitionDeferred,
    /// A person's command came before a minimum time was over.
    MinRuntimeOverridden,
    /// A tenant got a key.
    KeyCreated,
    /// A certificate was issued.
    CertificateIssued,
    /// A certificate was replaced before its end.
    CertificateRotated,
    /// Certificates were revoked, or a list of revoked ones was taken into force.
    CertificateRevoked,
    /// Somebody wanted to approve this node who does not know its join token, or came too late.
    JoinRefused,
    /// A desired state was accepted.
    DesiredStateAccepted,
    /// A desired state was rejected; the reason says why.
    DesiredStateRejected,
    /// A guest reached what a wall should have kept from it; the detail says which and what.
    IsolationViolation,
    /// The store was lost and made anew from exported files and what the machine showed.
    StoreRebuilt,
    /// What belongs to no tenant and was used by nothing was removed from the node.
    NodeCollected,
    /// A shim was found dead while its VMM lives.
    ShimLost,
    /// The firewall was found altered and put back.
    FirewallRepaired,
    /// An instance has a new data volume.
    VolumeCreated,
    /// A data volume shall be larger; its guest gets the room now or when it runs next.
    VolumeGrowing,
    /// A data volume is larger, and its guest has the room.
    VolumeGrown,
    /// A volume outlived its instance.
    VolumeKept,
    /// A kept volume was given to an instance.
    VolumeAttached,
    /// A kept volume was removed.
    VolumeRemoved,
    /// A volume was made unreadable and removed.
    VolumeWiped,
    /// A template was made or changed; the detail names it.
    TemplateCreated,
    /// A variant of a template has a build; the detail has its image.
    TemplateBuilt,
    /// A variant of a template could not be built; the reason says why.
    TemplateBuildFailed,
    /// A template came out of a storage; the detail says who signed it.
    TemplatePulled,
    /// A template was deleted.
    TemplateDeleted,
    /// A tenant has another key, and nothing opens with the old one.
    KeyRotated,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Who made it happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// A local user's command.
    Uid(u32),
    /// Nobody's command: the truth was noticed.
    Engine,
    /// The sleep policy or the counts.
    Policy,
    /// Whoever holds the certificate with this subject.
    Certificate(String),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Engine => f.write_str("mvm"),
            Self::Policy => f.write_str("policy"),
            Self::Certificate(subject) => f.write_str(subject),
        }
    }
}

/// One entry of a tenant's audit log, before the store gives it a number and a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// Whose log.
    pub tenant: TenantId,
    /// Which pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolId>,
    /// Which instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// What.
    pub event: EventKind,
    /// By whom.
    pub actor: Actor,
    /// Why, for people; empty when the event says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Figures and names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

/// An event in its place in the log's hash chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedEvent {
    /// Position in the tenant's log, from 1.
    pub seq: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
    /// Hash of the entry before; 64 zeros at the start.
    pub previous: String,
    /// SHA-256 over `previous` and this entry without its hash, hexadecimal.
    pub hash: String,
}
