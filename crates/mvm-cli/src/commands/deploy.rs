//! `mvm new`, `mvm deploy` and `mvm connect`.

use std::{process::ExitCode, time::Duration};

use mvm::{
    Error, ErrorKind, Filter, TenantId,
    deploy::{Deployment, NewDeployment},
    is_cancelled,
};

use crate::{
    args::{DeployArgs, NewArgs},
    render,
    run::Session,
    show,
};

pub(crate) fn new(session: &Session, args: NewArgs) -> Result<ExitCode, Error> {
    let source = args.source.source();
    let NewArgs { template, name, config, net_id: net, subnet, .. } = args;
    let new = NewDeployment { template, name, config, source, net, subnet };
    perform(session, &Deployment::of_template(new)?)
}

pub(crate) fn deploy(session: &Session, args: &DeployArgs) -> Result<ExitCode, Error> {
    let pass = || perform(session, &Deployment::read(&args.manifest)?);
    if !args.watch || session.is_rehearsal() {
        return pass();
    }
    if args.manifest.is_stream() {
        return Err(Error::new(ErrorKind::Usage, "standard input cannot be read again")
            .hint("give a file to watch"));
    }
    session.stop_on_signals();
    loop {
        match pass() {
            Ok(_) => {}
            Err(error) if is_cancelled(&error) => return Err(error),
            // What is wrong may be put right before the next pass.
            Err(error) => render::error::say(&error, session.format, None),
        }
        session.mvm.pause(&session.cx, Duration::from_secs(args.interval.into()))?;
    }
}

fn perform(session: &Session, deployment: &Deployment) -> Result<ExitCode, Error> {
    let plan = || session.mvm.deploy_preview(&session.cx, deployment);
    session.act(plan, || session.mvm.deploy(&session.cx, deployment))
}

pub(crate) fn connect(session: &Session, name: &TenantId) -> Result<ExitCode, Error> {
    let tenant = session.mvm.tenant_info(name)?;
    let pools = session.mvm.pool_list(name)?;
    let instances = session.mvm.instance_list(&Filter::Tenant(name.clone()))?;
    session.print(&show::Dashboard::of(&tenant, &pools, &instances), show::dashboard)?;
    Ok(ExitCode::SUCCESS)
}
