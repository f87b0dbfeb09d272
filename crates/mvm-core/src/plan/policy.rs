//! When idle instances rest, and which ones make room (SPEC §7, "Policy per tick").
//!
//! ```text
//! looks, one a tick ─▶ idle or not ─▶ idle since when ─▶ advice: stay, park, or not yet
//! ```
//!
//! Whoever ticks keeps an [`Idleness`] per instance and loses nothing with it: an instance whose looks were
//! forgotten counts as busy until it is idle anew. Nothing here brings an instance back, since only demand
//! does. This module refuses to know clocks, hosts, and how a guest is asked.

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::{
    instance::{Instance, ParkedBy, Want},
    meter::{GuestMetrics, Meter, Pressure, WorkerState},
    pool::{PoolPolicy, SleepPolicy},
    state::State,
    units::{Generation, Mib, Seconds, Timestamp},
};

/// What was seen of a running instance at one moment. The counters rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at: Timestamp,
    /// What its workload says; none if it has no hooks.
    pub worker: Option<WorkerState>,
    /// Time of its vCPUs, in milliseconds.
    pub cpu_total_ms: u64,
    /// The idle part of it, in milliseconds.
    pub cpu_idle_ms: u64,
    /// Bytes received and sent.
    pub net_bytes: u64,
}

impl Look {
    /// What guest and host measured at `at`.
    #[must_use]
    pub fn new(at: Timestamp, guest: &GuestMetrics, host: &Meter) -> Self {
        Self {
            at,
            worker: guest.has_hooks.then_some(guest.worker),
            cpu_total_ms: guest.cpu_total_ms,
            cpu_idle_ms: guest.cpu_idle_ms,
            net_bytes: host.net_rx_bytes.saturating_add(host.net_tx_bytes),
        }
    }

    /// Whether it was idle since `before`. What the workload says of itself counts; where it says nothing,
    /// the counters do. Counters that fell are of another boot.
    fn is_idle_since(&self, before: &Self, policy: &SleepPolicy) -> bool {
        match self.worker {
            Some(WorkerState::Idle) => return true,
            Some(WorkerState::Busy | WorkerState::Starting) => return false,
            Some(WorkerState::Ready | WorkerState::Unknown) | None => {}
        }
        let rise = |now: u64, then: u64| now.checked_sub(then);
        let (Some(total), Some(idle), Some(net)) = (
            rise(self.cpu_total_ms, before.cpu_total_ms),
            rise(self.cpu_idle_ms, before.cpu_idle_ms),
            rise(self.net_bytes, before.net_bytes),
        ) else {
            return false;
        };
        let busy = total.saturating_sub(idle);
        let is_quiet = total > 0
            && busy.saturating_mul(100) < total.saturating_mul(u64::from(policy.cpu_percent));
        is_quiet && net < policy.net_bytes
    }
}

/// What is remembered of a running instance from tick to tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Idleness {
    last: Option<(Generation, Look)>,
    since: Option<Timestamp>,
}

impl Idleness {
    /// Adds a look at the instance in its `epoch`; looks of an earlier one do not count.
    pub fn add(&mut self, epoch: Generation, look: Look, policy: &SleepPolicy) {
        let before = self.last.filter(|(of, _)| *of == epoch).map(|(_, look)| look);
        self.last = Some((epoch, look));
        self.since = before
            .filter(|before| look.is_idle_since(before, policy))
            .map(|before| self.since.unwrap_or(before.at));
    }

    /// Since when it is idle; none if it is busy or not known well enough.
    #[must_use]
    pub const fn since(&self) -> Option<Timestamp> {
        self.since
    }
}

/// What policy makes of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// Leave it where it is.
    Stay,
    /// Park it: Warm or Sleeping.
    Park(Want),
    /// Park it, but not before its minimum time is over.
    Defer {
        /// Warm or Sleeping.
        to: Want,
        /// When its minimum time is over.
        until: Timestamp,
    },
}

/// What an instance is, for policy.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its record.
    pub record: &'a Instance,
    /// The standing decisions of its pool.
    pub pool: &'a PoolPolicy,
    /// Whether its tenant is pinned.
    pub is_tenant_pinned: bool,
    /// Since when it is idle, by [`Idleness::since`].
    pub idle_since: Option<Timestamp>,
}

