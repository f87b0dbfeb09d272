//! Making, building and removing pools.

use mvm_core::{
    document::Findings,
    effect::Effect,
    error::{Error, ErrorKind},
    event::EventKind,
    id::{ImageHash, InstanceRef, PoolId, PoolRef, Subject},
    instance::{Drain, Instance, Want},
    integration::{self, Integration},
    operation::{NewPool, Rebuild},
    pool::{Counts, Pool, Resources, Revision, Role, Source},
    port::{BuildOrder, Table, Transaction},
    quota::Usage,
    route::{RoutingTable, Surroundings},
    secrets::Scope,
    state::State,
    tenant::Tenant,
    units::{Generation, Seconds},
    volume::VolumeFate,
};

use super::{
    builder::Asked,
    instance::{Granted, Precedence, Wish, mover},
    living,
    own::kept_for_the_dev_vm,
    refuse_destroying, template,
};
use crate::{
    converge::FirewallAfter,
    engine::{Context, Engine, Telling},
    outcome::{Failed, Made, Outcome},
    run,
    store::records,
};

impl Engine {
    pub(crate) fn pool_create(&self, cx: &Context, ask: &NewPool) -> Result<Outcome, Error> {
        valid(ask)?;
        self.ensure_own(cx, &ask.pool.tenant)?;
        self.converge_tenant(&ask.pool.tenant)?;
        let pool = self.within(|tx| self.pool_record(tx, cx, ask))?;
        Ok(Outcome { made: Some(Made::Pool(Box::new(pool))), ..Outcome::default() })
    }

