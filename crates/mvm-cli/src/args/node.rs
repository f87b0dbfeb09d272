//! The arguments of `mvm node …`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show what this node is and can do
    Info,
}
