//! The command line: one variant per task.

use std::error::Error as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cache::Cache;
use crate::error::Result;
use crate::script::Tier;
use crate::{check, ci, dist, docs, e2e, firecracker, host, interrupt, kernel, provider};

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
    /// Write docs/cli.md and docs/schemas from the command line's definition
    Docs,
    /// Everything a change must pass: check, tests, end-to-end tests
    Ci,
    /// Everything there is; writes a page to docs/evidence
    Full,
    /// Run end-to-end scripts of tests/e2e in test hosts
    E2e {
        /// Names without .sh; without any, those of the tier ci
        names: Vec<String>,
        /// Run the tier full as well
        #[arg(long)]
        full: bool,
    },
    /// Run the script of the QEMU provider on this machine
    Provider {
        /// In its long form, with a machine made anew
        #[arg(long)]
        full: bool,
    },
    /// Run the scripts of tests/bench with the programs as shipped
    Bench {
        /// Names without .sh
        names: Vec<String>,
    },
    /// Run tests/quickstart.sh in a test host
    Quickstart {
        /// Empty the cache first
        #[arg(long)]
        clean: bool,
    },
    /// Build a release into target/dist: archive, Debian package, bill of materials, sums
    Dist {
        /// Sign with this key, as `mvm coordinator keygen` writes it
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
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
        Task::Docs => docs::write().map(|()| ExitCode::SUCCESS),
        Task::Ci => ci::run().map(|()| ExitCode::SUCCESS),
        Task::Full => ci::full().map(|()| ExitCode::SUCCESS),
        Task::E2e { names, full } => {
            let tier = if full { Tier::Full } else { Tier::Ci };
            e2e::verdict(&e2e::run(&names, tier)?).map(|()| ExitCode::SUCCESS)
        }
        Task::Provider { full } => {
            let tier = if full { Tier::Full } else { Tier::Ci };
            provider::run(tier).map(|()| ExitCode::SUCCESS)
        }
        Task::Bench { names } => e2e::bench(&names).map(|()| ExitCode::SUCCESS),
        Task::Quickstart { clean } => e2e::quickstart(clean),
        Task::Dist { key } => dist::run(key.as_deref()).map(|()| ExitCode::SUCCESS),
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
