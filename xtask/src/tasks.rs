//! The command line: one variant per task.

use std::error::Error as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cache::Cache;
use crate::error::Result;
use crate::{check, firecracker, host, interrupt, kernel};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Test hosts: real KVM and Firecracker in a software-emulated machine
    #[command(subcommand)]
    Host(host::command::Host),
    /// Check the rules of the code base
    Check,
    /// Build the guest kernel and print its path
    Kernel,
    /// Remove cached artefacts that the present recipes do not use
    CleanCache {
        /// Remove all of them
        #[arg(long)]
        all: bool,
    },
}

/// Parses, runs, reports.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match interrupt::watch().and_then(|()| run(arguments.task)) {
        Ok(code) => code,
        Err(error) => {
            eprint!("xtask: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::from(2)
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Host(host) => host::command::run(host),
        Task::Check => check::run().map(|()| ExitCode::SUCCESS),
        Task::Kernel => {
            let kernel = kernel::ensure(&Cache::open()?)?;
            println!("{}", kernel.path.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::CleanCache { all } => clean_cache(all),
    }
}

fn clean_cache(all: bool) -> Result<ExitCode> {
    let cache = Cache::open()?;
    host::sweep(&cache)?;
    let keep = if all {
        Vec::new()
    } else {
        vec![
            cache.path("firecracker", &firecracker::key()),
            cache.path("guest-kernel", &kernel::current_key()?),
            cache.path("host-image", &host::current_key()?),
        ]
    };
    for path in cache.clean(&keep)? {
        println!("removed {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
