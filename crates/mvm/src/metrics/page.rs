//! The text that Prometheus reads, from a reading. It refuses to know how figures are counted.

use std::{collections::BTreeMap, fmt::Write as _};

use mvm_core::{
    event::EventKind,
    id::TenantId,
    pool::Counts,
    units::{Mib, Timestamp},
};
use mvm_engine::metrics::{BOUNDS, Durations, Place, PoolFigures, Present};

use super::{
    Passes, Reading,
    table::{self, Family},
};

/// What happens to instances, and what may have been refused of them.
const OF_POOLS: [EventKind; 11] = [
    EventKind::InstanceCreated,
    EventKind::InstanceReady,
    EventKind::InstanceStarted,
    EventKind::InstanceWarmed,
    EventKind::InstanceSlept,
    EventKind::InstanceWoken,
    EventKind::InstanceStopped,
    EventKind::InstanceFailed,
    EventKind::InstanceDestroyed,
    EventKind::TransitionDeferred,
    EventKind::QuotaExceeded,
];

/// What happens to desired states.
const OF_NODE: [EventKind; 2] = [EventKind::DesiredStateAccepted, EventKind::DesiredStateRejected];

/// The figures as text.
pub(super) fn render(reading: &Reading<'_>) -> String {
    let mut page = Page::default();
    page.head(&table::BUILD);
    page.line(table::BUILD.name, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    events(&mut page, reading);
    operations(&mut page, reading);
    passes(&mut page, &reading.passes);
    pools(&mut page, reading.present);
    host(&mut page, reading.present);
    page.head(&table::CERTIFICATE);
    for (role, until) in &reading.certificates {
        page.line(table::CERTIFICATE.name, &[("role", &role.to_string())], seconds(*until));
    }
    page.0
}

/// The counters, those of what is there from 0 on.
fn events(page: &mut Page, reading: &Reading<'_>) {
    let places = places(reading.present);
    let of_pools = places.iter().flat_map(|place| OF_POOLS.map(|kind| (kind, place.clone())));
    let of_node = OF_NODE.map(|kind| (kind, (TenantId::node(), None)));
    let mut all: BTreeMap<(EventKind, Place), u64> =
        of_pools.chain(of_node).map(|key| (key, 0)).collect();
    all.extend(reading.counted.events.iter().map(|(key, count)| (key.clone(), *count)));
    page.head(&table::EVENTS);
    for ((kind, place), count) in &all {
        page.line(table::EVENTS.name, &with(place, "event", &kind.to_string()), float(*count));
    }
    page.head(&table::DEFERRALS);
    for ((kind, place), count) in &all {
        if *kind == EventKind::TransitionDeferred {
            page.line(table::DEFERRALS.name, &of(place), float(*count));
        }
    }
    page.head(&table::REJECTS);
    for ((kind, place), count) in &all {
        if let Some(reason) = refusal(*kind) {
            page.line(table::REJECTS.name, &with(place, "reason", reason), float(*count));
        }
    }
}

fn operations(page: &mut Page, reading: &Reading<'_>) {
    const KINDS: [EventKind; 3] =
        [EventKind::InstanceStarted, EventKind::InstanceWoken, EventKind::InstanceSlept];
    let places = places(reading.present);
    let zeros = places.iter().flat_map(|place| KINDS.map(|kind| (kind, place.clone())));
    let mut all: BTreeMap<(EventKind, Place), Durations> =
        zeros.map(|key| (key, Durations::default())).collect();
    all.extend(reading.counted.durations.iter().map(|(key, sum)| (key.clone(), *sum)));
    page.head(&table::OPERATIONS);
    for ((kind, place), durations) in &all {
        if let Some(operation) = operation(*kind) {
            page.histogram(&table::OPERATIONS, &with(place, "operation", operation), durations);
        }
    }
}

fn passes(page: &mut Page, passes: &Passes) {
    page.head(&table::RECONCILE);
    page.histogram(&table::RECONCILE, &[], &passes.reconcile);
    page.figure(&table::RECONCILE_FAILURES, Some(float(passes.failed)));
    let deferred = u64::try_from(passes.deferred).unwrap_or(u64::MAX);
    page.figure(&table::RECONCILE_DEFERRED, Some(float(deferred)));
    page.figure(&table::CONVERGED, passes.converged_at.map(seconds));
    page.head(&table::POLICY);
    page.histogram(&table::POLICY, &[], &passes.policy);
    page.figure(&table::POLICY_FAILURES, Some(float(passes.policy_failed)));
}

fn pools(page: &mut Page, present: &Present) {
    let pools: Vec<(Place, &PoolFigures)> =
        places(present).into_iter().zip(present.pools.values()).collect();
    page.head(&table::INSTANCES);
    for (place, figures) in &pools {
        for (state, count) in &figures.states {
            let state = state.to_string();
            page.line(table::INSTANCES.name, &with(place, "state", &state), float(*count));
        }
    }
    for (family, counts) in [
        (&table::DESIRED, (|one| one.desired) as fn(&PoolFigures) -> Counts),
        (&table::COUNTED, |one| one.counted),
    ] {
        page.head(family);
        for (place, figures) in &pools {
            let counts = counts(figures);
            for (name, count) in
                [("running", counts.running), ("warm", counts.warm), ("sleeping", counts.sleeping)]
            {
                page.line(family.name, &with(place, "count", name), f64::from(count));
            }
        }
    }
    for (family, value) in [
        (&table::HELD_BACK, (|one| float(one.held_back)) as fn(&PoolFigures) -> f64),
        (&table::MEMORY, |one| bytes(one.memory)),
        (&table::DISK, |one| bytes(one.disk)),
    ] {
        page.head(family);
        for (place, figures) in &pools {
            page.line(family.name, &of(place), value(figures));
        }
    }
}

fn host(page: &mut Page, present: &Present) {
    let (pressure, limits, room) = (&present.pressure, &present.limits, &present.room);
    let mib = |size: u64| Some(float(size.saturating_mul(1 << 20)));
    let ratio = |percent: u32| f64::from(percent) / 100.0;
    page.figure(&table::HOST_MEMORY, mib(pressure.total_mib));
    page.figure(&table::HOST_AVAILABLE, mib(pressure.available_mib));
    page.figure(&table::HOST_FLOOR, mib(limits.floor_mib(pressure)));
    page.figure(&table::HOST_STALLED, pressure.stalled_percent.map(ratio));
    page.figure(&table::HOST_STALLED_LIMIT, Some(ratio(limits.stalled_percent)));
    page.figure(&table::HOST_DISK, mib(room.total_mib));
    page.figure(&table::HOST_DISK_FREE, mib(room.free_mib));
    page.figure(&table::HOST_DISK_RESERVE, mib(room.reserve_mib));
}

fn places(present: &Present) -> Vec<Place> {
    present.pools.keys().map(|pool| (pool.tenant.clone(), Some(pool.pool.clone()))).collect()
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

const fn refusal(kind: EventKind) -> Option<&'static str> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "few kinds of events are refusals")]
    match kind {
        EventKind::QuotaExceeded => Some("quota"),
        EventKind::DesiredStateRejected => Some("desired_state"),
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

fn bytes(size: Mib) -> f64 {
    float(u64::from(size.0) << 20)
}

fn seconds(moment: Timestamp) -> f64 {
    float(moment.0) / 1000.0
}

/// A page in the making. Names and values of labels are ours or ids, none of which needs an escape.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, family: &Family) {
        let (name, kind, help) = (family.name, family.kind.name(), family.help);
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A figure without labels; its head alone when there is none.
    fn figure(&mut self, family: &Family, value: Option<f64>) {
        self.head(family);
        if let Some(value) = value {
            self.line(family.name, &[], value);
        }
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

    fn histogram(&mut self, family: &Family, labels: &[Label<'_>], durations: &Durations) {
        let name = family.name;
        let bucket = format!("{name}_bucket");
        let bounds = BOUNDS.map(|bound| (float(bound) / 1000.0).to_string());
        let infinite = ("+Inf".to_owned(), durations.count);
        for (bound, count) in bounds.into_iter().zip(durations.within).chain([infinite]) {
            let labels: Vec<Label<'_>> =
                labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.line(&bucket, &labels, float(count));
        }
        self.line(&format!("{name}_sum"), labels, float(durations.sum_ms) / 1000.0);
        self.line(&format!("{name}_count"), labels, float(durations.count));
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
