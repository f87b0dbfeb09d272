//! The arguments of `mvm agent …`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use mvm::{
    TenantId,
    forward::{InputPath, OutputPath},
};

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Bring this node to a desired state, once: tenants, pools, builds and instances
    #[command(after_long_help = super::examples::AGENT_RECONCILE)]
    Reconcile(ReconcileArgs),
    /// Keep this node at a desired state and let rest what nobody needs, until SIGTERM
    #[command(after_long_help = super::examples::AGENT_SERVE)]
    Serve(ServeArgs),
    /// Manage the certificates that this side shows to others
    #[command(subcommand)]
    Certs(super::CertsCommand),
    /// Write the desired state that this node's tenants and pools amount to
    Desired(DesiredArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    /// The desired state, as JSON; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) desired: InputPath,
    /// Destroy tenants, and pools of its tenants, that it does not name
    #[arg(long)]
    pub(crate) prune: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The desired state, as JSON; read again whenever it changes. Without it the state that was pushed
    /// last is followed, if there is one
    #[arg(long, value_name = "FILE")]
    pub(crate) desired: Option<InputPath>,
    /// How often the node is brought to the desired state when nothing changes
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) interval_secs: u32,
    /// How often policy looks for what nobody needs
    #[arg(long, value_name = "SECS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) tick_secs: u32,
    /// Listen here for what coordinators ask, over QUIC with certificates on both sides [default:
    /// 0.0.0.0:4433 where this node has a certificate or waits for one]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Listen nowhere, also where this node has a certificate
    #[arg(long, conflicts_with = "listen")]
    pub(crate) no_listen: bool,
    #[command(flatten)]
    pub(crate) tls: super::TlsArgs,
    /// Ask the daemon that listens here for everything that needs root [default without root:
    /// /run/mvm/hostd.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) hostd_socket: Option<PathBuf>,
    /// Let Prometheus read figures at this address, under /metrics; whoever reaches it sees the names of
    /// tenants and pools
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics_listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct DesiredArgs {
    /// Write it to this file, all of it or nothing, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<OutputPath>,
    /// Only of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
    /// Read this file instead of the records, and tell everything that is wrong with it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "tenant"])]
    pub(crate) check: Option<InputPath>,
}
