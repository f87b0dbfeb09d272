//! Effects one by one: made, seen, made again, removed.

use mvm_core::{
    effect::{BaseAct, Effect, Firewall},
    id::{ImageHash, VmmVersion},
    observed::{PausedFor, Phase},
    units::Generation,
};

use super::{
    SPARE,
    bench::{Bench, Seen, nothing_of},
};

pub(super) fn bridge(bench: &mut Bench<'_>) -> Result<(), String> {
    let net = bench.record.network.net;
    bench.tries(&bench.bridge(), |seen| {
        seen.instance.bridge && seen.tenant.bridge && seen.node.bridges.contains(&net)
    })?;
    bench.tries(&Effect::RemoveBridge(net), |seen| {
        !seen.instance.bridge && !seen.tenant.bridge && !seen.node.bridges.contains(&net)
    })
}

pub(super) fn routes(bench: &mut Bench<'_>) -> Result<(), String> {
    let net = bench.record.network.net;
    bench.do_once(&bench.bridge())?;
    bench.tries(&bench.routes(), |seen| {
        seen.instance.routes && seen.tenant.routes && seen.node.routes.contains(&net)
    })?;
    bench.tries(&Effect::RemoveRoutes(net), |seen| {
        !seen.instance.routes && !seen.tenant.routes && !seen.node.routes.contains(&net)
    })
}

pub(super) fn firewall(bench: &mut Bench<'_>) -> Result<(), String> {
    let is_at = |generation: Option<Generation>| {
        move |seen: &Seen| {
            seen.instance.firewall == generation
                && seen.tenant.firewall == generation
                && seen.node.firewall == generation
        }
    };
    bench.do_once(&bench.bridge())?;
    let first = bench.next_firewall()?;
    let second = first.next();
    bench.tries(&bench.firewall(first)?, is_at(Some(first)))?;
    bench.tries(&bench.firewall(second)?, is_at(Some(second)))?;
    bench.refuses(&bench.firewall(first)?, "a newer intent is in force")?;
    let nothing = Firewall { generation: second.next(), ..Firewall::default() };
    bench.tries(&Effect::ReplaceFirewall(nothing), is_at(None))
}

pub(super) fn tenant(bench: &mut Bench<'_>) -> Result<(), String> {
    let tenant = bench.record.instance.tenant.clone();
    bench.tries(&Effect::EnsureTenantKey(tenant.clone()), |seen| seen.tenant.key)?;
    bench.do_once(&bench.volume())?;
    if !bench.see()?.tenant.files {
        return Err("a tenant whose instance has a volume shows no files".to_owned());
    }
    bench.tries(&Effect::RemoveTenantFiles(tenant.clone()), |seen| {
        !seen.tenant.key && !seen.tenant.files && !seen.node.tenants.contains(&tenant)
    })
}

pub(super) fn pool(bench: &mut Bench<'_>) -> Result<(), String> {
    let (pool, image) = (bench.pool(), bench.subject.rig.image());
    let unknown: ImageHash = "0".repeat(64).parse().map_err(|error| format!("{error}"))?;
    bench.refuses(
        &Effect::EnsureRevision { pool: pool.clone(), image: unknown },
        "there is no such image",
    )?;
    let link = Effect::EnsureRevision { pool: pool.clone(), image: image.clone() };
    bench.tries(&link, |seen| {
        seen.pool.files
            && seen.pool.current.as_ref() == Some(&image)
            && seen.pool.revisions.contains(&image)
            && seen.node.pools.contains(&(pool.tenant.clone(), pool.pool.clone()))
    })?;
    bench.tries(&Effect::RemovePoolFiles(pool.clone()), |seen| {
        !seen.pool.files && seen.pool.current.is_none() && seen.pool.revisions.is_empty()
    })
}

