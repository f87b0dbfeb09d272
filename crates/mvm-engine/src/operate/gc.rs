//! Removing what nothing uses any more.
//!
//! [`mvm_core::plan::gc`] chooses. A pool's part is done under the pool's lock, an instance's under
//! its own; what has no record has no lock, and is looked at once more right before it goes. What
//! fails stands in the outcome, and the rest goes on.

use std::{collections::BTreeSet, time::Duration};

use mvm_core::{
    effect::Effect,
    error::{Error, ErrorKind},
    event::EventKind,
    id::{ImageHash, InstanceRef, PoolRef, Subject, TenantId},
    instance::Instance,
    net::NetId,
    plan::gc,
    pool::Pool,
    port::Table,
    template::Template,
    tenant::Tenant,
};

use crate::{
    engine::{Context, Engine, Telling},
    outcome::{Failed, Outcome, Removal},
    store::records,
};

/// The owner of the addresses that are held while stray taps go; its record is never written.
const COLLECTOR: &str = "collector";
/// So many removals are named in an event; the rest is counted.
const NAMED: usize = 20;

/// Everything that has a record.
struct Records {
    pools: Vec<Pool>,
    instances: Vec<Instance>,
    networks: BTreeSet<NetId>,
    templates: Vec<Template>,
}

impl Records {
    /// The images that must stay: for pools, which keep so many of their newest builds, and for templates.
    fn used(&self, engine: &Engine, keep: Option<u32>) -> BTreeSet<ImageHash> {
        let of_pools = self.pools.iter().flat_map(|pool| engine.kept(pool, &self.instances, keep));
        let of_templates = self.templates.iter().flat_map(Template::images).cloned();
        of_pools.chain(of_templates).collect()
    }
}

