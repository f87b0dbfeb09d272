//! What an exported record becomes when the store is lost: brought to what the machine shows.
//!
//! An exported file may be older than the machine by the last commit. A guest that lives or is on disk
//! is never given up for that: its record follows it. What died meanwhile is left to
//! [`super::truth`], as after any crash.

use std::collections::BTreeSet;

use crate::{
    id::{InstanceRef, VolumeId},
    instance::{Instance, Want},
    observed::{ObservedInstance, Origin, Phase, SnapshotPhase},
    state::State,
    units::Generation,
    volume::{Volume, VolumeStage},
};

/// The record that fits what was observed, and what was changed for it.
#[must_use]
pub fn settle(record: &Instance, seen: &ObservedInstance) -> (Instance, Option<String>) {
    let mut settled = record.clone();
    let published = seen.snapshots.iter().filter(|(_, phase)| **phase == SnapshotPhase::Published);
    let published = published.map(|(epoch, _)| *epoch).max();
    match seen.vmm {
        Some(vmm) => {
            let has_no_process = !record.state.has_process();
            let is_waking = published.is_some() && vmm.phase != Phase::Running;
            match vmm.phase {
                Phase::Running if has_no_process => settled.state = State::Running,
                Phase::Paused(_) if has_no_process && !is_waking => settled.state = State::Warm,
                Phase::Empty | Phase::Running | Phase::Paused(_) | Phase::Silent => {}
            }
            let loaded = match vmm.origin {
                Origin::Snapshot(epoch) if !is_waking => Some(epoch),
                Origin::Snapshot(_) | Origin::Boot | Origin::Base => None,
            };
            let used = seen.snapshots.iter().filter(|(_, phase)| **phase == SnapshotPhase::Retired);
            let used = used.map(|(epoch, _)| *epoch).chain(loaded).max();
            if let Some(used) = used {
                settled.epoch = settled.epoch.max(used.next());
            }
        }
        None => {
            if let Some(epoch) = published
                && (record.state != State::Sleeping || record.epoch != epoch)
            {
                settled.state = State::Sleeping;
                settled.epoch = epoch;
            }
        }
    }
    if settled.state != record.state && !matches!(record.want, Want::Destroyed) {
        settled.want = Want::rest(settled.state);
    }
    let note = change(record, &settled);
    (settled, note)
}

/// What the new store holds of a kept volume: none when it is with no instance and not on the shelf.
/// One that was between shelf and instance stays so only while that instance says the same.
#[must_use]
pub fn settle_volume(
    record: &Volume,
    instances: &[Instance],
    shelf: &BTreeSet<VolumeId>,
) -> Option<Volume> {
    let is_here = shelf.contains(&record.volume);
    let says_so = |of: &InstanceRef, named: &dyn Fn(&Instance) -> &Option<VolumeId>| {
        let instance = instances.iter().find(|one| one.instance == *of);
        instance.is_some_and(|one| named(one).as_ref() == Some(&record.volume))
    };
    let stage = match &record.stage {
        VolumeStage::Leaving(of) if says_so(of, &|one| &one.volume.kept_as) => record.stage.clone(),
        VolumeStage::Joining(of) if says_so(of, &|one| &one.volume.joining) => record.stage.clone(),
        VolumeStage::Removing if is_here => VolumeStage::Removing,
        VolumeStage::Leaving(_) | VolumeStage::Joining(_) | VolumeStage::Kept if is_here => {
            VolumeStage::Kept
        }
        VolumeStage::Leaving(_)
        | VolumeStage::Joining(_)
        | VolumeStage::Kept
        | VolumeStage::Removing => return None,
    };
    Some(Volume { stage, ..record.clone() })
}

