//! `mvm net …`.

use std::process::ExitCode;

use mvm::{Depth, Error};

use crate::{args::NetCommand, run::Session, show};

pub(crate) fn run(session: &Session, command: &NetCommand) -> Result<ExitCode, Error> {
    match command {
        NetCommand::Verify { tenant, deep } => {
            let depth = if *deep { Depth::Packets } else { Depth::Host };
            let report = session.mvm.net_verify(tenant.as_ref(), depth)?;
            session.print(&report, show::verified)?;
            Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
