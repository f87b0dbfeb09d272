//! Changing what a pool's next builds and new instances are, and which build is current.
//!
//! Neither touches an instance: each keeps the size, role and waiting times that it was made with,
//! and boots the current build at its next start.

use mvm_core::{
    effect::Effect,
    error::{Error, ErrorKind},
    event::EventKind,
    id::{ImageHash, PoolRef, Subject},
    pool::{Pool, PoolChange, PoolPolicy, RevisionName, Role},
    port::Transaction,
    secrets::Scope,
};

use super::{
    living,
    pool::{check_manifest, fits, surroundings, valid_profile},
    template,
};
use crate::{
    engine::{Context, Engine, Telling},
    outcome::{Made, Outcome},
    store::records,
};

impl Engine {
    pub(crate) fn pool_update(
        &self,
        cx: &Context,
        id: &PoolRef,
        change: &PoolChange,
    ) -> Result<Outcome, Error> {
        let _lock = self.lock_pool(id)?;
        let pool = self.within(|tx| self.record_change(tx, cx, id, change))?;
        if change.routing_table.is_some() {
            self.share_routes(id);
        }
        let notes = notes(change);
        Ok(Outcome { made: Some(Made::Pool(Box::new(pool))), notes, ..Outcome::default() })
    }

    /// The lock of a pool that there is; its trace is not left behind by one that there is not.
    pub(crate) fn lock_pool(&self, id: &PoolRef) -> Result<Box<dyn mvm_core::port::Lock>, Error> {
        self.within(|tx| records::pool(tx, id))?;
        let lock = self.lock(&Subject::Pool(id.clone()))?;
        match self.within(|tx| records::pool(tx, id)) {
            Ok(_) => Ok(lock),
            Err(error) if error.kind == ErrorKind::NotFound => {
                lock.retire();
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Checks a change and puts it into the pool's record.
    pub(crate) fn record_change(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        id: &PoolRef,
        change: &PoolChange,
    ) -> Result<Pool, Error> {
        if *change == PoolChange::default() {
            return Err(Error::new(ErrorKind::Usage, "nothing was given to change")
                .hint("see what can be changed: mvm pool update --help"));
        }
        if let Some(source) = &change.source {
            source.validate()?;
        }
        if let Some(profile) = &change.profile {
            valid_profile(profile)?;
        }
        let (tenant, before) = living(tx, id)?;
        if let Some(source) = &change.source {
            template::known(tx, source)?;
        }
        let mut pool = applied(before.clone(), change);
        pool.instance_resources.validate()?;
        pool.runtime_policy.validate()?;
        Scope::validate(&pool.secret_scopes)?;
        if pool.instance_resources != before.instance_resources {
            fits(&tenant, pool.instance_resources)?;
        }
        let is_told_more = change.integrations.is_some() || change.routing_table.is_some();
        if is_told_more || change.role.is_some() {
            let pools = records::pools(tx, id.tenant.as_str())?;
            let around = surroundings(&tenant, &pools, &id.pool);
            let table = pool.routing_table.as_ref();
            check_manifest(id, &pool.role, &pool.integrations, table, &around)?;
        }
        let differences = differences(&before, &pool);
        if differences.is_empty() {
            return Ok(before);
        }
        records::put(tx, &mut pool)?;
        let event = self.event(&cx.actor, &id.tenant, EventKind::PoolUpdated).of_pool(&id.pool);
        let event = differences.iter().fold(event, |event, (name, from, to)| {
            event.with(name, format_args!("{from} -> {to}"))
        });
        tx.append(&event)?;
        Ok(pool)
    }

    pub(crate) fn pool_rollback(
        &self,
        cx: &Context,
        id: &PoolRef,
        revision: &RevisionName,
    ) -> Result<Outcome, Error> {
        let _lock = self.lock_pool(id)?;
        cx.cancel.check()?;
        let image = self.make_current(cx, id, revision)?;
        let notes = vec![
            "instances that run keep their build; each boots this one at its next start".to_owned(),
        ];
        Ok(Outcome { made: Some(Made::Image(image)), notes, ..Outcome::default() })
    }

    /// Makes a build current; the caller holds the pool's lock.
    pub(super) fn make_current(
        &self,
        cx: &Context,
        id: &PoolRef,
        revision: &RevisionName,
    ) -> Result<ImageHash, Error> {
        let (_, pool) = self.within(|tx| living(tx, id))?;
        let image = pool.revision(revision)?.image.clone();
        self.execute(&Effect::EnsureRevision { pool: id.clone(), image })?;
        let (_, image) = self.within(|tx| self.record_rollback(tx, cx, id, revision))?;
        Ok(image)
    }

    /// Makes a build current in the pool's record; the history stays as it is.
    pub(crate) fn record_rollback(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        id: &PoolRef,
        revision: &RevisionName,
    ) -> Result<(Pool, ImageHash), Error> {
        let (_, mut pool) = living(tx, id)?;
        let image = pool.revision(revision)?.image.clone();
        if pool.current() != Some(&image) {
            let newest = pool.revisions.first().map(|newest| &newest.image);
            pool.rolled_back_to = (newest != Some(&image)).then(|| image.clone());
            records::put(tx, &mut pool)?;
            let kind = EventKind::PoolRolledBack;
            let event = self.event(&cx.actor, &id.tenant, kind).of_pool(&id.pool);
            tx.append(&event.with("image", &image).with("revision", revision))?;
        }
        Ok((pool, image))
    }
}

fn applied(mut pool: Pool, change: &PoolChange) -> Pool {
    let size = &mut pool.instance_resources;
    size.vcpus = change.vcpus.unwrap_or(size.vcpus);
    size.mem_mib = change.mem_mib.unwrap_or(size.mem_mib);
    size.data_disk_mib = change.data_disk_mib.unwrap_or(size.data_disk_mib);
    for (field, new) in [
        (&mut size.disk_iops, change.disk_iops),
        (&mut size.disk_mbps, change.disk_mbps),
        (&mut size.net_mbps, change.net_mbps),
    ] {
        *field = new.map_or(*field, |limit| (limit != 0).then_some(limit));
    }
    let policy = &mut pool.runtime_policy;
    for (field, new) in [
        (&mut policy.min_running_seconds, change.min_running_seconds),
        (&mut policy.min_warm_seconds, change.min_warm_seconds),
        (&mut policy.drain_timeout_seconds, change.drain_timeout_seconds),
        (&mut policy.graceful_shutdown_seconds, change.graceful_shutdown_seconds),
    ] {
        *field = new.unwrap_or(*field);
    }
    pool.secret_scopes = change.secret_scopes.clone().unwrap_or(pool.secret_scopes);
    pool.source = change.source.clone().unwrap_or(pool.source);
    pool.profile = change.profile.clone().unwrap_or(pool.profile);
    pool.role = change.role.clone().unwrap_or(pool.role);
    pool.integrations = change.integrations.clone().unwrap_or(pool.integrations);
    let table = change.routing_table.clone().or(pool.routing_table);
    // Whoever is no gateway any more gives up its routes by a table without any.
    pool.routing_table =
        table.filter(|table| pool.role == Role::Gateway || !table.routes.is_empty());
    pool.policy = change.policy.clone().unwrap_or(pool.policy);
    if let Some(readiness) = &change.readiness {
        pool.policy.readiness = readiness.asked();
    }
    pool
}

fn scopes(pool: &Pool) -> String {
    let all: Vec<&str> = pool.secret_scopes.iter().map(Scope::as_str).collect();
    if all.is_empty() { "all".to_owned() } else { all.join(" ") }
}

fn limit(limit: Option<u32>) -> String {
    limit.map_or("none".to_owned(), |limit| limit.to_string())
}

/// What differs, for the audit log: name, before, after.
fn differences(before: &Pool, after: &Pool) -> Vec<(&'static str, String, String)> {
    let facts = |pool: &Pool| {
        let (size, policy) = (pool.instance_resources, pool.runtime_policy);
        [
            ("source", pool.source.to_string()),
            ("profile", pool.profile.clone()),
            ("role", pool.role.to_string()),
            ("vcpus", size.vcpus.to_string()),
            ("mem", size.mem_mib.to_string()),
            ("data_disk", size.data_disk_mib.to_string()),
            ("disk_iops", limit(size.disk_iops)),
            ("disk_mbps", limit(size.disk_mbps)),
            ("net_mbps", limit(size.net_mbps)),
            ("min_running", policy.min_running_seconds.to_string()),
            ("min_warm", policy.min_warm_seconds.to_string()),
            ("drain_timeout", policy.drain_timeout_seconds.to_string()),
            ("graceful_shutdown", policy.graceful_shutdown_seconds.to_string()),
            ("secret_scopes", scopes(pool)),
        ]
    };
    let pairs = facts(before).into_iter().zip(facts(after));
    let mut differences: Vec<_> =
        pairs.filter(|(a, b)| a.1 != b.1).map(|((name, from), (_, to))| (name, from, to)).collect();
    let names = |pool: &Pool| {
        let routes = pool.routing_table.iter().flat_map(|table| &table.routes);
        let integrations: Vec<_> = pool.integrations.iter().map(|one| one.name.clone()).collect();
        (
            integrations.join(" "),
            routes.map(|one| one.name.to_string()).collect::<Vec<_>>().join(" "),
        )
    };
    let (old, new) = (names(before), names(after));
    if before.integrations != after.integrations {
        differences.push(("integrations", old.0, new.0));
    }
    if before.routing_table != after.routing_table {
        differences.push(("routes", old.1, new.1));
    }
    differences.extend(decisions(&before.policy, &after.policy));
    differences
}

fn readiness(policy: &PoolPolicy) -> String {
    policy.readiness.as_ref().map_or("none".to_owned(), ToString::to_string)
}

/// What differs between standing decisions.
fn decisions(before: &PoolPolicy, after: &PoolPolicy) -> Vec<(&'static str, String, String)> {
    let facts = |policy: &PoolPolicy| {
        let texts = policy.metadata.iter().map(|(key, text)| format!("{key}={text}"));
        [
            ("sleep_policy", format!("{:?}", policy.sleep_policy)),
            ("seccomp_policy", format!("{:?}", policy.seccomp_policy)),
            ("snapshot_compression", format!("{:?}", policy.snapshot_compression)),
            ("metadata", texts.collect::<Vec<_>>().join(" ")),
            ("readiness", readiness(policy)),
            ("on_node_loss", format!("{:?}", policy.on_node_loss)),
            ("pinned", policy.pinned.to_string()),
            ("critical", policy.critical.to_string()),
        ]
    };
    let pairs = facts(before).into_iter().zip(facts(after));
    pairs.filter(|(a, b)| a.1 != b.1).map(|((name, from), (_, to))| (name, from, to)).collect()
}

/// What a change is not for.
pub(crate) fn notes(change: &PoolChange) -> Vec<String> {
    let PoolChange {
        source,
        profile,
        role,
        vcpus,
        mem_mib,
        data_disk_mib,
        disk_iops,
        disk_mbps,
        net_mbps,
        min_running_seconds,
        min_warm_seconds,
        drain_timeout_seconds,
        graceful_shutdown_seconds,
        secret_scopes,
        integrations,
        routing_table,
        policy: _,
        readiness,
    } = change;
    let mut notes = Vec::new();
    if source.is_some() || profile.is_some() {
        notes.push("source and profile count from the next build on: mvm pool build".to_owned());
    }
    let sizes = [vcpus.is_some(), mem_mib.is_some(), data_disk_mib.is_some()];
    let limits = [disk_iops, disk_mbps, net_mbps];
    if role.is_some() || sizes.contains(&true) || limits.iter().any(|limit| limit.is_some()) {
        notes.push("role and size are those of new instances; the present ones keep theirs".into());
    }
    let times = [min_running_seconds, min_warm_seconds, drain_timeout_seconds];
    if times.iter().any(|time| time.is_some()) || graceful_shutdown_seconds.is_some() {
        notes.push("times are those of new instances; the present ones keep theirs".to_owned());
    }
    if secret_scopes.is_some() {
        notes.push("secret scopes reach an instance at its next start".to_owned());
    }
    if readiness.is_some() {
        notes.push("readiness counts from the next roll on".to_owned());
    }
    if integrations.is_some() {
        notes.push("integrations count from an instance's next move on".to_owned());
    }
    if routing_table.is_some() {
        notes.push("gateways that run lead by these routes from now on".to_owned());
    }
    notes
}