fn change(before: &Instance, after: &Instance) -> Option<String> {
    let mut changes = Vec::new();
    if before.state != after.state {
        changes.push(format!("{} in its file, {} on the machine", before.state, after.state));
    }
    if before.epoch != after.epoch {
        let Generation(epoch) = after.epoch;
        changes.push(format!("its snapshot's epoch is {epoch}"));
    }
    (!changes.is_empty()).then(|| changes.join("; "))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        observed::PausedFor,
        plan::fixture,
        units::{Mib, Timestamp},
        volume::VolumeKind,
    };

    fn kept(stage: VolumeStage) -> Volume {
        let origin = fixture::instance(1, State::Stopped).instance;
        Volume {
            volume: "kept".parse().unwrap(),
            origin,
            size: Mib(64),
            kind: VolumeKind::Luks,
            is_growing: false,
            stage,
            created_at: Timestamp(0),
            generation: Generation(3),
        }
    }

    #[test]
    fn a_volume_is_on_the_shelf_or_with_the_instance_that_says_so_or_it_is_gone() {
        let name: VolumeId = "kept".parse().unwrap();
        let mut owner = fixture::instance(1, State::Stopped);
        let of = owner.instance.clone();
        let (here, nowhere) = (BTreeSet::from([name.clone()]), BTreeSet::new());
        let stage = |volume: &Volume, instances: &[Instance], shelf: &BTreeSet<VolumeId>| {
            settle_volume(volume, instances, shelf).map(|settled| settled.stage)
        };
        let resting = kept(VolumeStage::Kept);
        assert_eq!(stage(&resting, &[], &here), Some(VolumeStage::Kept));
        assert_eq!(stage(&resting, &[], &nowhere), None);
        let removing = kept(VolumeStage::Removing);
        assert_eq!(stage(&removing, &[], &here), Some(VolumeStage::Removing));
        assert_eq!(stage(&removing, &[], &nowhere), None);
        for between in [VolumeStage::Joining(of.clone()), VolumeStage::Leaving(of)] {
            let volume = kept(between.clone());
            let without = std::slice::from_ref(&owner);
            assert_eq!(stage(&volume, without, &here), Some(VolumeStage::Kept), "{between:?}");
            assert_eq!(stage(&volume, without, &nowhere), None, "{between:?}");
            owner.volume.joining = Some(name.clone());
            owner.volume.kept_as = Some(name.clone());
            for shelf in [&here, &nowhere] {
                let with = std::slice::from_ref(&owner);
                assert_eq!(stage(&volume, with, shelf), Some(between.clone()));
            }
            owner.volume.joining = None;
            owner.volume.kept_as = None;
        }
    }

    fn seen(vmm: Option<(Phase, Origin)>, snapshots: &[(u64, SnapshotPhase)]) -> ObservedInstance {
        let snapshots: BTreeMap<_, _> =
            snapshots.iter().map(|(epoch, phase)| (Generation(*epoch), *phase)).collect();
        let vmm = vmm.and_then(|(phase, origin)| fixture::vmm(origin, phase));
        ObservedInstance { snapshots, ..fixture::seen(vmm) }
    }

    #[test]
    fn a_record_that_fits_stays_as_it_is() {
        for state in [State::Ready, State::Running, State::Sleeping, State::Stopped] {
            let record = fixture::instance(1, state);
            let vmm = (state == State::Running).then_some((Phase::Running, Origin::Boot));
            let epochs = [(record.epoch.0, SnapshotPhase::Published)];
            let shown = seen(vmm, if state == State::Sleeping { &epochs } else { &[] });
            assert_eq!(settle(&record, &shown), (record.clone(), None), "{state}");
        }
    }

    #[test]
    fn a_guest_that_runs_is_running_whatever_its_file_says() {
        for state in [State::Ready, State::Stopped, State::Sleeping] {
            let record = fixture::instance(1, state);
            let (settled, note) = settle(&record, &seen(Some((Phase::Running, Origin::Boot)), &[]));
            assert_eq!((settled.state, settled.want), (State::Running, Want::Running));
            assert!(note.is_some());
        }
    }

    #[test]
    fn a_guest_on_disk_can_be_woken_whatever_its_file_says() {
        let record = fixture::instance(1, State::Running);
        let (settled, _) = settle(&record, &seen(None, &[(7, SnapshotPhase::Published)]));
        assert_eq!((settled.state, settled.epoch), (State::Sleeping, Generation(7)));
    }

    #[test]
    fn a_guest_that_was_woken_never_gets_the_epoch_of_its_snapshot_again() {
        let record = fixture::instance(1, State::Sleeping);
        let epoch = record.epoch;
        let vmm = Some((Phase::Running, Origin::Snapshot(epoch)));
        let (settled, _) = settle(&record, &seen(vmm, &[(epoch.0, SnapshotPhase::Retired)]));
        assert_eq!((settled.state, settled.epoch), (State::Running, epoch.next()));
    }

    #[test]
    fn a_wake_that_was_cut_off_before_it_counted_stays_a_sleep() {
        let record = Instance { want: Want::Running, ..fixture::instance(1, State::Sleeping) };
        let epoch = record.epoch;
        let vmm = Some((Phase::Paused(PausedFor::Warm), Origin::Snapshot(epoch)));
        let (settled, note) = settle(&record, &seen(vmm, &[(epoch.0, SnapshotPhase::Published)]));
        assert_eq!((settled, note), (record, None));
    }
}
