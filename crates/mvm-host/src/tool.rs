//! The one place that spawns a helper program.
//!
//! A program is an absolute path and an argument vector; it sees an empty environment but for
//! `PATH` and `LC_ALL`, the given standard input, and a deadline after which it is killed through
//! its pidfd. What it says is captured within a bound. There is no shell, and it knows no program
//! by name.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use mvm_core::ErrorKind;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};
use thiserror::Error as ThisError;

/// Where programs are looked for, in this order, and the `PATH` that they get.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// More output than this is a failure, in bytes: no helper of ours says as much.
const MAX_OUTPUT: usize = 4 << 20;
/// How much of standard error an error carries, in bytes, counted from its end.
const TAIL: usize = 2048;

/// What a program that succeeded said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its standard output, at most 4 MiB.
    pub stdout: Vec<u8>,
    /// Its standard error, at most 4 MiB.
    pub stderr: Vec<u8>,
}

/// Why a helper program gave no result.
#[derive(Debug, ThisError)]
pub enum Error {
    /// None of the fixed directories has it.
    #[error("the program {0} is not installed")]
    NotInstalled(String),
    /// Only absolute paths are run.
    #[error("{path} is not an absolute path", path = .0.display())]
    Relative(PathBuf),
    /// It could not be started, fed or listened to.
    #[error("cannot run {program}", program = program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("{program} failed with {status}: {stderr}", program = program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// `status N` or `signal N`.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// It was killed at its deadline.
    #[error("{program} took longer than {deadline:?} and was killed: {stderr}", program = program.display())]
    Late {
        /// The program.
        program: PathBuf,
        /// Its deadline.
        deadline: Duration,
        /// The end of its standard error.
        stderr: String,
    },
    /// It was killed because it never stopped talking.
    #[error("{program} wrote more than 4 MiB and was killed", program = .0.display())]
    Talkative(PathBuf),
}

impl Error {
    /// The kind at the port.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotInstalled(_) | Self::Late { .. } => ErrorKind::Unavailable,
            Self::Relative(_) | Self::Run { .. } | Self::Failed { .. } | Self::Talkative(_) => {
                ErrorKind::Failed
            }
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NotInstalled(name) => Some(format!("install the package that has `{name}`")),
            Self::Relative(_)
            | Self::Run { .. }
            | Self::Failed { .. }
            | Self::Late { .. }
            | Self::Talkative(_) => None,
        }
    }
}

impl From<Error> for mvm_core::Error {
    fn from(error: Error) -> Self {
        at_port(error.kind(), &error, error.hint())
    }
}

/// A failure of this crate as the error that crosses the ports: its words, its sources, its hint.
pub(crate) fn at_port(
    kind: ErrorKind,
    error: &dyn std::error::Error,
    hint: Option<String>,
) -> mvm_core::Error {
    let out = mvm_core::Error::new(kind, error.to_string());
    let out = match error.source() {
        Some(source) => out.because(source),
        None => out,
    };
    hint.into_iter().fold(out, mvm_core::Error::hint)
}

/// The absolute path of a program, from the fixed list of directories.
///
/// # Errors
/// [`Error::NotInstalled`].
pub fn find(name: &str) -> Result<PathBuf, Error> {
    DIRECTORIES
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::NotInstalled(name.to_owned()))
}

