//! The arguments of `mvm pool …`.

use clap::{Args, Subcommand};
use mvm::{
    Error, Mvm, Operation, PoolChange, PoolRef, Readiness, ReadinessChange, RevisionName, Role,
    RollPace, RuntimePolicy, Scope, Source, TenantId,
    forward::{ImagePath, InputPath},
    image::recorded,
    units::{Mib, Seconds, Vcpus},
};

use super::{Volumes, examples};

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create a pool of like instances
    #[command(after_long_help = examples::POOL_CREATE)]
    Create(Box<PoolCreateArgs>),
    /// List a tenant's pools
    List {
        /// The tenant
        tenant: TenantId,
    },
    /// Show a pool's build, resources and instances
    Info {
        /// The pool, as `<tenant>/<pool>`
        pool: PoolRef,
    },
    /// Make the pool's image and make it current
    #[command(after_long_help = examples::POOL_BUILD)]
    Build {
        /// The pool, as `<tenant>/<pool>`
        pool: PoolRef,
        /// How long it may take
        #[arg(long, value_name = "SECS", default_value_t = Operation::BUILD_TIMEOUT.0)]
        timeout: u32,
        /// Build again although nothing changed
        #[arg(long)]
        force: bool,
    },
    /// Change what a pool's next builds and new instances are
    #[command(after_long_help = examples::POOL_UPDATE)]
    Update(Box<PoolUpdateArgs>),
    /// Make an earlier build current
    #[command(after_long_help = examples::POOL_ROLLBACK)]
    Rollback {
        /// The pool, as `<tenant>/<pool>`
        pool: PoolRef,
        /// 1 for the newest build, 2 for the one before, or the beginning of a hash
        #[arg(long, value_name = "N|HASH")]
        revision: RevisionName,
    },
    /// Replace what runs by the current build, a few at a time, each only after the last is ready
    #[command(after_long_help = examples::POOL_ROLL)]
    Roll(PoolRollArgs),
    /// Remove builds, snapshots and logs that nothing uses
    #[command(after_long_help = examples::GC)]
    Gc {
        /// The pool, as `<tenant>/<pool>`
        pool: PoolRef,
        /// Keep this many of the newest builds [default: gc.keep_builds of the configuration, 3]
        #[arg(long, value_name = "N")]
        keep: Option<u32>,
    },
    /// Set how many instances shall be in each state, and bring the pool there
    #[command(after_long_help = examples::POOL_SCALE)]
    Scale(PoolScaleArgs),
    /// Destroy a pool with its instances
    Destroy {
        /// The pool, as `<tenant>/<pool>`
        pool: PoolRef,
        /// Destroy its instances too, without asking
        #[arg(long, visible_alias = "yes")]
        force: bool,
        #[command(flatten)]
        volumes: Volumes,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PoolCreateArgs {
    /// The new pool, as `<tenant>/<pool>`
    pub(crate) pool: PoolRef,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// The profile of the source [default: that of the template, or minimal]
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// `gateway`, `builder`, `worker` or `capability-<name>` [default: that of the template, or worker]
    #[arg(long)]
    pub(crate) role: Option<Role>,
    /// vCPUs of one instance [default: what its template or Mvmfile.toml says, or 2]
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,
    /// Memory of one instance [default: what its template or Mvmfile.toml says, or 1024]
    #[arg(long, value_name = "MIB")]
    pub(crate) mem: Option<u32>,
    /// Data disk of one instance, mounted at /data; 0 for none [default: what its template or Mvmfile.toml says, or 0]
    #[arg(long, value_name = "MIB")]
    pub(crate) data_disk: Option<u32>,
    /// When an instance is ready to serve: worker-ready, tcp:PORT or http:PORT/PATH
    #[arg(long, value_name = "WHAT")]
    pub(crate) readiness: Option<Readiness>,
    /// The routing table of a gateway pool, JSON or TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) routes: Option<InputPath>,
    /// What of the workload keeps state of its own, JSON or TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) integrations: Option<InputPath>,
    /// Let its instances see only these parts of the tenant's secrets, each in a directory of its
    /// own; the scope `x` gives the key `x` and those that begin with `x.` or `x_` (repeatable)
    #[arg(long = "secret-scope", value_name = "SCOPE")]
    pub(crate) secret_scopes: Vec<Scope>,
    #[command(flatten)]
    pub(crate) policy: RuntimePolicyArgs,
    /// Most operations per second of the data disk
    #[arg(long, value_name = "N")]
    pub(crate) disk_iops: Option<u32>,
    /// Most MB per second of the data disk
    #[arg(long, value_name = "MB")]
    pub(crate) disk_mbps: Option<u32>,
    /// Most MB per second of the network, each way
    #[arg(long, value_name = "MB")]
    pub(crate) net_mbps: Option<u32>,
}

/// Waiting times of a pool's instances.
#[derive(Debug, Args)]
pub(crate) struct RuntimePolicyArgs {
    /// Shortest time in Running before policy may act [default: 60]
    #[arg(long, alias = "min-running", value_name = "SECS")]
    min_running_secs: Option<u32>,
    /// Shortest time in Warm before policy may act [default: 30]
    #[arg(long, alias = "min-warm", value_name = "SECS")]
    min_warm_secs: Option<u32>,
    /// How long a guest may take to drain before sleep is forced [default: 30]
    #[arg(long, alias = "drain-timeout", value_name = "SECS")]
    drain_timeout_secs: Option<u32>,
    /// How long a guest may take to shut down before it is killed [default: 15]
    #[arg(long, alias = "graceful-shutdown", value_name = "SECS")]
    graceful_shutdown_secs: Option<u32>,
}

impl RuntimePolicyArgs {
    /// `policy` with what the flags change.
    pub(crate) fn over(&self, policy: RuntimePolicy) -> RuntimePolicy {
        let or = |given: Option<u32>, old| given.map_or(old, Seconds);
        RuntimePolicy {
            min_running_seconds: or(self.min_running_secs, policy.min_running_seconds),
            min_warm_seconds: or(self.min_warm_secs, policy.min_warm_seconds),
            drain_timeout_seconds: or(self.drain_timeout_secs, policy.drain_timeout_seconds),
            graceful_shutdown_seconds: or(
                self.graceful_shutdown_secs,
                policy.graceful_shutdown_seconds,
            ),
        }
    }
}

/// Where a pool's image comes from: one of three.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SourceArgs {
    /// A Nix flake, for example github:org/app?rev=abc123
    #[arg(long, value_name = "REF")]
    flake: Option<String>,
    /// A template, as `ID` or `ID:VARIANT`, whose builds are shared between tenants
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<String>,
    /// An image: `default`, a name or hash, `oci:…`, `oci-archive:/…`, `deb:…` or a path (docs/images.md)
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImagePath>,
}

