//! What goes on inside an instance: `exec`, `ssh`, `cp`, `console`.
//!
//! The exit code of the guest's command is ours; our own failure is 125 there (SPEC §13).

use std::{
    io::{self, Read, Write},
    process::ExitCode,
    sync::mpsc,
    thread,
};

use mvm::{
    CopyReport, Error, ErrorKind, ExecRequest, ExecStatus, ExecStreams, InstanceRef, units::Seconds,
};
use serde::Serialize;

use crate::{
    args::{CopyArgs, CopySide, ExecArgs, SshArgs},
    exit, render,
    run::Session,
    show, terminal,
};

/// Ctrl-], which leaves a console.
const DETACH: u8 = 0x1d;

/// Runs a command in a guest.
pub(super) fn exec(session: &Session, args: ExecArgs) -> ExitCode {
    let request = ExecRequest {
        argv: args.command,
        env: args.env,
        cwd: args.workdir,
        user: args.user,
        terminal: args.tty.then(terminal::size),
    };
    run(session, &args.instance, &request, args.interactive)
}

/// The login shell of a guest.
pub(super) fn login_shell() -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-l".to_owned()]
}

/// Opens a login shell, or runs a command line in one, as `ssh` does.
pub(super) fn ssh(session: &Session, args: SshArgs) -> ExitCode {
    let is_shell = args.command.is_empty();
    let has_terminal = args.tty || (is_shell && terminal::is_interactive());
    let argv = if is_shell {
        login_shell()
    } else {
        vec!["/bin/sh".to_owned(), "-lc".to_owned(), args.command.join(" ")]
    };
    let terminal = has_terminal.then(terminal::size);
    let request = ExecRequest { argv, env: Vec::new(), cwd: None, user: args.login, terminal };
    run(session, &args.instance, &request, true)
}

pub(super) fn run(
    session: &Session,
    instance: &InstanceRef,
    request: &ExecRequest,
    is_interactive: bool,
) -> ExitCode {
    if session.is_rehearsal() {
        return would(session, "run", instance, &request.argv.join(" "))
            .unwrap_or_else(|error| failed(session, &error));
    }
    let stdin: Box<dyn Read + Send> =
        if is_interactive { Box::new(io::stdin()) } else { Box::new(io::empty()) };
    let streams = ExecStreams {
        stdin,
        stdout: Box::new(terminal::Flushed(io::stdout())),
        stderr: Box::new(io::stderr()),
        control: terminal::control(),
    };
    let is_raw = request.terminal.is_some() && is_interactive && terminal::is_interactive();
    let raw = if is_raw { terminal::RawMode::enter() } else { None };
    let done = session.mvm.instance_exec(&session.cx, instance, request, streams);
    drop(raw);
    let status = match done {
        Ok(status) => status,
        Err(error) => return failed(session, &error),
    };
    let why = match status {
        ExecStatus::Absent => Some("there is no such program"),
        ExecStatus::NotExecutable => Some("it cannot be executed"),
        ExecStatus::Code(_) | ExecStatus::Signal(_) => None,
    };
    if let Some(why) = why {
        let program = request.argv.first().map_or("", String::as_str);
        let message = format!("cannot run {program:?} in {instance}: {why}");
        let error = Error::new(ErrorKind::Failed, message);
        render::error::say(&error, session.format, session.cx.operation.as_ref());
    }
    exit::of_guest(status)
}

pub(super) fn failed(session: &Session, error: &Error) -> ExitCode {
    render::error::say(error, session.format, session.cx.operation.as_ref());
    ExitCode::from(exit::EXEC_FAILED)
}

/// What would be done inside a guest, for `--dry-run`.
#[derive(Debug, Serialize)]
pub(crate) struct Would {
    pub(crate) act: &'static str,
    pub(crate) instance: String,
    pub(crate) what: String,
}

impl Would {
    pub(crate) fn text(&self) -> String {
        format!("would {} in {}: {}", self.act, self.instance, self.what)
    }
}

