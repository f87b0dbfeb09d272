//! The arguments of `mvm deploy`.

use clap::Args;
use mvm::forward::InputPath;

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The manifest, JSON or TOML; `-` reads JSON from standard input
    pub(crate) manifest: InputPath,
    /// Read it again and again, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// How long to wait in between
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86400), requires = "watch")]
    pub(crate) interval: u32,
}
