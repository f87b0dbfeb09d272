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
mod manifest;
mod methods;
mod wiring;

pub use config::{Config, Overrides};
pub use mvm_core::{
    Error, ErrorKind,
    desired::DesiredState,
    error,
    event::{Actor, Event, EventKind, LoggedEvent},
    id::{ImageHash, InstanceId, InstanceRef, InvalidId, PoolId, PoolRef, TenantId},
    instance::{Drain, Failure, Instance, ParkedBy, Want},
    integration::Integration,
    net::{NetId, Network, Subnet},
    observed::NodeFacts,
    operation::{NewPool, Operation, Rebuild},
    plan::{Step, pool::Assignment},
    pool::{
        Counts, Pool, PoolChange, Resources, Revision, RevisionName, Role, RuntimePolicy, Source,
    },
    port::{
        ExecControl, ExecRequest, ExecStatus, ExecStreams, Finding, GuestStatus, Logs, Progress,
        ProgressStep, TerminalSize, WorkerState,
    },
    quota::{QuotaChange, Quotas, Usage},
    route::{Route, RoutingTable},
    secrets::{Scope, SecretsSource, TenantSecrets},
    state::{Move, State},
    tenant::Tenant,
    units,
};
pub use mvm_engine::{
    Cancel, Change, Context, Deferral, Failed, Made, Outcome, Preview, Removal, is_cancelled,
    query::{Filter, InstanceView, NodeView, PoolView, TenantView},
};
pub use wiring::Mvm;
