//! Whole lives: boot, pause, write, publish, remove, load, retire, resume; and deaths.

use mvm_core::{
    effect::{BaseAct, Effect},
    observed::{Ending, ObservedBase, Origin, PausedFor, Phase, SnapshotPhase},
    port::{GuestAct, GuestAnswer},
    units::{Generation, Seconds},
};

use super::bench::Bench;

pub(super) fn boot(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.lay_out()?;
    bench.do_once(&bench.spawn())?;
    bench.tries(&Effect::BootVmm(bench.jail_plan()), |seen| {
        seen.phase() == Some(Phase::Running)
            && seen.instance.vmm.is_some_and(|vmm| vmm.origin == Origin::Boot)
    })?;
    bench.wait_for_guest()?;
    bench.ask(&bench.configure(1))?;
    let first = bench.count()?;
    bench.refuses(&bench.write(), "the guest runs")?;
    bench.refuses(&bench.load(), "the VMM has a guest")?;
    let id = bench.id();
    bench.tries(&bench.pause(PausedFor::Warm), |seen| {
        seen.phase() == Some(Phase::Paused(PausedFor::Warm))
    })?;
    is_silent(bench)?;
    bench.refuses(&bench.write(), "the guest is paused for something else")?;
    bench.tries(&Effect::ResumeVmm(id.clone()), |seen| seen.phase() == Some(Phase::Running))?;
    let second = bench.count()?;
    if second <= first {
        return Err(format!("the counter went from {first} to {second} over a pause"));
    }
    let answer =
        bench.subject.guest.ask(&bench.record.instance, &GuestAct::Shutdown { grace: Seconds(60) });
    if answer != Ok(GuestAnswer::Done) {
        return Err(format!("the guest did not shut down: {answer:?}"));
    }
    bench.do_once(&Effect::RemoveVmm(id))?;
    if bench.see()?.instance.vmm.is_some() {
        return Err("a VMM is left after its guest shut down".to_owned());
    }
    Ok(())
}

/// A paused guest does not answer.
fn is_silent(bench: &Bench<'_>) -> Result<(), String> {
    let act = GuestAct::Await { timeout: Seconds(1) };
    match bench.subject.guest.ask(&bench.record.instance, &act) {
        Ok(GuestAnswer::Silent) => Ok(()),
        other => Err(format!("a paused guest answered {other:?}")),
    }
}

/// From a running guest to a published snapshot and no process.
/// A snapshot that is written a second time is made of all the guest's memory; one that is written once,
/// of what the guest touched.
fn put_to_sleep(bench: &mut Bench<'_>, once: bool) -> Result<(), String> {
    bench.ask(&GuestAct::Drain { timeout: Seconds(10) })?;
    bench.ask(&GuestAct::Quiesce)?;
    bench.tries(&bench.pause(PausedFor::Sleep), |seen| {
        seen.phase() == Some(Phase::Paused(PausedFor::Sleep))
    })?;
    match once {
        true => bench.do_once(&bench.write())?,
        false => {
            let write = bench.write();
            bench.tries(&write, |seen| seen.snapshot() == Some(SnapshotPhase::Partial))?;
        }
    }
    bench.tries(&bench.publish(), |seen| seen.snapshot() == Some(SnapshotPhase::Published))?;
    bench.clear()?;
    let seen = bench.see()?;
    if seen.snapshot() != Some(SnapshotPhase::Published) || seen.instance.vmm.is_some() {
        return Err(format!("it does not sleep: {seen:?}"));
    }
    Ok(())
}

/// Everything up to an empty VMM.
fn fresh_vmm(bench: &Bench<'_>) -> Result<(), String> {
    bench.lay_out()?;
    bench.do_once(&bench.spawn())
}

/// Everything up to an empty VMM that shall load the snapshot.
fn vmm_to_load(bench: &Bench<'_>) -> Result<(), String> {
    bench.lay_out()?;
    bench.do_once(&bench.spawn_to_load())
}

