//! `mvm-shim`: reads its spec from standard input, reports on standard output. See the library.

use std::{fs::File, io::Read, process::ExitCode};

use mvm_shim::{Report, Spec, watch};
use rustix::{
    fs::{Mode, OFlags, open},
    io::fcntl_dupfd_cloexec,
    process::setsid,
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stdin, stdout},
};

fn main() -> ExitCode {
    match daemonize() {
        Ok(Some((spec, report, _lock))) => match watch::run(&spec, report) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            let word = Report::Failed(format!("the shim cannot start: {error}"));
            let line = serde_json::to_string(&word).unwrap_or_default();
            let _ = rustix::io::write(stdout(), format!("{line}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Leaves the launcher's session and standard streams; `None` in the process that only was the
/// way there. The lock is the open file of the spec, held until this process ends.
fn daemonize() -> std::io::Result<Option<(Spec, File, File)>> {
    let mut lock = File::from(fcntl_dupfd_cloexec(stdin(), 3)?);
    let report = File::from(fcntl_dupfd_cloexec(stdout(), 3)?);
    let mut text = Vec::new();
    lock.read_to_end(&mut text)?;
    let spec: Spec = serde_json::from_slice(&text)?;
    if fork()? {
        return Ok(None);
    }
    setsid()?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(Some((spec, report, lock)))
}

/// Whether this is the parent.
#[expect(unsafe_code, reason = "fork has no safe form")]
fn fork() -> std::io::Result<bool> {
    // SAFETY: the process has one thread, so the child is a whole copy and may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        pid => Ok(pid > 0),
    }
}
