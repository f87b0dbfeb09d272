//! What happened while nobody looked: deaths of VMMs, and crashes between an act and its record.

use super::Transition;
use crate::{
    event::EventKind,
    instance::{Instance, Want},
    observed::{Ending, ExitRecord, ObservedInstance, SnapshotPhase},
    state::State,
};

/// The reason of what was lost with a former boot of the host.
pub const REBOOTED: &str = "the host rebooted";

/// The transition that brings the record to the truth, if it says something else.
///
/// A VMM that is gone although the record needs it makes the instance Stopped with the reason. One
/// that went while being put to sleep sleeps once the snapshot is published; one that went while
/// waking is no loss until the snapshot is retired.
#[must_use]
pub fn notice(record: &Instance, seen: &ObservedInstance) -> Option<Transition> {
    if seen.vmm.is_some() {
        return None;
    }
    let epoch_phase = seen.snapshots.get(&record.epoch).copied();
    match (record.state, record.want) {
        // An end that the power cut off before its first act: what was there is gone all the same.
        (State::Running | State::Warm, Want::Stopped | Want::Destroyed)
            if is_of_former_boot(record, seen) =>
        {
            Some(failed(record, seen))
        }
        (_, Want::Destroyed | Want::Stopped) => None,
        (State::Running | State::Warm, Want::Sleeping)
            if epoch_phase == Some(SnapshotPhase::Published) =>
        {
            Some(Transition::new(State::Sleeping, EventKind::InstanceSlept))
        }
        (State::Running | State::Warm, _) => Some(failed(record, seen)),
        (State::Sleeping, _) if epoch_phase == Some(SnapshotPhase::Published) => None,
        (State::Sleeping, _) => Some(Transition {
            reason: match epoch_phase {
                Some(SnapshotPhase::Retired) => {
                    let why = reason(record, seen);
                    format!("lost while waking, after its snapshot was retired: {why}")
                }
                Some(SnapshotPhase::Partial) | None => "its snapshot is gone".to_owned(),
                Some(SnapshotPhase::Published) => String::new(),
            },
            ..failed(record, seen)
        }),
        (State::Ready | State::Stopped, Want::Running | Want::Warm | Want::Sleeping)
            if seen.exit.is_some() =>
        {
            Some(failed(record, seen))
        }
        (State::Created | State::Ready | State::Stopped | State::Destroyed, _) => None,
    }
}

/// Records of a VMM are of the present boot. Without any, one that ran in a former boot ended with it.
fn reason(record: &Instance, seen: &ObservedInstance) -> String {
    match &seen.exit {
        Some(exit) => exit.reason(),
        None if is_of_former_boot(record, seen) => REBOOTED.to_owned(),
        None => ExitRecord::of(Ending::Unseen).reason(),
    }
}

fn is_of_former_boot(record: &Instance, seen: &ObservedInstance) -> bool {
    record.boot.as_ref().is_some_and(|boot| *boot != seen.boot)
}

fn failed(record: &Instance, seen: &ObservedInstance) -> Transition {
    let reason = reason(record, seen);
    Transition::new(State::Stopped, EventKind::InstanceFailed).because(reason)
}
