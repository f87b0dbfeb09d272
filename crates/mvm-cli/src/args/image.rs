//! The arguments of `mvm build` and `mvm image …`, and images as people name them.

use clap::{Args, Subcommand};
use mvm::{
    Operation,
    forward::{InputPath, OutputPath},
};

use super::examples;

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// A directory with an Mvmfile.toml
    #[arg(default_value = ".")]
    pub(crate) path: InputPath,
    /// Write the image into this file, too
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<OutputPath>,
    /// How long it may take
    #[arg(long, value_name = "SECS", default_value_t = Operation::BUILD_TIMEOUT.0)]
    pub(crate) timeout: u32,
    /// Build again although nothing changed
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Write an image into one file
    #[command(after_long_help = examples::IMAGE_EXPORT)]
    Export {
        /// The image by name or hash, or a pool, as `<tenant>/<pool>`, for its current build
        image: String,
        /// The file
        #[arg(long, short, value_name = "FILE")]
        output: OutputPath,
    },
    /// Take the image of a file into the image store, every byte of it verified
    Import {
        /// The file
        file: InputPath,
    },
}