fn would(
    session: &Session,
    act: &'static str,
    instance: &InstanceRef,
    what: &str,
) -> Result<ExitCode, Error> {
    session.mvm.instance_info(instance)?;
    let would = Would { act, instance: instance.to_string(), what: what.to_owned() };
    session.print(&would, Would::text)?;
    Ok(ExitCode::SUCCESS)
}

/// Copies files into or out of an instance.
pub(super) fn cp(session: &Session, args: &CopyArgs) -> Result<ExitCode, Error> {
    let (mvm, cx) = (&session.mvm, &session.cx);
    let (from, to) = (&args.source, &args.destination);
    if session.is_rehearsal()
        && let (CopySide::Guest(instance, _), _) | (_, CopySide::Guest(instance, _)) = (from, to)
    {
        return would(session, "copy", instance, &format!("{from} to {to}"));
    }
    let report = match (from, to) {
        (CopySide::Caller(from), CopySide::Guest(instance, path)) if from.is_stream() => {
            mvm.instance_stream_in(cx, instance, path, &mut io::stdin())?
        }
        (CopySide::Guest(instance, path), CopySide::Caller(to)) if to.is_stream() => {
            mvm.instance_stream_out(cx, instance, path, &mut io::stdout().lock())?;
            return Ok(ExitCode::SUCCESS);
        }
        (CopySide::Caller(from), CopySide::Guest(instance, path)) => {
            mvm.instance_copy_in(cx, instance, from.as_ref(), path)?
        }
        (CopySide::Guest(instance, path), CopySide::Caller(to)) => {
            mvm.instance_copy_out(cx, instance, path, to.as_ref())?
        }
        (CopySide::Guest(..), CopySide::Guest(..)) | (CopySide::Caller(_), CopySide::Caller(_)) => {
            return Err(Error::new(
                ErrorKind::Usage,
                "exactly one of source and destination must be in an instance",
            )
            .hint("write <tenant>/<pool>/<instance>:/path for that side"));
        }
    };
    session.tell(&report, |report: &CopyReport| {
        format!("Copied {} entries, {}.", report.entries, show::size(report.bytes))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Attaches to the serial console until Ctrl-] or until it ends.
pub(super) fn console(session: &Session, instance: &InstanceRef) -> Result<ExitCode, Error> {
    if session.is_rehearsal() {
        return would(session, "attach to the console", instance, "until Ctrl-]");
    }
    let console = session.mvm.instance_console(&session.cx, instance)?;
    let (mut input, mut output) = (console.input, console.output);
    if terminal::is_interactive() {
        // Speech, not data: a person wants to know how to get out.
        let _ = writeln!(io::stderr(), "Attached to {instance}; leave with Ctrl-].");
    }
    let raw = terminal::RawMode::enter();
    let (left, done) = mpsc::channel();
    let typed = left.clone();
    thread::spawn(move || {
        let mut buffer = [0u8; 1024];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            let until = bytes.iter().position(|byte| *byte == DETACH);
            let pass = bytes.get(..until.unwrap_or(count)).unwrap_or_default();
            if input.write_all(pass).is_err() {
                return;
            }
            if until.is_some() {
                let _ = typed.send(());
                return;
            }
        }
        // The end of what is typed by a program: what the guest still prints is shown.
    });
    thread::spawn(move || {
        let _ = io::copy(&mut output, &mut terminal::Flushed(io::stdout()));
        let _ = left.send(());
    });
    // Either thread may end it; a closed channel means that both are gone.
    let _ = done.recv();
    drop(raw);
    if terminal::is_interactive() {
        let _ = writeln!(io::stderr(), "\nDetached from {instance}.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows an instance's figures, once or again and again.
pub(super) fn stats(
    session: &Session,
    instance: &InstanceRef,
    watch: Option<Seconds>,
) -> Result<ExitCode, Error> {
    loop {
        let stats = show::Stats::of(&session.mvm.instance_stats(instance)?);
        if watch.is_some() && terminal::is_interactive() {
            // Home, and clear to the end of the screen.
            let _ = write!(io::stdout(), "\u{1b}[H\u{1b}[J");
        }
        session.print(&stats, show::stats)?;
        let Some(interval) = watch else { return Ok(ExitCode::SUCCESS) };
        thread::sleep(interval.duration());
    }
}
