//! The arguments of `mvm node …`.

use clap::Subcommand;

use super::examples;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show what this node is and can do
    Info,
    /// Show what all instances hold and take, in all and by tenant
    Stats,
    /// Make a lost or damaged store anew, from the exported files and what this machine shows
    Rebuild {
        /// Also when the store is healthy
        #[arg(long)]
        force: bool,
    },
    /// Remove builds, images, downloads, logs, orphans and versions of Firecracker that nothing uses
    #[command(after_long_help = examples::GC)]
    Gc {
        /// Keep this many of each pool's newest builds [default: gc.keep_builds of the configuration, 3]
        #[arg(long, value_name = "N")]
        keep: Option<u32>,
    },
    /// Show the room on the disk, and what takes it
    Disk,
}
