//! `mvm` as a library: configuration, wiring, and one method per operation.
//!
//! ```no_run
//! # fn main() -> Result<(), mvm::Error> {
//! use mvm::{Config, Context, Mvm, Overrides};
//!
//! let mvm = Mvm::open(&Config::read(&Overrides::default())?)?;
//! for tenant in mvm.tenant_list()? {
//!     drop(tenant.record.tenant_id);
//! }
//! # Ok(()) }
//! ```
//!
//! Nothing here prints or knows a command line. Methods are named like the commands:
//! `mvm tenant create` is [`Mvm::tenant_create`].

mod builder;
pub mod config;
mod copy;
pub mod doctor;
pub mod forward;
mod methods;
pub mod places;
pub mod provider;
mod wiring;

pub use config::{Config, Overrides};
pub use mvm_core::{
    Error, ErrorKind,
    disk::{DiskClass, DiskUse, Room},
    error,
    event::{Actor, Event, EventKind, LoggedEvent},
    id::{ImageHash, InstanceId, InstanceRef, InvalidId, PoolId, PoolRef, TenantId, VolumeId},
    instance::{Drain, Failure, Instance, ParkedBy, Want},
    meter::{CopyReport, GuestMetrics, Meter, WorkerState},
    net::{NetId, Network, Offset, Subnet},
    observed::{BootId, Dns, NodeFacts},
    operation::{NewPool, Operation, Rebuild},
    plan::{Step, pool::Assignment},
    pool::{
        Counts, Pool, PoolChange, Resources, Revision, RevisionName, Role, RuntimePolicy, Source,
    },
    port::{
        Console, ExecControl, ExecRequest, ExecStatus, ExecStreams, Finding, Logs, ProbeOutcome,
        ProbeTarget, Progress, ProgressStep, TerminalSize,
    },
    publish::{Protocol, Publish},
    quota::{QuotaChange, Quotas, Usage},
    secrets::{Grant, Scope, SecretsSource, TenantSecrets, ValueSource},
    state::{Move, State},
    tenant::Tenant,
    units,
    volume::{Volume, VolumeFate, VolumeKind, VolumePlan, VolumeStage},
};
pub use mvm_engine::{
    Cancel, Change, Context, Deferral, Failed, Made, Outcome, Preview, Removal,
    figures::{GroupStats, InstanceStats, NodeStats},
    is_cancelled,
    netcheck::{CrossTenant, Depth, Expected, NetReport, Probe, TapOwner, TenantNet},
    query::{DiskView, Filter, InstanceView, NodeView, PoolView, SecretsView, TenantView},
};
pub use wiring::Mvm;
