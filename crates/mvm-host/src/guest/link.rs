//! A session with an agent over one socket: connected, greeted, watched.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use mvm_core::{
    Error, ErrorKind,
    id::{InstanceRef, OperationId},
};
use mvm_proto::{
    Event, Failure, GUEST_PORT, Generations, Hello, Reply, Request, Session, StreamId,
};
use mvm_shim::{identity::Process, record::VSOCK_SOCKET};
use rustix::event::PollFlags;

use super::Door;
use crate::vmm::{
    place::Place,
    records::Records,
    socket::{self, Deadline},
};

/// How long one attempt may take. Firecracker holds a connection that the guest has no driver for
/// yet, so an attempt that is too patient would notice a booted guest late.
const ATTEMPT: Duration = Duration::from_millis(500);
/// A guest that nobody listens in is tried again at this interval.
const INTERVAL: Duration = Duration::from_millis(10);
/// A connection breaks at most this long before the process behind it is gone.
const GRACE: Duration = Duration::from_millis(100);
/// The longest answer to `CONNECT`: `OK ` and a port number.
const CONNECTED_MAX: usize = 32;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Lost {
    /// The deadline came.
    Silent,
    /// The VMM is gone, or was not there.
    Vmm,
    /// The agent hung up, or what it said is not the protocol.
    HungUp(String),
    /// This host's own trouble.
    Host(Error),
}

impl Lost {
    /// The error for an act on `instance` that cannot be answered otherwise.
    pub(super) fn error(self, instance: &str, silence: &str) -> Error {
        let unavailable = |message: String| Error::new(ErrorKind::Unavailable, message);
        match self {
            Self::Silent => unavailable(format!("{instance} is silent: {silence}"))
                .hint("see what it does: `mvm instance logs`"),
            Self::Vmm => unavailable(format!("the VMM of {instance} is gone"))
                .hint("see how it ended: `mvm instance logs`"),
            Self::HungUp(why) => unavailable(format!("the agent of {instance} hung up: {why}")),
            Self::Host(error) => error,
        }
    }
}

/// A connection with an agent that said hello.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    session: Session,
    vmm: Process,
    deadline: Deadline,
    unsent: Vec<u8>,
    /// How long the end of the VMM may follow the end of the connection.
    grace: Duration,
}

impl Link {
    /// Connects until the agent says hello.
    pub(super) fn open(
        door: &Door,
        instance: &InstanceRef,
        operation: Option<&OperationId>,
        deadline: Deadline,
    ) -> Result<Self, Lost> {
        loop {
            let attempt_ends = deadline.at_most(ATTEMPT);
            let knocked = door.knock(instance, attempt_ends);
            match knocked.and_then(|(vmm, stream)| greet(stream, operation, vmm, attempt_ends)) {
                Ok(link) => {
                    tracing::debug!(%instance, "the agent says hello");
                    return Ok(Self { deadline, grace: GRACE, ..link });
                }
                Err(lost @ (Lost::Silent | Lost::HungUp(_))) => {
                    tracing::debug!(%instance, ?lost, "no agent yet");
                }
                Err(lost) => return Err(lost),
            }
            let left = deadline.left().map_err(|_| Lost::Silent)?;
            std::thread::sleep(INTERVAL.min(left));
        }
    }

    /// Opens a stream for a request.
    pub(super) fn begin(&mut self, request: Request) -> Result<StreamId, Lost> {
        let stream = self.session.open(request);
        let stream = stream.map_err(|error| {
            Lost::Host(Error::new(ErrorKind::Invalid, "cannot send the request").because(&error))
        })?;
        self.flush()?;
        Ok(stream)
    }

    /// The session, to send on; [`Link::flush`] then.
    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Waits without an end from now on, but for the VMM's.
    pub(super) fn be_patient(&mut self) {
        self.deadline = Deadline::after(Duration::from_secs(u64::from(u32::MAX)));
    }

    /// The next event, waited for.
    pub(super) fn next_event(&mut self) -> Result<Event, Lost> {
        loop {
            if let Some(event) = self.take_event()? {
                return Ok(event);
            }
            self.wait(None)?;
        }
    }

    /// The next event that is there already.
    pub(super) fn take_event(&mut self) -> Result<Option<Event>, Lost> {
        self.session.next_event().map_err(|error| Lost::HungUp(error.to_string()))
    }

    /// Sends what can be sent, takes what came, and waits for more or for `extra`.
    pub(super) fn wait(&mut self, extra: Option<BorrowedFd<'_>>) -> Result<(), Lost> {
        self.flush()?;
        let extra = extra.unwrap_or(self.vmm.fd().as_fd());
        let sending = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let ready = self.deadline.poll([
            (self.vmm.fd().as_fd(), PollFlags::IN),
            (self.stream.as_fd(), PollFlags::IN | sending),
            (extra, PollFlags::IN),
        ]);
        let [vmm, stream, _] = ready.map_err(lost)?;
        if stream {
            self.receive(vmm)?;
        }
        if vmm && !stream { Err(Lost::Vmm) } else { Ok(()) }
    }

    /// Waits for the end of the VMM, whatever the agent still says.
    pub(super) fn await_end(&mut self) -> Lost {
        match self.deadline.poll([(self.vmm.fd().as_fd(), PollFlags::IN)]) {
            Ok(_) => Lost::Vmm,
            Err(error) => lost(error),
        }
    }

