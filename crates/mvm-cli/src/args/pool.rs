//! The arguments of `mvm pool …`.

use clap::{Args, Subcommand};
use mvm::{PoolRef, Role, TenantId};

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create a pool of like instances
    Create(PoolCreateArgs),
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
    Build {
        /// The pool, as `<tenant>/<pool>`
        pool: PoolRef,
    },
    /// Set how many instances shall be in each state, and bring the pool there
    Scale(PoolScaleArgs),
    /// Destroy a pool with its instances
    Destroy {
        /// The pool, as `<tenant>/<pool>`
        pool: PoolRef,
        /// Destroy its instances too, without asking
        #[arg(long, visible_alias = "yes")]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PoolCreateArgs {
    /// The new pool, as `<tenant>/<pool>`
    pub(crate) pool: PoolRef,
    /// The image of its instances; `default` is made from Debian packages
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: String,
    /// The profile of the image
    #[arg(long, default_value = "minimal")]
    pub(crate) profile: String,
    /// `gateway`, `builder`, `worker` or `capability-<name>`
    #[arg(long, default_value = "worker")]
    pub(crate) role: Role,
    /// vCPUs of one instance
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) cpus: u32,
    /// Memory of one instance
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub(crate) mem: u32,
    /// Data disk of one instance, mounted at /data; 0 for none
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub(crate) data_disk: u32,
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
