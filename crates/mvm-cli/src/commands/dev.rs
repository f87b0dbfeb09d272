//! Dev mode: `mvm dev`, `start`, `ssh`, `ssh-config`, `stop`, `build`, `run`. What `bootstrap`, `setup`,
//! `status`, `destroy` and `shell` do about the machine is in `machine`.

use std::{io, process::ExitCode};

use mvm::{
    Config, Error, ErrorKind, ExecRequest, ExecStreams, InstanceRef,
    dev::{self, DevAsk, RunAsk, Step},
    units::{Mib, Vcpus},
};

use super::{guest, would};
use crate::{
    args::{DevArgs, DevSshArgs, Format, Global, RunArgs, SshArgs, SshConfigArgs, StartArgs},
    exit, render,
    run::{Session, print},
    show, terminal,
};

/// Does what the state of the dev VM asks for, up to a shell in it.
pub(crate) fn dev(session: &Session, args: DevArgs) -> Result<ExitCode, Error> {
    start_as(session, &DevAsk::default(), args.after)
}

/// Starts the dev VM, and opens a shell in it for a person.
pub(crate) fn start(session: &Session, args: StartArgs) -> Result<ExitCode, Error> {
    let flags = DevAsk {
        image: args.image.map(|image| image.text()),
        cpus: args.cpus.map(Vcpus),
        memory: args.memory.map(Mib),
        volumes: args.volume,
    };
    start_as(session, &DevAsk::read(flags, args.config.as_deref())?, Vec::new())
}

/// `done` is what was done before.
fn start_as(session: &Session, ask: &DevAsk, mut done: Vec<Step>) -> Result<ExitCode, Error> {
    let (mvm, cx) = (&session.mvm, &session.cx);
    if session.is_rehearsal() {
        let steps = dev::enter(mvm.dev_state(cx)?);
        return would(session, "do", spoken(steps));
    }
    session.stop_on_signals();
    done.extend(mvm.dev_start(cx, ask)?);
    if session.format == Format::Table && terminal::is_interactive() {
        return Ok(shell(session, mvm.dev_running()?.instance));
    }
    shown(session, done)
}

/// Says what would come first, with `--dry-run`.
pub(crate) fn would_begin(global: &Global, step: Step) -> Result<ExitCode, Error> {
    let would = show::Would { act: "do", subject: format!("{step}, and go on from there") };
    print(global.output(), &would, show::Would::text)?;
    Ok(ExitCode::SUCCESS)
}

fn spoken(steps: &[Step]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn shown(session: &Session, steps: Vec<Step>) -> Result<ExitCode, Error> {
    let vm = show::Dev { steps, ..show::Dev::of(session.mvm.dev()?.as_ref()) };
    session.tell(&vm, show::dev)?;
    Ok(ExitCode::SUCCESS)
}

fn shell(session: &Session, instance: InstanceRef) -> ExitCode {
    let args = SshArgs { instance, login: None, tty: false, command: Vec::new() };
    guest::ssh(session, args)
}

/// Stops the dev VM.
pub(crate) fn stop(session: &Session) -> Result<ExitCode, Error> {
    if session.is_rehearsal() {
        return would(session, "do", Step::Stop.to_string());
    }
    session.stop_on_signals();
    let steps = session.mvm.dev_stop(&session.cx)?;
    shown(session, steps)
}

/// Opens a login shell in the dev VM, or carries an SSH connection to its server.
pub(crate) fn ssh(session: &Session, args: DevSshArgs) -> ExitCode {
    let instance = match session.mvm.dev_running() {
        Ok(record) => record.instance,
        Err(error) => return guest::failed(session, &error),
    };
    if args.stdio {
        return carry(session, &instance);
    }
    let DevSshArgs { login, tty, command, stdio: _ } = args;
    guest::ssh(session, SshArgs { instance, login, tty, command })
}

fn carry(session: &Session, instance: &InstanceRef) -> ExitCode {
    match session.mvm.ssh_server(&session.cx, instance) {
        Ok(Some(argv)) => return guest::run(session, instance, &request(argv, false), true),
        Ok(None) => {}
        Err(error) => return guest::failed(session, &error),
    }
    let error = Error::new(ErrorKind::NotFound, "the image of the dev VM has no SSH server")
        .hint("open a shell without one: mvm ssh")
        .hint("start an image that has one, for example with the Debian package dropbear-bin");
    guest::failed(session, &error)
}

fn request(argv: Vec<String>, tty: bool) -> ExecRequest {
    let terminal = tty.then(terminal::size);
    ExecRequest { argv, env: Vec::new(), cwd: None, user: None, terminal }
}

/// Prints what OpenSSH needs to know to reach the dev VM.
pub(crate) fn ssh_config(
    global: &Global,
    config: &Config,
    args: &SshConfigArgs,
) -> Result<ExitCode, Error> {
    let block = show::SshConfig::of(config, &args.host)?;
    print(global.output(), &block, show::ssh_config)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a command in a VM that is made for it.
pub(crate) fn run(session: &Session, args: RunArgs) -> ExitCode {
    let is_shell = args.command.is_empty();
    let has_terminal = args.tty || (is_shell && terminal::is_interactive());
    let reads = args.interactive || is_shell;
    let argv = if is_shell { guest::login_shell() } else { args.command };
    let ask = RunAsk {
        flake: args.flake,
        image: args.image.map(|image| image.text()),
        cpus: args.cpus.map(Vcpus),
        memory: args.memory.map(Mib),
        request: request(argv, has_terminal),
    };
    if session.is_rehearsal() {
        let done =
            ask.checked().and_then(|(source, _)| would(session, "run in", source.to_string()));
        return done.unwrap_or_else(|error| guest::failed(session, &error));
    }
    session.stop_on_signals();
    let stdin: Box<dyn io::Read + Send> =
        if reads { Box::new(io::stdin()) } else { Box::new(io::empty()) };
    let streams = ExecStreams {
        stdin,
        stdout: Box::new(terminal::Flushed(io::stdout())),
        stderr: Box::new(io::stderr()),
        control: terminal::control(),
    };
    let raw = if has_terminal && reads && terminal::is_interactive() {
        terminal::RawMode::enter()
    } else {
        None
    };
    let done = session.mvm.run(&session.cx, &ask, streams);
    drop(raw);
    match done {
        Ok(status) => exit::of_guest(status),
        Err(error) if mvm::is_cancelled(&error) => {
            render::error::say(&error, session.format, session.cx.operation.as_ref());
            ExitCode::from(exit::CANCELLED)
        }
        Err(error) => guest::failed(session, &error),
    }
}
