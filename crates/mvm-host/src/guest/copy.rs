//! Tar streams into and out of a guest.
//!
//! One thread owns the session. The guest's credit slows a sender down, and a slow writer here
//! slows the guest down: no more than a window is ever held. What is in the stream is not looked at.

use std::{
    io::{ErrorKind as Io, Read, Write},
    time::Duration,
};

use mvm_core::{
    Error, ErrorKind,
    meter::{CopyReport, GuestMetrics, WorkerState},
};
use mvm_proto::{Event, Failure, FailureKind, Input, Reply, Request, StreamId};

use super::link::{Link, Lost, Mine};

/// How much is read at once, in bytes.
const PIECE: usize = 64 * 1024;
/// How long a guest may take to say how it is.
pub(super) const FIGURES: Duration = Duration::from_secs(5);

/// Sends a tar stream that the guest unpacks below `path`.
pub(super) fn copy_in(
    mut link: Link,
    instance: &str,
    path: &str,
    stream: &mut dyn Read,
) -> Result<CopyReport, Error> {
    let lost = |lost: Lost| lost.error(instance, "its agent is lost");
    let act = format!("cannot copy to {instance}:{path}");
    let id = link.begin(Request::CopyIn { path: path.to_owned() }).map_err(lost)?;
    link.be_patient();
    let mut buffer = vec![0u8; PIECE];
    let mut report = None;
    loop {
        let count = match stream.read(&mut buffer) {
            Err(error) if error.kind() == Io::Interrupted => continue,
            Err(error) => {
                link.session().cancel(id);
                let _ = link.flush();
                return Err(Error::new(ErrorKind::Failed, act).because(&error));
            }
            Ok(count) => count,
        };
        if count == 0 {
            break;
        }
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            if let Some(end) = take(&mut link, id, &mut report).map_err(lost)? {
                return finish(end, report, &act);
            }
            let sent = link.session().send_data(id, rest).unwrap_or(rest.len());
            rest = rest.get(sent..).unwrap_or_default();
            link.flush().map_err(lost)?;
            if !rest.is_empty() || link.backlog() > PIECE {
                link.wait(None).map_err(lost)?;
            }
        }
    }
    let _ = link.session().input(id, Input::InputClosed {});
    loop {
        if let Some(end) = take(&mut link, id, &mut report).map_err(lost)? {
            return finish(end, report, &act);
        }
        link.wait(None).map_err(lost)?;
    }
}

/// Receives `path` as a tar stream.
pub(super) fn copy_out(
    mut link: Link,
    instance: &str,
    path: &str,
    to: &mut dyn Write,
) -> Result<CopyReport, Error> {
    let lost = |lost: Lost| lost.error(instance, "its agent is lost");
    let act = format!("cannot copy {instance}:{path}");
    let id = link.begin(Request::CopyOut { path: path.to_owned() }).map_err(lost)?;
    link.be_patient();
    let mut report = None;
    loop {
        let event = link.next_event().map_err(lost)?;
        let broken =
            |error: std::io::Error| Error::new(ErrorKind::Failed, act.clone()).because(&error);
        if let Event::Data { stream, payload } = &event
            && *stream == id
        {
            if let Err(error) = to.write_all(payload) {
                link.session().cancel(id);
                let _ = link.flush();
                return Err(broken(error));
            }
            link.session().consumed(id, payload.len());
        } else if let Some(end) = note(event, id, &mut report) {
            to.flush().map_err(broken)?;
            return finish(end, report, &act);
        }
    }
}

/// How the guest is: its counters and its workload's state.
pub(super) fn figures(mut link: Link) -> Result<GuestMetrics, Lost> {
    let mut metrics = GuestMetrics::default();
    for request in [Request::Metrics {}, Request::Status {}] {
        let id = link.begin(request)?;
        loop {
            let event = link.next_event()?;
            if let Event::Reply { reply, .. } = event {
                learn(reply, &mut metrics);
            } else if note(event, id, &mut None).is_some() {
                break;
            }
        }
    }
    Ok(metrics)
}

fn learn(reply: Reply, metrics: &mut GuestMetrics) {
    match reply {
        Reply::Metrics(found) => {
            metrics.cpu_total_ms = found.cpu_total_ms;
            metrics.cpu_idle_ms = found.cpu_idle_ms;
            metrics.mem_total_kib = found.mem_total_kib;
            metrics.mem_available_kib = found.mem_available_kib;
            metrics.load_milli = found.load_milli;
            metrics.uptime_ms = found.uptime_ms;
            metrics.processes = found.processes;
        }
        Reply::Status(status) => {
            metrics.worker = match status.worker {
                mvm_proto::WorkerState::Starting => WorkerState::Starting,
                mvm_proto::WorkerState::Ready => WorkerState::Ready,
                mvm_proto::WorkerState::Idle => WorkerState::Idle,
                mvm_proto::WorkerState::Busy => WorkerState::Busy,
                mvm_proto::WorkerState::Unknown => WorkerState::Unknown,
            };
            metrics.last_busy_at_ms = status.last_busy_at;
            metrics.has_hooks = status.has_hooks;
        }
        Reply::Pong {}
        | Reply::Ack { .. }
        | Reply::Integrations { .. }
        | Reply::IntegrationStatus { .. }
        | Reply::Started { .. }
        | Reply::Exit(_)
        | Reply::Copied { .. }
        | Reply::Probe { .. } => {}
    }
}

/// How a stream ended.
enum End {
    Done,
    Failed(Failure),
}

/// Looks at what has come, without waiting.
fn take(
    link: &mut Link,
    id: StreamId,
    report: &mut Option<CopyReport>,
) -> Result<Option<End>, Lost> {
    while let Some(event) = link.take_event()? {
        if let Some(end) = note(event, id, report) {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

fn note(event: Event, id: StreamId, report: &mut Option<CopyReport>) -> Option<End> {
    match Mine::of(event, id)? {
        Mine::Reply(Reply::Copied { entries, bytes }) => {
            *report = Some(CopyReport { entries, bytes });
            None
        }
        Mine::Reply(_) => None,
        Mine::Failed(failure) => Some(End::Failed(failure)),
        Mine::Ended => Some(End::Done),
    }
}

fn finish(end: End, report: Option<CopyReport>, act: &str) -> Result<CopyReport, Error> {
    match (end, report) {
        (End::Done, Some(report)) => Ok(report),
        (End::Done, None) => Err(Error::new(ErrorKind::Failed, act)
            .because(&Failure::new(FailureKind::Failed, "the agent did not finish it"))),
        (End::Failed(failure), _) => {
            let kind = match failure.kind {
                FailureKind::NotFound => ErrorKind::NotFound,
                FailureKind::Denied | FailureKind::NotExecutable => ErrorKind::Permission,
                FailureKind::Invalid | FailureKind::Unsupported => ErrorKind::Invalid,
                FailureKind::Busy | FailureKind::Timeout => ErrorKind::Unavailable,
                FailureKind::Failed | FailureKind::Unknown => ErrorKind::Failed,
            };
            Err(Error::new(kind, act).because(&failure))
        }
    }
}
