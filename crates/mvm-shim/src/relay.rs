//! The console for one person at a time: a socket beside the records, and bytes both ways.
//!
//! ```text
//!  client ── connects ──► a byte: attached, busy, or no console; then the last lines
//!         ◄── what the guest prints ── PTY ── what the client types ──►
//! ```
//! The log is written whether somebody is attached or not. A client that does not read is let go,
//! so that it never holds the guest up. It refuses to know terminals, keys and how to detach.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use rustix::event::{PollFd, PollFlags};

use crate::{
    record::{CONSOLE_ABSENT, CONSOLE_ATTACHED, CONSOLE_BUSY, CONSOLE_SOCKET},
    socket,
};

/// A client that does not read is let go at this backlog, in bytes.
const BACKLOG_MAX: usize = 256 * 1024;
/// How much of what is typed waits for the guest, in bytes; then the client waits.
const TYPED_MAX: usize = 4096;

/// The socket and who is attached.
#[derive(Debug)]
pub struct Relay {
    listener: Option<UnixListener>,
    client: Option<Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    shown: Vec<u8>,
    typed: Vec<u8>,
}

impl Relay {
    /// Listens in this directory; where that fails, nobody can attach, and nothing else.
    #[must_use]
    pub fn listen(directory: &OwnedFd) -> Self {
        Self { listener: socket::listen(directory, CONSOLE_SOCKET).ok(), client: None }
    }

    /// Adds what has to be waited for.
    pub fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(self.listener.as_ref().map(|one| PollFd::new(one, PollFlags::IN)));
        if let Some(client) = &self.client {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, client.typed.len() < TYPED_MAX);
            flags.set(PollFlags::OUT, !client.shown.is_empty());
            fds.push(PollFd::from_borrowed_fd(client.stream.as_fd(), flags));
        }
    }

    /// Whether something typed waits until the console takes it.
    #[must_use]
    pub fn is_typing(&self) -> bool {
        self.client.as_ref().is_some_and(|client| !client.typed.is_empty())
    }

    /// Passes on what the guest printed.
    pub fn show(&mut self, bytes: &[u8]) {
        if let Some(client) = &mut self.client {
            client.shown.extend_from_slice(bytes);
        }
    }

    /// Takes new clients and moves bytes, without waiting. `tail` are the last lines of the log.
    pub fn pump(&mut self, console: Option<&OwnedFd>, tail: &dyn Fn() -> Vec<String>) {
        while let Some((stream, _)) = self.listener.as_ref().and_then(|one| one.accept().ok()) {
            self.welcome(stream, console, tail);
        }
        let is_gone = self.client.as_mut().is_some_and(|client| client.serve(console).is_err());
        if is_gone || console.is_none() {
            self.client = None;
        }
    }

    fn welcome(
        &mut self,
        mut stream: UnixStream,
        console: Option<&OwnedFd>,
        tail: &dyn Fn() -> Vec<String>,
    ) {
        let refusal = match (console, &self.client) {
            (None, _) => Some(CONSOLE_ABSENT),
            (Some(_), Some(_)) => Some(CONSOLE_BUSY),
            (Some(_), None) => None,
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if let Some(word) = refusal {
            // Who does not even take one byte hears nothing.
            let _ = stream.write(&[word]);
            return;
        }
        let mut shown = vec![CONSOLE_ATTACHED];
        shown.extend_from_slice(tail().join("\r\n").as_bytes());
        self.client = Some(Client { stream, shown, typed: Vec::new() });
    }
}

impl Client {
    /// Moves what can be moved; an error when the client is gone or has to go.
    fn serve(&mut self, console: Option<&OwnedFd>) -> io::Result<()> {
        let mut buffer = [0u8; TYPED_MAX];
        if self.typed.len() < TYPED_MAX {
            let room = TYPED_MAX - self.typed.len();
            match self.stream.read(buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.typed.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) => is_only_waiting(error)?,
            }
        }
        if let Some(console) = console
            && !self.typed.is_empty()
        {
            match rustix::io::write(console, &self.typed) {
                Ok(count) => drop(self.typed.drain(..count)),
                Err(error) => is_only_waiting(error.into())?,
            }
        }
        while !self.shown.is_empty() {
            match self.stream.write(&self.shown) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.shown.drain(..count)),
                Err(error) => {
                    is_only_waiting(error)?;
                    break;
                }
            }
        }
        if self.shown.len() > BACKLOG_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

fn is_only_waiting(error: io::Error) -> io::Result<()> {
    let is_waiting = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
    if is_waiting { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::{fs::File, path::Path};

    use super::*;
    use crate::console;

    fn relay(directory: &Path) -> Relay {
        Relay::listen(&OwnedFd::from(File::open(directory).unwrap()))
    }

    fn attach(directory: &Path) -> UnixStream {
        UnixStream::connect(directory.join(CONSOLE_SOCKET)).unwrap()
    }

    fn read(stream: &mut UnixStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn lines() -> Vec<String> {
        vec!["one".to_owned(), "two".to_owned()]
    }

    #[test]
    fn bytes_go_both_ways_and_a_second_client_is_told_that_it_is_busy() {
        let directory = tempfile::tempdir().unwrap();
        let mut relay = relay(directory.path());
        let pty = console::open().unwrap();
        let mut first = attach(directory.path());
        relay.pump(Some(&pty.outer), &lines);
        assert_eq!(read(&mut first, 9), b"\x06one\r\ntwo");
        let mut second = attach(directory.path());
        relay.pump(Some(&pty.outer), &lines);
        assert_eq!(read(&mut second, 1), [CONSOLE_BUSY]);

        relay.show(b"login: ");
        first.write_all(b"root\r").unwrap();
        relay.pump(Some(&pty.outer), &lines);
        assert_eq!(read(&mut first, 7), b"login: ");
        let mut typed = [0u8; 5];
        File::from(pty.inner).read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\r");

        drop(first);
        relay.pump(Some(&pty.outer), &lines);
        let mut third = attach(directory.path());
        relay.pump(Some(&pty.outer), &lines);
        assert_eq!(read(&mut third, 1), [CONSOLE_ATTACHED]);
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let mut relay = relay(directory.path());
        let pty = console::open().unwrap();
        let _deaf = attach(directory.path());
        for _ in 0..64 {
            relay.pump(Some(&pty.outer), &lines);
            relay.show(&[b'x'; 64 * 1024]);
        }
        relay.pump(Some(&pty.outer), &lines);
        assert!(relay.client.is_none());
    }

    #[test]
    fn without_a_console_nobody_is_attached() {
        let directory = tempfile::tempdir().unwrap();
        let mut relay = relay(directory.path());
        let mut client = attach(directory.path());
        relay.pump(None, &lines);
        assert_eq!(read(&mut client, 1), [CONSOLE_ABSENT]);
    }
}
