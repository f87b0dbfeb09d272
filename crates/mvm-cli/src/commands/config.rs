//! `mvm config …`. It works without a store and without root.

use std::process::ExitCode;

use mvm::{Config, Error, ErrorKind, Overrides};

use crate::{
    args::{ConfigCommand, Format},
    render, show,
};

pub(crate) fn run(
    format: Format,
    overrides: &Overrides,
    command: &ConfigCommand,
) -> Result<ExitCode, Error> {
    match command {
        ConfigCommand::Ls => {
            let settings = Config::settings(overrides)?;
            render::result(format, &settings, |all| show::settings(all)).map_err(|error| {
                Error::new(ErrorKind::Failed, "cannot print the settings").because(&error)
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
