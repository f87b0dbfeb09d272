//! `mvm connect`.

use std::process::ExitCode;

use mvm::{Error, TenantId};

use crate::{run::Session, show};

pub(crate) fn run(session: &Session, name: &TenantId) -> Result<ExitCode, Error> {
    let deployed = session.mvm.connect(name)?;
    session.print(&show::Dashboard::of(&deployed), show::dashboard)?;
    Ok(ExitCode::SUCCESS)
}
