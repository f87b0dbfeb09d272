//! `mvm instance …`.

use std::{
    io::{self, Read},
    process::ExitCode,
};

use mvm::{
    Drain, Error, ErrorKind, ExecRequest, ExecStatus, ExecStreams, Filter, InstanceRef, Move,
    Operation, PoolId, PoolRef, TenantId,
};

use super::confirm;
use crate::{
    args::{self, ExecArgs, InstanceCommand},
    exit, render,
    run::Session,
    show, terminal,
};

pub(crate) fn run(session: &Session, command: InstanceCommand) -> Result<ExitCode, Error> {
    let act = |instance, wish| step(session, instance, wish, Drain::Ask);
    match command {
        InstanceCommand::Create { pool } => session.operate(&Operation::InstanceCreate { pool }),
        InstanceCommand::List { filter, tenant, pool } => {
            let views = session.mvm.instance_list(&narrow(filter.as_deref(), tenant, pool)?)?;
            let all: Vec<_> = views.iter().map(show::Instance::of).collect();
            session.print(&all, |all| show::instances(all))?;
            Ok(ExitCode::SUCCESS)
        }
        InstanceCommand::Start(one) => act(one.instance, Move::Start),
        InstanceCommand::Stop(one) => act(one.instance, Move::Stop),
        InstanceCommand::Warm(one) => act(one.instance, Move::Warm),
        InstanceCommand::Wake(one) => act(one.instance, Move::Wake),
        InstanceCommand::Sleep { instance, force } => {
            step(session, instance.instance, Move::Sleep, args::drain(force))
        }
        InstanceCommand::Destroy { instance, force } => {
            confirm(force, &format!("destroy the instance {} with its data", instance.instance))?;
            act(instance.instance, Move::Destroy)
        }
        InstanceCommand::Logs { instance, last } => {
            let logs = session.mvm.instance_logs(&instance.instance, last)?;
            session.print(&logs, show::logs)?;
            Ok(ExitCode::SUCCESS)
        }
        InstanceCommand::Exec(args) => Ok(exec(session, args)),
    }
}

fn step(
    session: &Session,
    instance: InstanceRef,
    wish: Move,
    drain: Drain,
) -> Result<ExitCode, Error> {
    session.operate(&Operation::InstanceMove { instance, wish, drain })
}

fn narrow(
    filter: Option<&str>,
    tenant: Option<TenantId>,
    pool: Option<PoolId>,
) -> Result<Filter, Error> {
    let invalid = |error: mvm::InvalidId| Error::new(ErrorKind::Invalid, error.to_string());
    match (filter, tenant, pool) {
        (Some(text), _, _) => match text.matches('/').count() {
            0 => Ok(Filter::Tenant(text.parse().map_err(invalid)?)),
            1 => Ok(Filter::Pool(text.parse().map_err(invalid)?)),
            _ => Ok(Filter::Instance(text.parse().map_err(invalid)?)),
        },
        (None, Some(tenant), Some(pool)) => Ok(Filter::Pool(PoolRef { tenant, pool })),
        (None, Some(tenant), None) => Ok(Filter::Tenant(tenant)),
        (None, None, _) => Ok(Filter::All),
    }
}

/// Runs a command in a guest; the guest's exit code is ours, our own failure is 125.
fn exec(session: &Session, args: ExecArgs) -> ExitCode {
    let is_terminal = args.tty && terminal::is_interactive();
    let request = ExecRequest {
        argv: args.command,
        env: args.env,
        cwd: args.workdir,
        user: args.user,
        terminal: args.tty.then(terminal::size),
    };
    let stdin: Box<dyn Read + Send> =
        if args.interactive { Box::new(io::stdin()) } else { Box::new(io::empty()) };
    let streams = ExecStreams {
        stdin,
        stdout: Box::new(terminal::Flushed(io::stdout())),
        stderr: Box::new(io::stderr()),
        control: terminal::control(),
    };
    let raw = if is_terminal && args.interactive { terminal::RawMode::enter() } else { None };
    let done = session.mvm.instance_exec(&session.cx, &args.instance, &request, streams);
    drop(raw);
    match done {
        Ok(status) => {
            let why = match status {
                ExecStatus::Absent => Some("there is no such program"),
                ExecStatus::NotExecutable => Some("it cannot be executed"),
                ExecStatus::Code(_) | ExecStatus::Signal(_) => None,
            };
            if let Some(why) = why {
                let program = request.argv.first().map_or("", String::as_str);
                let message = format!("cannot run {program:?} in {}: {why}", args.instance);
                render::error::say(&Error::new(ErrorKind::Failed, message), session.format);
            }
            exit::of_guest(status)
        }
        Err(error) => {
            render::error::say(&error, session.format);
            ExitCode::from(exit::EXEC_FAILED)
        }
    }
}
