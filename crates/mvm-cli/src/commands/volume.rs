//! `mvm volume …`.

use std::process::ExitCode;

use mvm::{Error, Operation};

use super::confirm;
use crate::{args::VolumeCommand, run::Session, show};

pub(crate) fn run(session: &Session, command: VolumeCommand) -> Result<ExitCode, Error> {
    match command {
        VolumeCommand::List => {
            session.print(&session.mvm.volume_list()?, |all| show::volumes(all))?;
            Ok(ExitCode::SUCCESS)
        }
        VolumeCommand::Info { volume } => {
            session.print(&session.mvm.volume_info(&volume)?, show::volume)?;
            Ok(ExitCode::SUCCESS)
        }
        VolumeCommand::Remove { volume, wipe, force } => {
            confirm(force, &format!("remove the volume {volume} with its data"))?;
            session.operate(&Operation::VolumeRemove { volume, wipe })
        }
    }
}
