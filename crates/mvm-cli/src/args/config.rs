//! The arguments of `mvm config …`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List every setting with its value and where that comes from
    #[command(visible_alias = "list")]
    Ls,
}