/// Runs a program to its end and returns what it said.
///
/// # Errors
/// When it cannot be run, does not succeed, talks without end or is not done by `deadline` (counted
/// from here); then it is dead when this returns.
pub fn run(
    program: &Path,
    args: &[&OsStr],
    stdin: &[u8],
    deadline: Duration,
) -> Result<Output, Error> {
    if !program.is_absolute() {
        return Err(Error::Relative(program.to_owned()));
    }
    let end = Instant::now() + deadline;
    let failed = |source| Error::Run { program: program.to_owned(), source };
    #[expect(clippy::disallowed_methods, reason = "R4: this is the one spawner")]
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut pipes = Pipes::default();
    let listened = listen(&mut child, &mut pipes, stdin, end);
    let status = match listened {
        Ok(Heard::Ended(status)) => status,
        Ok(Heard::Deadline) => {
            return Err(Error::Late {
                program: program.to_owned(),
                deadline,
                stderr: tail(&pipes.stderr),
            });
        }
        Ok(Heard::TooMuch) => return Err(Error::Talkative(program.to_owned())),
        Err(source) => return Err(failed(source)),
    };
    if status.success() {
        return Ok(Output { stdout: pipes.stdout, stderr: pipes.stderr });
    }
    Err(Error::Failed {
        program: program.to_owned(),
        status: match (status.code(), status.signal()) {
            (Some(code), _) => format!("status {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        },
        stderr: tail(&pipes.stderr),
    })
}

enum Heard {
    Ended(ExitStatus),
    Deadline,
    TooMuch,
}

#[derive(Default)]
struct Pipes {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Feeds and listens until the program ends; whatever happens, it has ended when this returns.
fn listen(child: &mut Child, pipes: &mut Pipes, stdin: &[u8], end: Instant) -> io::Result<Heard> {
    let opened = open_pidfd(child);
    let heard = match &opened {
        Ok(pidfd) => converse(child, pidfd, pipes, stdin, end),
        Err(error) => Err(io::Error::from(error.kind())),
    };
    match heard {
        Ok(None) => child.wait().map(Heard::Ended),
        Ok(Some(heard)) => reap(child, opened.ok()).map(|_| heard),
        Err(error) => reap(child, opened.ok()).and(Err(error)),
    }
}

fn open_pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

fn reap(child: &mut Child, pidfd: Option<OwnedFd>) -> io::Result<ExitStatus> {
    match pidfd {
        Some(pidfd) => rustix::process::pidfd_send_signal(pidfd, Signal::KILL)?,
        None => child.kill()?,
    }
    child.wait()
}

/// Moves bytes until the program has ended (none) or has to be ended (why).
fn converse(
    child: &mut Child,
    pidfd: &OwnedFd,
    pipes: &mut Pipes,
    stdin: &[u8],
    end: Instant,
) -> io::Result<Option<Heard>> {
    let mut input = child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe)));
    let mut output = child.stdout.take().map(|pipe| File::from(OwnedFd::from(pipe)));
    let mut errors = child.stderr.take().map(|pipe| File::from(OwnedFd::from(pipe)));
    for pipe in [&input, &output, &errors].into_iter().flatten() {
        let flags = rustix::fs::fcntl_getfl(pipe)?;
        rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    let mut unsent = stdin;
    loop {
        feed(&mut input, &mut unsent)?;
        drain(&mut output, &mut pipes.stdout)?;
        drain(&mut errors, &mut pipes.stderr)?;
        if pipes.stdout.len() > MAX_OUTPUT || pipes.stderr.len() > MAX_OUTPUT {
            return Ok(Some(Heard::TooMuch));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Some(Heard::Deadline));
        }
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        fds.extend(input.iter().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::OUT)));
        let talking = [&output, &errors].into_iter().flatten();
        fds.extend(talking.map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
        match rustix::event::poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            drain(&mut output, &mut pipes.stdout)?;
            drain(&mut errors, &mut pipes.stderr)?;
            return Ok(None);
        }
    }
}

/// Writes what the pipe takes; closes it when all is sent or nobody reads.
fn feed(pipe: &mut Option<File>, unsent: &mut &[u8]) -> io::Result<()> {
    while let Some(file) = pipe {
        if unsent.is_empty() {
            *pipe = None;
            break;
        }
        match file.write(unsent) {
            Ok(count) => *unsent = unsent.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => *pipe = None,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is there, up to the bound; closes the pipe at its end.
fn drain(pipe: &mut Option<File>, into: &mut Vec<u8>) -> io::Result<()> {
    let room = (MAX_OUTPUT + 1).saturating_sub(into.len());
    let Some(file) = pipe else { return Ok(()) };
    match file.take(u64::try_from(room).unwrap_or(0)).read_to_end(into) {
        Ok(_) if into.len() <= MAX_OUTPUT => *pipe = None,
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(TAIL);
    String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).trim().to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn args<'a>(args: &[&'a str]) -> Vec<&'a OsStr> {
        args.iter().copied().map(OsStr::new).collect()
    }

    #[test]
    fn standard_input_comes_back_even_when_it_is_larger_than_a_pipe() {
        let input: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let output = run(&find("cat").unwrap(), &[], &input, LONG).unwrap();
        assert!(output.stdout == input && output.stderr.is_empty());
    }

    #[test]
    fn the_environment_holds_nothing_of_ours() {
        let output = run(&find("env").unwrap(), &[], b"", LONG).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, format!("LC_ALL=C\nPATH={PATH}\n"));
    }

    #[test]
    fn a_failure_carries_the_status_and_the_words() {
        let error = run(&find("cat").unwrap(), &args(&["/nonexistent"]), b"", LONG).unwrap_err();
        let Error::Failed { status, stderr, .. } = error else { unreachable!("{error}") };
        assert!(status == "status 1" && stderr.contains("No such file"), "{status}: {stderr}");
    }

    #[test]
    fn what_outlives_its_deadline_is_killed() {
        let begin = Instant::now();
        let short = Duration::from_millis(50);
        let error = run(&find("sleep").unwrap(), &args(&["60"]), b"", short).unwrap_err();
        assert!(matches!(error, Error::Late { .. }) && begin.elapsed() < LONG);
    }

    #[test]
    fn endless_output_is_cut_off() {
        let error = run(&find("yes").unwrap(), &[], b"", LONG).unwrap_err();
        assert!(matches!(error, Error::Talkative(_)), "{error}");
    }

    #[test]
    fn only_absolute_paths_run() {
        let error = run(Path::new("cat"), &[], b"", LONG).unwrap_err();
        assert!(matches!(error, Error::Relative(_)));
        assert!(matches!(find("no-such-program"), Err(Error::NotInstalled(_))));
    }
}
