//! One instance to its wanted state.
//!
//! Orders that must hold, each with the failure that it prevents (SPEC §8):
//!
//! ```text
//! sleep: drain → save integrations → quiesce → pause → write+sync → publish → process gone → record
//!        a published snapshot is complete; until then the guest can be resumed
//! wake:  load paused → retire → resume → tell the guest, which thaws → restore integrations → record
//!        a snapshot is never resumable once a guest may have written to its disk
//! start: boot held at the gate → resume, or load the pool's base → tell the guest who it is → record
//!        a guest that boots without a base leaves one; no workload runs with what it has in common
//! live:  swap the secrets drive → tell the guest → record
//!        a guest is never said to have secrets that its drive does not hold
//! stop:  shut down → process gone → snapshot gone → record
//! ```
//!
//! A plan ends where the next decision needs a fresh look; the engine observes and plans again
//! until the plan is empty.

use super::{Started, Step, Transition};
use crate::{
    effect::{BaseAct, DriveSecrets, Effect, Identity, Jail, Limits},
    event::EventKind,
    id::ImageHash,
    instance::{Drain, Instance, Want},
    observed::{
        ObservedBase, ObservedInstance, ObservedVmm, Origin, PausedFor, Phase, SnapshotPhase,
    },
    port::GuestAct,
    state::State,
    units::{Generation, Seconds},
    volume::VolumeEffect,
};

mod volume;

/// How long a booting guest's agent may take to answer.
pub const BOOT_TIMEOUT: Seconds = Seconds(60);

/// Whether there is a VMM of which nothing is known, and that the record wants to go on: there are no steps
/// for it until it answers. One that shall end is ended.
#[must_use]
pub fn is_silent(record: &Instance, seen: &ObservedInstance) -> bool {
    matches!(record.want, Want::Running | Want::Warm | Want::Sleeping)
        && seen.vmm.is_some_and(ObservedVmm::is_silent)
}

/// The next steps for `record`, given what was `seen` and the firewall generation that the store
/// asks for. Empty at rest, and when nothing can be done.
#[must_use]
pub fn plan(record: &Instance, seen: &ObservedInstance, firewall: Generation) -> Vec<Step> {
    let mut steps = match record.want {
        _ if seen.vmm.is_none() && record.volume.joining.is_some() => volume::join(record),
        Want::Idle => tidy(record, seen),
        Want::Stopped => stop(record, seen),
        Want::Destroyed => destroy(record, seen),
        Want::Running => match seen.vmm {
            Some(vmm) => run(record, seen, vmm),
            None => launch(record, seen, firewall),
        },
        Want::Warm => match seen.vmm {
            Some(vmm) => warm(record, seen, vmm),
            None => launch(record, seen, firewall),
        },
        Want::Sleeping => sleep(record, seen, firewall),
    };
    if is_unwatched(record, seen) && !matches!(steps.first(), Some(Step::Do(Effect::RemoveVmm(_))))
    {
        let shim = Effect::EnsureShim { instance: record.instance.clone(), uid: record.uid };
        steps.splice(0..0, [tell(EventKind::ShimLost, ""), Step::Do(shim)]);
    }
    steps
}

/// Whether a guest that shall stay lost its shim.
fn is_unwatched(record: &Instance, seen: &ObservedInstance) -> bool {
    matches!(record.want, Want::Running | Want::Warm | Want::Sleeping)
        && seen.vmm.is_some_and(|vmm| vmm.phase != Phase::Empty)
        && !seen.shim
}

