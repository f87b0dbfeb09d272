//! `mvm pool …`.

use std::process::ExitCode;

use mvm::{
    Error, Operation, Resources, Source,
    units::{Mib, Vcpus},
};

use super::confirm;
use crate::{args::PoolCommand, run::Session, show};

pub(crate) fn run(session: &Session, command: PoolCommand) -> Result<ExitCode, Error> {
    match command {
        PoolCommand::Create(args) => session.operate(&Operation::PoolCreate {
            pool: args.pool,
            source: Source::Image(args.image),
            profile: args.profile,
            role: args.role,
            resources: Resources {
                vcpus: Vcpus(args.cpus),
                mem_mib: Mib(args.mem),
                data_disk_mib: Mib(args.data_disk),
            },
        }),
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
        PoolCommand::Build { pool } => session.operate(&Operation::PoolBuild { pool }),
        PoolCommand::Scale(args) => session.operate(&Operation::PoolScale {
            pool: args.pool,
            running: args.running,
            warm: args.warm,
            sleeping: args.sleeping,
            no_wait: args.no_wait,
        }),
        PoolCommand::Destroy { pool, force } => {
            confirm(force, &format!("destroy the pool {pool} with its instances"))?;
            session.operate(&Operation::PoolDestroy { pool, force: true })
        }
    }
}
