//! `mvm events`.

use std::process::ExitCode;

use mvm::Error;

use crate::{args::EventsArgs, run::Session, show};

pub(crate) fn run(session: &Session, args: &EventsArgs) -> Result<ExitCode, Error> {
    let events = session.mvm.events(&args.tenant, args.last)?;
    session.print(&events, |events| show::events(events))?;
    Ok(ExitCode::SUCCESS)
}
