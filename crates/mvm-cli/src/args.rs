//! The command line as types; parsing is clap's, meaning is the library's.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mvm::{
    Drain, InstanceRef, NetId, PoolRef, Quotas, Role, Subnet, TenantId,
    units::{Gib, Mib, Vcpus},
};

/// Run fleets of Firecracker microVMs: many tenants, each behind its own walls
#[derive(Debug, Parser)]
#[command(name = "mvm", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Print more about what is done
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Print nothing but results and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Read this configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// Keep state in this directory [default: /var/lib/mvm]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Print results in this form
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Show what would be done, and change nothing
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
    /// Print results as JSON; the same as --format json
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Global {
    /// The form of results that was asked for.
    pub(crate) const fn output(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences, for people.
    Table,
    /// One JSON document, for programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Manage tenants: the boundary of network, quota and keys
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Manage pools of like instances
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Manage single instances
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// Show what happened to a tenant
    Events(EventsArgs),
    /// Look at this node
    #[command(subcommand)]
    Node(NodeCommand),
    /// Check the network
    #[command(subcommand)]
    Net(NetCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Create a tenant with its network and quotas
    Create(TenantCreateArgs),
    /// List the tenants on this node
    List,
    /// Show a tenant's network, quotas and use
    Info {
        /// The tenant
        tenant: TenantId,
    },
    /// Destroy a tenant with all its pools and instances
    Destroy {
        /// The tenant
        tenant: TenantId,
        /// Destroy its pools and instances too, without asking
        #[arg(long, visible_alias = "yes")]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TenantCreateArgs {
    /// The new tenant's id
    pub(crate) tenant: String,
    /// Its network id, 1 to 4095 [default: the lowest free one]
    #[arg(long, value_name = "N", value_parser = net_id)]
    pub(crate) net_id: Option<NetId>,
    /// Its subnet within 10.240.0.0/12 [default: 10.(240+N/256).(N mod 256).0/24]
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Option<Subnet>,
    /// Greatest sum of vCPUs of running and warm instances
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_vcpus.0)]
    pub(crate) max_vcpus: u32,
    /// Greatest sum of memory of running and warm instances
    #[arg(long, value_name = "MIB", default_value_t = Quotas::default().max_mem_mib.0)]
    pub(crate) max_mem: u32,
    /// Most running instances
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_running)]
    pub(crate) max_running: u32,
    /// Most warm instances
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_warm)]
    pub(crate) max_warm: u32,
    /// Most pools
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_pools)]
    pub(crate) max_pools: u32,
    /// Most instances of one pool
    #[arg(long, value_name = "N", default_value_t = Quotas::default().max_instances_per_pool)]
    pub(crate) max_instances_per_pool: u32,
    /// Most disk of volumes and snapshots
    #[arg(long, value_name = "GIB", default_value_t = Quotas::default().max_disk_gib.0)]
    pub(crate) max_disk: u32,
    /// Keep no key: snapshots are stored in the clear (development only)
    #[arg(long)]
    pub(crate) no_key: bool,
}

impl TenantCreateArgs {
    /// The quotas that the flags ask for.
    pub(crate) const fn quotas(&self) -> Quotas {
        Quotas {
            max_vcpus: Vcpus(self.max_vcpus),
            max_mem_mib: Mib(self.max_mem),
            max_running: self.max_running,
            max_warm: self.max_warm,
            max_pools: self.max_pools,
            max_instances_per_pool: self.max_instances_per_pool,
            max_disk_gib: Gib(self.max_disk),
        }
    }
}

fn net_id(text: &str) -> Result<NetId, String> {
    match text.parse() {
        Ok(id @ 1..=4095) => Ok(NetId(id)),
        Ok(_) | Err(_) => Err("a network id is a number from 1 to 4095".to_owned()),
    }
}

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

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// Create an instance in a pool
    Create {
        /// The pool, as `<tenant>/<pool>`
        pool: PoolRef,
    },
    /// List instances in their true state
    List {
        /// Only of `<tenant>` or `<tenant>/<pool>`
        #[arg(conflicts_with_all = ["tenant", "pool"])]
        filter: Option<String>,
        /// Only of this tenant
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Only of this pool of the tenant
        #[arg(long, requires = "tenant")]
        pool: Option<mvm::PoolId>,
    },
    /// Start an instance by a cold boot
    Start(InstanceArg),
    /// Stop an instance; a snapshot is discarded
    Stop(InstanceArg),
    /// Pause an instance's vCPUs and keep its memory
    Warm(InstanceArg),
    /// Put an instance to disk
    Sleep {
        #[command(flatten)]
        instance: InstanceArg,
        /// Do not ask the guest to drain first
        #[arg(long)]
        force: bool,
    },
    /// Bring an instance back from memory or disk
    #[command(visible_alias = "resume")]
    Wake(InstanceArg),
    /// Run a command in an instance
    Exec(ExecArgs),
    /// Show an instance's console and VMM logs
    Logs {
        #[command(flatten)]
        instance: InstanceArg,
        /// Lines of each log
        #[arg(long, value_name = "N", default_value_t = 100)]
        last: usize,
    },
    /// Destroy an instance with its data
    Destroy {
        #[command(flatten)]
        instance: InstanceArg,
        /// Do not ask
        #[arg(long, visible_alias = "yes")]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InstanceArg {
    /// The instance, as `<tenant>/<pool>/<instance>`
    pub(crate) instance: InstanceRef,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The instance, as `<tenant>/<pool>/<instance>`
    pub(crate) instance: InstanceRef,
    /// Give the command a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Pass standard input to the command
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// Run as this user
    #[arg(long, short, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Run in this directory
    #[arg(long, short, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Set a variable, as NAME=VALUE
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write NAME=VALUE".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// The tenant
    pub(crate) tenant: TenantId,
    /// How many, newest last
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) last: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show what this node is and can do
    Info,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Compare bridges, routes, taps and rules with what they shall be; exit 1 on findings
    Verify,
}

/// The drain that `--force` asks for.
pub(crate) const fn drain(force: bool) -> Drain {
    if force { Drain::Skip } else { Drain::Ask }
}
