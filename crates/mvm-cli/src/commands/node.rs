//! `mvm node …`.

use std::process::ExitCode;

use mvm::{Error, Operation};

use crate::{args::NodeCommand, run::Session, show};

pub(crate) fn run(session: &Session, command: &NodeCommand) -> Result<ExitCode, Error> {
    match command {
        NodeCommand::Info => {
            let node = show::Node::of(session.mvm.node_info()?);
            session.print(&node, show::node)?;
            Ok(ExitCode::SUCCESS)
        }
        NodeCommand::Stats => {
            let fleet = show::Fleet::of(session.mvm.node_stats()?);
            session.print(&fleet, show::fleet)?;
            Ok(ExitCode::SUCCESS)
        }
        NodeCommand::Gc { keep } => session.operate(&Operation::NodeGc { keep: *keep }),
        NodeCommand::Disk => {
            session.print(&show::Disk::of(session.mvm.node_disk()?), show::disk)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
