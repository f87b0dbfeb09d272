//! Volumes, and the keys that open them.

use mvm_core::{
    effect::Effect,
    observed::{PausedFor, Phase, SnapshotPhase},
    port::GuestAct,
    units::{Generation, Mib},
    volume::{VolumeEffect, VolumeFate, VolumeKind},
};

use super::{
    bench::{Bench, Seen},
    life::has_secrets,
};

fn key(bench: &Bench<'_>) -> Effect {
    Effect::EnsureTenantKey(bench.record.instance.tenant.clone())
}

pub(super) fn sealed(bench: &mut Bench<'_>) -> Result<(), String> {
    let (id, size) = (bench.id(), bench.record.resources.data_disk_mib);
    bench.record.volume.kind = VolumeKind::Luks;
    bench.refuses(&bench.volume(), "the tenant has no key")?;
    bench.do_once(&key(bench))?;
    bench.refuses(&bench.open(), "there is no volume")?;
    bench.tries(&bench.volume(), |seen| {
        seen.instance.volume == Some(size) && !seen.instance.mapping
    })?;
    if bench.subject.host.execute(&bench.jail()).is_ok() {
        return Err("a jail was laid out over a closed volume".to_owned());
    }
    bench.do_once(&Effect::RemoveJail(id.clone()))?;
    bench.tries(&bench.open(), |seen| seen.instance.mapping && seen.node.mappings.contains(&id))?;
    bench.do_once(&bench.jail())?;
    bench.do_once(&Effect::RemoveJail(id.clone()))?;
    let wipe =
        VolumeEffect::Wipe { instance: bench.record.instance.clone(), kind: VolumeKind::Luks };
    bench.refuses(&Effect::Volume(wipe.clone()), "the volume is open")?;
    bench.tries(&bench.close(), |seen| {
        !seen.instance.mapping && !seen.node.mappings.contains(&id)
    })?;
    bench.tries(&Effect::Volume(wipe), |seen| seen.instance.volume.is_none())?;
    bench.refuses(&bench.open(), "the volume was wiped")
}

pub(super) fn grown(bench: &mut Bench<'_>) -> Result<(), String> {
    let before = bench.record.resources.data_disk_mib;
    let larger = Mib(before.0 + 16);
    bench.do_once(&key(bench))?;
    for kind in [VolumeKind::Plain, VolumeKind::Luks] {
        bench.record.volume.kind = kind;
        let grow = |size| {
            let instance = bench.record.instance.clone();
            Effect::Volume(VolumeEffect::Grow { instance, kind, size })
        };
        let (shrink, grow) = (grow(before), grow(larger));
        bench.refuses(&grow, "there is no volume")?;
        bench.do_once(&bench.volume())?;
        let has = |size| move |seen: &Seen| seen.instance.volume == Some(size);
        bench.tries(&grow, has(larger))?;
        bench.tries(&shrink, has(larger))?;
        bench.do_once(&Effect::RemoveInstanceFiles(bench.record.instance.clone()))?;
    }
    Ok(())
}

pub(super) fn kept(bench: &mut Bench<'_>) -> Result<(), String> {
    let (instance, uid) = (bench.record.instance.clone(), bench.record.uid);
    let (volume, size) = (bench.kept_volume()?, bench.record.resources.data_disk_mib);
    bench.do_once(&key(bench))?;
    for kind in [VolumeKind::Plain, VolumeKind::Luks] {
        bench.record.volume.kind = kind;
        let keep = Effect::Volume(VolumeEffect::Keep {
            instance: instance.clone(),
            volume: volume.clone(),
            kind,
        });
        let attach = Effect::Volume(VolumeEffect::Attach {
            volume: volume.clone(),
            instance: instance.clone(),
            kind,
            uid,
        });
        bench.refuses(&keep, "there is no volume")?;
        bench.refuses(&attach, "there is no kept volume")?;
        bench.do_once(&bench.volume())?;
        let is_kept =
            |seen: &Seen| seen.instance.volume.is_none() && seen.node.volumes.contains(&volume);
        bench.tries(&keep, is_kept)?;
        bench.do_once(&Effect::RemoveInstanceFiles(instance.clone()))?;
        bench.tries(&attach, |seen| {
            seen.instance.volume == Some(size) && !seen.node.volumes.contains(&volume)
        })?;
        if kind == VolumeKind::Luks {
            bench.do_once(&bench.open())?;
            bench.refuses(&keep, "the volume is open")?;
            bench.do_once(&bench.close())?;
        }
        bench.do_once(&keep)?;
        let remove = VolumeEffect::Remove { volume: volume.clone(), kind, fate: VolumeFate::Wipe };
        bench.tries(&Effect::Volume(remove), |seen| !seen.node.volumes.contains(&volume))?;
        bench.refuses(&attach, "the kept volume was removed")?;
    }
    Ok(())
}

pub(super) fn rekeyed(bench: &mut Bench<'_>) -> Result<(), String> {
    let tenant = bench.record.instance.tenant.clone();
    bench.record.keyed = true;
    bench.record.volume.kind = VolumeKind::Luks;
    bench.do_once(&key(bench))?;
    let secrets = bench.give_secrets(Generation(1))?;
    bench.boot()?;
    bench.ask(&bench.wake_word(1))?;
    let first = bench.count()?;
    bench.tries(&Effect::DrawNextKey(tenant.clone()), |seen| seen.tenant.next_key)?;
    let rekey = Effect::RekeyInstance {
        instance: bench.record.instance.clone(),
        volume: Some(VolumeKind::Luks),
    };
    bench.tries(&rekey, |seen| seen.phase() == Some(Phase::Running))?;
    bench.ask(&GuestAct::Quiesce)?;
    bench.do_once(&bench.pause(PausedFor::Sleep))?;
    bench.do_once(&bench.write())?;
    bench.do_once(&bench.publish())?;
    bench.clear()?;
    let promote = Effect::PromoteNextKey(tenant.clone());
    bench.tries(&promote, |seen| seen.tenant.key && !seen.tenant.next_key)?;
    bench.do_once(&Effect::DrawNextKey(tenant))?;
    bench.tries(&rekey, |seen| seen.snapshot() == Some(SnapshotPhase::Published))?;
    bench.do_once(&promote)?;
    bench.record.secrets.epoch = Generation(1);
    bench.lay_out()?;
    bench.do_once(&bench.spawn_to_load())?;
    bench.do_once(&bench.load())?;
    bench.do_once(&bench.retire())?;
    bench.do_once(&Effect::ResumeVmm(bench.id()))?;
    bench.ask(&bench.wake_word(2))?;
    has_secrets(bench, secrets, "that were sealed two rotations ago")?;
    let second = bench.count()?;
    if second <= first {
        return Err(format!("the counter went from {first} to {second} over two rotations"));
    }
    Ok(())
}