    /// Puts the record of a new pool.
    pub(crate) fn pool_record(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        ask: &NewPool,
    ) -> Result<Pool, Error> {
        let id = &ask.pool;
        let tenant = records::tenant(tx, &id.tenant)?;
        refuse_destroying("tenant", &id.tenant, tenant.destroying)?;
        let pools = records::pools(tx, id.tenant.as_str())?;
        if let Some(pool) = pools.iter().find(|pool| pool.pool == *id) {
            refuse_destroying("pool", id, pool.destroying)?;
            return Err(Error::new(ErrorKind::Conflict, format!("pool {id} exists already"))
                .hint(format!("see it: mvm pool info {id}")));
        }
        if pools.len() >= tenant.quotas.max_pools as usize {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "tenant {} has {} pools (limit {})",
                    id.tenant,
                    pools.len(),
                    tenant.quotas.max_pools
                ),
            )
            .hint("destroy one, or raise --max-pools"));
        }
        fits(&tenant, ask.resources)?;
        template::known(tx, &ask.source)?;
        let around = surroundings(&tenant, &pools, &id.pool);
        check_manifest(id, &ask.role, &ask.integrations, ask.routing_table.as_ref(), &around)?;
        let mut pool = Pool {
            pool: id.clone(),
            source: ask.source.clone(),
            profile: ask.profile.clone(),
            role: ask.role.clone(),
            instance_resources: ask.resources,
            desired_counts: Counts::default(),
            runtime_policy: ask.runtime_policy,
            secret_scopes: ask.secret_scopes.clone(),
            integrations: ask.integrations.clone(),
            routing_table: ask.routing_table.clone(),
            revisions: Vec::new(),
            rolled_back_to: None,
            rolling: None,
            policy: ask.policy.clone(),
            destroying: false,
            created_at: self.ports.clock.now(),
            generation: Generation(0),
        };
        records::put(tx, &mut pool)?;
        let event = self.event(&cx.actor, &id.tenant, EventKind::PoolCreated).of_pool(&id.pool);
        tx.append(&event.with("source", &ask.source))?;
        Ok(pool)
    }

    /// One build per tenant at a time: the lock of the tenant's builders is held while the image is made,
    /// the pool's only while it becomes current. Nobody else holds the first and waits for a pool's.
    pub(crate) fn pool_build(
        &self,
        cx: &Context,
        id: &PoolRef,
        timeout: Seconds,
        rebuild: Rebuild,
    ) -> Result<Outcome, Error> {
        if timeout.0 == 0 {
            return Err(Error::new(ErrorKind::Invalid, "a build needs a timeout of 1 s or more"));
        }
        let (_, pool) = self.within(|tx| living(tx, id))?;
        if pool.source.may_need_builder() {
            self.converge_tenant(&id.tenant)?;
        }
        let builders = Subject::Pool(PoolRef::of_builders(&id.tenant));
        let building = self.lock(&builders)?;
        let (source, profile, role) = (pool.source, pool.profile, pool.role);
        let order = BuildOrder { source, profile, role, rebuild, timeout };
        let built = self.build_held(cx, id, &order);
        building.retire();
        let image = built?;
        if let Err(error) = self.trim_cache(cx) {
            tracing::warn!(%error, "what is beyond the cache's budget stays");
        }
        Ok(Outcome { made: Some(Made::Image(image)), ..Outcome::default() })
    }

    fn build_held(
        &self,
        cx: &Context,
        id: &PoolRef,
        order: &BuildOrder,
    ) -> Result<ImageHash, Error> {
        let make = || {
            let asked = Asked { name: id, tenant: Some(&id.tenant) };
            let made = self.make_image(cx, &asked, order);
            made.map_err(|e| e.context(format!("cannot build pool {id} from {}", order.source)))
                .inspect_err(|error| self.tell_failed_build(cx, id, error))
        };
        let mut image = make()?;
        let _pool = self.lock(&Subject::Pool(id.clone()))?;
        cx.cancel.check()?;
        self.within(|tx| living(tx, id))?;
        let link = |image: &ImageHash| {
            self.execute(&Effect::EnsureRevision { pool: id.clone(), image: image.clone() })
        };
        match link(&image) {
            // Nobody used it yet, and somebody removed what nobody uses.
            Err(error) if error.kind == ErrorKind::NotFound => {
                image = make()?;
                link(&image)?;
            }
            done => done?,
        }
        let waiting = self.within(|tx| self.record_build(tx, cx, id, &image, &order.source))?;
        for instance in waiting {
            self.prepare(&instance)?;
        }
        Ok(image)
    }

    /// Puts a failed build into the audit log, if the pool is there.
    fn tell_failed_build(&self, cx: &Context, id: &PoolRef, error: &Error) {
        let told = self.within(|tx| {
            living(tx, id)?;
            let event = self.event(&cx.actor, &id.tenant, EventKind::PoolBuildFailed);
            tx.append(&event.of_pool(&id.pool).because(error.to_string()))
        });
        if let Err(error) = told {
            tracing::warn!(pool = %id, %error, "cannot put a failed build into the audit log");
        }
    }

    fn record_build(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        id: &PoolRef,
        image: &ImageHash,
        source: &Source,
    ) -> Result<Vec<InstanceRef>, Error> {
        let (_, mut pool) = living(tx, id)?;
        let newest = pool.revisions.first();
        let is_known = newest.is_some_and(|newest| newest.source.as_ref() == Some(source));
        if pool.current() != Some(image) || !is_known {
            match pool.revisions.first_mut().filter(|newest| newest.image == *image) {
                // Another source of the same bytes.
                Some(newest) => newest.source = Some(source.clone()),
                None => {
                    let (built_at, source) = (self.ports.clock.now(), Some(source.clone()));
                    pool.revisions.insert(0, Revision { image: image.clone(), built_at, source });
                }
            }
            pool.rolled_back_to = None;
            records::put(tx, &mut pool)?;
            let event = self.event(&cx.actor, &id.tenant, EventKind::PoolBuilt).of_pool(&id.pool);
            tx.append(&event.with("image", image))?;
        }
        let all = records::list::<Instance>(tx, &id.to_string())?;
        let waiting = all.into_iter().filter(|one| one.state == State::Created);
        Ok(waiting.map(|one| one.instance).collect())
    }

    /// Makes a Created instance Ready; any look at it does that once its pool has a build.
    fn prepare(&self, id: &InstanceRef) -> Result<(), Error> {
        let lock = self.lock(&Subject::Instance(id.clone()))?;
        match self.truth(id) {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => {
                lock.retire();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn pool_destroy(
        &self,
        cx: &Context,
        id: &PoolRef,
        force: bool,
        volumes: VolumeFate,
    ) -> Result<Outcome, Error> {
        let tenant = self.within(|tx| may_go(tx, id, force))?;
        let mut outcome = Outcome::default();
        self.remove_pool(cx, id, (FirewallAfter::All, volumes), &mut outcome)?;
        self.sync_firewall(&tenant.network)?;
        if outcome.failures.is_empty() {
            outcome.made = Some(Made::Removed(id.to_string()));
        }
        Ok(outcome)
    }

    /// Removes a pool with its instances; what fails stands in the outcome, and the pool stays.
    pub(crate) fn remove_pool(
        &self,
        cx: &Context,
        id: &PoolRef,
        (firewall, volumes): (FirewallAfter, VolumeFate),
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let lock = self.lock(&Subject::Pool(id.clone()))?;
        match self.empty_pool(cx, id, (firewall, volumes), outcome)? {
            Going::Gone => lock.retire(),
            Going::Stays => {}
        }
        Ok(())
    }

    /// The same for who holds the pool's lock.
    pub(super) fn empty_pool(
        &self,
        cx: &Context,
        id: &PoolRef,
        (firewall, volumes): (FirewallAfter, VolumeFate),
        outcome: &mut Outcome,
    ) -> Result<Going, Error> {
        let marked = self.within(|tx| {
            let Some(mut pool) = records::find::<Pool>(tx, &id.to_string())? else {
                return Ok(None);
            };
            if !pool.destroying {
                pool.destroying = true;
                records::put(tx, &mut pool)?;
            }
            Ok(Some(records::list::<Instance>(tx, &id.to_string())?))
        })?;
        let Some(instances) = marked else { return Ok(Going::Gone) };
        let results = run::each(self.config.parallel, &instances, |record| {
            cx.cancel.check()?;
            self.bring(
                cx,
                &Wish {
                    instance: record.instance.clone(),
                    want: Want::Destroyed,
                    by_move: None,
                    drain: Drain::Skip,
                    by: mover(&cx.actor),
                    precedence: Precedence::of(&cx.actor),
                    firewall,
                    volumes,
                },
            )
        });
        let mut is_whole = true;
        for (record, result) in instances.iter().zip(results) {
            match result {
                Ok(Granted::Changed(change)) => outcome.changes.push(change),
                Ok(Granted::Deferred(_)) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => {
                    is_whole = false;
                    let subject = record.instance.to_string();
                    outcome.failures.push(Failed { subject, error });
                }
            }
        }
        if !is_whole {
            return Ok(Going::Stays);
        }
        self.execute(&Effect::RemovePoolFiles(id.clone()))?;
        self.within(|tx| {
            tx.delete(Table::Pools, &id.to_string())?;
            tx.append(
                &self.event(&cx.actor, &id.tenant, EventKind::PoolDestroyed).of_pool(&id.pool),
            )
        })?;
        Ok(Going::Gone)
    }
}

/// What became of a pool that shall go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    /// It is gone, or was already.
    Gone,
    /// Something in it did not go.
    Stays,
}

/// Refuses the name that builders' pools have.
fn kept_for_builders(id: &PoolRef) -> Result<(), Error> {
    if id.is_of_builders() {
        let message = format!("the name {} is kept for builders", id.pool);
        return Err(Error::new(ErrorKind::Invalid, message).hint("choose another name"));
    }
    Ok(())
}

pub(crate) fn valid(ask: &NewPool) -> Result<(), Error> {
    kept_for_builders(&ask.pool)?;
    kept_for_the_dev_vm(&ask.pool)?;
    ask.resources.validate()?;
    ask.source.validate()?;
    ask.runtime_policy.validate()?;
    Scope::validate(&ask.secret_scopes)?;
    valid_profile(&ask.profile)
}

pub(crate) fn valid_profile(name: &str) -> Result<(), Error> {
    name.parse::<PoolId>().map(drop).map_err(|_| {
        Error::new(ErrorKind::Invalid, format!("{name:?} is not the name of a profile"))
            .hint("a profile is named like a pool, for example: minimal")
    })
}

/// What a pool's routing table is checked against.
pub(crate) fn surroundings(tenant: &Tenant, pools: &[Pool], own: &PoolId) -> Surroundings {
    let living = pools.iter().filter(|pool| !pool.destroying);
    Surroundings {
        own: own.clone(),
        pools: living.map(|pool| pool.pool.pool.clone()).collect(),
        subnet: tenant.network.subnet,
    }
}

/// Checks what a pool's guests are told besides who they are, all of it at once.
///
/// # Errors
/// `Invalid` with one cause for each finding.
pub(crate) fn check_manifest(
    id: &PoolRef,
    role: &Role,
    integrations: &[Integration],
    table: Option<&RoutingTable>,
    around: &Surroundings,
) -> Result<(), Error> {
    let mut findings = Findings::new();
    integration::check(integrations, "integrations", &mut findings);
    if let Some(table) = table {
        if *role != Role::Gateway {
            let problem = format!("is for the role gateway, and {id} has the role {role}");
            findings.add("routing_table", problem);
        }
        table.check("routing_table", around, &mut findings);
    }
    findings.settle(&format!("what is asked of pool {id}"))
}

/// Whether a pool may be destroyed: by force, or when it is empty or going already.
pub(crate) fn may_go(tx: &mut dyn Transaction, id: &PoolRef, force: bool) -> Result<Tenant, Error> {
    let pool = records::pool(tx, id)?;
    let count = records::list::<Instance>(tx, &id.to_string())?.len();
    if count > 0 && !force && !pool.destroying {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("pool {id} is not empty: it has {count} instances"),
        )
        .hint(format!("destroy it with all it has: mvm pool destroy {id} --force")));
    }
    records::tenant(tx, &id.tenant)
}

/// A pool whose single instance breaks the quota is refused at once.
pub(crate) fn fits(tenant: &Tenant, size: Resources) -> Result<(), Error> {
    let mut one = Usage::default();
    one.hold(size, State::Running, Want::Running);
    tenant.quotas.admit(&one).map_err(|e| e.context("not even one instance of this pool could run"))
}
