//! `mvm template …`.

use std::{path::Path, process::ExitCode};

use mvm::{
    Error, Operation, Rebuild,
    forward::OutputPath,
    template::{self, Push},
    units::Seconds,
};

use super::confirm;
use crate::{
    args::{Global, TemplateBuildArgs, TemplateCommand},
    run::{Session, print},
    show::{self, TemplateFile},
};

/// Writes an example; needs no store.
pub(crate) fn init(global: &Global, dir: &OutputPath) -> Result<ExitCode, Error> {
    let directory: &Path = dir.as_ref();
    let file = if global.dry_run {
        directory.join(template::FILE)
    } else {
        template::template_init(directory)?
    };
    print(global.output(), &TemplateFile { file }, TemplateFile::text)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(session: &Session, command: TemplateCommand) -> Result<ExitCode, Error> {
    let (mvm, cx) = (&session.mvm, &session.cx);
    match command {
        TemplateCommand::Init { dir } => {
            let file = template::template_init(dir.as_ref())?;
            session.print(&TemplateFile { file }, TemplateFile::text)?;
            Ok(ExitCode::SUCCESS)
        }
        TemplateCommand::Create { file } => {
            let spec = Box::new(mvm.read_template(&file)?);
            session.operate(&Operation::TemplateCreate(spec))
        }
        TemplateCommand::Build(args) => session.operate(&build(args)),
        TemplateCommand::List => {
            session.print(&mvm.template_list()?, |all| show::templates(all))?;
            Ok(ExitCode::SUCCESS)
        }
        TemplateCommand::Info { template } => {
            session.print(&mvm.template_info(&template)?, show::template)?;
            Ok(ExitCode::SUCCESS)
        }
        TemplateCommand::Push { template, to, key } => {
            let act = if session.is_rehearsal() { Push::Plan } else { Push::Do };
            session.stop_on_signals();
            let key = key.as_ref().map(AsRef::as_ref);
            let pushed = mvm.template_push(cx, &template, to.as_deref(), key, act)?;
            session.tell(&pushed, show::pushed)?;
            Ok(ExitCode::SUCCESS)
        }
        TemplateCommand::Pull { template, from } => {
            let from = from.as_deref();
            let plan = || {
                let found = Box::new(mvm.template_look(&template, from)?);
                mvm.plan(cx, &Operation::TemplatePull(found))
            };
            session.act(plan, || mvm.template_pull(cx, &template, from))
        }
        TemplateCommand::Verify { template } => {
            session.print(&mvm.template_verify(&template)?, show::template_verified)?;
            Ok(ExitCode::SUCCESS)
        }
        TemplateCommand::Delete { template, force } => {
            confirm(force, &format!("delete the template {template}"))?;
            session.operate(&Operation::TemplateDelete { template })
        }
    }
}

fn build(args: TemplateBuildArgs) -> Operation {
    let TemplateBuildArgs { template, variant, tenant, timeout, force } = args;
    let rebuild = if force { Rebuild::Always } else { Rebuild::WhenChanged };
    Operation::TemplateBuild { template, variant, tenant, timeout: Seconds(timeout), rebuild }
}
