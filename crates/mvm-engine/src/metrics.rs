//! Figures for whoever watches the node: what happened since the watch began, from the audit logs, and what
//! there is, from the records. It counts what every process did, since all of them write the same logs; it
//! refuses to know how figures are shown.
//!
//! A log is read page by page from where it was left. A destroyed tenant's last words, and the log of one
//! that came and went between two looks, are read from the archive: hashes tell which log is which, also
//! when a tenant was made anew under the same name.

use std::collections::{BTreeMap, BTreeSet};

use mvm_core::{
    audit::LogEnd,
    disk::Room,
    error::Error,
    event::{EventKind, LoggedEvent},
    id::{PoolId, PoolRef, TenantId},
    instance::{Instance, Want},
    meter::Pressure,
    plan::{self, policy::PressureLimits},
    pool::{Counts, Pool},
    state::State,
    tenant::Tenant,
    units::Mib,
};

use crate::{
    engine::Engine,
    history::PAGE,
    store::{chain, records},
};

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
    /// Up to where each living log is counted.
    seen: BTreeMap<TenantId, LogEnd>,
    /// The archived logs that are counted, or were there before the watch began; none before that.
    archived: Option<BTreeSet<LogEnd>>,
    /// Archived logs that were not in the archive when they were looked for.
    late: BTreeSet<LogEnd>,
    /// Tenants whose log before the present one cannot be found.
    lost: BTreeSet<TenantId>,
    /// Events by kind.
    pub events: BTreeMap<(EventKind, Place), u64>,
    /// How long starts, wakes, warms, sleeps and stops took.
    pub durations: BTreeMap<(EventKind, Place), Durations>,
}

/// What there is of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Its instances by state; each state is there.
    pub states: BTreeMap<State, u64>,
    /// How many of a kind are asked for.
    pub desired: Counts,
    /// How many of a kind there are: running means Running, or parked by policy.
    pub counted: Counts,
    /// Instances that the counts would move, and that a person's command or a brake holds back.
    pub held_back: u64,
    /// The memory of those that are running and warm, as they were given it.
    pub memory: Mib,
    /// The data disks, as they were given.
    pub disk: Mib,
}

/// What there is.
#[derive(Debug, Clone)]
pub struct Present {
    /// By pool.
    pub pools: BTreeMap<PoolRef, PoolFigures>,
    /// The memory of the host.
    pub pressure: Pressure,
    /// When policy counts the host as short of it.
    pub limits: PressureLimits,
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

    /// Counts what a log that was archived has after the place up to which it is counted.
    fn count_archived(&mut self, log: &[LoggedEvent], tenant: &TenantId) {
        let seen = self.seen.get(tenant).cloned().unwrap_or_else(|| start(tenant));
        let is_that = |entry: &LoggedEvent| entry.seq == seen.seq && entry.hash == seen.hash;
        let after = if log.iter().any(is_that) {
            self.seen.remove(tenant);
            seen.seq
        } else {
            0
        };
        log.iter().filter(|entry| entry.seq > after).for_each(|entry| self.count(entry));
    }
}

