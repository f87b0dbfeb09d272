//! The arguments of `mvm events`.

use clap::Args;
use mvm::TenantId;

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// The tenant
    pub(crate) tenant: TenantId,
    /// How many, newest last
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) last: usize,
}
