//! The arguments of `mvm net …`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Compare bridges, routes, taps and rules with what they shall be; exit 1 on findings
    Verify,
}
