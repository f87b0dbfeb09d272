//! Starts the far command: pipes, or a terminal where the caller has one, for each stream apart.
//!
//! A process gets its controlling terminal only from inside, so with a terminal the command is
//! started through this program once more, which takes the terminal and becomes the command.

use std::{
    convert::Infallible,
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::{server::SUBCOMMAND, wire::Request};

/// The word after the subcommand that asks to take the terminal.
pub(super) const TAKE_TERMINAL: &str = "terminal";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A started command and our ends of its streams.
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) stdin: Option<File>,
    /// Each output with the stream's number, 1 or 2.
    pub(super) outputs: Vec<(u8, File)>,
    /// The terminal, to resize it.
    pub(super) terminal: Option<OwnedFd>,
}

/// Starts `program` with `words`.
pub(super) fn start(
    own: &Path,
    program: &Path,
    words: &[String],
    request: &Request,
    more_env: &[(&str, OsString)],
) -> io::Result<Launched> {
    let terminal = request.terminals.contains(&true).then(|| open(request.size)).transpose()?;
    let mut command = command(own, program, terminal.is_some());
    command.args(words).env_clear().env("PATH", PATH).env("HOME", "/root").env("USER", "root");
    command.envs(&request.env).envs(more_env.iter().map(|(name, value)| (name, value)));
    let [input, output, errors] = request.terminals;
    command.stdin(stream(input, &terminal, request.takes_input)?);
    command.stdout(stream(output, &terminal, true)?).stderr(stream(errors, &terminal, true)?);
    let mut child = command.spawn()?;
    // The command holds the terminal's inner side; while it does, its end is never seen.
    drop(command);
    let terminal = terminal.map(|(outer, _inner)| outer);
    let own = |terminal: &Option<OwnedFd>| terminal.as_ref().map(OwnedFd::try_clone).transpose();
    let stdin = if input { own(&terminal)? } else { child.stdin.take().map(OwnedFd::from) };
    let mut outputs = Vec::new();
    if output || errors {
        let which = if output { 1 } else { 2 };
        outputs.extend(own(&terminal)?.map(|fd| (which, File::from(fd))));
    }
    outputs.extend(child.stdout.take().map(|pipe| (1, File::from(OwnedFd::from(pipe)))));
    outputs.extend(child.stderr.take().map(|pipe| (2, File::from(OwnedFd::from(pipe)))));
    Ok(Launched { child, stdin: stdin.map(File::from), outputs, terminal })
}

#[expect(clippy::disallowed_methods, reason = "the far side of forwarding starts the command")]
fn command(own: &Path, program: &Path, takes_terminal: bool) -> Command {
    if !takes_terminal {
        return Command::new(program);
    }
    let mut command = Command::new(own);
    command.arg(SUBCOMMAND).arg(TAKE_TERMINAL).arg(program);
    command
}

fn stream(
    is_terminal: bool,
    terminal: &Option<(OwnedFd, OwnedFd)>,
    is_wanted: bool,
) -> io::Result<Stdio> {
    match terminal {
        Some((_, inner)) if is_terminal => Ok(Stdio::from(inner.try_clone()?)),
        _ if is_wanted => Ok(Stdio::piped()),
        _ => Ok(Stdio::null()),
    }
}

/// A new terminal: the outer and the inner side.
fn open(size: (u16, u16)) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let outer = openpt(flags)?;
    grantpt(&outer)?;
    unlockpt(&outer)?;
    resize(&outer, size)?;
    let inner = ioctl_tiocgptpeer(&outer, flags)?;
    Ok((outer, inner))
}

/// Gives a terminal its lines and columns.
pub(super) fn resize(terminal: &OwnedFd, (rows, cols): (u16, u16)) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Becomes the leader of a session with the terminal among the standard streams, then the command.
pub(super) fn take_terminal(words: &[OsString]) -> io::Result<Infallible> {
    let (program, words) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    rustix::process::setsid()?;
    let (input, output, errors) =
        (rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr());
    if let Some(fd) = [input, output, errors].into_iter().find(|fd| rustix::termios::isatty(fd)) {
        rustix::process::ioctl_tiocsctty(fd)?;
    }
    #[expect(clippy::disallowed_methods, reason = "this process becomes the command")]
    Err(Command::new(program).args(words).exec())
}

/// As a shell would say it.
pub(super) fn code(status: ExitStatus) -> u8 {
    let signal = || 128 + status.signal().unwrap_or(0);
    u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(u8::MAX)
}
