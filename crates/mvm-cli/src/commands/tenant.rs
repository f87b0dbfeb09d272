//! `mvm tenant …`.

use std::process::ExitCode;

use mvm::{Error, ErrorKind, Operation, TenantId, manifest::secrets_source};

use super::confirm;
use crate::{
    args::{KeyCommand, SecretsCommand, TenantCommand, TenantCreateArgs},
    render,
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
            let quotas = args.change();
            session.operate(&Operation::TenantUpdate { tenant: args.tenant, quotas, policy: None })
        }
        TenantCommand::Secrets(command) => secrets(session, command),
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

fn secrets(session: &Session, command: SecretsCommand) -> Result<ExitCode, Error> {
    match command {
        SecretsCommand::Set { tenant, from_file } => {
            warn_without_key(session, &tenant)?;
            let source = secrets_source(&from_file)?;
            session.operate(&Operation::TenantSecretsSet { tenant, source })
        }
        SecretsCommand::Rotate { tenant, from_file, live } => {
            warn_without_key(session, &tenant)?;
            let source = from_file.as_deref().map(secrets_source).transpose()?;
            session.operate(&Operation::TenantSecretsRotate { tenant, source, live })
        }
        SecretsCommand::List { tenant } => {
            let view = session.mvm.tenant_secrets_list(&tenant)?;
            session.print(&show::Secrets::of(view), show::secrets)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn warn_without_key(session: &Session, tenant: &TenantId) -> Result<(), Error> {
    if !session.mvm.tenant_info(tenant)?.record.keyed {
        render::error::warn(&format!(
            "tenant {tenant} has no key: its secrets are kept in the clear, for development only"
        ));
    }
    Ok(())
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
