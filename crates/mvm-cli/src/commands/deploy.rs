//! `mvm deploy`.

use std::{process::ExitCode, time::Duration};

use mvm::{Error, ErrorKind, is_cancelled};

use crate::{args::DeployArgs, render, run::Session};

pub(crate) fn run(session: &Session, args: &DeployArgs) -> Result<ExitCode, Error> {
    let pass = || session.operate(&session.mvm.deployment(&session.cx, &args.manifest)?);
    if !args.watch || session.is_rehearsal() {
        return pass();
    }
    if args.manifest.is_stream() {
        return Err(Error::new(ErrorKind::Usage, "standard input cannot be read again")
            .hint("give a file to watch"));
    }
    session.stop_on_signals();
    loop {
        match pass() {
            Ok(_) => {}
            Err(error) if is_cancelled(&error) => return Err(error),
            // What is wrong may be put right before the next pass.
            Err(error) => render::error::say(&error, session.format, None),
        }
        session.mvm.pause(&session.cx, Duration::from_secs(args.interval.into()))?;
    }
}