pub(super) fn litter(bench: &mut Bench<'_>) -> Result<(), String> {
    let (pool, image) = (bench.pool(), bench.subject.rig.image());
    let instance = bench.record.instance.clone();
    let spare = bench.subject.rig.litter(&instance).map_err(|error| error.to_string())?;
    bench.do_once(&Effect::EnsureRevision { pool: pool.clone(), image: image.clone() })?;
    bench.do_once(&Effect::EnsureRevision { pool: pool.clone(), image: spare.clone() })?;
    let remove =
        |image: &ImageHash| Effect::RemoveRevision { pool: pool.clone(), image: image.clone() };
    bench.refuses(&remove(&spare), "it is current")?;
    bench.do_once(&Effect::EnsureRevision { pool: pool.clone(), image: image.clone() })?;
    bench.tries(&remove(&spare), |seen| seen.pool.revisions == [image.clone()])?;
    if !bench.see()?.stock.images.contains(&spare) {
        return Err("an image went with a link to it".to_owned());
    }
    bench.tries(&Effect::RemoveImage(spare.clone()), |seen| {
        !seen.stock.images.contains(&spare) && seen.stock.images.contains(&image)
    })?;
    let stock = bench.see()?.stock;
    if !stock.downloads || !stock.rotated_logs.contains(&instance) {
        return Err(format!("the litter that was made does not show: {stock:?}"));
    }
    bench.tries(&Effect::RemoveRotatedLogs(instance.clone()), |seen| {
        !seen.stock.rotated_logs.contains(&instance)
    })?;
    bench.tries(&Effect::RemoveDownloads, |seen| !seen.stock.downloads)?;
    let spare: VmmVersion = SPARE.parse().map_err(|error| format!("{error}"))?;
    let is_there = |seen: &Seen| seen.stock.versions.iter().any(|one| one.version == spare);
    if !is_there(&bench.see()?) {
        return Err(format!("Firecracker {spare} was installed and does not show"));
    }
    bench.tries(&Effect::RemoveVersion(spare.clone()), |seen| !is_there(seen))?;
    bench.refuses(&Effect::RemoveVersion(VmmVersion::built_in()), "it is built in")
}

pub(super) fn volume(bench: &mut Bench<'_>) -> Result<(), String> {
    let size = bench.record.resources.data_disk_mib;
    bench
        .tries(&bench.volume(), |seen| seen.instance.volume == Some(size) && seen.instance.files)?;
    bench.tries(&Effect::RemoveInstanceFiles(bench.record.instance.clone()), |seen| {
        seen.instance.volume.is_none() && !seen.instance.files
    })
}

pub(super) fn tap(bench: &mut Bench<'_>) -> Result<(), String> {
    let (net, offset) = (bench.record.network.net, bench.record.offset);
    bench.refuses(&bench.tap(), "its bridge is not there")?;
    bench.do_once(&bench.bridge())?;
    bench.refuses(&bench.tap(), "there are no walls around it")?;
    bench.do_once(&bench.firewall(bench.next_firewall()?)?)?;
    bench
        .tries(&bench.tap(), |seen| seen.instance.tap && seen.node.taps.contains(&(net, offset)))?;
    let nothing = Firewall { generation: bench.next_firewall()?, ..Firewall::default() };
    bench.refuses(&Effect::ReplaceFirewall(nothing), "a tap would be without walls")?;
    bench.refuses(&Effect::RemoveBridge(net), "a tap is on it")?;
    bench.tries(&Effect::RemoveTap { net, offset }, |seen| {
        !seen.instance.tap && !seen.node.taps.contains(&(net, offset))
    })
}

pub(super) fn cgroup(bench: &mut Bench<'_>) -> Result<(), String> {
    let id = bench.id();
    bench.tries(&bench.cgroup(), |seen| seen.instance.cgroup && seen.node.cgroups.contains(&id))?;
    bench.tries(&Effect::RemoveCgroup(id.clone()), |seen| {
        !seen.instance.cgroup && !seen.node.cgroups.contains(&id)
    })
}

pub(super) fn jail(bench: &mut Bench<'_>) -> Result<(), String> {
    let id = bench.id();
    match bench.subject.host.execute(&bench.jail()) {
        Ok(()) => return Err("a jail was laid out without the volume that it needs".to_owned()),
        Err(_) => bench.do_once(&Effect::RemoveJail(id.clone()))?,
    }
    bench.do_once(&bench.volume())?;
    bench.tries(&bench.jail(), |seen| seen.instance.jail && seen.node.jails.contains(&id))?;
    bench.tries(&Effect::RemoveJail(id.clone()), |seen| {
        !seen.instance.jail && !seen.node.jails.contains(&id)
    })
}

