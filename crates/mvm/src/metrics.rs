//! The figures of a node for Prometheus: its text format (version 0.0.4), and the port where it is read.
//!
//! Whoever reaches the port reads figures and names of tenants and pools, and can change nothing. Requests
//! are answered one after the other, each with a deadline and a limit of its own, and closed. This module
//! refuses to know how figures are counted.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use mvm_core::{
    error::{Error, ErrorKind},
    event::EventKind,
};
use mvm_engine::{
    Context, Engine, Outcome,
    metrics::{BOUNDS, Counted, Durations, Place, Present},
};

use crate::agent::GLANCE;

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
    pub(crate) fn note(&self, took: Duration, done: &Result<Outcome, Error>) {
        let mut passes = hold(&self.passes);
        passes.reconcile.add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let is_whole = done.as_ref().is_ok_and(|outcome| outcome.failures.is_empty());
        passes.failed += u64::from(!is_whole);
    }

    /// Answers who asks at `listener`, until `cx` is cancelled.
    pub(crate) fn serve(&self, engine: &Engine, cx: &Context, listener: &Listener) {
        let page = || {
            let mut counted = hold(&self.counted);
            engine.count_events(&mut counted)?;
            Ok(render(&counted, &engine.present()?, &hold(&self.passes)))
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

fn hold<T>(figures: &Mutex<T>) -> MutexGuard<'_, T> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the agent itself did since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Passes {
    /// Passes of reconcile.
    pub(crate) reconcile: Durations,
    /// How many of them had something that failed.
    pub(crate) failed: u64,
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

/// The figures as text.
pub(crate) fn render(counted: &Counted, present: &Present, passes: &Passes) -> String {
    let mut page = Page::default();
    page.head("mvm_build_info", "gauge", "The version that serves.");
    page.line("mvm_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.head("mvm_events_total", "counter", "Entries of the audit logs since the agent began.");
    for ((kind, place), count) in &counted.events {
        page.line("mvm_events_total", &with(place, "event", &kind.to_string()), float(*count));
    }
    let name = "mvm_operation_duration_seconds";
    page.head(name, "histogram", "How long instances took to their state.");
    for ((kind, place), durations) in &counted.durations {
        if let Some(operation) = operation(*kind) {
            page.histogram(name, &with(place, "operation", operation), durations);
        }
    }
    let name = "mvm_reconcile_duration_seconds";
    page.head(name, "histogram", "How long passes of reconcile took.");
    page.histogram(name, &[], &passes.reconcile);
    let name = "mvm_reconcile_failures_total";
    page.head(name, "counter", "Passes of reconcile in which something failed.");
    page.line(name, &[], float(passes.failed));
    page.head("mvm_instances", "gauge", "Instances by state.");
    for ((place, state), count) in &present.instances {
        page.line("mvm_instances", &with(place, "state", &state.to_string()), float(*count));
    }
    let name = "mvm_instances_memory_bytes";
    page.head(name, "gauge", "The memory of running and warm instances, as they were given it.");
    for (place, size) in &present.memory {
        page.line(name, &of(place), float(u64::from(size.0) << 20));
    }
    host(&mut page, present);
    page.0
}

fn host(page: &mut Page, present: &Present) {
    let (pressure, room) = (&present.pressure, &present.room);
    let mut figure = |name: &str, help: &str, value: f64| {
        page.head(name, "gauge", help);
        page.line(name, &[], value);
    };
    let mib = |size: u64| float(size.saturating_mul(1 << 20));
    figure("mvm_host_memory_bytes", "The memory of the host.", mib(pressure.total_mib));
    figure(
        "mvm_host_memory_available_bytes",
        "What programs can get of it without swapping.",
        mib(pressure.available_mib),
    );
    if let Some(percent) = pressure.stalled_percent {
        figure(
            "mvm_host_memory_stalled_ratio",
            "The share of the last ten seconds in which some task waited for memory.",
            f64::from(percent) / 100.0,
        );
    }
    figure("mvm_host_disk_bytes", "The disk below the data directory.", mib(room.total_mib));
    figure(
        "mvm_host_disk_available_bytes",
        "What is free of it, the reserve included.",
        mib(room.free_mib),
    );
}

const fn operation(kind: EventKind) -> Option<&'static str> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "few kinds of events are moves")]
    match kind {
        EventKind::InstanceStarted => Some("start"),
        EventKind::InstanceWoken => Some("wake"),
        EventKind::InstanceWarmed => Some("warm"),
        EventKind::InstanceSlept => Some("sleep"),
        EventKind::InstanceStopped => Some("stop"),
        _ => None,
    }
}

type Label<'a> = (&'a str, &'a str);

fn of(place: &Place) -> Vec<Label<'_>> {
    let pool = place.1.as_ref().map(|pool| ("pool", pool.as_str()));
    std::iter::once(("tenant", place.0.as_str())).chain(pool).collect()
}

fn with<'a>(place: &'a Place, name: &'a str, value: &'a str) -> Vec<Label<'a>> {
    let mut labels = of(place);
    labels.push((name, value));
    labels
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
const fn float(count: u64) -> f64 {
    count as f64
}

