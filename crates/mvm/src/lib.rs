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

pub mod agent;
mod builder;
pub mod config;
mod copy;
pub mod deploy;
pub mod dev;
pub mod doctor;
mod flake;
pub mod fleet;
pub mod forward;
pub mod hostd;
pub mod image;
pub mod manifest;
mod methods;
pub mod metrics;
mod mvmfile;
mod profiles;
pub mod provider;
mod rebuild;
mod supervisor;
pub mod template;
pub mod upgrade;
mod volume;
mod wiring;

pub use agent::AgentOptions;
pub use config::{Config, LogFormat, Origin, Overrides, Setting};
pub use fleet::{
    Approved, Asked, CertificateRequest, CertsAsk, HostAsk, Invitation, Listen, Peer, PushedList,
    Revocation, SignAsk, SignedFile, SignerKey, TlsFiles,
};
pub use mvm_core::{
    Error, ErrorKind, api,
    audit::{AuditFile, AuditReport},
    desired::DesiredState,
    disk::{DiskClass, DiskUse, Room},
    error,
    event::{Actor, Event, EventKind, LoggedEvent},
    id::{
        ImageHash, InstanceId, InstanceRef, InvalidId, OperationId, PoolId, PoolRef, TemplateId,
        TemplateRef, TenantId, VariantId, VmmVersion, VolumeId,
    },
    instance::{Drain, Failure, Instance, ParkedBy, Want},
    integration::Integration,
    meter::{CopyReport, GuestMetrics, Meter, Paging, WorkerState},
    moment::Since,
    net::{NetId, Network, Offset, Subnet},
    observed::{BootId, Dns, NodeFacts},
    operation::{NewPool, Operation, Rebuild},
    plan::{Step, pool::Assignment},
    pool::{
        Compression, Counts, OnNodeLoss, Pool, PoolChange, PoolDefaults, PoolPolicy, Readiness,
        ReadinessChange, Resources, Revision, RevisionName, Role, RollFailure, RollPace, Rolling,
        RuntimePolicy, SeccompPolicy, SleepPolicy, Source, Taken,
    },
    port::{
        Console, ExecControl, ExecRequest, ExecStatus, ExecStreams, Finding, LogSource, Logs,
        ProbeOutcome, ProbeTarget, Progress, ProgressStep, TerminalSize,
    },
    publish::{Protocol, Publish},
    quota::{QuotaChange, Quotas, Usage},
    route::{Cidr, MatchRule, Route, RoutingTable, Selector, Target},
    secrets::{Grant, Scope, SecretsSource, TenantSecrets, ValueSource},
    signed::{Acceptance, Envelope, SignedDocument},
    state::{Move, State},
    template::{Template, TemplateBuild, TemplateSpec, Variant},
    tenant::{Destination, Egress, EgressPolicy, Tenant, TenantPolicy},
    units,
    volume::{Volume, VolumeFate, VolumeKind, VolumePlan, VolumeStage},
};
pub use mvm_engine::{
    Acted, Cancel, Change, Context, Deferral, EventFilter, Failed, Follow, Made, Outcome, Preview,
    Removal, SPAN,
    figures::{GroupStats, InstanceStats, NodeStats},
    is_cancelled,
    netcheck::{CrossTenant, Depth, Expected, NetReport, Probe, TapOwner, TenantNet},
    query::{
        DiskView, Filter, InstanceView, NodeView, PoolView, SecretsView, TemplateUse, TenantView,
    },
    rebuild::{Rebuilt, Recovered},
};
pub use mvm_fleet::certs::{Facts as Certificate, RevokedCertificate, Step as CertsStep, Token};
pub use rebuild::RebuildWhen;
pub use wiring::{Mvm, new_operation};
