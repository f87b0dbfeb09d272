//! The figures of a node for Prometheus: its text format (version 0.0.4), and the port where it is read.
//!
//! Whoever reaches the port reads figures and names of tenants and pools, and can change nothing. Requests
//! are answered one after the other, each with a deadline and a limit of its own, and closed. This module
//! refuses to know how figures are counted.

mod page;
mod table;

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use mvm_core::{
    api::Role,
    error::{Error, ErrorKind},
    port::Clock,
    units::Timestamp,
};
use mvm_engine::{
    Context, Outcome,
    metrics::{Counted, Durations, Present},
};
use mvm_host::clock::SystemClock;

use crate::{Mvm, agent::GLANCE};

pub use table::reference;

/// How long a request may take to come, and an answer to go.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest head of a request, in bytes.
const HEAD_MAX: usize = 8 * 1024;

/// What the agent counts while it serves.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    counted: Mutex<Counted>,
    passes: Mutex<Passes>,
}

impl Figures {
    /// Notes a pass of reconcile.
    pub(crate) fn note_reconcile(&self, took: Duration, done: &Result<Outcome, Error>) {
        let mut passes = hold(&self.passes);
        passes.reconcile.add(millis(took));
        if is_whole(done) {
            passes.converged_at = Some(SystemClock.now());
        } else {
            passes.failed += 1;
        }
        passes.deferred = done.as_ref().map_or(0, |outcome| outcome.deferrals.len());
    }

    /// Notes a tick of policy.
    pub(crate) fn note_policy(&self, took: Duration, done: &Result<Outcome, Error>) {
        let mut passes = hold(&self.passes);
        passes.policy.add(millis(took));
        passes.policy_failed += u64::from(!is_whole(done));
    }

    /// Answers who asks at `listener`, until `cx` is cancelled.
    pub(crate) fn serve(&self, mvm: &Mvm, cx: &Context, listener: &Listener) {
        let engine = &mvm.engine;
        let page = || {
            let mut counted = hold(&self.counted);
            engine.count_events(&mut counted)?;
            Ok(page::render(&Reading {
                counted: &counted,
                present: &engine.present()?,
                passes: *hold(&self.passes),
                certificates: certificates(mvm),
            }))
        };
        // What happened before is not counted; what happens before the first reader comes is.
        if let Err(error) = engine.count_events(&mut hold(&self.counted)) {
            tracing::warn!(%error, "the audit logs cannot be counted");
        }
        while cx.cancel.check().is_ok() {
            listener.answer(page);
            thread::sleep(GLANCE);
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn is_whole(done: &Result<Outcome, Error>) -> bool {
    done.as_ref().is_ok_and(|outcome| outcome.failures.is_empty())
}

/// Until when the certificates of this node are valid.
fn certificates(mvm: &Mvm) -> BTreeMap<Role, Timestamp> {
    let facts = mvm.agent_certs_status().unwrap_or_else(|error| {
        tracing::warn!(%error, "the certificates cannot be read");
        Vec::new()
    });
    facts.into_iter().filter_map(|one| Some((one.role?, one.not_after))).collect()
}

fn hold<T>(figures: &Mutex<T>) -> MutexGuard<'_, T> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the agent itself did since it began.
#[derive(Debug, Clone, Copy, Default)]
struct Passes {
    /// Passes of reconcile.
    reconcile: Durations,
    /// How many of them had something that failed.
    failed: u64,
    /// How much the last one put off.
    deferred: usize,
    /// When the last one ended in which nothing failed.
    converged_at: Option<Timestamp>,
    /// Ticks of policy.
    policy: Durations,
    /// How many ticks of policy had something that failed.
    policy_failed: u64,
}

/// Everything that a page shows.
struct Reading<'a> {
    counted: &'a Counted,
    present: &'a Present,
    passes: Passes,
    certificates: BTreeMap<Role, Timestamp>,
}

/// A port that is listened at.
#[derive(Debug)]
pub(crate) struct Listener(TcpListener);

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// `Unavailable` when the address cannot be had.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, Error> {
        let bound = TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        bound.map(Self).map_err(|error| {
            let message = format!("cannot listen at {address} for metrics");
            Error::new(ErrorKind::Unavailable, message).because(&error)
        })
    }

    /// Answers who waits, with what `page` makes of the moment.
    pub(crate) fn answer(&self, page: impl Fn() -> Result<String, Error>) {
        // So many at a time: what waits behind them is answered with the next glance.
        for _ in 0..16 {
            let Ok((stream, _)) = self.0.accept() else { return };
            if let Err(error) = converse(stream, &page) {
                tracing::debug!(%error, "a reader of metrics went away");
            }
        }
    }
}

fn converse(
    mut stream: TcpStream,
    page: &impl Fn() -> Result<String, Error>,
) -> Result<(), io::Error> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < HEAD_MAX {
        match stream.read(&mut piece)? {
            0 => break,
            length => head.extend_from_slice(piece.get(..length).unwrap_or_default()),
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let (status, kind, body) = match line {
        b"GET /metrics HTTP/1.1" | b"GET /metrics HTTP/1.0" => match page() {
            Ok(text) => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text),
            Err(error) => ("503 Service Unavailable", "text/plain", format!("{error}\n")),
        },
        _ => ("404 Not Found", "text/plain", "figures are at /metrics\n".to_owned()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_the_page_and_every_other_request_a_word() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.0.local_addr().unwrap();
        let ask = |request: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            listener.answer(|| Ok("mvm_x 1\n".to_owned()));
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nmvm_x 1\n"));
        assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask("\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(Listener::bind(address).is_err());
    }
}
