//! The record of an instance: what was asked of it, its identity, and its last known state.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    id::{ImageHash, InstanceRef},
    integration::Integration,
    net::{Mac, Network, Offset},
    observed::BootId,
    pool::{Compression, Resources, Role, RuntimePolicy},
    publish::Publish,
    route::RoutingTable,
    secrets::Grant,
    state::State,
    units::{Generation, Timestamp, Uid},
    volume::{VolumeKind, VolumePlan},
};

/// The state that an instance's record asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Registered and nothing else.
    Idle,
    /// Running, with the agent answering.
    Running,
    /// In memory, paused.
    Warm,
    /// On disk.
    Sleeping,
    /// No process, no snapshot.
    Stopped,
    /// Gone.
    Destroyed,
}

impl Want {
    /// The state in which this wish is fulfilled; `idle` where it asks for nothing.
    #[must_use]
    pub const fn state(self, idle: State) -> State {
        match self {
            Self::Idle => idle,
            Self::Running => State::Running,
            Self::Warm => State::Warm,
            Self::Sleeping => State::Sleeping,
            Self::Stopped => State::Stopped,
            Self::Destroyed => State::Destroyed,
        }
    }

    /// The wish that keeps an instance in `state`.
    #[must_use]
    pub const fn rest(state: State) -> Self {
        match state {
            State::Created | State::Ready => Self::Idle,
            State::Running => Self::Running,
            State::Warm => Self::Warm,
            State::Sleeping => Self::Sleeping,
            State::Stopped => Self::Stopped,
            State::Destroyed => Self::Destroyed,
        }
    }
}

/// Whether a guest is asked before it sleeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    /// Ask, and wait up to the drain timeout.
    #[default]
    Ask,
    /// Do not ask (`--force`).
    Skip,
}

/// Why an instance is Stopped without having been asked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// When it was noticed.
    pub at: Timestamp,
    /// The reason, for people.
    pub reason: String,
}

/// Who put an instance into Warm or Sleeping (SPEC §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParkedBy {
    /// The sleep policy: it still counts as available, and any demand brings it back.
    Policy,
    /// The counts: it is standby, held in addition.
    Counts,
    /// A person's command.
    Person,
}

/// What is stored about an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Its address.
    pub instance: InstanceRef,
    /// Its network.
    pub network: Network,
    /// Its place in the network; kept across sleep and wake.
    pub offset: Offset,
    /// Its user and group on this host.
    pub uid: Uid,
    /// Its size, fixed at creation.
    pub resources: Resources,
    /// What it is for.
    pub role: Role,
    /// Waiting times, copied from its pool.
    pub policy: RuntimePolicy,
    /// What of its workload keeps state of its own, copied from its pool with every wish.
    #[serde(default)]
    pub integrations: Vec<Integration>,
    /// How its snapshots are packed, copied from its pool with every wish.
    #[serde(default)]
    pub compression: Compression,
    /// Where it leads to, copied from its pool with every wish; gateways only.
    #[serde(default)]
    pub routing_table: Option<RoutingTable>,
    /// The image it boots; none while Created.
    pub image: Option<ImageHash>,
    /// Whether its tenant has a key, so that snapshots are sealed.
    pub keyed: bool,
    /// What is recorded of its data volume; its size is in `resources`.
    #[serde(default)]
    pub volume: VolumePlan,
    /// What it gets of its tenant's secrets.
    #[serde(default)]
    pub secrets: Grant,
    /// The last known state.
    pub state: State,
    /// What is asked of it.
    pub want: Want,
    /// Whether the guest is asked before sleep.
    pub drain: Drain,
    /// Rises each time the guest is recorded as Running; a snapshot bears the number under which
    /// it was written, so one that was resumed never has the number of the next.
    pub epoch: Generation,
    /// Who parked it, while Warm or Sleeping.
    pub parked_by: Option<ParkedBy>,
    /// Until when policy and counts leave it alone.
    pub manual_override_until: Option<Timestamp>,
    /// Why it stopped by itself, until it runs again.
    pub last_failure: Option<Failure>,
    /// How often in a row it failed: a steady run, a stop and a person's command begin anew.
    #[serde(default)]
    pub failures: u32,
    /// The host's ports that lead to it, as long as it exists.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Since when it is in its state.
    pub state_since: Timestamp,
    /// The boot of the host in which it last ran: what ran in a former boot is gone with it.
    #[serde(default)]
    pub boot: Option<BootId>,
    /// Counts the changes of this record.
    pub generation: Generation,
}

impl Instance {
    /// Its address in its network; none only if the record is damaged.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.network.subnet.address(self.offset)
    }

    /// The kind of its volume, if it has one.
    #[must_use]
    pub fn volume_kind(&self) -> Option<VolumeKind> {
        (self.resources.data_disk_mib.0 > 0).then_some(self.volume.kind)
    }

    /// Its Ethernet address.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        Mac::of(self.network.net, self.offset)
    }

    /// Whether it takes traffic: it runs, and nothing else is asked of it.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.state == State::Running && self.want == Want::Running
    }

    /// Whether policy parked it, so that any demand brings it back.
    #[must_use]
    pub fn is_on_call(&self) -> bool {
        matches!(self.state, State::Warm | State::Sleeping)
            && self.parked_by == Some(ParkedBy::Policy)
    }

    /// Whether a person's command on it still stands above policy and counts.
    #[must_use]
    pub fn is_overridden(&self, now: Timestamp) -> bool {
        self.manual_override_until.is_some_and(|until| until > now)
    }

    /// Whether something asked of it is not done yet.
    #[must_use]
    pub fn in_flight(&self) -> bool {
        self.want.state(self.state) != self.state
    }
}
