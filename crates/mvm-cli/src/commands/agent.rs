//! `mvm agent …`.

use std::{
    fs,
    io::{self, Read, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use mvm::{
    AgentOptions, DesiredState, Error, ErrorKind, Listen, Operation, api::PORT, forward::InputPath,
};

use crate::{
    args::{AgentCommand, DesiredArgs, ReconcileArgs, ServeArgs},
    render::error::warn,
    run::Session,
};

/// A little more than a document may have, so that one that is too long is told as such.
const READ_MAX: u64 = (24 << 20) + 1;

pub(crate) fn run(session: &Session, command: AgentCommand) -> Result<ExitCode, Error> {
    match command {
        AgentCommand::Reconcile(args) => reconcile(session, &args),
        AgentCommand::Serve(args) => serve(session, &args),
        AgentCommand::Certs(command) => super::certs::run(session, command),
        AgentCommand::Desired(args) => desired(session, &args),
    }
}

fn reconcile(session: &Session, args: &ReconcileArgs) -> Result<ExitCode, Error> {
    let mut desired = checked(session, &args.desired)?;
    desired.prune_unknown_tenants |= args.prune;
    desired.prune_unknown_pools |= args.prune;
    session.operate(&Operation::AgentReconcile { desired: Box::new(desired) })
}

fn serve(session: &Session, args: &ServeArgs) -> Result<ExitCode, Error> {
    if session.is_rehearsal() {
        return Err(Error::new(ErrorKind::Usage, "an agent cannot be rehearsed")
            .hint("see what it would do first: mvm --dry-run agent reconcile --desired FILE"));
    }
    if args.desired.as_ref().is_some_and(|file| file.is_stream()) {
        let message = "an agent reads the desired state again and again: give it a file";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    session.stop_on_signals();
    session.mvm.agent_serve(
        &session.cx,
        &AgentOptions {
            desired: args.desired.as_ref().map(|file| AsRef::<Path>::as_ref(file).to_owned()),
            listen: listen(session, args),
            metrics: args.metrics_listen,
            interval: seconds(args.interval_secs),
            tick: seconds(args.tick_secs),
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Where the API listens: where it was told to, else where it usually does, if this node can be asked.
fn listen(session: &Session, args: &ServeArgs) -> Option<Listen> {
    let tls = args.tls.files();
    if let Some(address) = args.listen {
        return Some(Listen { address, tls });
    }
    if args.no_listen {
        return None;
    }
    match session.mvm.can_listen(&tls) {
        Ok(()) => Some(Listen { address: SocketAddr::from(([0, 0, 0, 0], PORT)), tls }),
        Err(error) => {
            warn(&format!("nobody can ask this node from afar: {error}"));
            for hint in &error.hints {
                warn(hint);
            }
            None
        }
    }
}

/// The desired state in a file, if nothing is wrong with it.
fn checked(session: &Session, file: &InputPath) -> Result<DesiredState, Error> {
    let bytes = document(file)?;
    let state = session.mvm.desired_check(&bytes);
    state.map_err(|error| error.context(format!("{file} is refused")))
}

/// What is in a file.
pub(super) fn document(file: &InputPath) -> Result<Vec<u8>, Error> {
    read(file).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("cannot read {file}")).because(&error)
    })
}

fn desired(session: &Session, args: &DesiredArgs) -> Result<ExitCode, Error> {
    let state = match &args.check {
        Some(file) => checked(session, file)?,
        None => session.mvm.agent_desired(args.tenant.as_ref())?,
    };
    let text = serde_json::to_string_pretty(&state).map_err(|error| {
        Error::new(ErrorKind::Failed, "cannot write the desired state").because(&error)
    })?;
    match &args.file {
        Some(file) if !session.is_rehearsal() => {
            let file: &Path = file.as_ref();
            write(file, &text).map_err(|error| {
                let message = format!("cannot write {}", file.display());
                Error::new(ErrorKind::Failed, message).because(&error)
            })?;
        }
        Some(_) | None => session.print(&state, |_| text)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &InputPath) -> io::Result<Vec<u8>> {
    let source: Box<dyn Read> =
        if file.is_stream() { Box::new(io::stdin()) } else { Box::new(fs::File::open(file)?) };
    let mut bytes = Vec::new();
    source.take(READ_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All of it or nothing: a reader never finds half a document.
pub(super) fn write(file: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut partial = name.to_owned();
    partial.push(format!(".{}", std::process::id()));
    let partial = file.with_file_name(partial);
    let write = || {
        let mut out = fs::File::create(&partial)?;
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        out.sync_all()?;
        fs::rename(&partial, file)
    };
    write().inspect_err(|_| {
        // What was begun is of no use; the error to be told is the first one.
        let _ = fs::remove_file(&partial);
    })
}
