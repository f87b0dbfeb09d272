//! Carries bytes between two sockets, each direction by its lane, until all has passed.
//!
//! Nothing is read that cannot be sent on yet, so a slow receiver slows its sender. The end of one
//! direction is passed on while the other goes on. This module refuses to know what passes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::head::Refusal;
use super::lane::Lane;

/// Bytes read at once.
const SIZE: usize = 16 * 1024;
/// How long a connection of bytes may rest.
const BYTES_IDLE: Duration = Duration::from_secs(15 * 60);
/// How long a request or its answer may rest.
const HTTP_IDLE: Duration = Duration::from_secs(5 * 60);

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All has passed.
    Whole,
    /// The answer is this one instead.
    Refused(Refusal),
    /// In the middle, and nobody can be told.
    Cut,
}

/// Carries what passes between a client and an instance. Both sockets do not block.
pub(crate) fn relay(
    client: &TcpStream,
    instance: &TcpStream,
    up: &mut Lane,
    down: &mut Lane,
) -> End {
    match carry(client, instance, up, down) {
        Ok(()) => End::Whole,
        Err(Some(refusal)) if !down.has_begun() && !down.is_of_bytes() => End::Refused(refusal),
        Err(_) => End::Cut,
    }
}

/// `None` as an error: there is nobody left to be told.
fn carry(
    client: &TcpStream,
    instance: &TcpStream,
    up: &mut Lane,
    down: &mut Lane,
) -> Result<(), Option<Refusal>> {
    let mut buffer = vec![0; SIZE];
    loop {
        pass_end(up, instance);
        pass_end(down, client);
        if down.is_over() && (up.is_over() || !down.is_of_bytes()) {
            return Ok(());
        }
        let [at_client, at_instance] = wait(client, instance, up, down)?;
        if at_client {
            let has_part = up.wants_input() || !down.output().is_empty();
            if !has_part {
                // Only an error or the end of both directions wakes without an interest.
                return Err(None);
            }
            receive(client, up, &mut buffer).map_err(|_| None)?;
            send(down, client).map_err(|_| None)?;
        }
        if at_instance {
            if send(up, instance).is_err() {
                if up.is_of_bytes() {
                    return Err(None);
                }
                // It may have answered without reading all of it.
                up.abandon();
            }
            receive(instance, down, &mut buffer).map_err(Some)?;
            if down.is_of_bytes() && !up.is_of_bytes() {
                up.become_bytes();
            }
        }
    }
}

fn pass_end(lane: &mut Lane, to: &TcpStream) {
    if lane.shuts() {
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Waits until one of the two can go on.
fn wait(
    client: &TcpStream,
    instance: &TcpStream,
    up: &Lane,
    down: &Lane,
) -> Result<[bool; 2], Option<Refusal>> {
    let interest = |takes: &Lane, gives: &Lane| {
        let input = if takes.wants_input() { PollFlags::IN } else { PollFlags::empty() };
        input | if gives.output().is_empty() { PollFlags::empty() } else { PollFlags::OUT }
    };
    let of_instance = interest(down, up);
    let mut waiting = vec![PollFd::new(client, interest(up, down))];
    if !of_instance.is_empty() {
        waiting.push(PollFd::new(instance, of_instance));
    }
    let idle = if down.is_of_bytes() { BYTES_IDLE } else { HTTP_IDLE };
    let idle = Timespec { tv_sec: i64::try_from(idle.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    match poll(&mut waiting, Some(&idle)) {
        Ok(0) => Err(Some(Refusal::new(504, "the instance does not answer in time"))),
        Ok(_) => {
            let is_ready = |at: usize| waiting.get(at).is_some_and(|one| !one.revents().is_empty());
            Ok([is_ready(0), is_ready(1)])
        }
        Err(rustix::io::Errno::INTR) => Ok([false, false]),
        Err(_) => Err(None),
    }
}

fn receive(mut from: &TcpStream, lane: &mut Lane, buffer: &mut [u8]) -> Result<(), Refusal> {
    if !lane.wants_input() {
        return Ok(());
    }
    match from.read(buffer) {
        Ok(0) => lane.end(),
        Ok(count) => lane.take(buffer.get(..count).unwrap_or_default()),
        Err(error) if is_for_later(&error) => Ok(()),
        Err(_) => Err(Refusal::new(502, "the connection to the instance broke")),
    }
}

fn send(lane: &mut Lane, mut to: &TcpStream) -> io::Result<()> {
    while !lane.output().is_empty() {
        match to.write(lane.output()) {
            Ok(count) => lane.sent(count),
            Err(error) if is_for_later(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
