//! The arguments of `mvm agent …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mvm::TenantId;

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Write the desired state that this node's tenants and pools amount to
    Desired(DesiredArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DesiredArgs {
    /// Write it to this file instead of standard output; with --check the file to be checked
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Only of this tenant
    #[arg(long, conflicts_with = "check")]
    pub(crate) tenant: Option<TenantId>,
    /// Check the file instead of writing one, and tell everything that is wrong with it
    #[arg(long, requires = "file")]
    pub(crate) check: bool,
}