impl Engine {
    /// Counts what happened since the last look; the first look only begins.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn count_events(&self, counted: &mut Counted) -> Result<(), Error> {
        let store = &self.ports.store;
        // What is archived after this is counted with the next look.
        let ends: BTreeSet<LogEnd> = store.archived_ends()?.into_iter().collect();
        let tenants = self.within(|tx| records::list::<Tenant>(tx, ""))?;
        let built_in = [TenantId::node(), TenantId::local()];
        let logs = tenants.into_iter().map(|tenant| tenant.tenant_id).chain(built_in);
        // The built-in tenant may have a record, too.
        let mut logs = logs.collect::<BTreeSet<TenantId>>().into_iter();
        let Some(mut known) = counted.archived.take() else {
            // What was there before is not counted, what comes is.
            for log in logs {
                if let Some(last) = store.events(&log, 0, 1)?.last() {
                    counted.seen.insert(log.clone(), end(&log, last));
                }
            }
            counted.archived = Some(ends);
            return Ok(());
        };
        let mut done = Ok(());
        for ended in ends.iter().filter(|one| !known.contains(one)).cloned().collect::<Vec<_>>() {
            match self.count_archived(counted, &ended) {
                Ok(Found::Yes | Found::Never) => drop(known.insert(ended)),
                Ok(Found::NotYet) => {}
                Err(error) => done = Err(error),
            }
        }
        known.retain(|one| ends.contains(one));
        // Whatever fails: what was counted is not counted again.
        counted.archived = Some(known);
        done?;
        logs.try_for_each(|log| self.count_living(counted, log))
    }

    fn count_living(&self, counted: &mut Counted, log: TenantId) -> Result<(), Error> {
        let mut at = counted.seen.get(&log).cloned().unwrap_or_else(|| start(&log));
        loop {
            let page = self.ports.store.first_events(&log, at.seq, PAGE)?;
            let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok(()) };
            if first.seq == at.seq + 1 && first.previous != at.hash {
                // Another log under the same name; the archive has the end of the one before.
                if !counted.lost.remove(&log) {
                    return Ok(());
                }
                at = start(&log);
                continue;
            }
            page.iter().for_each(|logged| counted.count(logged));
            at = end(&log, last);
            counted.seen.insert(log.clone(), at.clone());
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    fn count_archived(&self, counted: &mut Counted, ended: &LogEnd) -> Result<Found, Error> {
        let all = self.ports.store.archived_events(&ended.tenant)?;
        // Logs stand in one row there; the next entry of one log names the hash of the one before.
        let mut logs = all.chunk_by(|one, next| one.hash == next.previous);
        if let Some(log) = logs.find(|log| log.last().is_some_and(|last| last.hash == ended.hash)) {
            counted.late.remove(ended);
            counted.count_archived(log, &ended.tenant);
            return Ok(Found::Yes);
        }
        // It is exported right after it was archived: by the next look it is there, or never.
        if counted.late.insert(ended.clone()) {
            return Ok(Found::NotYet);
        }
        counted.late.remove(ended);
        counted.lost.insert(ended.tenant.clone());
        Ok(Found::Never)
    }

    /// What there is at this moment.
    ///
    /// # Errors
    /// Why store or host failed.
    pub fn present(&self) -> Result<Present, Error> {
        let (pools, records) = self.within(|tx| {
            Ok((records::list::<Pool>(tx, "")?, records::list::<Instance>(tx, "")?))
        })?;
        let mut of_pool: BTreeMap<PoolRef, Vec<Instance>> = BTreeMap::new();
        for record in records {
            of_pool.entry(record.instance.pool_ref()).or_default().push(record);
        }
        let now = self.ports.clock.now();
        let figures = |pool: Pool| {
            let instances = of_pool.remove(&pool.pool).unwrap_or_default();
            let held = plan::pool::held_back(&instances, pool.desired_counts, now);
            let held_back = u64::try_from(held.len()).unwrap_or(u64::MAX);
            let figures = PoolFigures { held_back, ..PoolFigures::of(&instances, &pool) };
            (pool.pool, figures)
        };
        let pools = pools.into_iter().map(figures).collect();
        let host = &self.ports.host;
        let limits = self.config.pressure;
        Ok(Present { pools, pressure: host.pressure()?, limits, room: host.room()? })
    }
}

impl PoolFigures {
    fn of(instances: &[Instance], pool: &Pool) -> Self {
        let mut figures = Self {
            desired: pool.desired_counts,
            counted: plan::pool::census(instances),
            states: State::ALL.into_iter().map(|state| (state, 0)).collect(),
            ..Self::default()
        };
        let add = |sum: &mut Mib, more: Mib| sum.0 = sum.0.saturating_add(more.0);
        for one in instances {
            *figures.states.entry(one.state).or_default() += 1;
            if matches!(one.state, State::Running | State::Warm) {
                add(&mut figures.memory, one.resources.mem_mib);
            }
            if one.want != Want::Destroyed {
                add(&mut figures.disk, one.resources.data_disk_mib);
            }
        }
        figures
    }
}

fn start(tenant: &TenantId) -> LogEnd {
    LogEnd { tenant: tenant.clone(), seq: 0, hash: chain::START.to_owned() }
}

fn end(tenant: &TenantId, last: &LoggedEvent) -> LogEnd {
    LogEnd { tenant: tenant.clone(), seq: last.seq, hash: last.hash.clone() }
}

/// Whether an archived log was found.
enum Found {
    Yes,
    NotYet,
    Never,
}
