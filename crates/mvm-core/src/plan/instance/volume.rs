//! What a plan does with an instance's volume.
//!
//! ```text
//! launch: join ─▶ make, or grow while closed ─▶ open ─▶ jail
//! run:    grow: file, device, drive ─▶ the guest's file system ─▶ record
//! away:   process gone ─▶ jail gone ─▶ close ─▶ keep or wipe ─▶ files gone
//! ```

use super::super::{Step, Transition};
use crate::{
    effect::Effect,
    event::EventKind,
    instance::Instance,
    observed::ObservedInstance,
    port::GuestAct,
    state::State,
    volume::{VolumeEffect, VolumeFate, VolumeKind},
};

fn act(effect: VolumeEffect) -> Step {
    Step::Do(Effect::Volume(effect))
}

/// A kept volume becomes the instance's, whatever is wanted of that.
pub(super) fn join(record: &Instance) -> Vec<Step> {
    let Some(volume) = record.volume.joining.clone() else { return Vec::new() };
    let attach = VolumeEffect::Attach {
        volume,
        instance: record.instance.clone(),
        kind: record.volume.kind,
        uid: record.uid,
    };
    vec![act(attach), Step::Record(Transition::new(record.state, EventKind::VolumeAttached))]
}

/// The volume as a jail needs it. Under a snapshot that is about to be resumed it keeps its size:
/// the guest in it knows that one.
pub(super) fn prepare(record: &Instance, seen: &ObservedInstance, resumes: bool) -> Vec<Step> {
    let Some(kind) = record.volume_kind() else { return Vec::new() };
    let (instance, size) = (record.instance.clone(), record.resources.data_disk_mib);
    let mut steps = Vec::new();
    if seen.volume.is_none() {
        let instance = instance.clone();
        steps.push(act(VolumeEffect::Ensure { instance, uid: record.uid, size, kind }));
    } else if record.volume.is_growing && !resumes {
        steps.push(act(VolumeEffect::Grow { instance: instance.clone(), kind, size }));
    }
    match kind {
        VolumeKind::Plain => {}
        VolumeKind::Luks => steps.push(act(VolumeEffect::Open(instance))),
    }
    steps
}

/// A running guest gets the size that was asked for.
pub(super) fn grow(record: &Instance) -> Vec<Step> {
    let Some(kind) = record.volume_kind().filter(|_| record.volume.is_growing) else {
        return Vec::new();
    };
    let (instance, size) = (record.instance.clone(), record.resources.data_disk_mib);
    vec![
        act(VolumeEffect::Grow { instance, kind, size }),
        Step::Ask(GuestAct::Resize),
        Step::Record(Transition::new(State::Running, EventKind::VolumeGrown)),
    ]
}

/// Where the volume of an instance goes that is being destroyed; nowhere when its files go.
pub(super) fn part(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    if seen.volume.is_none() {
        return Vec::new();
    }
    let (instance, kind) = (record.instance.clone(), record.volume.kind);
    match (&record.volume.kept_as, record.volume.fate) {
        (Some(volume), _) => {
            vec![act(VolumeEffect::Keep { instance, volume: volume.clone(), kind })]
        }
        (None, VolumeFate::Wipe) => vec![act(VolumeEffect::Wipe { instance, kind })],
        (None, VolumeFate::Delete | VolumeFate::Keep) => Vec::new(),
    }
}