/// One guest leaves a base, a clone starts where that was taken; both sleep and wake, with the base and
/// after it is gone.
pub(super) fn clone(bench: &mut Bench<'_>) -> Result<(), String> {
    let (take, load) = (bench.base(BaseAct::Take), bench.base(BaseAct::Load));
    bench.do_once(&Effect::EnsureRevision {
        pool: bench.pool(),
        image: bench.subject.rig.image(),
    })?;
    fresh_vmm(bench)?;
    bench.refuses(&load, "there is no base")?;
    bench.do_once(&Effect::BootVmm(bench.jail_plan()))?;
    bench.wait_for_guest()?;
    bench.refuses(&take, "the guest runs")?;
    bench.do_once(&bench.pause(PausedFor::Warm))?;
    bench.tries(&take, |seen| {
        seen.instance.base == ObservedBase::Fits
            && seen.instance.vmm.is_some_and(|vmm| vmm.origin == Origin::Base)
    })?;
    bench.do_once(&Effect::ResumeVmm(bench.id()))?;
    bench.ask(&bench.configure(1))?;
    sleeps_over_it(bench)?;
    fresh_vmm(bench)?;
    bench.tries(&load, |seen| {
        seen.phase() == Some(Phase::Running)
            && seen.instance.vmm.is_some_and(|vmm| vmm.origin == Origin::Base)
    })?;
    bench.ask(&bench.configure(2))?;
    let remove = bench.base(BaseAct::Remove);
    bench.tries(&remove, |seen| seen.instance.base == ObservedBase::Absent)?;
    sleeps_over_it(bench)
}

/// A guest that did nothing yet counts from one, sleeps and wakes twice, and counts on; then it goes.
fn sleeps_over_it(bench: &mut Bench<'_>) -> Result<(), String> {
    let mut former: Option<Effect> = None;
    for round in 1..=2 {
        let count = bench.count()?;
        // The simulated guest counts by itself, too.
        if round == 1 && count > 3 {
            return Err(format!("a guest that was just started counts {count}"));
        }
        put_to_sleep(bench, true)?;
        if let Some(older) = former.take() {
            bench.do_once(&older)?;
        }
        vmm_to_load(bench)?;
        bench.do_once(&bench.load())?;
        bench.do_once(&bench.retire())?;
        bench.do_once(&Effect::ResumeVmm(bench.id()))?;
        bench.ask(&bench.wake_word(10 + round))?;
        let next = bench.count()?;
        if next <= count {
            return Err(format!("the counter went from {count} to {next} over a sleep"));
        }
        former = Some(bench.remove_snapshot());
        bench.record.epoch = bench.record.epoch.next();
    }
    bench.clear()?;
    former.map_or(Ok(()), |last| bench.do_once(&last))
}

pub(super) fn sleep_and_wake(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.boot()?;
    bench.ask(&bench.wake_word(1))?;
    let mut last = bench.count()?;
    // What a guest woke from stays until it sleeps again: what it did not touch lies there.
    let mut former: Option<Effect> = None;
    for round in 2..4 {
        put_to_sleep(bench, round > 2)?;
        if let Some(older) = former.take() {
            bench.do_once(&older)?;
        }
        vmm_to_load(bench)?;
        let load = bench.load();
        bench.tries(&load, |seen| {
            seen.phase() == Some(Phase::Paused(PausedFor::Warm))
                && seen.instance.vmm.is_some_and(|vmm| vmm.origin == Origin::Snapshot(seen.epoch))
        })?;
        bench.tries(&bench.retire(), |seen| seen.snapshot() == Some(SnapshotPhase::Retired))?;
        bench.tries(&Effect::ResumeVmm(bench.id()), |seen| seen.phase() == Some(Phase::Running))?;
        bench.ask(&bench.wake_word(round))?;
        let count = bench.count()?;
        if count <= last {
            return Err(format!("the counter went from {last} to {count} over sleep {round}"));
        }
        last = count;
        former = Some(bench.remove_snapshot());
        bench.record.epoch = bench.record.epoch.next();
    }
    former.map_or(Ok(()), |last| bench.tries(&last, |seen| seen.instance.snapshots.is_empty()))
}

