//! Everything that may be asked and that changes something; one variant per command.
//!
//! Questions (list, info, events, node info, net verify) change nothing and are plain methods of
//! the engine.

use serde::{Deserialize, Serialize};

use crate::{
    id::{InstanceRef, PoolRef, TenantId},
    instance::Drain,
    net::{NetId, Subnet},
    pool::{Resources, Role, Source},
    quota::Quotas,
    state::Move,
};

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
    /// Removes a tenant with all it has. Legal always; again after a failure.
    TenantDestroy {
        /// Which.
        tenant: TenantId,
        /// Also when it has pools.
        force: bool,
    },
    /// Makes a pool. Legal while its tenant exists and has room.
    PoolCreate {
        /// Its address.
        pool: PoolRef,
        /// Where its image comes from.
        source: Source,
        /// The profile of the source.
        profile: String,
        /// What it is for.
        role: Role,
        /// The size of its instances.
        resources: Resources,
    },
    /// Makes or finds the pool's image and makes it current; Created instances become Ready.
    PoolBuild {
        /// Which.
        pool: PoolRef,
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
    },
    /// Makes an instance, Ready if the pool has a build, else Created.
    InstanceCreate {
        /// Where.
        pool: PoolRef,
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
