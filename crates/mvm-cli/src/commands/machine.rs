//! `mvm bootstrap`, `setup`, `doctor`, `status`, `shell`, `stop`, `destroy`: this machine, and the
//! one that is kept for microVMs where this one cannot run them. These commands run here.

use std::{process::ExitCode, sync::Arc};

use clap::ArgMatches;
use mvm::{
    Config, Error, ErrorKind, Progress,
    doctor::{self, Health, Scope},
    provider::{self, MachineState, Packages, Place, Provider},
};

use super::confirm;
use crate::{
    args::{BootstrapArgs, DoctorArgs, ForceArgs, Format, Global},
    forward,
    render::progress::Reporter,
    run::print,
    show::{self, Machine},
};

/// Makes everything that microVMs need.
pub(crate) fn bootstrap(
    global: &Global,
    config: &Config,
    args: &BootstrapArgs,
    packages: Packages,
) -> Result<ExitCode, Error> {
    let progress = Reporter::of(global);
    if global.dry_run {
        let plan = Machine { would: Some("make everything that microVMs need"), ..now(config)? };
        return said(global, &plan);
    }
    if args.production {
        config.set_production()?;
    }
    let provider = provider::chosen(config, &progress)?;
    provider.ensure_made(packages, &progress)?;
    provider.ensure_started(&progress)?;
    said(global, &Machine::of(config, provider.kind(), provider.look()?))
}

/// Checks this machine.
pub(crate) fn doctor(
    global: &Global,
    config: &Config,
    args: &DoctorArgs,
) -> Result<ExitCode, Error> {
    let scope = if args.production { Scope::Production } else { Scope::Development };
    let checks = doctor::examine(config, scope);
    print(global.output(), &checks, |checks| show::checks(checks))?;
    let has_failed = checks.iter().any(|check| check.health == Health::Failed);
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Makes an image for the daemon that asked for it, which reads what came of it, be it an error.
pub(crate) fn build_image(config: &Config, order: &str) -> Result<ExitCode, Error> {
    let progress: Arc<dyn Progress> = Arc::new(Reporter::Silent);
    let image = mvm::hostd::build_image(config, order, &progress);
    print(Format::Json, &image, |_| String::new())?;
    Ok(ExitCode::SUCCESS)
}

/// Shows where microVMs run.
pub(crate) fn status(global: &Global, config: &Config) -> Result<ExitCode, Error> {
    said(global, &now(config)?)
}

fn now(config: &Config) -> Result<Machine, Error> {
    match provider::place(config) {
        Ok(Place::Here) => {
            Ok(Machine::of(config, provider::HostKind::Native, MachineState::Running))
        }
        Ok(Place::There(provider)) => Ok(Machine::of(config, provider.kind(), provider.look()?)),
        Err(error) if error.kind == ErrorKind::Unavailable => Ok(Machine::nowhere(config, &error)),
        Err(error) => Err(error),
    }
}

/// Opens a shell where microVMs run.
pub(crate) fn shell(
    global: &Global,
    config: &Config,
    matches: &ArgMatches,
) -> Result<ExitCode, Error> {
    let provider: Box<dyn Provider> = match provider::place(config)? {
        Place::There(provider) => provider,
        Place::Here => Box::new(provider::Native::new(config.clone())),
    };
    forward::shell(global, config, matches, &*provider)
}

/// Stops the machine.
pub(crate) fn stop(global: &Global, config: &Config) -> Result<ExitCode, Error> {
    let machine = kept(config)?;
    if global.dry_run {
        let state = machine.look()?;
        let plan = Machine {
            would: (state == MachineState::Running).then_some("stop its microVMs, and the machine"),
            ..Machine::of(config, machine.kind(), state)
        };
        return said(global, &plan);
    }
    machine.ensure_stopped(&Reporter::of(global))?;
    said(global, &Machine::of(config, machine.kind(), machine.look()?))
}

/// Destroys the machine.
pub(crate) fn destroy(
    global: &Global,
    config: &Config,
    args: &ForceArgs,
) -> Result<ExitCode, Error> {
    let machine = kept(config)?;
    if global.dry_run {
        let state = machine.look()?;
        let plan = Machine {
            would: (state != MachineState::Absent).then_some("destroy it with all that is in it"),
            ..Machine::of(config, machine.kind(), state)
        };
        return said(global, &plan);
    }
    confirm(args.force, "destroy the machine for microVMs with all that is in it")?;
    let progress: &dyn Progress = &Reporter::of(global);
    machine.ensure_removed(progress)?;
    said(global, &Machine::of(config, machine.kind(), machine.look()?))
}

fn kept(config: &Config) -> Result<Box<dyn Provider>, Error> {
    provider::kept_machine(config).ok_or_else(|| {
        Error::new(ErrorKind::Conflict, "this is the machine for microVMs itself")
            .hint("leave its shell, and say it to the `mvm` outside")
    })
}

fn said(global: &Global, machine: &Machine) -> Result<ExitCode, Error> {
    print(global.output(), machine, show::machine)?;
    Ok(ExitCode::SUCCESS)
}
