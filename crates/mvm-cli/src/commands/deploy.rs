//! `mvm deploy`.

use std::{process::ExitCode, time::Duration};

use mvm::{Error, ErrorKind, deploy::Deployment, is_cancelled};

use crate::{args::DeployArgs, render, run::Session};

pub(crate) fn run(session: &Session, args: &DeployArgs) -> Result<ExitCode, Error> {
    let pass = || perform(session, &Deployment::read(&args.manifest)?);
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

/// Brings a deployment about, and says what was done.
pub(super) fn perform(session: &Session, deployment: &Deployment) -> Result<ExitCode, Error> {
    let plan = || session.mvm.deploy_preview(&session.cx, deployment);
    session.act(plan, || session.mvm.deploy(&session.cx, deployment))
}