impl SourceArgs {
    /// The source that was given.
    ///
    /// # Errors
    /// `NotFound` and `Invalid` of a relative path.
    pub(crate) fn source(self) -> Result<Option<Source>, Error> {
        let Self { flake, template, image } = self;
        let image = image.as_ref().map(recorded).transpose()?.map(Source::Image);
        Ok(flake.map(Source::Flake).or(template.map(Source::Template)).or(image))
    }
}

#[derive(Debug, Args)]
pub(crate) struct PoolUpdateArgs {
    /// The pool, as `<tenant>/<pool>`
    pub(crate) pool: PoolRef,
    /// A Nix flake, for example github:org/app?rev=abc123
    #[arg(long, value_name = "REF", group = "new_source")]
    flake: Option<String>,
    /// A template, as `ID` or `ID:VARIANT`, whose builds are shared between tenants
    #[arg(long, value_name = "TEMPLATE", group = "new_source")]
    template: Option<String>,
    /// An image: `default`, a name or hash, `oci:…`, `oci-archive:/…`, `deb:…` or a path (docs/images.md)
    #[arg(long, value_name = "IMAGE", group = "new_source")]
    image: Option<ImagePath>,
    /// The profile of the source
    #[arg(long)]
    profile: Option<String>,
    /// `gateway`, `builder`, `worker` or `capability-<name>`
    #[arg(long)]
    role: Option<Role>,
    /// vCPUs of new instances
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory of new instances
    #[arg(long, value_name = "MIB")]
    mem: Option<u32>,
    /// Data disk of new instances, mounted at /data; 0 for none
    #[arg(long, value_name = "MIB")]
    data_disk: Option<u32>,
    /// Most operations per second of new instances' data disks; 0 for no limit
    #[arg(long, value_name = "N")]
    disk_iops: Option<u32>,
    /// Most MB per second of new instances' data disks; 0 for no limit
    #[arg(long, value_name = "MB")]
    disk_mbps: Option<u32>,
    /// Most MB per second of new instances' network, each way; 0 for no limit
    #[arg(long, value_name = "MB")]
    net_mbps: Option<u32>,
    /// Shortest time in Running before policy may act on a new instance
    #[arg(long, alias = "min-running-secs", value_name = "SECS")]
    min_running: Option<u32>,
    /// Shortest time in Warm before policy may act on a new instance
    #[arg(long, alias = "min-warm-secs", value_name = "SECS")]
    min_warm: Option<u32>,
    /// How long a new instance may take to drain before sleep is forced
    #[arg(long, alias = "drain-timeout-secs", value_name = "SECS")]
    drain_timeout: Option<u32>,
    /// How long a new instance may take to shut down before it is killed
    #[arg(long, alias = "graceful-shutdown-secs", value_name = "SECS")]
    graceful_shutdown: Option<u32>,
    /// When an instance is ready to serve, from the next roll on: worker-ready, tcp:PORT or
    /// http:PORT/PATH; none for as soon as its agent answers
    #[arg(long, value_name = "WHAT")]
    readiness: Option<ReadinessChange>,
    /// Let instances see only these parts of the tenant's secrets from their next start on
    /// (repeatable)
    #[arg(long = "secret-scope", value_name = "SCOPE", conflicts_with = "all_secrets")]
    secret_scopes: Vec<Scope>,
    /// Let instances see all of the tenant's secrets from their next start on
    #[arg(long)]
    all_secrets: bool,
    /// The routing table of a gateway pool, JSON or TOML
    #[arg(long, value_name = "FILE")]
    routes: Option<InputPath>,
    /// What of the workload keeps state of its own, JSON or TOML
    #[arg(long, value_name = "FILE")]
    integrations: Option<InputPath>,
}

