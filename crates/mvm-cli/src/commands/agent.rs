//! `mvm agent …`.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
};

use mvm::{DesiredState, Error, ErrorKind, Operation, forward::InputPath};

use crate::{
    args::{AgentCommand, DesiredArgs, ReconcileArgs},
    run::Session,
};

/// A little more than a document may have, so that one that is too long is told as such.
const READ_MAX: u64 = (16 << 20) + 1;

pub(crate) fn run(session: &Session, command: AgentCommand) -> Result<ExitCode, Error> {
    match command {
        AgentCommand::Reconcile(args) => reconcile(session, &args),
        AgentCommand::Desired(args) => desired(session, &args),
    }
}

fn reconcile(session: &Session, args: &ReconcileArgs) -> Result<ExitCode, Error> {
    let mut desired = checked(session, &args.desired)?;
    desired.prune_unknown_tenants |= args.prune;
    desired.prune_unknown_pools |= args.prune;
    session.operate(&Operation::AgentReconcile { desired: Box::new(desired) })
}

/// The desired state in a file, if nothing is wrong with it.
fn checked(session: &Session, file: &InputPath) -> Result<DesiredState, Error> {
    let bytes = read(file).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("cannot read {file}")).because(&error)
    })?;
    let state = session.mvm.desired_check(&bytes);
    state.map_err(|error| error.context(format!("{file} is refused")))
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
fn write(file: &Path, text: &str) -> io::Result<()> {
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
