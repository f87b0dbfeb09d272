//! Brakes on restarts (SPEC §7): what dies again and again is started again ever more slowly, and in the end
//! not at all.
//!
//! ```text
//! failures in a row   1    2     3     4     5 …   8 …    10
//! wait before a start none 10 s  20 s  40 s  80 s  300 s  until a person starts it
//! ```
//!
//! Brakes bind the counts; a person's command never, and it begins the row anew, as a steady run does. An
//! instance under its brake keeps its place in the counts, so that nothing is made in its stead.

use std::collections::BTreeMap;

use crate::{
    id::InstanceRef,
    instance::Instance,
    state::State,
    units::{Seconds, Timestamp},
};

/// A failure after a run of this length is the first of a row.
pub const STEADY: Seconds = Seconds(600);
/// After so many failures in a row an instance is not started by itself any more.
pub const BUDGET: u32 = 10;
/// The longest wait before a start.
pub const LONGEST: Seconds = Seconds(300);
/// How many instances of a pool that failed more than once are started again within [`POOL_SPAN`].
pub const POOL_RESTARTS: usize = 10;
/// See [`POOL_RESTARTS`].
pub const POOL_SPAN: Seconds = Seconds(60);

/// Why an instance is not started by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brake {
    /// Its next start comes then.
    Until(Timestamp),
    /// It failed too often.
    Spent,
    /// Enough others of its pool are started again just now.
    Crowd,
}

/// The brake on an instance that stands still.
#[must_use]
pub fn brake(one: &Instance, now: Timestamp) -> Option<Brake> {
    let failure = one.last_failure.as_ref().filter(|_| is_still(one))?;
    if one.failures >= BUDGET {
        return Some(Brake::Spent);
    }
    let until = failure.at.plus(wait(one.failures));
    (until > now).then_some(Brake::Until(until))
}

/// How many failures in a row it has after one more, which is noticed now.
#[must_use]
pub fn count(one: &Instance, now: Timestamp) -> u32 {
    let ran = now.0.saturating_sub(one.state_since.0);
    let is_first = one.state == State::Running && ran >= millis(STEADY);
    if is_first { 1 } else { one.failures.saturating_add(1) }
}

/// The instances of one pool that are not started by themselves now.
pub(super) fn held<'a>(
    instances: &[&'a Instance],
    now: Timestamp,
) -> BTreeMap<&'a InstanceRef, Brake> {
    let span = millis(POOL_SPAN);
    let is_recent = |one: &&&Instance| {
        let ran = now.0.saturating_sub(one.state_since.0);
        one.failures > 1 && one.state == State::Running && ran < span
    };
    let mut left = POOL_RESTARTS.saturating_sub(instances.iter().filter(is_recent).count());
    let mut held = BTreeMap::new();
    for one in instances {
        let is_again = one.failures > 1 && is_still(one);
        let crowd = (is_again && left == 0).then_some(Brake::Crowd);
        match brake(one, now).or(crowd) {
            Some(brake) => {
                held.insert(&one.instance, brake);
            }
            None if is_again => left -= 1,
            None => {}
        }
    }
    held
}

fn wait(failures: u32) -> Seconds {
    let Some(doublings) = failures.checked_sub(2) else { return Seconds(0) };
    Seconds(LONGEST.0.min(10 << doublings.min(16)))
}

fn millis(span: Seconds) -> u64 {
    u64::from(span.0) * 1000
}

const fn is_still(one: &Instance) -> bool {
    matches!(one.state, State::Created | State::Ready | State::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{instance::Failure, plan::fixture::instance};

    fn failed(failures: u32, at: u64) -> Instance {
        let last_failure = Some(Failure { at: Timestamp(at), reason: "died".to_owned() });
        Instance { failures, last_failure, ..instance(1, State::Stopped) }
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_end_with_the_budget() {
        let wait_of = |failures| match brake(&failed(failures, 1000), Timestamp(1000)) {
            Some(Brake::Until(until)) => (until.0 - 1000) / 1000,
            Some(Brake::Spent | Brake::Crowd) => u64::MAX,
            None => 0,
        };
        let waits: Vec<u64> = (1..=10).map(wait_of).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300, u64::MAX]);
    }

    #[test]
    fn a_brake_ends_with_its_time_and_what_runs_has_none() {
        assert_eq!(brake(&failed(2, 1000), Timestamp(11_000)), None);
        let runs = Instance { state: State::Running, ..failed(5, 1000) };
        assert_eq!(brake(&runs, Timestamp(1000)), None);
    }

    #[test]
    fn a_steady_run_begins_the_row_anew() {
        let ran = |millis| {
            let one = Instance { state: State::Running, ..failed(4, 0) };
            count(&Instance { state_since: Timestamp(0), ..one }, Timestamp(millis))
        };
        assert_eq!((ran(599_999), ran(600_000)), (5, 1));
    }

    #[test]
    fn a_pool_restarts_ten_of_its_failed_ones_a_minute() {
        let mut all: Vec<Instance> = (1..=14)
            .map(|number| {
                let Instance { instance, .. } = instance(number, State::Stopped);
                Instance { instance, ..failed(2, 0) }
            })
            .collect();
        for one in all.iter_mut().take(7) {
            (one.state, one.state_since) = (State::Running, Timestamp(30_000));
        }
        let held = |now| held(&all.iter().collect::<Vec<_>>(), Timestamp(now)).len();
        assert_eq!((held(60_000), held(90_000)), (4, 0));
    }
}
