//! What the guest says by itself: connections to the host's port, about its own instance only.
//!
//! Everything that comes is hostile: frames are capped by the protocol, connections by
//! [`CONNECTIONS_MAX`], and of all requests only a worker's state and a ping are answered.

use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
};

use mvm_proto::{
    Event, Failure, FailureKind, Generations, Hello, Reply, Request, Session, WorkerState,
};

/// How many connections of one guest are served at once; further ones are closed.
pub const CONNECTIONS_MAX: usize = 4;
/// A peer that does not read its answers is dropped at this backlog, in bytes.
const BACKLOG_MAX: usize = 256 * 1024;

/// One connection of the guest.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    session: Session,
    unsent: Vec<u8>,
}

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It does.
    Open,
    /// It is over.
    Closed,
}

/// Takes the next connection, `None` when there is none.
pub fn accept(listener: &UnixListener, instance: &str) -> Option<Connection> {
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    let session = Session::callee(Hello {
        generations: Generations::SUPPORTED,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: String::new(),
        instance_id: Some(instance.to_owned()),
        operation: None,
    });
    Some(Connection { stream, session, unsent: Vec::new() })
}

impl Connection {
    /// The socket, to wait on.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Takes what came and answers it; `told` gets each worker state.
    pub fn serve(&mut self, told: &mut dyn FnMut(WorkerState)) -> Served {
        let mut buffer = [0u8; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Served::Closed,
            Ok(count) => self.session.receive(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Served::Closed,
        }
        loop {
            match self.session.next_event() {
                Ok(Some(event)) => self.apply(event, told),
                Ok(None) => break,
                Err(_) => return Served::Closed,
            }
        }
        self.flush()
    }

    /// Sends what waits to be sent.
    pub fn flush(&mut self) -> Served {
        self.unsent.extend(self.session.take_output());
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return Served::Closed,
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Served::Closed,
            }
        }
        if self.unsent.len() > BACKLOG_MAX { Served::Closed } else { Served::Open }
    }

    fn apply(&mut self, event: Event, told: &mut dyn FnMut(WorkerState)) {
        match event {
            Event::Opened { stream, request: Request::Notify { worker } } => {
                told(worker);
                let ack = Reply::Ack { success: true, detail: String::new() };
                let _ = self.session.reply(stream, ack);
                self.session.finish(stream);
            }
            Event::Opened { stream, request: Request::Ping {} } => {
                let _ = self.session.reply(stream, Reply::Pong {});
                self.session.finish(stream);
            }
            Event::Opened { stream, .. } => self.session.fail(
                stream,
                Failure::new(FailureKind::Unsupported, "a host does not do this for a guest"),
            ),
            Event::Cancelled { stream } => self.session.finish(stream),
            Event::Ready { .. }
            | Event::Input { .. }
            | Event::Reply { .. }
            | Event::Failed { .. }
            | Event::Ended { .. }
            | Event::Data { .. }
            | Event::Credit { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn call(request: Request) -> (Vec<WorkerState>, Event) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v.sock_5253");
        let listener = UnixListener::bind(&path).unwrap();
        let mut guest = UnixStream::connect(&path).unwrap();
        let mut connection = accept(&listener, "i-00000001").unwrap();
        let mut session = Session::caller(Hello {
            generations: Generations::SUPPORTED,
            version: "0".to_owned(),
            boot_id: String::new(),
            instance_id: None,
            operation: None,
        });
        session.open(request).unwrap();
        guest.write_all(&session.take_output()).unwrap();
        let mut told = Vec::new();
        assert_eq!(connection.serve(&mut |worker| told.push(worker)), Served::Open);
        let mut buffer = [0u8; 4096];
        let count = guest.read(&mut buffer).unwrap();
        session.receive(buffer.get(..count).unwrap());
        assert!(matches!(session.next_event().unwrap(), Some(Event::Ready { .. })));
        (told, session.next_event().unwrap().unwrap())
    }

    #[test]
    fn a_workers_state_is_told_and_acknowledged() {
        let (told, answer) = call(Request::Notify { worker: WorkerState::Busy });
        assert_eq!(told, [WorkerState::Busy]);
        assert!(matches!(answer, Event::Reply { reply: Reply::Ack { success: true, .. }, .. }));
    }

    #[test]
    fn a_guest_cannot_ask_its_host_to_run_anything() {
        let (told, answer) = call(Request::Metrics {});
        assert!(told.is_empty());
        let Event::Failed { failure, .. } = answer else { unreachable!("{answer:?}") };
        assert_eq!(failure.kind, FailureKind::Unsupported);
    }
}