pub(super) fn phases(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.boot()?;
    bench.ask(&GuestAct::Quiesce)?;
    bench.do_once(&bench.pause(PausedFor::Sleep))?;
    bench.do_once(&bench.write())?;
    bench.refuses(&bench.retire(), "the snapshot is partial")?;
    bench.tries(&bench.remove_snapshot(), |seen| seen.snapshot().is_none())?;
    bench.refuses(&bench.publish(), "the snapshot was removed")?;
    bench.do_once(&bench.write())?;
    bench.clear()?;
    fresh_vmm(bench)?;
    cannot_load(bench, "the snapshot is partial")?;
    bench.lay_out()?;
    bench.refuses(&bench.spawn_to_load(), "the snapshot is partial")?;
    bench.do_once(&bench.publish())?;
    vmm_to_load(bench)?;
    bench.do_once(&bench.load())?;
    bench.do_once(&bench.retire())?;
    bench.refuses(&bench.publish(), "the snapshot is retired")?;
    bench.clear()?;
    fresh_vmm(bench)?;
    cannot_load(bench, "the snapshot is retired")?;
    bench.tries(&bench.remove_snapshot(), |seen| seen.snapshot().is_none())?;
    fresh_vmm(bench)?;
    cannot_load(bench, "there is no snapshot")
}

/// Loading fails, the guest does not come to life, and all is cleared away.
fn cannot_load(bench: &Bench<'_>, why: &str) -> Result<(), String> {
    if bench.subject.host.execute(&bench.load()).is_ok() {
        return Err(format!("a snapshot was loaded although {why}"));
    }
    match bench.see()?.phase() {
        None | Some(Phase::Empty) => bench.clear(),
        Some(phase) => Err(format!("a guest is {phase:?} although {why}")),
    }
}

pub(super) fn sealed(bench: &mut Bench<'_>) -> Result<(), String> {
    let tenant = bench.record.instance.tenant.clone();
    bench.record.keyed = true;
    bench.boot()?;
    bench.ask(&GuestAct::Quiesce)?;
    bench.do_once(&bench.pause(PausedFor::Sleep))?;
    bench.refuses(&bench.write(), "the tenant has no key")?;
    bench.do_once(&Effect::EnsureTenantKey(tenant.clone()))?;
    bench.do_once(&bench.write())?;
    bench.do_once(&bench.publish())?;
    bench.clear()?;
    bench.do_once(&Effect::EnsureTenantKey(tenant))?;
    vmm_to_load(bench)?;
    bench.do_once(&bench.load())?;
    bench.do_once(&bench.retire())?;
    bench.do_once(&Effect::ResumeVmm(bench.id()))?;
    bench.ask(&bench.wake_word(2))?;
    bench.count().map(|_| ())
}