    /// Sends what can be sent at once.
    pub(super) fn flush(&mut self) -> Result<(), Lost> {
        self.unsent.extend(self.session.take_output());
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.hung_up(error.to_string())),
            }
        }
        Ok(())
    }

    /// How many bytes wait to be sent.
    pub(super) fn backlog(&self) -> usize {
        self.unsent.len() + self.session.output_len()
    }

    fn receive(&mut self, is_vmm_gone: bool) -> Result<(), Lost> {
        let mut buffer = [0u8; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) if is_vmm_gone => Err(Lost::Vmm),
            Ok(0) => Err(self.hung_up("the connection ended".to_owned())),
            Ok(count) => {
                self.session.receive(buffer.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.hung_up(error.to_string())),
        }
    }

    /// A connection breaks a moment before the process behind it is gone; which of the two it was
    /// makes the difference between an agent's fault and a dead VM. Before the hello it makes none, and a
    /// guest that was just loaded hangs up once: who asks then finds out at the next attempt.
    fn hung_up(&self, why: String) -> Lost {
        match self.vmm.wait(self.grace) {
            Ok(true) => Lost::Vmm,
            Ok(false) | Err(_) => Lost::HungUp(why),
        }
    }
}

fn lost(error: io::Error) -> Lost {
    if error.kind() == io::ErrorKind::TimedOut {
        return Lost::Silent;
    }
    Lost::HungUp(error.to_string())
}

fn hold(place: &Place) -> Result<Process, Lost> {
    let id = Records::at(place).vmm().map_err(Lost::Host)?.ok_or(Lost::Vmm)?;
    let process = id.open().map_err(|error| {
        Lost::Host(Error::new(ErrorKind::Failed, "cannot hold the VMM").because(&error))
    })?;
    process.ok_or(Lost::Vmm)
}

/// A connection to the agent's socket, and the VMM behind it held.
pub(super) fn knock(place: &Place, deadline: Deadline) -> Result<(Process, UnixStream), Lost> {
    let vmm = hold(place)?;
    let name = VSOCK_SOCKET.rsplit('/').next().unwrap_or(VSOCK_SOCKET);
    let directory = place.sockets().map_err(Lost::Host)?;
    // No socket yet, or nobody behind it: a VMM without a guest.
    let stream = socket::connect(directory, name, deadline)
        .map_err(|error| Lost::HungUp(error.to_string()))?;
    Ok((vmm, stream))
}

fn greet(
    stream: UnixStream,
    operation: Option<&OperationId>,
    vmm: Process,
    deadline: Deadline,
) -> Result<Link, Lost> {
    let hello = Hello {
        generations: Generations::SUPPORTED,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: String::new(),
        instance_id: None,
        operation: operation.map(ToString::to_string),
    };
    let unsent = format!("CONNECT {GUEST_PORT}\n").into_bytes();
    let session = Session::caller(hello);
    let mut link = Link { stream, session, vmm, deadline, unsent, grace: Duration::ZERO };
    let rest = link.connected()?;
    link.session.receive(&rest);
    let first = link.next_event()?;
    if matches!(first, Event::Ready { .. }) {
        return Ok(link);
    }
    Err(Lost::HungUp(format!("{first:?} came before a hello")))
}

impl Link {
    /// Waits for Firecracker's `OK <port>` and returns what came behind it.
    fn connected(&mut self) -> Result<Vec<u8>, Lost> {
        // The hello must not go out before the answer: Firecracker would drop it.
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) => return Err(self.hung_up(error.to_string())),
            }
        }
        let mut answer = Vec::new();
        let mut buffer = [0u8; 4096];
        loop {
            if let Some(end) = answer.iter().position(|byte| *byte == b'\n') {
                let rest = answer.split_off(end + 1);
                let is_ok = answer.starts_with(b"OK ");
                return if is_ok { Ok(rest) } else { Err(Lost::HungUp("no OK".to_owned())) };
            }
            if answer.len() > CONNECTED_MAX {
                return Err(Lost::HungUp("no OK".to_owned()));
            }
            let fds =
                [(self.vmm.fd().as_fd(), PollFlags::IN), (self.stream.as_fd(), PollFlags::IN)];
            let [vmm, stream] = self.deadline.poll(fds).map_err(lost)?;
            if vmm && !stream {
                return Err(Lost::Vmm);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.hung_up("nobody listens in the guest".to_owned())),
                Ok(count) => answer.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.hung_up(error.to_string())),
            }
        }
    }
}

/// What came for one request of a session.
pub(super) enum Mine {
    /// An answer.
    Reply(Reply),
    /// It failed.
    Failed(Failure),
    /// Nothing more comes.
    Ended,
}

impl Mine {
    /// What an event is for the request on `stream`; data are not sorted here.
    pub(super) fn of(event: Event, stream: StreamId) -> Option<Self> {
        match event {
            Event::Reply { stream: of, reply } if of == stream => Some(Self::Reply(reply)),
            Event::Failed { stream: of, failure } if of == stream => Some(Self::Failed(failure)),
            Event::Ended { stream: of } if of == stream => Some(Self::Ended),
            Event::Ready { .. }
            | Event::Opened { .. }
            | Event::Input { .. }
            | Event::Cancelled { .. }
            | Event::Reply { .. }
            | Event::Failed { .. }
            | Event::Ended { .. }
            | Event::Data { .. }
            | Event::Credit { .. } => None,
        }
    }
}
