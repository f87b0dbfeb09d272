//! One connection of a client, from its first byte to its end.
//!
//! A port without paths carries bytes. A port with paths carries one request and its answer, and
//! closes: what a client sends after its request never reaches the instance, for it might belong to
//! another route.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::head::{self, HEAD_MAX, Refusal, Request};
use super::lane::Lane;
use super::path::{self, Unclear};
use super::relay::{End, relay};
use super::rotation::{Lease, Rotation};
use super::table::{Entry, Table};

/// How long a request's head may take to come.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long an instance may take to accept a connection: one that rests is woken by it meanwhile.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How many instances are tried for one connection.
const TRIES: usize = 3;
/// How long a client may take to take the gateway's own answer, and to end after any answer.
const FAREWELL: Duration = Duration::from_secs(1);
/// What a client may still send meanwhile, in bytes.
const FAREWELL_MAX: usize = 256 * 1024;

/// Carries a connection that came to `port`.
pub(crate) fn carry(
    client: &TcpStream,
    port: u16,
    source: Ipv4Addr,
    table: &Table,
    rotation: &Arc<Rotation>,
) {
    if client.set_nonblocking(true).is_err() {
        return;
    }
    let _ = client.set_nodelay(true);
    if table.is_http(port) {
        let outcome = read_head(client, Instant::now() + HEAD_TIME)
            .map_err(|refusal| (refusal, true))
            .and_then(|(head, rest)| {
                let request = head::request(&head).map_err(|refusal| (Some(refusal), true))?;
                let with_body = request.method != "HEAD";
                answer(client, port, source, &request, &rest, table, rotation)
                    .map_err(|refusal| (refusal, with_body))
            });
        match outcome {
            Ok(()) => say_farewell(client),
            Err((Some(refusal), with_body)) => {
                tell(client, &refusal.bytes(with_body));
                say_farewell(client);
            }
            Err((None, _)) => {}
        }
    } else if let Some(entry) = table.choose(port, None, source)
        && let Ok((_lease, instance)) = connect(entry, table, rotation)
    {
        relay(client, &instance, &mut Lane::of_bytes(), &mut Lane::of_bytes());
    }
}

/// Gets the answer to a request; `None` when there is nobody left to be told.
fn answer(
    client: &TcpStream,
    port: u16,
    source: Ipv4Addr,
    request: &Request,
    rest: &[u8],
    table: &Table,
    rotation: &Arc<Rotation>,
) -> Result<(), Option<Refusal>> {
    let path = path::normal(&request.target).map_err(|unclear| match unclear {
        Unclear::Form => Refusal::new(400, "the target of the request is no path"),
        Unclear::Dots => Refusal::new(400, "the path has a segment of dots"),
    })?;
    let entry = table
        .choose(port, Some(&path), source)
        .ok_or(Refusal::new(404, "no route leads there from here"))?;
    let (_lease, instance) = connect(entry, table, rotation)?;
    let mut up = Lane::of_request(request.forward(source), request.framing.clone());
    let mut down = Lane::of_answer(request);
    up.take(rest).map_err(|_| Refusal::new(400, "the body of the request is malformed"))?;
    match relay(client, &instance, &mut up, &mut down) {
        End::Whole => Ok(()),
        End::Refused(refusal) => Err(Some(refusal)),
        End::Cut => Err(None),
    }
}

/// A connection to an instance that a route leads to, and its place in the rotation.
fn connect(
    entry: &Entry,
    table: &Table,
    rotation: &Arc<Rotation>,
) -> Result<(Lease, TcpStream), Refusal> {
    let mut tried = Vec::new();
    while tried.len() < TRIES {
        let Some(lease) = rotation.lease(entry, table.available(&entry.pool), &tried) else {
            break;
        };
        match TcpStream::connect_timeout(&SocketAddr::V4(lease.target), CONNECT_TIME) {
            Ok(instance) if instance.set_nonblocking(true).is_ok() => {
                let _ = instance.set_nodelay(true);
                return Ok((lease, instance));
            }
            Ok(_) | Err(_) => tried.push(lease.target),
        }
    }
    Err(if tried.is_empty() {
        Refusal::new(503, "no instance of the route's pool is available")
    } else {
        Refusal::new(502, "no instance of the route's pool accepts a connection")
    })
}

/// The head of a request, and what came after it; `None` when the client left before it asked.
fn read_head(
    mut client: &TcpStream,
    deadline: Instant,
) -> Result<(Vec<u8>, Vec<u8>), Option<Refusal>> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(length) = head::end(&head) {
            let rest = head.split_off(length);
            return Ok((head, rest));
        }
        if head.len() > HEAD_MAX {
            return Err(Some(Refusal::new(431, "the head of the request is too long")));
        }
        match wait(client, PollFlags::IN, deadline) {
            Ok(true) => {}
            Ok(false) if head.is_empty() => return Err(None),
            Ok(false) => return Err(Some(Refusal::new(408, "the head did not come in time"))),
            Err(_) => return Err(None),
        }
        match client.read(&mut buffer) {
            Ok(0) if head.is_empty() => return Err(None),
            Ok(0) => return Err(Some(Refusal::new(400, "the head does not end"))),
            Ok(count) => head.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(None),
        }
    }
}

/// Sends an answer of the gateway's own, as far as the client takes it in time.
fn tell(mut client: &TcpStream, mut bytes: &[u8]) {
    let deadline = Instant::now() + FAREWELL;
    while !bytes.is_empty() && wait(client, PollFlags::OUT, deadline) == Ok(true) {
        match client.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Ends the answer, and lets the client end before the socket is closed: closing it with bytes
/// unread would reset the connection, and the client might lose what was sent (RFC 9112, 9.6).
fn say_farewell(mut client: &TcpStream) {
    if client.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let deadline = Instant::now() + FAREWELL;
    let mut buffer = [0; 4096];
    let mut dropped = 0;
    while dropped < FAREWELL_MAX && wait(client, PollFlags::IN, deadline) == Ok(true) {
        match client.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => dropped += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Waits for a socket; false when the deadline comes first.
fn wait(socket: &TcpStream, what: PollFlags, deadline: Instant) -> rustix::io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(socket, what)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            done => return done.map(|count| count > 0),
        }
    }
}