pub(super) fn spawn(bench: &mut Bench<'_>) -> Result<(), String> {
    let id = bench.id();
    let walls = bench.firewall(bench.next_firewall()?)?;
    for effect in [bench.bridge(), walls, bench.tap(), bench.cgroup(), bench.volume()] {
        bench.do_once(&effect)?;
    }
    fails_to_spawn(bench, "there is no jail")?;
    bench.do_once(&bench.jail())?;
    bench.do_once(&Effect::RemoveCgroup(id.clone()))?;
    fails_to_spawn(bench, "there is no cgroup")?;
    bench.do_once(&bench.cgroup())?;
    bench.do_once(&bench.jail())?;
    bench.tries(&bench.spawn(), |seen| {
        seen.phase() == Some(Phase::Empty)
            && seen.instance.shim
            && seen.instance.exit.is_none()
            && seen.instance.files
            && seen.node.processes.contains(&id)
            && seen.node.runs.contains(&id)
    })?;
    bench.refuses(&Effect::RemoveCgroup(id.clone()), "a process is in it")?;
    bench.refuses(&bench.pause(PausedFor::Warm), "the VMM has no guest")?;
    bench.refuses(&Effect::ResumeVmm(id.clone()), "the VMM has no guest")?;
    bench.tries(&Effect::RemoveVmm(id.clone()), |seen| {
        seen.instance.vmm.is_none()
            && !seen.instance.shim
            && seen.instance.exit.is_none()
            && !seen.node.processes.contains(&id)
            && !seen.node.runs.contains(&id)
    })
}

/// Spawning fails, and what it began is away after the inverse.
fn fails_to_spawn(bench: &Bench<'_>, why: &str) -> Result<(), String> {
    if bench.subject.host.execute(&bench.spawn()).is_ok() {
        return Err(format!("a VMM was started although {why}"));
    }
    if bench.see()?.instance.vmm.is_some() {
        return Err(format!("a VMM is there that could not be started because {why}"));
    }
    bench.do_once(&Effect::RemoveVmm(bench.id()))
}

pub(super) fn no_vmm(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.lay_out()?;
    let why = "there is no VMM";
    for effect in [
        Effect::BootVmm(bench.jail_plan()),
        bench.base(BaseAct::Take),
        bench.base(BaseAct::Load),
        bench.load(),
        bench.pause(PausedFor::Warm),
        bench.pause(PausedFor::Sleep),
        Effect::ResumeVmm(bench.id()),
        bench.write(),
    ] {
        bench.refuses(&effect, why)?;
    }
    bench.refuses(&bench.publish(), "there is no partial snapshot")?;
    bench.refuses(&bench.retire(), "there is no published snapshot")
}

pub(super) fn absent(bench: &mut Bench<'_>) -> Result<(), String> {
    let before = bench.see()?;
    bench.scrub()?;
    bench.do_once(&bench.remove_snapshot())?;
    let after = bench.see()?;
    if before.instance != nothing_of(&before) || before.instance != after.instance {
        return Err(format!("removing nothing changed {before:?} to {after:?}"));
    }
    Ok(())
}

pub(super) fn secrets(bench: &mut Bench<'_>) -> Result<(), String> {
    let (first, second) = (Generation(1), Generation(2));
    bench.refuses(&bench.publish_secrets(first), "nothing is staged")?;
    for epoch in [first, second] {
        let sealed = bench.subject.rig.seal(&bench.record.instance, epoch);
        sealed.map_err(|error| format!("cannot seal secrets: {error}"))?;
        if !bench.see()?.tenant.secrets_staged {
            return Err("staged secrets do not show".to_owned());
        }
        bench.tries(&bench.publish_secrets(epoch), |seen| {
            seen.tenant.secrets == Some(epoch) && !seen.tenant.secrets_staged
        })?;
    }
    bench.refuses(&bench.publish_secrets(first), "later ones are in force")?;
    bench.tries(&bench.publish_secrets(Generation(0)), |seen| {
        seen.tenant.secrets.is_none() && !seen.tenant.secrets_staged
    })?;
    bench.give_secrets(first)?;
    let tenant = bench.record.instance.tenant.clone();
    bench.tries(&Effect::RemoveTenantFiles(tenant), |seen| seen.tenant.secrets.is_none())
}