/// From no process to a running guest: by snapshot when one may be resumed, else by cold boot.
fn launch(record: &Instance, seen: &ObservedInstance, firewall: Generation) -> Vec<Step> {
    let Some(image) = record.image.clone() else {
        return Vec::new();
    };
    let jail = Box::new(jail_of(record, image));
    let id = record.instance.clone();
    let mut steps = Vec::new();
    if seen.exit.is_some() || seen.shim {
        steps.push(Step::Do(Effect::RemoveVmm(id.instance.clone())));
    }
    if seen.firewall != Some(firewall) {
        steps.push(Step::SyncFirewall);
    }
    if !seen.bridge {
        steps.push(Step::Do(Effect::EnsureBridge(record.network.clone())));
    }
    if !seen.routes {
        steps.push(Step::Do(Effect::EnsureRoutes(record.network.clone())));
    }
    steps.push(Step::Do(Effect::EnsureTap {
        net: record.network.net,
        offset: record.offset,
        uid: record.uid,
    }));
    steps.push(Step::Do(Effect::EnsureCgroup {
        instance: id.instance.clone(),
        limits: Limits::of(record.resources),
    }));
    steps.extend(volume::prepare(record, seen, resumable(record, seen)));
    steps.push(Step::Do(Effect::EnsureJail(jail.clone())));
    let epoch = resumable(record, seen).then_some(record.epoch);
    steps.push(Step::Do(Effect::SpawnVmm { instance: id.clone(), uid: record.uid, epoch }));
    if resumable(record, seen) {
        steps.push(Step::Do(Effect::LoadSnapshot { instance: id, epoch: record.epoch }));
        steps.extend(resume(record, true, Vec::new()));
    } else {
        steps.extend(begin(record, &seen.base, jail));
    }
    steps
}

/// In an empty VMM to a guest that works: as a clone of the base, or by a cold boot that leaves one.
fn begin(record: &Instance, base: &ObservedBase, jail: Box<Jail>) -> Vec<Step> {
    let mut steps = Vec::new();
    match base {
        ObservedBase::Fits => steps.push(base_act(BaseAct::Load, &jail)),
        ObservedBase::Absent | ObservedBase::Unfit(_) => {
            if let ObservedBase::Unfit(why) = base {
                steps.push(tell(EventKind::BaseRefused, why));
            }
            let instance = record.instance.instance.clone();
            steps.push(Step::Do(Effect::BootVmm(jail.clone())));
            steps.push(Step::Ask(GuestAct::Await { timeout: BOOT_TIMEOUT }));
            steps.push(Step::Do(Effect::PauseVmm { instance, purpose: PausedFor::Warm }));
            steps.push(base_act(BaseAct::Take, &jail));
            steps.push(Step::Do(Effect::ResumeVmm(record.instance.instance.clone())));
        }
    }
    let started = if *base == ObservedBase::Fits { Started::Clone } else { Started::Boot };
    steps.extend(arrive(record, jail, Some(started), Vec::new()));
    steps
}

fn base_act(act: BaseAct, jail: &Jail) -> Step {
    Step::Do(Effect::Base { act, jail: Box::new(jail.clone()) })
}

fn tell(event: EventKind, reason: impl Into<String>) -> Step {
    Step::Tell { event, reason: reason.into() }
}

fn resumable(record: &Instance, seen: &ObservedInstance) -> bool {
    record.state == State::Sleeping
        && seen.snapshots.get(&record.epoch) == Some(&SnapshotPhase::Published)
}

/// The last steps of a start: the guest is told who it is, the record says so.
fn arrive(
    record: &Instance,
    jail: Box<Jail>,
    started: Option<Started>,
    swap: Vec<Step>,
) -> Vec<Step> {
    let mut steps = swap;
    let (generation, timeout) = (record.generation.0, BOOT_TIMEOUT);
    steps.push(Step::Ask(GuestAct::Configure { jail, generation, timeout }));
    let running = Transition::new(State::Running, EventKind::InstanceStarted);
    steps.push(Step::Record(Transition { started, ..running }));
    steps.extend(volume::grow(record));
    steps
}

fn wake_word(record: &Instance) -> Step {
    Step::Ask(GuestAct::Wake {
        network: record.network.clone(),
        offset: record.offset,
        generation: record.generation.0,
        secrets: record.secrets.epoch,
    })
}

fn drive_secrets(record: &Instance) -> DriveSecrets {
    DriveSecrets { epoch: record.secrets.epoch, scopes: record.secrets.scopes.clone() }
}

/// Another secrets drive for a guest whose own is older than what it was granted.
fn swap_old(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    if record.secrets.epoch <= seen.secrets.unwrap_or_default() {
        return Vec::new();
    }
    vec![Step::Do(Effect::SwapSecrets {
        instance: record.instance.clone(),
        uid: record.uid,
        secrets: drive_secrets(record),
    })]
}

