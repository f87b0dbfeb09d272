//! Who a process is: pid and start time, held by a pidfd. A bare pid is never signalled.
//!
//! A pid is reused; together with the start time (field 22 of `/proc/<pid>/stat`, clock ticks
//! since boot) it is not, within one boot. Records of other boots are removed before any is read.

use std::{fs, io, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

/// The identity of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid on the host.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: u8,
    parent: u32,
    start: u64,
}

impl ProcessId {
    /// The identity of the process that has `pid` now; `None` when there is none.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        Ok(stat(pid)?.map(|stat| Self { pid, start: stat.start }))
    }

    /// The identity of this process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn own() -> io::Result<Self> {
        let pid = std::process::id();
        Self::of(pid)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Whether that very process lives; a zombie does not.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn is_alive(self) -> io::Result<bool> {
        Ok(stat(self.pid)?
            .is_some_and(|stat| stat.start == self.start && !matches!(stat.state, b'Z' | b'X')))
    }

    /// Whether `parent` is the parent of that very process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn is_child_of(self, parent: u32) -> io::Result<bool> {
        Ok(stat(self.pid)?.is_some_and(|stat| stat.start == self.start && stat.parent == parent))
    }

    /// A handle on that very process; `None` when it is gone.
    ///
    /// # Errors
    /// When the kernel refuses a handle.
    pub fn open(self) -> io::Result<Option<Process>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            // While a process is taken away its pid is still known for a moment, to no process.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The start time is compared after the handle is held: the pid cannot be reused in between.
        Ok(self.is_alive()?.then_some(Process { fd }))
    }
}

/// A held process: signals reach it or nobody.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// The process of a pidfd that was opened elsewhere.
    #[must_use]
    pub const fn from_pidfd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Its pidfd, given away.
    #[must_use]
    pub fn into_pidfd(self) -> OwnedFd {
        self.fd
    }

    /// Its pidfd, readable once it is gone.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Sends SIGKILL; a process that is gone is a success.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits up to `wait` for its end and says whether it came.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&self, wait: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(wait).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match poll(&mut fds, Some(&timeout)) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => parse(&text)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name of a program may hold spaces and parentheses: fields count from the last one.
fn parse(text: &[u8]) -> Option<Stat> {
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22; state was field 3, the parent field 4.
    let start = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, start })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    #![expect(clippy::disallowed_methods, reason = "a test needs a child of its own")]
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = b"12 (a) b (c)) S 7 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 2 3";
        assert_eq!(parse(text), Some(Stat { state: b'S', parent: 7, start: 4711 }));
    }

    #[test]
    fn a_child_is_alive_until_it_is_killed_through_its_handle() {
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap().unwrap();
        assert!(id.is_child_of(std::process::id()).unwrap());
        let process = id.open().unwrap().unwrap();
        assert!(!process.wait(Duration::ZERO).unwrap());
        process.kill().unwrap();
        assert!(process.wait(Duration::from_secs(10)).unwrap());
        assert!(!id.is_alive().unwrap(), "a zombie counts as gone");
        child.wait().unwrap();
        assert!(id.open().unwrap().is_none());
        process.kill().unwrap();
    }

    #[test]
    fn the_same_pid_with_another_start_time_is_another_process() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive().unwrap());
        let reused = ProcessId { start: own.start + 1, ..own };
        assert!(!reused.is_alive().unwrap());
        assert!(reused.open().unwrap().is_none());
    }
}
