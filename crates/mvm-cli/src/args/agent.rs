//! The arguments of `mvm agent …`.

use clap::{Args, Subcommand};
use mvm::{
    TenantId,
    forward::{InputPath, OutputPath},
};

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Write the desired state that this node's tenants and pools amount to
    Desired(DesiredArgs),
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
