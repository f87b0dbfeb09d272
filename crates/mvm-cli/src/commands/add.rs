//! `mvm add …`.

use std::process::ExitCode;

use mvm::{
    CertsStep, Config, Error, HostAsk, OperationId,
    doctor::{self, Health, Scope},
    provider::{self, Packages, Provider},
};

use super::certs::path;
use crate::{
    args::{AddCommand, AddHostArgs, Global},
    render::progress::Reporter,
    run::Session,
    show,
};

pub(crate) fn run(
    global: &Global,
    config: &Config,
    operation: &OperationId,
    command: &AddCommand,
) -> Result<ExitCode, Error> {
    match command {
        AddCommand::Host(args) => host(global, config, operation, args),
    }
}

/// Makes this machine a node of a fleet, step by step; what is there stays.
fn host(
    global: &Global,
    config: &Config,
    operation: &OperationId,
    args: &AddHostArgs,
) -> Result<ExitCode, Error> {
    let lacking = lacking(config);
    if global.dry_run {
        let session = Session::open(global, config, operation)?;
        let mut plan = Vec::new();
        let mut step = |act: String| plan.push(CertsStep { act, changed: true });
        if args.production && !config.production {
            step("would write production = true into config.toml".to_owned());
        }
        if !lacking.is_empty() {
            step(format!("would make what microVMs need: {}", lacking.join(", ")));
        }
        step("would make what is missing of the certificates".to_owned());
        if let Some(file) = &args.signing_key {
            step(format!("would trust the signer of {file}"));
        }
        session.print(&show::steps(plan), |steps| show::steps_text(steps))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut steps = Vec::new();
    if args.production {
        let changed = !config.production;
        config.set_production()?;
        let act = "nothing that weakens isolation is allowed (production)".to_owned();
        steps.push(CertsStep { act, changed });
    }
    if lacking.is_empty() {
        let act = "what microVMs need is there".to_owned();
        steps.push(CertsStep { act, changed: false });
    } else {
        let progress = Reporter::of(global);
        provider::Native::new(config.clone()).ensure_made(Packages::Install, &progress)?;
        steps.extend(made(&lacking, &self::lacking(config)));
    }
    let session = Session::open(global, config, operation)?;
    let (ca, token) = (path(args.ca.as_ref()), args.token.clone());
    let ask = HostAsk { ca, token, signing_key: path(args.signing_key.as_ref()) };
    steps.extend(session.mvm.add_host(&ask)?);
    session.tell(&show::steps(steps), |steps| show::steps_text(steps))?;
    Ok(ExitCode::SUCCESS)
}

/// What became of what was missing; what bootstrap cannot make is the doctor's to explain.
fn made(before: &[String], after: &[String]) -> Vec<CertsStep> {
    let step = |what: &String| {
        if after.contains(what) {
            let act = format!("{what} is not as it should be; see why: mvm doctor");
            CertsStep { act, changed: false }
        } else {
            CertsStep { act: format!("made what microVMs need: {what}"), changed: true }
        }
    };
    before.iter().map(step).collect()
}

/// What the doctor misses.
fn lacking(config: &Config) -> Vec<String> {
    let checks = doctor::examine(config, Scope::Development);
    let failed = checks.into_iter().filter(|check| check.health == Health::Failed);
    failed.map(|check| check.name.to_string()).collect()
}
