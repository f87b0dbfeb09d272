//! The arguments of `mvm net …`.

use clap::Subcommand;
use mvm::TenantId;

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Compare bridges, routes, taps and rules with what they shall be; exit 1 on findings
    Verify {
        /// Only of this tenant
        tenant: Option<TenantId>,
        /// Besides, let running guests try what they can reach
        #[arg(long)]
        deep: bool,
    },
}
