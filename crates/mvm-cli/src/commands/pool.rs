//! `mvm pool …`.

use std::process::ExitCode;

use mvm::{
    Error, ErrorKind, NewPool, Operation, PoolPolicy, Rebuild, Resources, Role, RollFailure,
    RuntimePolicy, Source,
    units::{Mib, Seconds, Vcpus},
};

use super::confirm;
use crate::{
    args::{PoolCommand, PoolCreateArgs},
    run::Session,
    show,
};

pub(crate) fn run(session: &Session, command: PoolCommand) -> Result<ExitCode, Error> {
    match command {
        PoolCommand::Create(args) => session.operate(&create(session, *args)?),
        PoolCommand::List { tenant } => {
            let all: Vec<_> = session.mvm.pool_list(&tenant)?.iter().map(show::Pool::of).collect();
            session.print(&all, |all| show::pools(all))?;
            Ok(ExitCode::SUCCESS)
        }
        PoolCommand::Info { pool } => {
            let one = show::Pool::of(&session.mvm.pool_info(&pool)?);
            session.print(&one, show::pool)?;
            Ok(ExitCode::SUCCESS)
        }
        PoolCommand::Build { pool, timeout, force } => session.operate(&Operation::PoolBuild {
            pool,
            timeout: Seconds(timeout),
            rebuild: if force { Rebuild::Always } else { Rebuild::WhenChanged },
        }),
        PoolCommand::Update(args) => {
            let pool = args.pool.clone();
            let change = Box::new(args.change(&session.mvm)?);
            session.operate(&Operation::PoolUpdate { pool, change })
        }
        PoolCommand::Rollback { pool, revision } => {
            session.operate(&Operation::PoolRollback { pool, revision })
        }
        PoolCommand::Roll(args) => session.operate(&Operation::PoolRoll {
            pace: args.pace(),
            on_failure: if args.no_rollback { RollFailure::Stay } else { RollFailure::Return },
            pool: args.pool,
        }),
        PoolCommand::Gc { pool, keep } => session.operate(&Operation::PoolGc { pool, keep }),
        PoolCommand::Scale(args) => session.operate(&Operation::PoolScale {
            pool: args.pool,
            running: args.running,
            warm: args.warm,
            sleeping: args.sleeping,
            no_wait: args.no_wait,
        }),
        PoolCommand::Destroy { pool, force, volumes } => {
            let what = format!("destroy the pool {pool} with its instances {}", volumes.words());
            confirm(force, &what)?;
            let volumes = volumes.fate();
            session.operate(&Operation::PoolDestroy { pool, force: true, volumes })
        }
    }
}

fn create(session: &Session, args: PoolCreateArgs) -> Result<Operation, Error> {
    let mvm = &session.mvm;
    let integrations = args.integrations.map(|file| mvm.read_integrations(&file)).transpose()?;
    let routing_table = args.routes.map(|file| mvm.read_routes(&args.pool, &file)).transpose()?;
    let source = args.source.source()?.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "a pool needs a source")
            .hint("give one of --flake, --template and --image")
    })?;
    let (profile, role, usual) = usual(session, &source)?;
    Ok(Operation::PoolCreate(Box::new(NewPool {
        pool: args.pool,
        source,
        profile: args.profile.unwrap_or(profile),
        role: args.role.unwrap_or(role),
        resources: Resources {
            vcpus: args.cpus.map_or(usual.vcpus, Vcpus),
            mem_mib: args.mem.map_or(usual.mem_mib, Mib),
            data_disk_mib: args.data_disk.map_or(usual.data_disk_mib, Mib),
            disk_iops: args.disk_iops,
            disk_mbps: args.disk_mbps,
            net_mbps: args.net_mbps,
        },
        integrations: integrations.unwrap_or_default(),
        routing_table,
        runtime_policy: args.policy.over(RuntimePolicy::default()),
        secret_scopes: args.secret_scopes,
        policy: PoolPolicy { readiness: args.readiness, ..PoolPolicy::default() },
    })))
}

/// What a pool is unless told otherwise: as the variant of its template or its `Mvmfile.toml` says, if it has
/// one.
fn usual(session: &Session, source: &Source) -> Result<(String, Role, Resources), Error> {
    if let Source::Template(text) = source
        && let Ok(wanted) = text.parse()
    {
        let variant = session.mvm.template_variant(&wanted)?;
        return Ok((variant.profile, variant.role, variant.resources));
    }
    let said = session.mvm.pool_defaults(source)?;
    let resources = Resources::new(
        said.vcpus.unwrap_or(Vcpus(2)),
        said.mem_mib.unwrap_or(Mib(1024)),
        said.data_disk_mib.unwrap_or(Mib(0)),
    );
    Ok(("minimal".to_owned(), Role::Worker, resources))
}
