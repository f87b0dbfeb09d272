//! The arguments of the commands about the machine that microVMs run on.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct BootstrapArgs {
    /// Refuse from now on what weakens isolation: writes `production = true` into config.toml
    #[arg(long)]
    pub(crate) production: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Check also what a host needs before it runs other people's microVMs
    #[arg(long)]
    pub(crate) production: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ForceArgs {
    /// Do not ask
    #[arg(long, visible_alias = "yes")]
    pub(crate) force: bool,
}
