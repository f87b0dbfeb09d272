//! Which instance shall be in which state, from the counts (SPEC §7).
//!
//! `running` counts what is available: Running, or parked by policy. `warm` and `sleeping` are
//! standby, held in addition and used first when `running` grows. The oldest stay, the newest go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::brake::{self, Brake};
use crate::{
    id::InstanceRef,
    instance::{Instance, ParkedBy, Want},
    pool::Counts,
    state::State,
    units::Timestamp,
};

/// One change that brings a pool closer to its counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    /// An instance that is there gets another state; or, when it is in that state parked by
    /// policy, becomes standby of the counts.
    Move {
        /// Which.
        instance: InstanceRef,
        /// Where to: Running, Warm, Sleeping or Stopped.
        to: Want,
    },
    /// A new instance is made and brought to this state.
    Create {
        /// Where to.
        to: Want,
    },
}

/// The changes that bring `instances` to `counts`, in the order of SPEC §7: wake, resume, start,
/// create, stop the newest, warm, sleep. Empty when nothing is missing and nothing is too much.
///
/// Instances under a person's override are counted where they are and left alone; those under a [`Brake`]
/// stay as they are and keep a place.
#[must_use]
pub fn assign(instances: &[Instance], counts: Counts, now: Timestamp) -> Vec<Assignment> {
    let mut left: Vec<&Instance> =
        instances.iter().filter(|one| one.want != Want::Destroyed).collect();
    left.sort_by(|a, b| (a.created_at, &a.instance).cmp(&(b.created_at, &b.instance)));
    let mut need = Need::from(counts);
    left.retain(|one| {
        let bound = one.is_overridden(now);
        if bound {
            need.count(one);
        }
        !bound
    });
    let braked = brake::held(&left, now);
    let is_free = |one: &Instance| is_idle(one) && !braked.contains_key(&one.instance);
    let mut chosen = Vec::new();
    let is = |state: State| move |one: &Instance| one.state == state;
    let (asleep, warm) = (is(State::Sleeping), is(State::Warm));
    let keep = |left: &mut Vec<&Instance>, need: &mut u32| {
        left.retain(|one| {
            let keeps = *need > 0 && braked.contains_key(&one.instance);
            *need -= u32::from(keeps);
            !keeps
        });
    };
    let running: [Kind<'_>; 4] = [&is_available, &asleep, &warm, &is_free];
    fill(&mut left, &mut need.running, Want::Running, running, &mut chosen);
    keep(&mut left, &mut need.running);
    let standby: [Kind<'_>; 4] = [&warm, &is_available, &asleep, &is_free];
    fill(&mut left, &mut need.warm, Want::Warm, standby, &mut chosen);
    keep(&mut left, &mut need.warm);
    let resting: [Kind<'_>; 4] = [&asleep, &warm, &is_available, &is_free];
    fill(&mut left, &mut need.sleeping, Want::Sleeping, resting, &mut chosen);
    keep(&mut left, &mut need.sleeping);
    order(chosen, &left, need)
}

/// Why an instance is not moved that the counts would move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// A person's command on it is more recent.
    Person,
    /// It failed before.
    Brake(Brake),
}

/// The instances that [`assign`] would move if nothing held them back.
#[must_use]
pub fn held_back(
    instances: &[Instance],
    counts: Counts,
    now: Timestamp,
) -> Vec<(InstanceRef, Held)> {
    let all: Vec<&Instance> = instances.iter().collect();
    let braked = brake::held(&all, now);
    let why = |one: &Instance| match braked.get(&one.instance) {
        _ if one.is_overridden(now) => Some(Held::Person),
        brake => brake.copied().map(Held::Brake),
    };
    let held: BTreeMap<&InstanceRef, Held> =
        instances.iter().filter_map(|one| Some((&one.instance, why(one)?))).collect();
    if held.is_empty() {
        return Vec::new();
    }
    let free =
        |one: &Instance| Instance { manual_override_until: None, failures: 0, ..one.clone() };
    let free: Vec<Instance> = instances.iter().map(free).collect();
    let moved = assign(&free, counts, now).into_iter().filter_map(|one| match one {
        Assignment::Move { instance, .. } => Some(instance),
        Assignment::Create { .. } => None,
    });
    moved.filter_map(|id| held.get(&id).copied().map(|why| (id, why))).collect()
}

/// How many instances are available, warm and sleeping, as the counts count them.
#[must_use]
pub fn census(instances: &[Instance]) -> Counts {
    let mut counts = Counts::default();
    for one in instances.iter().filter(|one| one.want != Want::Destroyed) {
        if is_available(one) {
            counts.running += 1;
        } else if one.state == State::Warm {
            counts.warm += 1;
        } else if one.state == State::Sleeping {
            counts.sleeping += 1;
        }
    }
    counts
}

struct Need {
    running: u32,
    warm: u32,
    sleeping: u32,
}

impl Need {
    fn count(&mut self, one: &Instance) {
        let slot = if is_available(one) {
            &mut self.running
        } else if one.state == State::Warm {
            &mut self.warm
        } else if one.state == State::Sleeping {
            &mut self.sleeping
        } else {
            return;
        };
        *slot = slot.saturating_sub(1);
    }
}

impl From<Counts> for Need {
    fn from(counts: Counts) -> Self {
        Self { running: counts.running, warm: counts.warm, sleeping: counts.sleeping }
    }
}

fn is_available(one: &Instance) -> bool {
    one.state == State::Running
        || (matches!(one.state, State::Warm | State::Sleeping)
            && one.parked_by == Some(ParkedBy::Policy))
}

const fn is_idle(one: &Instance) -> bool {
    matches!(one.state, State::Created | State::Ready | State::Stopped)
}

/// A kind of instances.
type Kind<'a> = &'a dyn Fn(&Instance) -> bool;

/// Takes instances for `to` from `left`, the best kind first, the oldest of each first.
fn fill<'a>(
    left: &mut Vec<&'a Instance>,
    need: &mut u32,
    to: Want,
    kinds: [Kind<'_>; 4],
    chosen: &mut Vec<(&'a Instance, Want)>,
) {
    for kind in kinds {
        left.retain(|one| {
            let take = *need > 0 && kind(one);
            if take {
                *need -= 1;
                chosen.push((one, to));
            }
            !take
        });
    }
}

fn order(chosen: Vec<(&Instance, Want)>, left: &[&Instance], need: Need) -> Vec<Assignment> {
    let mut moves: Vec<(u8, &Instance, Want)> = chosen
        .into_iter()
        .filter(|(one, to)| !is_there(one, *to))
        .map(|(one, to)| (rank(one.state, to), one, to))
        .collect();
    moves.sort_by_key(|(rank, _, _)| *rank);
    let (up, down): (Vec<_>, Vec<_>) = moves.into_iter().partition(|(rank, _, _)| *rank < 4);
    let to_move = |(_, one, to): (u8, &Instance, Want)| Assignment::Move {
        instance: one.instance.clone(),
        to,
    };
    let mut result: Vec<Assignment> = up.into_iter().map(to_move).collect();
    for (count, to) in
        [(need.running, Want::Running), (need.warm, Want::Warm), (need.sleeping, Want::Sleeping)]
    {
        result.extend((0..count).map(|_| Assignment::Create { to }));
    }
    let excess = left.iter().rev().filter(|one| !is_idle(one) && one.state != State::Destroyed);
    result.extend(
        excess.map(|one| Assignment::Move { instance: one.instance.clone(), to: Want::Stopped }),
    );
    result.extend(down.into_iter().map(to_move));
    result
}

/// Whether the instance needs no change: parked instances that count as running stay parked.
fn is_there(one: &Instance, to: Want) -> bool {
    if to == Want::Running {
        is_available(one) && !one.in_flight()
    } else {
        one.want == to && !one.in_flight() && one.parked_by != Some(ParkedBy::Policy)
    }
}

const fn rank(from: State, to: Want) -> u8 {
    match (from, to) {
        (State::Sleeping, _) => 0,
        (State::Warm, Want::Running) => 1,
        (State::Created | State::Ready | State::Stopped, _) => 2,
        (_, Want::Running) => 3,
        (_, Want::Warm) => 4,
        (_, _) => 5,
    }
}

#[cfg(test)]
mod tests;
