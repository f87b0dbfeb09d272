//! The arguments of `mvm agent …`.

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
