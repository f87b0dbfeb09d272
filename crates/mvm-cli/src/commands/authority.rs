//! `mvm coordinator token`, `approve`, `renew`, `revoke`.

use std::{path::Path, process::ExitCode};

use mvm::{Asked, Error, ErrorKind, Peer, SignedFile, units::Seconds};

use super::{agent, certs::path, coordinator::peer, would};
use crate::{
    args::{ApproveArgs, AuthorityArgs, RenewArgs, RevokeArgs, TokenArgs},
    run::Session,
    show::{self, Approval, Invited, RevokedList},
};

fn ca(args: &AuthorityArgs) -> Option<std::path::PathBuf> {
    path(args.ca.as_ref())
}

pub(super) fn token(session: &Session, args: &TokenArgs) -> Result<ExitCode, Error> {
    if session.is_rehearsal() {
        return would(session, "make a join token for", format!("{} s", args.valid));
    }
    let ca = ca(&args.authority);
    let made = session.mvm.coordinator_token(ca.as_deref(), Seconds(args.valid))?;
    session.print(&Invited::of(made), |one| one.token.clone())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn approve(session: &Session, args: &ApproveArgs) -> Result<ExitCode, Error> {
    let ca = ca(&args.authority);
    let (mut seen, is_rehearsal) = (None, session.is_rehearsal());
    let mut look = |asked: &Asked| {
        seen = Some(asked.clone());
        if is_rehearsal {
            return Err(Error::new(ErrorKind::Conflict, "this is a rehearsal"));
        }
        session.say(&show::asked(asked));
        Ok(())
    };
    let done = if let Some(file) = &args.request {
        let request = String::from_utf8_lossy(&agent::document(file)?).into_owned();
        let signed = session.mvm.approve_request(&request, args.role, ca.as_deref(), &mut look);
        signed.and_then(|signed| put(args, signed))
    } else {
        let (Some(node), Some(token)) = (&args.node, &args.token) else {
            return Err(Error::new(ErrorKind::Usage, "which node, and by which token?"));
        };
        let approved = session.mvm.coordinator_approve(node, token, ca.as_deref(), &mut look);
        approved.map(|approved| Approval::of(approved, None))
    };
    match (done, seen) {
        (Err(_), Some(asked)) if is_rehearsal => {
            would(session, "approve", format!("{} (key {})", asked.name, asked.key))
        }
        (done, _) => {
            session.tell(&done?, show::approval)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn put(args: &ApproveArgs, signed: SignedFile) -> Result<Approval, Error> {
    let file: Option<&Path> = args.out.as_ref().map(AsRef::as_ref);
    let file = file.ok_or_else(|| Error::new(ErrorKind::Usage, "into which file?"))?;
    agent::write(file, signed.bundle.trim_end()).map_err(|error| {
        Error::new(ErrorKind::Failed, format!("cannot write {}", file.display())).because(&error)
    })?;
    Ok(Approval::of(signed.approved, Some(file.display().to_string())))
}

pub(super) fn renew(session: &Session, args: &RenewArgs) -> Result<ExitCode, Error> {
    if session.is_rehearsal() {
        return would(session, "renew the certificate of", args.peer.node.clone());
    }
    let ca = ca(&args.authority);
    let certificate = session.mvm.coordinator_renew(&peer(&args.peer), ca.as_deref())?;
    session.tell(&certificate, show::remote_certificate)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn revoke(session: &Session, args: &RevokeArgs) -> Result<ExitCode, Error> {
    if session.is_rehearsal() {
        let what = args.what.clone().unwrap_or_else(|| "nothing more".to_owned());
        return would(session, "revoke", format!("{what} and tell {} nodes", args.node.len()));
    }
    let ca = ca(&args.authority);
    let peer = |node: &String| Peer { node: node.clone(), tls: args.tls.files() };
    let peers: Vec<Peer> = args.node.iter().map(peer).collect();
    let done = session.mvm.coordinator_revoke(args.what.as_deref(), ca.as_deref(), &peers)?;
    let failed = done.pushed.iter().find_map(|one| one.number.as_ref().err().cloned());
    session.tell(&RevokedList::of(done), show::revoked_list)?;
    match failed {
        Some(error) => Err(error.context("a node does not have the list")),
        None => Ok(ExitCode::SUCCESS),
    }
}
