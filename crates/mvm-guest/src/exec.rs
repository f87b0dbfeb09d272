//! Programs run for a caller: three pipes or a terminal, one thread that moves all their bytes.
//!
//! The thread polls what can make progress: output only while the caller gave credit for it,
//! stdin only while there is something to write. So neither a slow caller nor a slow program
//! fills memory. This module refuses to know how children are reaped (`process`) and how bytes
//! are framed (`link`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use mvm_proto::message::Pty;
use mvm_proto::{Channel, Exec, FailureKind, Input, Reply, StreamId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::agent::Agent;
use crate::failure::{Context, Outcome, failure};
use crate::kernel::{Launch, set_launch};
use crate::link::{Inbox, Incoming, Link};
use crate::process::{self, Started};
use crate::users::{self, User};

/// The search path for programs when the caller gives none: Debian's for root.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes read from a pipe at once: what a data frame holds beside the channel byte.
const READ_SIZE: usize = mvm_proto::DATA_MAX - 1;

/// How long the terminal of an ended program may stay quiet before its output is taken to be
/// complete: the kernel hands the last bytes over in a deferred job.
const TERMINAL_LINGER: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Runs a program and moves its bytes until it ended.
pub(crate) fn run(
    agent: &Agent,
    link: &Link,
    stream: StreamId,
    exec: &Exec,
    inbox: &Inbox,
) -> Outcome<()> {
    let (mut pump, started) = launch(agent, exec)?;
    link.reply(stream, Reply::Started { pid: started.pid });
    pump.run(link, stream, inbox, &started);
    let exit = process::wait(started.pid, None).unwrap_or(mvm_proto::Exit::Code(255));
    link.reply(stream, Reply::Exit(exit));
    Ok(())
}

fn launch(agent: &Agent, exec: &Exec) -> Outcome<(Pump, Started)> {
    if agent.is_frozen() {
        return failure(FailureKind::Busy, "the workload is frozen");
    }
    let Some(name) = exec.argv.first().filter(|name| !name.is_empty()) else {
        return failure(FailureKind::Invalid, "no program given");
    };
    let user = users::find(exec.user.as_deref().unwrap_or("0"))?;
    let path = exec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let cwd = exec.cwd.clone().unwrap_or_else(|| user.existing_home().to_owned());
    let program = users::find_program(name, path, Path::new(&cwd))?;
    let mut command = Command::new(program);
    command.args(exec.argv.get(1..).unwrap_or_default());
    std::os::unix::process::CommandExt::arg0(&mut command, name);
    set_environment(&mut command, exec, &user);
    if !Path::new(&cwd).is_dir() {
        return failure(FailureKind::Invalid, format!("no working directory {cwd}"));
    }
    command.current_dir(&cwd);
    set_launch(
        &mut command,
        Launch {
            cgroup: agent.workload_cgroup(),
            takes_terminal: exec.pty.is_some(),
            user: user.identity(),
        },
    );
    let started = match &exec.pty {
        Some(pty) => launch_on_terminal(command, pty),
        None => launch_on_pipes(command, exec.stdin),
    };
    started.map_err(|error| users::launch_failure(name, &error))
}

fn set_environment(command: &mut Command, exec: &Exec, user: &User) {
    command.env_clear();
    command.env("PATH", DEFAULT_PATH).env("HOME", &user.home).env("USER", &user.name);
    if let Some(pty) = &exec.pty {
        command.env("TERM", &pty.term);
    }
    command.envs(&exec.env);
}

fn launch_on_pipes(mut command: Command, has_stdin: bool) -> io::Result<(Pump, Started)> {
    let stdin = if has_stdin { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut started = process::start(&mut command)?;
    let pump = Pump {
        stdin: started.child.stdin.take().map(OwnedFd::from),
        stdout: started.child.stdout.take().map(OwnedFd::from),
        stderr: started.child.stderr.take().map(OwnedFd::from),
        is_terminal: false,
        pending: VecDeque::new(),
        is_input_closed: false,
    };
    pump.set_nonblocking()?;
    Ok((pump, started))
}

fn launch_on_terminal(mut command: Command, pty: &Pty) -> io::Result<(Pump, Started)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    tcsetwinsize(&terminal, window(pty.rows, pty.cols))?;
    let inner = ioctl_tiocgptpeer(&terminal, flags)?;
    command.stdin(Stdio::from(inner.try_clone()?)).stdout(Stdio::from(inner.try_clone()?));
    command.stderr(Stdio::from(inner));
    let started = process::start(&mut command)?;
    // The command holds the inner side; while it does, the terminal never reports its end.
    drop(command);
    let pump = Pump {
        stdin: Some(terminal.try_clone()?),
        stdout: Some(terminal),
        stderr: None,
        is_terminal: true,
        pending: VecDeque::new(),
        is_input_closed: false,
    };
    pump.set_nonblocking()?;
    Ok((pump, started))
}

fn window(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// The byte streams of a running program; `None` once closed.
struct Pump {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    is_terminal: bool,
    /// What is to be written to stdin, with the payload bytes each piece is worth in credit.
    pending: VecDeque<(Vec<u8>, usize)>,
    is_input_closed: bool,
}

/// What a poll found.
#[derive(Default)]
struct Found {
    has_message: bool,
    has_ended: bool,
    can_write: bool,
    has_stdout: bool,
    has_stderr: bool,
}

impl Pump {
    fn set_nonblocking(&self) -> io::Result<()> {
        for fd in [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten() {
            let flags = rustix::fs::fcntl_getfl(fd)?;
            rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
        }
        Ok(())
    }

    /// Moves bytes until the program ended and its output is sent, or nobody wants it.
    fn run(&mut self, link: &Link, stream: StreamId, inbox: &Inbox, started: &Started) {
        let mut is_wanted = true;
        let mut has_ended = false;
        let mut buffer = vec![0u8; READ_SIZE];
        loop {
            // A data frame on a channel costs one byte for the channel.
            let can_send = link.credit(stream) > 1 || !is_wanted;
            let Ok(found) = self.poll(inbox, started, has_ended, can_send) else { return };
            has_ended |= found.has_ended;
            while let Some(incoming) = inbox.take() {
                if !self.apply(link, stream, incoming, started.pid) {
                    is_wanted = false;
                    let _ = process::signal_group(started.pid, libc::SIGKILL);
                }
            }
            if found.can_write {
                self.write_stdin(link, stream);
            }
            let mut is_quiet = true;
            for channel in [Channel::Stdout, Channel::Stderr] {
                let is_ready = match channel {
                    Channel::Stderr => found.has_stderr,
                    Channel::Stdout | Channel::Stdin => found.has_stdout,
                };
                if is_ready {
                    is_quiet = false;
                    self.forward(link, stream, channel, &mut buffer, is_wanted);
                }
            }
            let is_drained = is_quiet && (can_send && !found.has_message);
            if has_ended && (!is_wanted || is_drained || !self.has_output()) {
                return;
            }
        }
    }

    fn has_output(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Waits for something to do. After the program's end it does not wait for output that a
    /// process left behind may write some day.
    fn poll<'a>(
        &'a self,
        inbox: &'a Inbox,
        started: &'a Started,
        has_ended: bool,
        can_send: bool,
    ) -> io::Result<Found> {
        let inbox = inbox.as_fd();
        // A descriptor that is not of interest is replaced by the inbox, without events: even
        // without events poll reports an end, again and again.
        let or_inbox = |fd: Option<&'a OwnedFd>, events| match fd {
            Some(fd) => (true, PollFd::from_borrowed_fd(fd.as_fd(), events)),
            None => (false, PollFd::from_borrowed_fd(inbox, PollFlags::empty())),
        };
        let pending = self.stdin.as_ref().filter(|_| !self.pending.is_empty());
        let (has_pidfd, pidfd) =
            or_inbox(Some(&started.pidfd).filter(|_| !has_ended), PollFlags::IN);
        let (has_stdin, stdin) = or_inbox(pending, PollFlags::OUT);
        let (has_out, out) = or_inbox(self.stdout.as_ref().filter(|_| can_send), PollFlags::IN);
        let (has_err, err) = or_inbox(self.stderr.as_ref().filter(|_| can_send), PollFlags::IN);
        let inbox = PollFd::from_borrowed_fd(inbox, PollFlags::IN);
        let mut fds = [inbox, pidfd, stdin, out, err];
        let timeout = match (has_ended && can_send, self.is_terminal) {
            (false, _) => None,
            (true, true) => Some(TERMINAL_LINGER),
            (true, false) => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
        };
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [inbox, pidfd, stdin, out, err] = fds.map(|fd| fd.revents());
        Ok(Found {
            has_message: !inbox.is_empty(),
            has_ended: has_pidfd && !pidfd.is_empty(),
            can_write: has_stdin && !stdin.is_empty(),
            has_stdout: has_out && !out.is_empty(),
            has_stderr: has_err && !err.is_empty(),
        })
    }

    /// Deals with what the caller sent; false when it gave the program up.
    fn apply(&mut self, link: &Link, stream: StreamId, incoming: Incoming, pid: u32) -> bool {
        match incoming {
            Incoming::Cancelled => return false,
            Incoming::Credit => {}
            Incoming::Data(payload) => {
                let worth = payload.len();
                match Channel::split(&payload) {
                    Some((Channel::Stdin, bytes)) if self.stdin.is_some() => {
                        self.pending.push_back((bytes.to_vec(), worth));
                    }
                    _ => link.consumed(stream, worth),
                }
            }
            Incoming::Input(Input::InputClosed {}) => {
                self.is_input_closed = true;
                self.close_stdin_when_written();
            }
            Incoming::Input(Input::Signal { signal }) => {
                let _ = process::signal_group(pid, signal);
            }
            Incoming::Input(Input::Resize { rows, cols }) => {
                if let (true, Some(terminal)) = (self.is_terminal, &self.stdout) {
                    let _ = tcsetwinsize(terminal, window(rows, cols));
                }
            }
        }
        true
    }

    fn write_stdin(&mut self, link: &Link, stream: StreamId) {
        while let (Some(stdin), Some((bytes, worth))) = (&self.stdin, self.pending.front_mut()) {
            match rustix::io::write(stdin, bytes) {
                Ok(written) => {
                    bytes.drain(..written.min(bytes.len()));
                    if bytes.is_empty() {
                        link.consumed(stream, *worth);
                        self.pending.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    // The program does not read any more; the rest is dealt with by dropping it.
                    self.stdin = None;
                    for (_, worth) in self.pending.drain(..) {
                        link.consumed(stream, worth);
                    }
                }
            }
        }
        self.close_stdin_when_written();
    }

    /// On a terminal the end of input is a key (ctrl-D), which the caller sends itself.
    fn close_stdin_when_written(&mut self) {
        if self.is_input_closed && self.pending.is_empty() && !self.is_terminal {
            self.stdin = None;
        }
    }

    fn forward(
        &mut self,
        link: &Link,
        stream: StreamId,
        channel: Channel,
        buffer: &mut [u8],
        is_wanted: bool,
    ) {
        let source = match channel {
            Channel::Stderr => &mut self.stderr,
            Channel::Stdout | Channel::Stdin => &mut self.stdout,
        };
        let Some(fd) = source else { return };
        let room = if is_wanted { link.credit(stream).saturating_sub(1) } else { buffer.len() };
        let room = room.min(buffer.len());
        let Some(space) = buffer.get_mut(..room).filter(|space| !space.is_empty()) else {
            return;
        };
        match rustix::io::read(fd, &mut *space) {
            Ok(0) => *source = None,
            Ok(length) if is_wanted => {
                let _ = link.send(stream, Some(channel), space.get(..length).unwrap_or_default());
            }
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose inner side is closed everywhere gives EIO.
            Err(_) => *source = None,
        }
    }
}

/// Runs one of the image's own hooks as root in the workload's place, silent and without input.
///
/// While the workload is frozen it is refused: the child would freeze before it runs, and with
/// it the thread that starts it.
pub(crate) fn hook_command(agent: &Agent, program: &str) -> Outcome<Command> {
    command_of(agent, program, "0")
}

/// As [`hook_command`], for a user by name or number.
pub(crate) fn command_of(agent: &Agent, program: &str, user: &str) -> Outcome<Command> {
    if agent.is_frozen() {
        return failure(FailureKind::Busy, "the workload is frozen");
    }
    let user = users::find(user)?;
    let mut command = Command::new(program);
    command.env_clear().env("PATH", DEFAULT_PATH);
    command.env("HOME", &user.home).env("USER", &user.name);
    command.stdin(Stdio::null()).stdout(console_stdio()).stderr(console_stdio());
    command.current_dir(user.existing_home());
    let cgroup = agent.workload_cgroup();
    let become_user = (user.uid != 0).then_some((user.uid, user.gid, user.groups));
    set_launch(&mut command, Launch { cgroup, takes_terminal: false, user: become_user });
    Ok(command)
}

/// The console for what services print, or nowhere.
fn console_stdio() -> Stdio {
    let console = std::fs::File::options().write(true).open("/dev/console");
    console.map_or_else(|_| Stdio::null(), Stdio::from)
}

/// The deadline so many seconds from here.
pub(crate) fn seconds_from_here(seconds: u32) -> std::time::Instant {
    std::time::Instant::now() + std::time::Duration::from_secs(u64::from(seconds))
}

/// Runs a hook to its end; anything but exit code 0 is a failure.
pub(crate) fn run_hook(command: &mut Command, deadline: std::time::Instant) -> Outcome<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    match process::run(command, deadline).because(format!("cannot run {name}"))? {
        mvm_proto::Exit::Code(0) => Ok(()),
        mvm_proto::Exit::Code(code) => {
            failure(FailureKind::Failed, format!("{name} failed with exit code {code}"))
        }
        mvm_proto::Exit::Signal(signal) => {
            failure(FailureKind::Failed, format!("{name} was killed by signal {signal}"))
        }
    }
}
