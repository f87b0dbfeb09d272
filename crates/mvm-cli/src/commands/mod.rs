//! The commands, one file a noun: parse, ask the library, render.

pub(crate) mod add;
pub(crate) mod agent;
mod authority;
pub(crate) mod build;
mod certs;
pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod coordinator;
pub(crate) mod deploy;
pub(crate) mod dev;
pub(crate) mod events;
pub(crate) mod guest;
pub(crate) mod image;
pub(crate) mod instance;
mod logs;
pub(crate) mod machine;
pub(crate) mod net;
pub(crate) mod new;
pub(crate) mod node;
pub(crate) mod pool;
pub(crate) mod template;
pub(crate) mod tenant;
pub(crate) mod upgrade;
pub(crate) mod volume;

use std::{
    io::{self, BufRead, Write},
    process::ExitCode,
};

use mvm::{Error, ErrorKind};

use crate::{run::Session, show::Would, terminal};

/// Says what a command would do that is no operation of the engine, for `--dry-run`.
fn would(session: &Session, act: &'static str, subject: String) -> Result<ExitCode, Error> {
    session.print(&Would { act, subject }, Would::text)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks a person before something is lost; elsewhere `--force` must say so.
///
/// # Errors
/// `Usage` without a terminal, `Conflict` when the answer is no.
pub(crate) fn confirm(force: bool, what: &str) -> Result<(), Error> {
    if force {
        return Ok(());
    }
    if !terminal::is_interactive() {
        return Err(Error::new(ErrorKind::Usage, format!("this would {what}"))
            .hint("add --force to do it without being asked"));
    }
    let mut out = io::stderr().lock();
    // A terminal that cannot be written to cannot answer either; then the answer is no.
    let _ = write!(out, "This will {what}. Go on? [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Conflict, "nothing was changed, because the answer was no"))
    }
}