/// A running guest gets the secrets that it was granted.
fn deliver(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    if !record.secrets.is_due() {
        return Vec::new();
    }
    let mut steps = swap_old(record, seen);
    steps.push(Step::Ask(GuestAct::RefreshSecrets { epoch: record.secrets.epoch }));
    steps.push(Step::Record(Transition::new(State::Running, EventKind::SecretsDelivered)));
    steps
}

/// From paused to a guest that knows the time and works; retires the snapshot before.
fn resume(record: &Instance, retire: bool, swap: Vec<Step>) -> Vec<Step> {
    let id = &record.instance;
    let mut steps = swap;
    if retire {
        steps.push(Step::Do(Effect::RetireSnapshot { instance: id.clone(), epoch: record.epoch }));
    }
    steps.push(Step::Do(Effect::ResumeVmm(id.instance.clone())));
    steps.extend(reach(record, Vec::new()));
    steps
}

/// The last steps of a wake: the guest is told, the workload runs, what it keeps is restored if it
/// comes from disk, the record says so.
fn reach(record: &Instance, swap: Vec<Step>) -> Vec<Step> {
    let mut steps = swap;
    steps.push(wake_word(record));
    let all = record.integrations.iter();
    let integrations: Vec<_> = all.filter(|one| one.restore_cmd.is_some()).cloned().collect();
    if record.state == State::Sleeping && !integrations.is_empty() {
        let timeout = record.policy.drain_timeout_seconds;
        steps.push(Step::Ask(GuestAct::Restore { integrations, timeout }));
    }
    steps.push(Step::Record(Transition::new(State::Running, EventKind::InstanceWoken)));
    steps.extend(volume::grow(record));
    steps
}

/// With a process, to a running guest.
fn run(record: &Instance, seen: &ObservedInstance, vmm: ObservedVmm) -> Vec<Step> {
    let published = seen.snapshots.get(&record.epoch) == Some(&SnapshotPhase::Published);
    match vmm.phase {
        Phase::Empty => vec![Step::Do(Effect::RemoveVmm(record.instance.instance.clone()))],
        Phase::Paused(_) if is_starting(record, vmm.origin) => {
            let mut steps = vec![Step::Do(Effect::ResumeVmm(record.instance.instance.clone()))];
            steps.extend(go_on(record, seen));
            steps
        }
        Phase::Paused(_) => resume(record, published, swap_old(record, seen)),
        Phase::Running if record.state == State::Running => {
            let mut steps = drop_unfinished(record, seen);
            steps.extend(deliver(record, seen));
            steps.extend(volume::grow(record));
            steps
        }
        Phase::Running if is_starting(record, vmm.origin) => go_on(record, seen),
        Phase::Running => reach(record, swap_old(record, seen)),
        Phase::Silent => Vec::new(),
    }
}

/// Whether a guest is one that was not told yet who it is.
const fn is_starting(record: &Instance, origin: Origin) -> bool {
    match (record.state, origin) {
        (State::Running | State::Warm | State::Sleeping, _) | (_, Origin::Snapshot(_)) => false,
        (
            State::Created | State::Ready | State::Stopped | State::Destroyed,
            Origin::Boot | Origin::Base,
        ) => true,
    }
}

/// The rest of a start that was cut off.
fn go_on(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    let Some(image) = record.image.clone() else { return Vec::new() };
    arrive(record, Box::new(jail_of(record, image)), None, swap_old(record, seen))
}

/// With a process, to a paused guest.
fn warm(record: &Instance, seen: &ObservedInstance, vmm: ObservedVmm) -> Vec<Step> {
    let warmed = Step::Record(Transition::new(State::Warm, EventKind::InstanceWarmed));
    match (vmm.phase, record.state) {
        (Phase::Paused(_), State::Warm) => Vec::new(),
        (Phase::Paused(_), State::Running) => vec![warmed],
        (Phase::Running, State::Running) => vec![
            Step::Do(Effect::PauseVmm {
                instance: record.instance.instance.clone(),
                purpose: PausedFor::Warm,
            }),
            warmed,
        ],
        // A wake that was given up, or a sleep that had to resume: what it was told is told again
        // at the next wake.
        (Phase::Running, State::Warm) => vec![Step::Do(Effect::PauseVmm {
            instance: record.instance.instance.clone(),
            purpose: PausedFor::Warm,
        })],
        (Phase::Running | Phase::Empty | Phase::Paused(_) | Phase::Silent, _) => {
            run(record, seen, vmm)
        }
    }
}

