//! Figures for whoever watches the node: what happened since the watch began, from the audit logs, and what
//! there is, from the records. It counts what every process did, since all of them write the same logs; it
//! refuses to know how figures are shown.

use std::collections::BTreeMap;

use mvm_core::{
    disk::Room,
    error::Error,
    event::{EventKind, LoggedEvent},
    id::{PoolId, TenantId},
    instance::Instance,
    meter::Pressure,
    state::State,
    tenant::Tenant,
    units::Mib,
};

use crate::{engine::Engine, store::records};

/// A tenant, and the pool if it is about one.
pub type Place = (TenantId, Option<PoolId>);

/// The upper bounds of a duration's classes, in milliseconds.
pub const BOUNDS: [u64; 13] =
    [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 120_000];

/// How long things of one kind took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many took at most as long as each of [`BOUNDS`].
    pub within: [u64; BOUNDS.len()],
    /// How many there were.
    pub count: u64,
    /// All of them together, in milliseconds.
    pub sum_ms: u64,
}

impl Durations {
    /// Adds one.
    pub fn add(&mut self, millis: u64) {
        for (slot, bound) in self.within.iter_mut().zip(BOUNDS) {
            *slot += u64::from(millis <= bound);
        }
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(millis);
    }
}

/// What was counted since the watch began.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// The last entry of each log that is counted.
    seen: BTreeMap<TenantId, u64>,
    /// Whether anything was looked at yet.
    began: bool,
    /// Events by kind.
    pub events: BTreeMap<(EventKind, Place), u64>,
    /// How long starts, wakes, warms, sleeps and stops took.
    pub durations: BTreeMap<(EventKind, Place), Durations>,
}

/// What there is.
#[derive(Debug, Clone)]
pub struct Present {
    /// Instances by pool and state.
    pub instances: BTreeMap<(Place, State), u64>,
    /// The memory of those that are running and warm, by pool.
    pub memory: BTreeMap<Place, Mib>,
    /// The memory of the host.
    pub pressure: Pressure,
    /// The disk of the host.
    pub room: Room,
}

impl Counted {
    fn count(&mut self, logged: &LoggedEvent) {
        let event = &logged.event;
        let place = (event.tenant.clone(), event.pool.clone());
        if let Some(millis) = event.detail.get("duration_ms").and_then(|text| text.parse().ok()) {
            self.durations.entry((event.event, place.clone())).or_default().add(millis);
        }
        *self.events.entry((event.event, place)).or_default() += 1;
    }
}

impl Engine {
    /// Counts what happened since the last look; the first look only begins.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn count_events(&self, counted: &mut Counted) -> Result<(), Error> {
        let tenants = self.within(|tx| records::list::<Tenant>(tx, ""))?;
        let logs = tenants.into_iter().map(|tenant| tenant.tenant_id);
        let store = &self.ports.store;
        for log in logs.chain([TenantId::node(), TenantId::local()]) {
            let known = counted.seen.get(&log).copied();
            let from = match known {
                Some(seq) => seq,
                // What was there before is not counted, what came meanwhile is.
                None if !counted.began => {
                    store.events(&log, 0, 1)?.last().map_or(0, |logged| logged.seq)
                }
                None => 0,
            };
            let fresh = store.events(&log, from, usize::MAX)?;
            fresh.iter().for_each(|logged| counted.count(logged));
            counted.seen.insert(log, fresh.last().map_or(from, |logged| logged.seq));
        }
        counted.began = true;
        Ok(())
    }

    /// What there is at this moment.
    ///
    /// # Errors
    /// Why store or host failed.
    pub fn present(&self) -> Result<Present, Error> {
        let records = self.within(|tx| records::list::<Instance>(tx, ""))?;
        let (mut instances, mut memory) = (BTreeMap::new(), BTreeMap::new());
        for record in &records {
            let place = (record.instance.tenant.clone(), Some(record.instance.pool.clone()));
            if matches!(record.state, State::Running | State::Warm) {
                let sum: &mut Mib = memory.entry(place.clone()).or_default();
                sum.0 = sum.0.saturating_add(record.resources.mem_mib.0);
            }
            *instances.entry((place, record.state)).or_default() += 1;
        }
        let host = &self.ports.host;
        Ok(Present { instances, memory, pressure: host.pressure()?, room: host.room()? })
    }
}
