//! `mvm instance …`.

use std::process::ExitCode;

use mvm::{
    Drain, Error, ErrorKind, Filter, InstanceRef, Move, Operation, PoolId, PoolRef, TenantId,
    units::{Mib, Seconds},
};

use super::{confirm, guest, logs};
use crate::{
    args::{self, InstanceCommand, PortsArgs},
    run::Session,
    show,
};

pub(crate) fn run(session: &Session, command: InstanceCommand) -> Result<ExitCode, Error> {
    let act = |instance, wish| step(session, instance, wish, Drain::Ask);
    match command {
        InstanceCommand::Create { pool, publish, volume } => {
            session.operate(&Operation::InstanceCreate { pool, publish, volume })
        }
        InstanceCommand::Publish(PortsArgs { instance, ports: publish }) => {
            session.operate(&Operation::InstancePublish { instance, publish })
        }
        InstanceCommand::Unpublish(PortsArgs { instance, ports: publish }) => {
            session.operate(&Operation::InstanceUnpublish { instance, publish })
        }
        InstanceCommand::Update { instance, data_disk } => {
            let (instance, data_disk) = (instance.instance, Mib(data_disk));
            session.operate(&Operation::InstanceGrow { instance, data_disk })
        }
        InstanceCommand::List { filter, tenant, pool } => {
            let views = session.mvm.instance_list(&narrow(filter.as_deref(), tenant, pool)?)?;
            let all: Vec<_> = views.iter().map(show::Instance::of).collect();
            session.print(&all, |all| show::instances(all))?;
            Ok(ExitCode::SUCCESS)
        }
        InstanceCommand::Info(one) => {
            let one = show::Instance::of(&session.mvm.instance_info(&one.instance)?);
            session.print(&one, show::instance)?;
            Ok(ExitCode::SUCCESS)
        }
        InstanceCommand::Start(one) => act(one.instance, Move::Start),
        InstanceCommand::Stop(one) => act(one.instance, Move::Stop),
        InstanceCommand::Warm(one) => act(one.instance, Move::Warm),
        InstanceCommand::Wake(one) => act(one.instance, Move::Wake),
        InstanceCommand::Sleep { instance, force } => {
            step(session, instance.instance, Move::Sleep, args::drain(force))
        }
        InstanceCommand::Destroy { instance, volumes, force } => {
            let instance = instance.instance;
            confirm(force, &format!("destroy the instance {instance} {}", volumes.words()))?;
            session.operate(&Operation::InstanceDestroy { instance, volumes: volumes.fate() })
        }
        InstanceCommand::Logs(args) => logs::run(session, &args),
        InstanceCommand::Exec(args) => Ok(guest::exec(session, args)),
        InstanceCommand::Ssh(args) => Ok(guest::ssh(session, args)),
        InstanceCommand::Cp(args) => guest::cp(session, &args),
        InstanceCommand::Console(one) => guest::console(session, &one.instance),
        InstanceCommand::Stats { instance, watch } => {
            guest::stats(session, &instance.instance, watch.map(Seconds))
        }
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