fn sleep(record: &Instance, seen: &ObservedInstance, firewall: Generation) -> Vec<Step> {
    let phase = seen.snapshots.get(&record.epoch).copied();
    let Some(vmm) = seen.vmm else {
        return match (record.state, phase) {
            (State::Running | State::Warm | State::Sleeping, Some(SnapshotPhase::Published)) => {
                settle(record, seen)
            }
            (State::Created | State::Ready | State::Stopped, _) => launch(record, seen, firewall),
            (State::Running | State::Warm | State::Sleeping | State::Destroyed, _) => Vec::new(),
        };
    };
    match vmm.phase {
        // Retiring comes before resuming, so this guest has not run since it was loaded.
        Phase::Empty | Phase::Paused(_)
            if record.state == State::Sleeping && phase == Some(SnapshotPhase::Published) =>
        {
            vec![Step::Do(Effect::RemoveVmm(record.instance.instance.clone()))]
        }
        Phase::Paused(PausedFor::Sleep) if matches!(record.state, State::Running | State::Warm) => {
            let mut steps = warmed_unless(record);
            if phase != Some(SnapshotPhase::Published) {
                steps.extend(write(record, seen));
            }
            steps.push(Step::Do(Effect::RemoveVmm(record.instance.instance.clone())));
            steps
        }
        Phase::Paused(PausedFor::Warm) if record.state == State::Warm => {
            let mut steps = vec![Step::Do(Effect::ResumeVmm(record.instance.instance.clone()))];
            steps.extend(lie_down(record, seen));
            steps
        }
        Phase::Running if matches!(record.state, State::Running | State::Warm) => {
            lie_down(record, seen)
        }
        Phase::Empty | Phase::Running | Phase::Paused(_) | Phase::Silent => run(record, seen, vmm),
    }
}

fn warmed_unless(record: &Instance) -> Vec<Step> {
    if record.state == State::Warm {
        return Vec::new();
    }
    vec![Step::Record(Transition::new(State::Warm, EventKind::InstanceWarmed))]
}

/// From a running guest to one that is paused for sleep, written, published and gone.
fn lie_down(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    let id = &record.instance.instance;
    let mut steps = Vec::new();
    let timeout = record.policy.drain_timeout_seconds;
    match record.drain {
        Drain::Ask => steps.push(Step::Ask(GuestAct::Drain { timeout })),
        Drain::Skip => {}
    }
    if !record.integrations.is_empty() {
        let integrations = record.integrations.clone();
        steps.push(Step::Ask(GuestAct::Checkpoint { integrations, timeout }));
    }
    steps.push(Step::Ask(GuestAct::Quiesce));
    steps.push(Step::Do(Effect::PauseVmm { instance: id.clone(), purpose: PausedFor::Sleep }));
    steps.extend(warmed_unless(record));
    steps.extend(write(record, seen));
    steps.push(Step::Do(Effect::RemoveVmm(id.clone())));
    steps
}

fn write(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    let (instance, epoch) = (record.instance.clone(), record.epoch);
    // What the guest woke from holds the pages that it did not touch. Any other is of no use, also one
    // of this epoch, which a wake that was given up before Running was recorded left behind.
    let source = seen.vmm.map(|vmm| vmm.origin);
    let is_source = |of: Generation| source == Some(Origin::Snapshot(of)) && of != epoch;
    let mut steps: Vec<Step> = seen
        .snapshots
        .iter()
        .filter(|(of, phase)| **phase != SnapshotPhase::Partial && !is_source(**of))
        .map(|(of, _)| Step::Do(Effect::RemoveSnapshot { instance: instance.clone(), epoch: *of }))
        .collect();
    steps.push(Step::Do(Effect::WriteSnapshot {
        instance: instance.clone(),
        epoch,
        memory: record.resources.mem_mib,
        keyed: record.keyed,
        compression: record.compression,
    }));
    steps.push(Step::Do(Effect::PublishSnapshot { instance, epoch }));
    steps
}

