//! `mvm new`.

use std::process::ExitCode;

use mvm::{
    Error,
    deploy::{Deployment, NewDeployment},
};

use super::deploy;
use crate::{args::NewArgs, run::Session};

pub(crate) fn run(session: &Session, args: NewArgs) -> Result<ExitCode, Error> {
    let source = args.source.source()?;
    let NewArgs { template, name, config, net_id: net, subnet, .. } = args;
    let new = NewDeployment { template, name, config, source, net, subnet };
    deploy::perform(session, &Deployment::of_template(new)?)
}