pub(super) fn deaths(bench: &mut Bench<'_>) -> Result<(), String> {
    let (id, rig) = (bench.id(), bench.subject.rig);
    bench.boot()?;
    rig.kill_vmm(&id).map_err(|error| format!("cannot kill the VMM: {error}"))?;
    let seen = bench.see()?;
    if seen.instance.vmm.is_some() || seen.instance.exit.is_none() {
        return Err(format!("the death of a VMM does not show: {seen:?}"));
    }
    let act = GuestAct::Await { timeout: Seconds(1) };
    if bench.subject.guest.ask(&bench.record.instance, &act) == Ok(GuestAnswer::Done) {
        return Err("a dead guest answered".to_owned());
    }
    bench.do_once(&Effect::RemoveVmm(id.clone()))?;
    if bench.see()?.instance.exit.is_some() {
        return Err("the exit record outlives the removal of its VMM".to_owned());
    }
    bench.clear()?;
    bench.boot()?;
    rig.kill_shim(&id).map_err(|error| format!("cannot kill the shim: {error}"))?;
    let seen = bench.see()?;
    if seen.instance.shim || seen.phase() != Some(Phase::Running) {
        return Err(format!("the death of a shim does not show, or took its VMM: {seen:?}"));
    }
    bench.wait_for_guest()?;
    dies_unseen(bench)?;
    bench.do_once(&Effect::RemoveVmm(id.clone()))?;
    bench.refuses(&bench.shim(), "there is no VMM")?;
    bench.clear()?;
    bench.boot()?;
    rig.kill_shim(&id).map_err(|error| format!("cannot kill the shim: {error}"))?;
    bench
        .tries(&bench.shim(), |seen| seen.instance.shim && seen.phase() == Some(Phase::Running))?;
    bench.wait_for_guest()?;
    dies_unseen(bench)?;
    bench.tries(&Effect::RemoveVmm(id), |seen| {
        seen.instance.vmm.is_none() && !seen.instance.shim && seen.instance.exit.is_none()
    })
}

/// The VMM is killed, and no parent of it was there to see how it ended.
fn dies_unseen(bench: &Bench<'_>) -> Result<(), String> {
    let killed = bench.subject.rig.kill_vmm(&bench.id());
    killed.map_err(|error| format!("cannot kill the VMM: {error}"))?;
    let seen = bench.see()?.instance;
    if seen.vmm.is_some() || seen.exit.as_ref().map(|exit| &exit.ending) != Some(&Ending::Unseen) {
        return Err(format!("a death that nobody saw does not show as such: {seen:?}"));
    }
    Ok(())
}

pub(super) fn secrets(bench: &mut Bench<'_>) -> Result<(), String> {
    let (first, second) = (Generation(1), Generation(2));
    bench.record.secrets.epoch = first;
    bench.do_once(&bench.volume())?;
    if bench.subject.host.execute(&bench.jail()).is_ok() {
        return Err("a jail was laid out without the secrets that it needs".to_owned());
    }
    bench.clear()?;
    let old = bench.give_secrets(first)?;
    bench.lay_out()?;
    if bench.see()?.instance.secrets != Some(first) {
        return Err("the epoch of the secrets drive does not show".to_owned());
    }
    bench.refuses(&bench.swap_secrets(second), "there is no VMM")?;
    bench.do_once(&bench.spawn())?;
    let new = bench.give_secrets(second)?;
    bench.refuses(&bench.swap_secrets(second), "the VMM has no guest")?;
    bench.do_once(&Effect::BootVmm(bench.jail_plan()))?;
    bench.ask(&bench.configure(1))?;
    has_secrets(bench, old, "it booted with")?;
    bench.tries(&bench.swap_secrets(second), |seen| seen.instance.secrets == Some(second))?;
    has_secrets(bench, old, "it has while nobody told it")?;
    bench.ask(&GuestAct::RefreshSecrets { epoch: second })?;
    has_secrets(bench, new, "it was told of")?;
    bench.do_once(&bench.pause(PausedFor::Warm))?;
    let newest = bench.give_secrets(Generation(3))?;
    bench.do_once(&bench.swap_secrets(Generation(3)))?;
    bench.do_once(&Effect::ResumeVmm(bench.id()))?;
    bench.record.secrets.epoch = Generation(3);
    bench.ask(&bench.wake_word(2))?;
    has_secrets(bench, newest, "it was woken with")?;
    bench.clear()?;
    if bench.see()?.instance.secrets.is_some() {
        return Err("the secrets drive outlives its jail".to_owned());
    }
    Ok(())
}

pub(super) fn has_secrets(bench: &Bench<'_>, wanted: u64, which: &str) -> Result<(), String> {
    let seen = bench.subject.rig.secrets(&bench.record.instance);
    let seen = seen.map_err(|error| format!("the guest does not tell its secrets: {error}"))?;
    if seen == wanted { Ok(()) } else { Err(format!("the guest does not see the secrets {which}")) }
}
