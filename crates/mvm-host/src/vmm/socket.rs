//! Unix sockets that are named by an open directory and a short name, and deadlines.
//!
//! A socket's path may have 107 bytes; through `/proc/self/fd` its real length never matters.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with},
};

/// A full queue of a listening socket is tried again at this interval.
const QUEUE_INTERVAL: Duration = Duration::from_millis(5);

/// A moment after which nothing is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `span` from now.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// What is left of it.
    ///
    /// # Errors
    /// `TimedOut` when it is over.
    pub fn left(self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// The earlier of the two.
    #[must_use]
    pub fn at_most(self, span: Duration) -> Self {
        self.min(Self::after(span))
    }

    /// Waits until one of `fds` is ready and says which.
    ///
    /// # Errors
    /// `TimedOut` when the deadline comes first.
    pub fn poll<const N: usize>(
        self,
        fds: [(BorrowedFd<'_>, PollFlags); N],
    ) -> io::Result<[bool; N]> {
        let mut fds = fds.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
        loop {
            let timeout = Timespec::try_from(self.left()?).map_err(io::Error::other)?;
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(fds.map(|fd| !fd.revents().is_empty())),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Connects to the socket `name` in the open `directory`; the stream is non-blocking.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when nobody listens, `TimedOut` at the deadline.
pub fn connect(directory: impl AsFd, name: &str, deadline: Deadline) -> io::Result<UnixStream> {
    let path = format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd());
    let address = SocketAddrUnix::new(path)?;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(rustix::io::Errno::AGAIN) => {
                std::thread::sleep(QUEUE_INTERVAL.min(deadline.left()?));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
