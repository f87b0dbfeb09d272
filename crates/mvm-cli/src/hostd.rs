//! `mvm-hostd`: touches this machine for an agent without root.
//!
//! Settings come from the same configuration as everybody's; the log goes to standard error, where the
//! journal reads it. SIGTERM lets what is being done be finished; a second one does not.

mod log;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Parser;
use mvm::{Config, Error, ErrorKind, LogFormat, Overrides};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// What is logged unless the configuration says otherwise.
const LOG: &str = "mvm=info,mvm_host=info";

/// Touch this machine for an agent that has no root: serves /run/mvm/hostd.sock until SIGTERM
#[derive(Debug, Parser)]
#[command(name = "mvm-hostd", version)]
struct Arguments {
    /// Whose agent is served; the store and the certificates are given to this user
    #[arg(long, default_value = mvm::hostd::USER)]
    user: String,
    /// Read this configuration file
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Listen here [default: /run/mvm/hostd.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

fn main() -> ExitCode {
    match serve(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut out = io::stderr().lock();
            // Where nobody hears it, the exit code still speaks.
            let _ = writeln!(out, "mvm-hostd: error: {error}");
            for hint in &error.hints {
                let _ = writeln!(out, "  try: {hint}");
            }
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn serve(arguments: Arguments) -> Result<(), Error> {
    let overrides = Overrides {
        config_file: arguments.config_file,
        hostd_socket: arguments.socket,
        ..Overrides::default()
    };
    let mut config = Config::read(&overrides)?;
    config.log.get_or_insert_with(|| LOG.to_owned());
    log::to_stderr(&config, LogFormat::Human)?;
    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        let watched = flag::register_conditional_shutdown(signal, 1, over.clone())
            .and_then(|_| flag::register(signal, over.clone()));
        watched.map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot watch for signals").because(&error)
        })?;
    }
    mvm::hostd::serve(&config, &arguments.user, || over.load(Ordering::Acquire))
}
