//! `mvm node …`.

use std::process::ExitCode;

use mvm::{Actor, Config, Error, ErrorKind, Mvm, Operation, OperationId, RebuildWhen};

use crate::{
    args::{Global, NodeCommand},
    render,
    run::Session,
    show,
};

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
        NodeCommand::Rebuild { .. } => Err(Error::new(ErrorKind::Conflict, "the store is in use")),
        NodeCommand::Gc { keep } => session.operate(&Operation::NodeGc { keep: *keep }),
        NodeCommand::Disk => {
            session.print(&show::Disk::of(session.mvm.node_disk()?), show::disk)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Works without a store, since that is what is lost.
pub(crate) fn rebuild(
    global: &Global,
    config: &Config,
    operation: &OperationId,
    force: bool,
) -> Result<ExitCode, Error> {
    let actor = Actor::Uid(rustix::process::getuid().as_raw());
    let which = if force { RebuildWhen::Always } else { RebuildWhen::Lost };
    let rebuilt = Mvm::node_rebuild(config, (&actor, operation), which, global.dry_run)?;
    render::result(global.output(), &rebuilt, show::rebuilt).map_err(|error| {
        Error::new(ErrorKind::Failed, "cannot print the result").because(&error)
    })?;
    Ok(ExitCode::SUCCESS)
}