impl Engine {
    pub(crate) fn pool_gc(
        &self,
        cx: &Context,
        id: &PoolRef,
        keep: Option<u32>,
    ) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        self.collect_pool(cx, id, keep, &mut outcome)?;
        Ok(outcome)
    }

    pub(crate) fn node_gc(&self, cx: &Context, keep: Option<u32>) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        for pool in self.records()?.pools {
            let collected = if pool.pool.is_of_builders() {
                self.collect_builders(cx, &pool.pool, &mut outcome)
            } else {
                self.collect_pool(cx, &pool.pool, keep, &mut outcome)
            };
            match collected {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => {
                    outcome.failures.push(Failed { subject: pool.pool.to_string(), error });
                }
            }
        }
        let before = outcome.removals.len();
        let collected = self.collect_stray(cx, keep, &mut outcome);
        let told = self.tell_collected(cx, None, outcome.removals.get(before..));
        collected.and(told)?;
        Ok(outcome)
    }

    fn collect_stray(
        &self,
        cx: &Context,
        keep: Option<u32>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let stray = self.stray(keep)?;
        self.remove_stray(cx, keep, &stray, outcome)
    }

    /// Removes images that no pool uses, the oldest first, and downloads, until the rest is within the
    /// cache's budget.
    pub(crate) fn trim_cache(&self, cx: &Context) -> Result<(), Error> {
        let stock = self.stock(None)?;
        let bytes = self.ports.host.weigh(&stock)?;
        let weighed: Vec<(Effect, u64)> = stock.into_iter().zip(bytes).collect();
        let beyond = gc::beyond(&weighed, u64::from(self.config.cache_budget.0) << 20);
        if beyond.is_empty() {
            return Ok(());
        }
        let effects: Vec<Effect> = beyond.iter().map(|(effect, _)| effect.clone()).collect();
        let mut outcome = Outcome::default();
        let removed = self.remove_stray(cx, None, &effects, &mut outcome);
        let told = self.tell_collected(cx, None, Some(&outcome.removals));
        for Failed { subject, error } in outcome.failures {
            tracing::warn!(%subject, %error, "cannot remove what is beyond the cache's budget");
        }
        removed.and(told)
    }

    fn remove_stray(
        &self,
        cx: &Context,
        keep: Option<u32>,
        stray: &[Effect],
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        for (effect, removal) in stray.iter().zip(self.weighed(stray)?) {
            cx.cancel.check()?;
            // An image that a pool or a template was built from meanwhile is no stray any more.
            let is_taken =
                matches!(effect, Effect::RemoveImage(_)) && !self.stock(keep)?.contains(effect);
            if !is_taken && self.hold_name(effect)? {
                settle(outcome, removal, self.execute(effect));
            }
        }
        self.within(|tx| tx.delete(Table::Meta, COLLECTOR))
    }

    /// Tells what was removed, of a pool or of nobody, also when something else failed.
    fn tell_collected(
        &self,
        cx: &Context,
        pool: Option<&PoolRef>,
        gone: Option<&[Removal]>,
    ) -> Result<(), Error> {
        let gone = gone.unwrap_or_default();
        if gone.is_empty() {
            return Ok(());
        }
        let bytes: u64 = gone.iter().map(|one| one.bytes).sum();
        let event = match pool {
            Some(id) => {
                self.event(&cx.actor, &id.tenant, EventKind::PoolCollected).of_pool(&id.pool)
            }
            None => self.event(&cx.actor, &TenantId::node(), EventKind::NodeCollected),
        };
        let what = gone.iter().take(NAMED).map(|one| format!("{} {}", one.effect, one.subject));
        let what = what.collect::<Vec<_>>().join(", ");
        let event = event.with("removed", gone.len()).with("bytes", bytes).with("what", what);
        self.within(|tx| tx.append(&event.clone().because("nothing uses it any more")))
    }

    /// Takes the address of a stray tap while that is removed, so that no new instance gets it;
    /// whether it was free.
    fn hold_name(&self, effect: &Effect) -> Result<bool, Error> {
        let Effect::RemoveTap { net, offset } = effect else { return Ok(true) };
        let name = format!("address/{net}/{}", offset.0);
        match self.within(|tx| tx.claim(&name, COLLECTOR)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What [`Engine::pool_gc`] would remove.
    pub(crate) fn pool_litter(
        &self,
        id: &PoolRef,
        keep: Option<u32>,
    ) -> Result<Vec<Effect>, Error> {
        let (pool, instances) = self.pool_with_instances(id)?;
        let mut effects = self.builds(&pool, &instances, keep)?;
        for record in &instances {
            let seen = self.ports.host.observe_instance(record)?;
            effects.extend(gc::leftovers(record, &seen));
        }
        effects.extend(self.logs_of(id)?);
        Ok(effects)
    }

    /// What [`Engine::node_gc`] would remove.
    pub(crate) fn node_litter(&self, keep: Option<u32>) -> Result<Vec<Effect>, Error> {
        let mut effects = Vec::new();
        for pool in self.within(|tx| records::pools(tx, ""))? {
            effects.extend(self.pool_litter(&pool.pool, keep)?);
        }
        effects.extend(self.stray(keep)?);
        Ok(effects)
    }

    /// These removals with what each gives back.
    pub(crate) fn weighed(&self, effects: &[Effect]) -> Result<Vec<Removal>, Error> {
        let bytes = self.ports.host.weigh(effects)?;
        let removal = |(effect, bytes): (&Effect, u64)| Removal {
            effect: effect.name().to_owned(),
            subject: subject(effect),
            bytes,
        };
        Ok(effects.iter().zip(bytes).map(removal).collect())
    }

    fn collect_pool(
        &self,
        cx: &Context,
        id: &PoolRef,
        keep: Option<u32>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let _lock = self.lock_pool(id)?;
        let before = outcome.removals.len();
        let collected = self.collect_locked(cx, id, keep, outcome);
        let told = self.tell_collected(cx, Some(id), outcome.removals.get(before..));
        collected.and(told)
    }

    fn collect_locked(
        &self,
        cx: &Context,
        id: &PoolRef,
        keep: Option<u32>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let (pool, instances) = self.pool_with_instances(id)?;
        let builds = self.builds(&pool, &instances, keep)?;
        if !builds.is_empty() {
            self.forget_builds(&pool.pool, &builds)?;
        }
        for (effect, removal) in builds.iter().zip(self.weighed(&builds)?) {
            settle(outcome, removal, self.execute(effect));
        }
        for record in &instances {
            cx.cancel.check()?;
            self.collect_instance(&record.instance, outcome)?;
        }
        let logs = self.logs_of(id)?;
        for (effect, removal) in logs.iter().zip(self.weighed(&logs)?) {
            settle(outcome, removal, self.execute(effect));
        }
        Ok(())
    }

    /// Removes what an instance left behind, unless somebody works on it.
    fn collect_instance(&self, id: &InstanceRef, outcome: &mut Outcome) -> Result<(), Error> {
        let subject = Subject::Instance(id.clone());
        let Ok(lock) = self.ports.locks.lock(&subject, Duration::ZERO) else { return Ok(()) };
        let (record, seen) = match self.truth(id) {
            Ok(truth) => truth,
            Err(error) if error.kind == ErrorKind::NotFound => {
                lock.retire();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let effects = gc::leftovers(&record, &seen);
        for (effect, removal) in effects.iter().zip(self.weighed(&effects)?) {
            settle(outcome, removal, self.execute(effect));
        }
        Ok(())
    }

    /// Takes builds out of a pool's history, before their files go.
    fn forget_builds(&self, id: &PoolRef, builds: &[Effect]) -> Result<(), Error> {
        let going: BTreeSet<&ImageHash> = builds
            .iter()
            .filter_map(|effect| {
                if let Effect::RemoveRevision { image, .. } = effect { Some(image) } else { None }
            })
            .collect();
        self.within(|tx| {
            let mut pool = records::pool(tx, id)?;
            pool.revisions.retain(|revision| !going.contains(&revision.image));
            records::put(tx, &mut pool)
        })
    }

    fn kept(&self, pool: &Pool, instances: &[Instance], keep: Option<u32>) -> BTreeSet<ImageHash> {
        let keep = keep.unwrap_or(self.config.keep_builds);
        gc::kept(pool, instances, usize::try_from(keep).unwrap_or(usize::MAX))
    }

    fn builds(
        &self,
        pool: &Pool,
        instances: &[Instance],
        keep: Option<u32>,
    ) -> Result<Vec<Effect>, Error> {
        let seen = self.ports.host.observe_pool(&pool.pool)?;
        Ok(gc::revisions(pool, &self.kept(pool, instances, keep), &seen))
    }

    fn logs_of(&self, id: &PoolRef) -> Result<Vec<Effect>, Error> {
        let stock = self.ports.host.observe_stock()?;
        Ok(gc::logs(&stock, &|instance| instance.pool_ref() == *id))
    }

    /// What belongs to no pool. The host is looked at before the records: whatever it shows had a
    /// record before it was made.
    fn stray(&self, keep: Option<u32>) -> Result<Vec<Effect>, Error> {
        let node = self.ports.host.observe_node()?;
        let stock = self.ports.host.observe_stock()?;
        let records = self.records()?;
        let mut effects = gc::orphans(&node, &records.instances, &records.networks);
        let known: BTreeSet<&PoolRef> = records.pools.iter().map(|pool| &pool.pool).collect();
        effects.extend(gc::logs(&stock, &|instance| !known.contains(&instance.pool_ref())));
        effects.extend(gc::stock(&stock, &records.used(self, keep)));
        effects.extend(gc::versions(&stock));
        Ok(effects)
    }

    /// What lies in store for nobody.
    fn stock(&self, keep: Option<u32>) -> Result<Vec<Effect>, Error> {
        let stock = self.ports.host.observe_stock()?;
        Ok(gc::stock(&stock, &self.records()?.used(self, keep)))
    }

    fn pool_with_instances(&self, id: &PoolRef) -> Result<(Pool, Vec<Instance>), Error> {
        self.within(|tx| {
            Ok((records::pool(tx, id)?, records::list::<Instance>(tx, &id.to_string())?))
        })
    }

    fn records(&self) -> Result<Records, Error> {
        self.within(|tx| {
            let tenants = records::list::<Tenant>(tx, "")?;
            Ok(Records {
                pools: records::list(tx, "")?,
                instances: records::list(tx, "")?,
                networks: tenants.iter().map(|tenant| tenant.network.net).collect(),
                templates: records::list(tx, "")?,
            })
        })
    }
}

fn settle(outcome: &mut Outcome, removal: Removal, done: Result<(), Error>) {
    match done {
        Ok(()) => outcome.removals.push(removal),
        Err(error) => outcome.failures.push(Failed { subject: removal.subject, error }),
    }
}

/// What a removal removes, for people.
fn subject(effect: &Effect) -> String {
    match effect {
        Effect::RemoveRevision { pool, image } => format!("{pool} {}", image.short()),
        Effect::RemoveImage(image) => image.short().to_owned(),
        Effect::RemoveRotatedLogs(instance) => instance.to_string(),
        Effect::RemoveSnapshot { instance, epoch } => format!("{instance} {epoch}"),
        Effect::RemoveDownloads => "downloads".to_owned(),
        Effect::RemoveVersion(version) => format!("Firecracker {version}"),
        Effect::RemoveTap { net, offset } => mvm_core::layout::tap(*net, *offset),
        Effect::RemoveBridge(net) | Effect::RemoveRoutes(net) => mvm_core::layout::bridge(*net),
        Effect::RemoveVmm(id) | Effect::RemoveJail(id) | Effect::RemoveCgroup(id) => id.to_string(),
        other @ (Effect::EnsureBridge(_)
        | Effect::EnsureRoutes(_)
        | Effect::ReplaceFirewall(_)
        | Effect::EnsureTenantKey(_)
        | Effect::PublishSecrets { .. }
        | Effect::RemoveTenantFiles(_)
        | Effect::EnsureRevision { .. }
        | Effect::RemovePoolFiles(_)
        | Effect::Volume(_)
        | Effect::DrawNextKey(_)
        | Effect::RekeyInstance { .. }
        | Effect::PromoteNextKey(_)
        | Effect::RemoveInstanceFiles(_)
        | Effect::EnsureTap { .. }
        | Effect::EnsureCgroup { .. }
        | Effect::EnsureJail(_)
        | Effect::SpawnVmm { .. }
        | Effect::EnsureShim { .. }
        | Effect::BootVmm(_)
        | Effect::Base { .. }
        | Effect::LoadSnapshot { .. }
        | Effect::SwapSecrets { .. }
        | Effect::PauseVmm { .. }
        | Effect::ResumeVmm(_)
        | Effect::WriteSnapshot { .. }
        | Effect::PublishSnapshot { .. }
        | Effect::RetireSnapshot { .. }) => other.name().to_owned(),
    }
}
