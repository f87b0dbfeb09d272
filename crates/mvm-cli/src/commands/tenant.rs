//! `mvm tenant …`.

use std::process::ExitCode;

use mvm::{Error, ErrorKind, Operation, TenantId};

use super::confirm;
use crate::{
    args::{KeyCommand, TenantCommand, TenantCreateArgs},
    run::Session,
    show,
};

pub(crate) fn run(session: &Session, command: TenantCommand) -> Result<ExitCode, Error> {
    match command {
        TenantCommand::Create(args) => session.operate(&create(&args)?),
        TenantCommand::List => {
            let all: Vec<_> = session.mvm.tenant_list()?.iter().map(show::Tenant::of).collect();
            session.print(&all, |all| show::tenants(all))?;
            Ok(ExitCode::SUCCESS)
        }
        TenantCommand::Info { tenant } => {
            let one = show::Tenant::of(&session.mvm.tenant_info(&tenant)?);
            session.print(&one, show::tenant)?;
            Ok(ExitCode::SUCCESS)
        }
        TenantCommand::Update(args) => {
            session.operate(&Operation::TenantUpdate { quotas: args.change(), tenant: args.tenant })
        }
        TenantCommand::Destroy { tenant, force, volumes } => {
            let what = format!("destroy the tenant {tenant} {}", volumes.words());
            confirm(force, &what)?;
            let volumes = volumes.fate();
            session.operate(&Operation::TenantDestroy { tenant, force: true, volumes })
        }
        TenantCommand::Key(KeyCommand::Rotate { tenant }) => {
            session.operate(&Operation::TenantKeyRotate { tenant })
        }
    }
}

fn create(args: &TenantCreateArgs) -> Result<Operation, Error> {
    let tenant = TenantId::parse_new(&args.tenant)
        .map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
    Ok(Operation::TenantCreate {
        tenant,
        net: args.net_id,
        subnet: args.subnet,
        quotas: args.quotas(),
        keyed: !args.no_key,
    })
}
