//! `mvm net …`.

use std::process::ExitCode;

use mvm::Error;

use crate::{args::NetCommand, run::Session, show};

pub(crate) fn run(session: &Session, command: &NetCommand) -> Result<ExitCode, Error> {
    match command {
        NetCommand::Verify => {
            let report = show::Verified { findings: session.mvm.net_verify()? };
            session.print(&report, show::verified)?;
            Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
