//! `mvm bootstrap`, `setup`, `doctor`, `status`, `shell`, `stop`, `destroy`: this machine, and the
//! one that is kept for microVMs where this one cannot run them. These commands run here.

use std::{process::ExitCode, sync::Arc};

use clap::ArgMatches;
use mvm::{
    Config, Error, ErrorKind, OperationId, Progress,
    dev::{self, Step},
    doctor::{self, Health, Scope},
    provider::{self, MachineState, Packages, Place, Provider},
};

use serde_json::Value;

use super::confirm;
use crate::{
    args::{BootstrapArgs, DoctorArgs, ForceArgs, Format, Global, SetupArgs},
    forward,
    render::{self, progress::Reporter},
    run::{Session, print},
    show::{self, Dev, Machine},
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

/// Makes everything that microVMs need but the packages; with `--recreate` anew.
pub(crate) fn setup(
    global: &Global,
    config: &Config,
    args: &SetupArgs,
    operation: &OperationId,
) -> Result<ExitCode, Error> {
    if args.recreate && !global.dry_run {
        confirm(args.force, "destroy the dev VM and the machine for microVMs, and make them anew")?;
        remove(global, config, operation)?;
    }
    let args = BootstrapArgs { production: args.production };
    bootstrap(global, config, &args, Packages::Expect)
}

/// Makes whatever is missing for a dev VM; what would be made is said instead with `--dry-run`.
pub(crate) fn make_ready(global: &Global, config: &Config) -> Result<Option<Step>, Error> {
    let Some(step) = dev::prepare(provider::ground(config)?) else { return Ok(None) };
    if global.dry_run {
        return Ok(Some(step));
    }
    if !global.quiet {
        render::error::note(&step.to_string());
    }
    let progress = Reporter::of(global);
    let provider = provider::chosen(config, &progress)?;
    if step != Step::StartMachine {
        provider.ensure_made(Packages::Install, &progress)?;
    }
    provider.ensure_started(&progress)?;
    Ok(Some(step))
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

/// Shows where microVMs run, and the dev VM.
pub(crate) fn status(global: &Global, config: &Config) -> Result<ExitCode, Error> {
    let machine = now(config)?;
    match vm(config) {
        Ok(dev) => said(global, &Machine { dev, ..machine }),
        Err(error) => {
            let problem = machine.problem.or(Some(error.to_string()));
            said(global, &Machine { problem, ..machine })
        }
    }
}

/// The dev VM, wherever it runs; none where nothing runs.
fn vm(config: &Config) -> Result<Option<Dev>, Error> {
    match provider::place(config) {
        Ok(Place::Here) => Ok(Some(Dev::of(dev::look(config)?.as_ref()))),
        Ok(Place::There(machine)) if machine.look()? == MachineState::Running => {
            let text = forward::printed(config, &["--json", "status"], &*machine)?;
            let status: Value = serde_json::from_slice(&text).map_err(strange)?;
            serde_json::from_value(status.get("dev").cloned().unwrap_or_default()).map_err(strange)
        }
        Ok(Place::There(_)) => Ok(None),
        Err(error) if error.kind == ErrorKind::Unavailable => Ok(None),
        Err(error) => Err(error),
    }
}

fn strange(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Failed, "the mvm in the machine says something strange").because(&error)
}

/// Whether nothing can run, because the machine is off or nothing can run microVMs at all.
pub(crate) fn is_off(config: &Config) -> Result<bool, Error> {
    match provider::place(config) {
        Ok(Place::Here) => Ok(false),
        Ok(Place::There(machine)) => Ok(machine.look()? != MachineState::Running),
        Err(error) if error.kind == ErrorKind::Unavailable => Ok(true),
        Err(error) => Err(error),
    }
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

/// Destroys the dev VM, and the machine.
pub(crate) fn destroy(
    global: &Global,
    config: &Config,
    args: &ForceArgs,
    operation: &OperationId,
) -> Result<ExitCode, Error> {
    if global.dry_run {
        let machine = now(config)?;
        let is_there = machine.state != MachineState::Absent;
        let would =
            is_there.then_some("destroy the dev VM, and the machine with all that is in it");
        return said(global, &Machine { would, ..machine });
    }
    confirm(
        args.force,
        "destroy the dev VM with its volumes, and the machine for microVMs with all that is in it",
    )?;
    remove(global, config, operation)?;
    let machine = now(config)?;
    let dev = vm(config)?;
    said(global, &Machine { dev, ..machine })
}

/// Removes the dev VM where it runs here, and the machine where one is kept.
fn remove(global: &Global, config: &Config, operation: &OperationId) -> Result<(), Error> {
    let runs_here = matches!(provider::place(config), Ok(Place::Here));
    if runs_here && dev::has_store(config) {
        let session = Session::open(global, config, operation)?;
        session.stop_on_signals();
        session.mvm.dev_destroy(&session.cx)?;
    }
    match provider::kept_machine(config) {
        Some(machine) => machine.ensure_removed(&Reporter::of(global)),
        None => Ok(()),
    }
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
