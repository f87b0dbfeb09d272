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
pub(crate) struct UpgradeArgs {
    /// Only say whether there is a newer version; exit 1 when there is
    #[arg(long, conflicts_with_all = ["force", "rollback"])]
    pub(crate) check: bool,
    /// Install also the version that is here, or an older one
    #[arg(long)]
    pub(crate) force: bool,
    /// Bring back the version that was here before the last upgrade
    #[arg(long, conflicts_with_all = ["force", "release"])]
    pub(crate) rollback: bool,
    /// Install this version instead of the newest
    #[arg(long = "version", value_name = "VERSION")]
    pub(crate) release: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ForceArgs {
    /// Do not ask
    #[arg(long, visible_alias = "yes")]
    pub(crate) force: bool,
}