/// A page in the making. Names and values of labels are ours or ids, none of which needs an escape.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[Label<'_>], value: f64) {
        self.0.push_str(name);
        let text: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        if !text.is_empty() {
            let _ = write!(self.0, "{{{}}}", text.join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[Label<'_>], durations: &Durations) {
        let bucket = format!("{name}_bucket");
        let bounds = BOUNDS.map(|bound| (float(bound) / 1000.0).to_string());
        let all = bounds
            .iter()
            .zip(durations.within)
            .chain([(&"+Inf".to_owned(), durations.count)])
            .map(|(bound, count)| (bound.clone(), count))
            .collect::<Vec<_>>();
        for (bound, count) in &all {
            let labels: Vec<Label<'_>> =
                labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.line(&bucket, &labels, float(*count));
        }
        self.line(&format!("{name}_sum"), labels, float(durations.sum_ms) / 1000.0);
        self.line(&format!("{name}_count"), labels, float(durations.count));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use mvm_core::{disk::Room, meter::Pressure, state::State, units::Mib};

    use super::*;

    fn figures() -> (Counted, Present) {
        let place = ("acme".parse().unwrap(), Some("web".parse().unwrap()));
        let mut counted = Counted::default();
        counted.events.insert((EventKind::InstanceWoken, place.clone()), 2);
        let durations = counted.durations.entry((EventKind::InstanceWoken, place.clone()));
        let durations = durations.or_default();
        durations.add(40);
        durations.add(700);
        let present = Present {
            instances: [((place.clone(), State::Running), 3)].into(),
            memory: [(place, Mib(384))].into(),
            pressure: Pressure { total_mib: 1024, available_mib: 512, stalled_percent: Some(25) },
            room: Room { total_mib: 1000, free_mib: 400, reserve_mib: 100 },
        };
        (counted, present)
    }

    #[test]
    fn a_page_has_each_figure_with_its_labels() {
        let (counted, present) = figures();
        let page = render(&counted, &present, &Passes::default());
        for line in [
            "mvm_events_total{tenant=\"acme\",pool=\"web\",event=\"InstanceWoken\"} 2",
            "mvm_operation_duration_seconds_bucket{tenant=\"acme\",pool=\"web\",operation=\"wake\",le=\"0.05\"} 1",
            "mvm_operation_duration_seconds_bucket{tenant=\"acme\",pool=\"web\",operation=\"wake\",le=\"1\"} 2",
            "mvm_operation_duration_seconds_bucket{tenant=\"acme\",pool=\"web\",operation=\"wake\",le=\"+Inf\"} 2",
            "mvm_operation_duration_seconds_sum{tenant=\"acme\",pool=\"web\",operation=\"wake\"} 0.74",
            "mvm_instances{tenant=\"acme\",pool=\"web\",state=\"Running\"} 3",
            "mvm_instances_memory_bytes{tenant=\"acme\",pool=\"web\"} 402653184",
            "mvm_host_memory_stalled_ratio 0.25",
            "mvm_host_disk_available_bytes 419430400",
        ] {
            assert!(page.lines().any(|one| one == line), "{line}\n{page}");
        }
    }

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