impl Subject<'_> {
    /// Whether policy may do anything with it now.
    fn is_touchable(&self, now: Timestamp) -> bool {
        !self.pool.critical && !self.record.in_flight() && !self.record.is_overridden(now)
    }

    /// Whether policy may put it to sleep at all.
    const fn may_sleep(&self) -> bool {
        !self.pool.pinned && !self.is_tenant_pinned
    }

    /// Until when its minimum time in its state lasts.
    const fn minimum(&self) -> Timestamp {
        let policy = self.record.policy;
        self.record.state_since.plus(match self.record.state {
            State::Running => policy.min_running_seconds,
            State::Warm => policy.min_warm_seconds,
            State::Created | State::Ready | State::Sleeping | State::Stopped | State::Destroyed => {
                Seconds(0)
            }
        })
    }

    /// Since when nobody needed it: what policy paused was idle for some time before.
    fn cold_since(&self) -> Option<Timestamp> {
        match self.record.state {
            State::Running => self.idle_since,
            State::Warm => Some(self.record.state_since),
            State::Created | State::Ready | State::Sleeping | State::Stopped | State::Destroyed => {
                None
            }
        }
    }
}

/// What becomes of an instance that nobody needs.
///
/// Running becomes Warm and then Sleeping, after the pool's times of idleness; standby of the counts and
/// what a person parked stay.
#[must_use]
pub fn advise(subject: &Subject<'_>, now: Timestamp) -> Advice {
    if !subject.is_touchable(now) {
        return Advice::Stay;
    }
    let SleepPolicy { warm_after_seconds, sleep_after_seconds, .. } = subject.pool.sleep_policy;
    let is_over = |since: Timestamp, after: Seconds| since.plus(after) <= now;
    let wish = match (subject.record.state, subject.record.parked_by) {
        (State::Running, _) => subject.idle_since.and_then(|since| {
            if subject.may_sleep() && is_over(since, sleep_after_seconds) {
                Some(Want::Sleeping)
            } else {
                is_over(since, warm_after_seconds).then_some(Want::Warm)
            }
        }),
        (State::Warm, Some(ParkedBy::Policy)) => {
            let rest = Seconds(sleep_after_seconds.0.saturating_sub(warm_after_seconds.0));
            let is_due = is_over(subject.record.state_since, rest);
            (subject.may_sleep() && is_due).then_some(Want::Sleeping)
        }
        (
            State::Created
            | State::Ready
            | State::Warm
            | State::Sleeping
            | State::Stopped
            | State::Destroyed,
            _,
        ) => None,
    };
    match wish {
        None => Advice::Stay,
        Some(to) if subject.minimum() > now => Advice::Defer { to, until: subject.minimum() },
        Some(to) => Advice::Park(to),
    }
}

/// Who goes to sleep when the host is short of memory: the coldest first, those below their minimum time
/// last; as many as it takes to give back `needed`, or all that may.
///
/// What is pinned, critical, on its way or in a person's hands is never among them.
#[must_use]
pub fn make_room<'a>(subjects: &[Subject<'a>], needed: Mib, now: Timestamp) -> Vec<&'a Instance> {
    let holds_memory = |one: &&Subject<'_>| {
        matches!(one.record.state, State::Running | State::Warm)
            && one.is_touchable(now)
            && one.may_sleep()
    };
    let mut coldest: Vec<&Subject<'_>> = subjects.iter().filter(holds_memory).collect();
    coldest.sort_by_key(|one| {
        let is_new = one.minimum() > now;
        // None, which is busy, comes after every time.
        let cold = one.cold_since().map_or(u64::MAX, |since| since.0);
        (is_new, cold, &one.record.instance)
    });
    let mut missing = needed.0;
    let mut going = Vec::new();
    for one in coldest {
        if missing == 0 {
            break;
        }
        missing = missing.saturating_sub(one.record.resources.mem_mib.0);
        going.push(one.record);
    }
    going
}

/// When the host counts as short of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PressureLimits {
    /// With less available than this share of its memory, in percent.
    pub available_percent: u32,
    /// When tasks wait for memory for this share of the time, in percent.
    pub stalled_percent: u32,
}

impl Default for PressureLimits {
    fn default() -> Self {
        Self { available_percent: 10, stalled_percent: 20 }
    }
}

impl PressureLimits {
    /// How much memory shall be available, in MiB.
    #[must_use]
    pub const fn floor_mib(&self, pressure: &Pressure) -> u64 {
        pressure.total_mib.saturating_mul(self.available_percent as u64) / 100
    }
}

/// How much memory the host lacks; when tasks wait for memory although enough seems available, as much as
/// one instance gives back.
#[must_use]
pub fn shortage(pressure: &Pressure, limits: &PressureLimits) -> Mib {
    let missing = limits.floor_mib(pressure).saturating_sub(pressure.available_mib);
    let is_stalled = pressure.stalled_percent.is_some_and(|share| share >= limits.stalled_percent);
    Mib(u32::try_from(missing).unwrap_or(u32::MAX).max(u32::from(is_stalled)))
}
