//! The one place that spawns a helper program: absolute path, argument vector, empty environment,
//! deadline.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use mvm_core::{Error, ErrorKind};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Runs a program to its end and returns its status and output, whatever the status is.
///
/// # Errors
/// `Invalid` for a relative path, `Failed` when it cannot be run, `Unavailable` when the deadline
/// passes (the program is then killed).
pub fn run(
    program: &Path,
    args: &[&OsStr],
    stdin: &[u8],
    deadline: Duration,
) -> Result<Output, Error> {
    let failed = |error: &std::io::Error| {
        Error::new(ErrorKind::Failed, format!("cannot run {}", program.display())).because(error)
    };
    if !program.is_absolute() {
        let message = format!("{} is not an absolute path", program.display());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // A program that stops reading its input says why by its status.
        scope.spawn(|| input.map(|mut input| input.write_all(stdin)));
        let output = scope.spawn(|| drain(output));
        let errors = scope.spawn(|| drain(errors));
        let in_time = ends_within(child.id(), deadline);
        if !matches!(in_time, Ok(true)) {
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| failed(&error))?;
        let stdout = output.join().unwrap_or_default();
        let stderr = errors.join().unwrap_or_default();
        if in_time.map_err(|error| failed(&error))? {
            Ok(Output { status, stdout, stderr })
        } else {
            let seconds = deadline.as_secs();
            let message = format!("{} did not end within {seconds} s", program.display());
            Err(Error::new(ErrorKind::Unavailable, message))
        }
    })
}

fn drain(stream: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut bytes);
    }
    bytes
}

fn ends_within(pid: u32, deadline: Duration) -> std::io::Result<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec::try_from(deadline).map_err(std::io::Error::other)?;
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    loop {
        match poll(&mut ended, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
