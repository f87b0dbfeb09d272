//! The arguments of `mvm instance …`.

use std::{fmt, str::FromStr};

use clap::{Args, Subcommand};
use mvm::{
    Drain, InstanceRef, PoolRef, Publish, TenantId, VolumeId,
    forward::{InputPath, OutputPath},
};

use super::Volumes;

use super::{LogsArgs, examples};

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// Create an instance in a pool
    Create {
        /// The pool, as `<tenant>/<pool>`
        pool: PoolRef,
        /// Let a port of this host lead to one of the instance, as `[ADDRESS:]HOST:GUEST[/tcp|udp]`
        #[arg(long, value_name = "PORTS")]
        publish: Vec<Publish>,
        /// Give it this kept volume as its data disk
        #[arg(long, value_name = "NAME")]
        volume: Option<VolumeId>,
    },
    /// Change an instance: make its data disk larger
    Update {
        #[command(flatten)]
        instance: InstanceArg,
        /// The new size of its data disk
        #[arg(long, value_name = "MIB")]
        data_disk: u32,
    },
    /// Let ports of this host lead to an instance
    Publish(PortsArgs),
    /// End that
    Unpublish(PortsArgs),
    /// List instances in their true state
    #[command(after_long_help = examples::INSTANCE_LIST)]
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
    /// Show all about one instance
    Info(InstanceArg),
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
    #[command(after_long_help = examples::INSTANCE_EXEC)]
    Exec(ExecArgs),
    /// Open a login shell in an instance, or run a command line in one
    #[command(after_long_help = examples::INSTANCE_SSH)]
    Ssh(SshArgs),
    /// Copy files into or out of an instance
    #[command(after_long_help = examples::INSTANCE_CP)]
    Cp(CopyArgs),
    /// Attach to an instance's serial console; leave with Ctrl-]
    Console(InstanceArg),
    /// Show what an instance does and takes: CPU, memory, network, disk, idleness, health
    #[command(after_long_help = examples::INSTANCE_STATS)]
    Stats {
        #[command(flatten)]
        instance: InstanceArg,
        /// Show it again and again, every SECS seconds
        #[arg(long, value_name = "SECS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u32).range(1..))]
        watch: Option<u32>,
    },
    /// Show an instance's logs: its console, its VMM's, its shim's
    Logs(LogsArgs),
    /// Destroy an instance with its data
    Destroy {
        #[command(flatten)]
        instance: InstanceArg,
        #[command(flatten)]
        volumes: Volumes,
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
pub(crate) struct PortsArgs {
    /// The instance, as `<tenant>/<pool>/<instance>`
    pub(crate) instance: InstanceRef,
    /// The ports, as `[ADDRESS:]HOST:GUEST[/tcp|udp]`
    #[arg(required = true, value_name = "PORTS")]
    pub(crate) ports: Vec<Publish>,
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

#[derive(Debug, Args)]
pub(crate) struct SshArgs {
    /// The instance, as `<tenant>/<pool>/<instance>`
    pub(crate) instance: InstanceRef,
    /// Log in as this user
    #[arg(short, long, value_name = "USER")]
    pub(crate) login: Option<String>,
    /// Give a command line a terminal, too
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// The command line, which a login shell reads
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// A path here, `<tenant>/<pool>/<instance>:/path` there, or - for a tar stream
    #[arg(value_name = "SRC")]
    pub(crate) source: CopySide<InputPath>,
    /// The name of the copy; a directory that is there, or a name with / at its end, gets it inside
    #[arg(value_name = "DST")]
    pub(crate) destination: CopySide<OutputPath>,
}

/// One side of a copy: a path in an instance, or one of the caller.
#[derive(Debug, Clone)]
pub(crate) enum CopySide<P> {
    Guest(InstanceRef, String),
    Caller(P),
}

impl<P: FromStr> FromStr for CopySide<P> {
    type Err = P::Err;

    fn from_str(text: &str) -> Result<Self, P::Err> {
        let guest = text.split_once(':').and_then(|(instance, path)| {
            Some(Self::Guest(instance.parse().ok()?, path.to_owned()))
        });
        guest.map_or_else(|| text.parse().map(Self::Caller), Ok)
    }
}

impl<P> CopySide<P> {
    /// The caller's path, if it is one.
    pub(crate) const fn caller(&self) -> Option<&P> {
        match self {
            Self::Caller(path) => Some(path),
            Self::Guest(..) => None,
        }
    }
}

impl<P: fmt::Display> fmt::Display for CopySide<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest(instance, path) => write!(f, "{instance}:{path}"),
            Self::Caller(path) => path.fmt(f),
        }
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write NAME=VALUE".to_owned()),
    }
}

/// The drain that `--force` asks for.
pub(crate) const fn drain(force: bool) -> Drain {
    if force { Drain::Skip } else { Drain::Ask }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_before_the_colon_names_a_guest() {
        let is_guest =
            |text: &str| matches!(text.parse::<CopySide<InputPath>>(), Ok(CopySide::Guest(..)));
        assert!(is_guest("acme/workers/i-00000001:/srv"));
        for host in ["/srv/a:b", "acme/workers:/x", "-", "acme/workers/i-1:/x"] {
            assert!(!is_guest(host), "{host}");
        }
    }
}
