//! `mvm agent certs …`.

use std::{path::Path, process::ExitCode};

use mvm::{CertsAsk, Error, api::Role, forward::InputPath};

use super::{agent, would};
use crate::{
    args::CertsCommand,
    run::Session,
    show::{self, Certificate, Request},
};

pub(crate) fn run(session: &Session, command: CertsCommand) -> Result<ExitCode, Error> {
    match command {
        CertsCommand::Init(args) => {
            let ask = CertsAsk { ca: path(args.ca.as_ref()), role: args.role, name: args.name };
            if session.is_rehearsal() {
                return would_of(session, "make what is missing of", ask.role);
            }
            let steps = show::steps(session.mvm.agent_certs_init(&ask)?);
            session.tell(&steps, |steps| show::steps_text(steps))?;
        }
        CertsCommand::Request(args) => {
            let ask = CertsAsk { ca: None, role: Some(args.role), name: args.name };
            if session.is_rehearsal() {
                return would_of(session, "write a request for", ask.role);
            }
            if let Some(token) = &args.token {
                session.mvm.prepare_join(token, None)?;
            }
            let request = Request::of(session.mvm.agent_certs_request(&ask)?);
            session.print(&request, |request| request.request.trim_end().to_owned())?;
        }
        CertsCommand::Install { file } => {
            let bundle = String::from_utf8_lossy(&agent::document(&file)?).into_owned();
            if session.is_rehearsal() {
                return would(session, "install the certificate in", file.to_string());
            }
            let facts = Certificate::of(session.mvm.agent_certs_install(&bundle)?);
            session.tell(&facts, |facts| show::certificates(std::slice::from_ref(facts)))?;
        }
        CertsCommand::Rotate(args) => {
            let ask = CertsAsk { ca: path(args.ca.as_ref()), role: Some(args.role), name: None };
            if session.is_rehearsal() {
                return would_of(session, "replace", ask.role);
            }
            let facts = Certificate::of(session.mvm.agent_certs_rotate(&ask)?);
            session.tell(&facts, |facts| show::certificates(std::slice::from_ref(facts)))?;
        }
        CertsCommand::Status => {
            let all = session.mvm.agent_certs_status()?;
            let all: Vec<Certificate> = all.into_iter().map(Certificate::of).collect();
            session.print(&all, |all| show::certificates(all))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn path(file: Option<&InputPath>) -> Option<std::path::PathBuf> {
    file.map(|file| AsRef::<Path>::as_ref(file).to_owned())
}

fn would_of(session: &Session, act: &'static str, role: Option<Role>) -> Result<ExitCode, Error> {
    let subject =
        role.map_or_else(|| "certificates".to_owned(), |role| format!("the {role} certificate"));
    would(session, act, subject)
}