impl PoolUpdateArgs {
    /// The change that the flags ask for.
    ///
    /// # Errors
    /// What is wrong with the files that they name.
    pub(crate) fn change(self, mvm: &Mvm) -> Result<PoolChange, Error> {
        let integrations =
            self.integrations.map(|file| mvm.read_integrations(&file)).transpose()?;
        let routing_table =
            self.routes.map(|file| mvm.read_routes(&self.pool, &file)).transpose()?;
        let source = SourceArgs { flake: self.flake, template: self.template, image: self.image }
            .source()?;
        let is_scoped = self.all_secrets || !self.secret_scopes.is_empty();
        Ok(PoolChange {
            source,
            profile: self.profile,
            role: self.role,
            vcpus: self.cpus.map(Vcpus),
            mem_mib: self.mem.map(Mib),
            data_disk_mib: self.data_disk.map(Mib),
            disk_iops: self.disk_iops,
            disk_mbps: self.disk_mbps,
            net_mbps: self.net_mbps,
            min_running_seconds: self.min_running.map(Seconds),
            min_warm_seconds: self.min_warm.map(Seconds),
            drain_timeout_seconds: self.drain_timeout.map(Seconds),
            graceful_shutdown_seconds: self.graceful_shutdown.map(Seconds),
            secret_scopes: is_scoped.then_some(self.secret_scopes),
            integrations,
            routing_table,
            policy: None,
            readiness: self.readiness,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct PoolRollArgs {
    /// The pool, as `<tenant>/<pool>`
    pub(crate) pool: PoolRef,
    /// How many are replaced at once; none is made in addition, so that many are away meanwhile
    #[arg(long, value_name = "N", default_value_t = RollPace::default().batch)]
    batch: u32,
    /// How long an instance may take from its start until it is ready
    #[arg(long, value_name = "SECS", default_value_t = RollPace::default().timeout.0)]
    timeout: u32,
    /// How long it must stay ready before the next one goes
    #[arg(long, value_name = "SECS", default_value_t = RollPace::default().soak.0)]
    soak: u32,
    /// Stop where it failed, and do not return to the former build
    #[arg(long)]
    pub(crate) no_rollback: bool,
}

impl PoolRollArgs {
    /// The pace that the flags ask for.
    pub(crate) const fn pace(&self) -> RollPace {
        RollPace { batch: self.batch, timeout: Seconds(self.timeout), soak: Seconds(self.soak) }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PoolScaleArgs {
    /// The pool, as `<tenant>/<pool>`
    pub(crate) pool: PoolRef,
    /// Instances that run
    #[arg(long, value_name = "N")]
    pub(crate) running: Option<u32>,
    /// Instances held in memory, paused
    #[arg(long, value_name = "N")]
    pub(crate) warm: Option<u32>,
    /// Instances held on disk
    #[arg(long, value_name = "N")]
    pub(crate) sleeping: Option<u32>,
    /// Record the counts and leave the rest to the agent
    #[arg(long)]
    pub(crate) no_wait: bool,
}