/// A published snapshot and no process: clear away the rest, then say so.
fn settle(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    let mut steps = clear(record, seen);
    for (epoch, _) in seen.snapshots.iter().filter(|(epoch, _)| **epoch != record.epoch) {
        steps.push(Step::Do(Effect::RemoveSnapshot {
            instance: record.instance.clone(),
            epoch: *epoch,
        }));
    }
    if record.state != State::Sleeping {
        steps.push(Step::Record(Transition::new(State::Sleeping, EventKind::InstanceSlept)));
    }
    steps
}

fn stop(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    let id = &record.instance.instance;
    let mut steps = Vec::new();
    if let Some(vmm) = seen.vmm {
        let shutdown =
            Step::Ask(GuestAct::Shutdown { grace: record.policy.graceful_shutdown_seconds });
        match vmm.phase {
            Phase::Running => steps.push(shutdown),
            Phase::Paused(_) if record.state.has_process() => {
                steps.extend(drop_snapshots(record, seen));
                steps.push(Step::Do(Effect::ResumeVmm(id.clone())));
                steps.push(Step::Ask(GuestAct::Thaw));
                steps.push(shutdown);
            }
            // A guest that was loaded and never told so must not run; a silent VMM lets nobody ask.
            Phase::Paused(_) | Phase::Empty | Phase::Silent => {}
        }
    }
    steps.extend(clear(record, seen));
    steps.extend(drop_snapshots(record, seen));
    if record.state != State::Stopped {
        steps.push(Step::Record(Transition::new(State::Stopped, EventKind::InstanceStopped)));
    }
    steps
}

fn destroy(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    let mut steps = clear(record, seen);
    steps.extend(volume::part(record, seen));
    if seen.files || seen.volume.is_some() || !seen.snapshots.is_empty() {
        steps.push(Step::Do(Effect::RemoveInstanceFiles(record.instance.clone())));
    }
    if record.state != State::Destroyed {
        steps.push(Step::Record(Transition::new(State::Destroyed, EventKind::InstanceDestroyed)));
        steps.push(Step::SyncFirewall);
    }
    steps
}

fn tidy(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    let mut steps = clear(record, seen);
    steps.extend(drop_snapshots(record, seen));
    steps
}

/// Process, tap, jail and cgroup away, in the order in which they hang on each other.
fn clear(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    let id = &record.instance.instance;
    let mut steps = Vec::new();
    if seen.vmm.is_some() || seen.shim || seen.exit.is_some() {
        steps.push(Step::Do(Effect::RemoveVmm(id.clone())));
    }
    if seen.tap {
        steps.push(Step::Do(Effect::RemoveTap { net: record.network.net, offset: record.offset }));
    }
    if seen.jail {
        steps.push(Step::Do(Effect::RemoveJail(id.clone())));
    }
    if seen.mapping {
        steps.push(Step::Do(Effect::Volume(VolumeEffect::Close(id.clone()))));
    }
    if seen.cgroup {
        steps.push(Step::Do(Effect::RemoveCgroup(id.clone())));
    }
    steps
}

fn drop_snapshots(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    drop_those(record, seen, |_| true)
}

/// What a running guest has no use for. A retired snapshot stays until the next sleep or stop
/// (SPEC §8): the guest's memory may still come from it.
fn drop_unfinished(record: &Instance, seen: &ObservedInstance) -> Vec<Step> {
    drop_those(record, seen, |phase| phase != SnapshotPhase::Retired)
}

fn drop_those(
    record: &Instance,
    seen: &ObservedInstance,
    which: impl Fn(SnapshotPhase) -> bool,
) -> Vec<Step> {
    let those = seen.snapshots.iter().filter(|(_, phase)| which(**phase));
    let remove = |(epoch, _): (&Generation, &SnapshotPhase)| {
        Step::Do(Effect::RemoveSnapshot { instance: record.instance.clone(), epoch: *epoch })
    };
    those.map(remove).collect()
}

fn jail_of(record: &Instance, image: ImageHash) -> Jail {
    Jail {
        instance: record.instance.clone(),
        uid: record.uid,
        image,
        resources: record.resources,
        volume: record.volume.kind,
        identity: Identity {
            network: record.network.clone(),
            offset: record.offset,
            role: record.role.clone(),
            policy: record.policy,
            integrations: record.integrations.clone(),
            routing_table: record.routing_table.clone(),
        },
        secrets: drive_secrets(record),
    }
}

#[cfg(test)]
mod tests;
