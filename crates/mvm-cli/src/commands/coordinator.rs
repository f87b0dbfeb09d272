//! `mvm coordinator …`.

use std::{path::Path, process::ExitCode};

use mvm::{
    Envelope, Error, ErrorKind, InstanceRef, Mvm, Peer, SignAsk, api::Moved, units::Seconds,
};

use super::{agent, authority, certs, would};
use crate::{
    args::{CoordinatorCommand, PeerArgs, PushArgs, RemoteEventsArgs, RemoteMoveArgs, TermsArgs},
    run::Session,
    show::{self, Signer},
};

pub(crate) fn run(session: &Session, command: CoordinatorCommand) -> Result<ExitCode, Error> {
    let mvm = &session.mvm;
    match command {
        CoordinatorCommand::Keygen(args) => {
            let key = args.key.as_ref().map(AsRef::<Path>::as_ref);
            if session.is_rehearsal() {
                let file = key.map_or("signing.key".into(), Path::to_string_lossy).into_owned();
                return would(session, "make a signing key in", file);
            }
            let signer = Signer::of(mvm.coordinator_keygen(key)?);
            session.print(&signer, show::signer)?;
        }
        CoordinatorCommand::Sign(args) => {
            let document = agent::document(&args.desired)?;
            let envelope = mvm.coordinator_sign(&document, &terms(&args.terms))?;
            session.print(&envelope, as_json)?;
        }
        CoordinatorCommand::Push(args) => return push(session, &args),
        CoordinatorCommand::Status(args) => {
            session.print(&mvm.coordinator_status(&peer(&args))?, show::remote_node)?;
        }
        CoordinatorCommand::ListInstances(args) => {
            let all = mvm.coordinator_list_instances(&peer(&args.peer), args.tenant.as_ref())?;
            session.print(&all, |all| show::remote_instances(all))?;
        }
        CoordinatorCommand::ListTenants(args) => {
            let all = mvm.coordinator_list_tenants(&peer(&args))?;
            session.print(&all, |all| show::remote_tenants(all))?;
        }
        CoordinatorCommand::Stats(args) => {
            session.print(&mvm.coordinator_stats(&peer(&args))?, show::remote_figures)?;
        }
        CoordinatorCommand::Events(args) => {
            let RemoteEventsArgs { peer: at, tenant, after, limit } = &args;
            let all = mvm.coordinator_events(&peer(at), tenant, *after, *limit)?;
            session.print(&all, |all| show::events(all))?;
        }
        CoordinatorCommand::Wake(args) => {
            return moved(session, "wake", &args, Mvm::coordinator_wake);
        }
        CoordinatorCommand::Sleep(args) => {
            return moved(session, "put to sleep", &args, Mvm::coordinator_sleep);
        }
        CoordinatorCommand::Token(args) => return authority::token(session, &args),
        CoordinatorCommand::Approve(args) => return authority::approve(session, &args),
        CoordinatorCommand::Renew(args) => return authority::renew(session, &args),
        CoordinatorCommand::Revoke(args) => return authority::revoke(session, &args),
    }
    Ok(ExitCode::SUCCESS)
}

fn moved(
    session: &Session,
    act: &'static str,
    args: &RemoteMoveArgs,
    ask: impl FnOnce(&Mvm, &Peer, &InstanceRef) -> Result<Moved, Error>,
) -> Result<ExitCode, Error> {
    if session.is_rehearsal() {
        return would(session, act, format!("{} on {}", args.instance, args.peer.node));
    }
    let moved = ask(&session.mvm, &peer(&args.peer), &args.instance)?;
    session.tell(&moved, |moved| format!("{}: {}", moved.instance, moved.state))?;
    Ok(ExitCode::SUCCESS)
}

fn push(session: &Session, args: &PushArgs) -> Result<ExitCode, Error> {
    let (mvm, peer) = (&session.mvm, peer(&args.peer));
    let file = args.envelope.as_ref().or(args.desired.as_ref());
    let file = file.ok_or_else(|| Error::new(ErrorKind::Usage, "there is nothing to push"))?;
    let bytes = agent::document(file)?;
    if session.is_rehearsal() {
        return would(session, "push", format!("{file} to {}", peer.node));
    }
    let acceptance = if args.envelope.is_some() {
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("{file} is no signed state")).because(&error)
        })?;
        mvm.push_envelope(&peer, envelope)?
    } else if args.unsigned {
        mvm.push_unsigned(&peer, &bytes)?
    } else {
        mvm.coordinator_push(&peer, &bytes, &terms(&args.terms))?
    };
    session.tell(&acceptance, show::acceptance)?;
    Ok(ExitCode::SUCCESS)
}

fn as_json(envelope: &Envelope) -> String {
    serde_json::to_string_pretty(envelope).unwrap_or_default()
}

pub(super) fn peer(args: &PeerArgs) -> Peer {
    Peer { node: args.node.clone(), tls: args.tls.files() }
}

fn terms(args: &TermsArgs) -> SignAsk {
    SignAsk {
        key: certs::path(args.key.as_ref()),
        node_id: args.node_id.clone(),
        sequence: args.sequence,
        valid: Seconds(args.valid_secs),
    }
}
