//! What brings a node to a desired state (SPEC §7): from the document and the records to operations, in
//! the order in which they can be done.
//!
//! ```text
//! gone      tenants that are not wanted go
//! tenants   missing ones are made; limits rise
//! down      pools that only lose instances, and pools that go: by role, gateways last
//! pools     limits fall; pools are made and changed, then their routes, then their builds
//! up        all other counts: by role, gateways first
//! ```
//!
//! What takes room comes after what gives it. Where pools still wait for each other's places, a plan for
//! [`Room::Tight`] goes on from there. Every act is an operation
//! that a person could ask for; nothing here is a second way to do one. An empty plan means that the node
//! is as desired. This module refuses to know how operations are done, and whether they will be granted.

mod difference;

use std::{cmp::Reverse, collections::BTreeMap};

use difference::{difference, highest, quota_change, with_routes};

use super::pool::{Assignment, Held, assign, census, held_back};
use crate::{
    desired::{DesiredPool, DesiredState, DesiredTenant},
    error::{Error, ErrorKind},
    id::{InstanceRef, PoolRef, Subject, TenantId},
    instance::{Instance, Want},
    operation::{NewPool, Operation},
    pool::{Counts, Pool, PoolChange, SeccompPolicy},
    quota::QuotaChange,
    route::RoutingTable,
    tenant::{EgressPolicy, Tenant, TenantPolicy},
    units::Timestamp,
    volume::VolumeFate,
};

/// The records of a node.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Its tenants.
    pub tenants: Vec<Tenant>,
    /// Their pools.
    pub pools: Vec<Pool>,
    /// The instances of those.
    pub instances: Vec<Instance>,
}

/// Whether there is room for a change of counts as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// An instance may pass from one state to the other.
    Ample,
    /// Every pool gives up first what it has too much, since pools wait for each other's places.
    Tight,
}

/// Whose further acts have no sense once one failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeededBy {
    /// Nobody's.
    Nobody,
    /// Those on the same pool.
    Pool,
    /// Those on the same tenant and its pools.
    Tenant,
}

/// One operation of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// What it is about: a tenant or a pool.
    pub subject: Subject,
    /// What is asked.
    pub operation: Operation,
    /// Who needs it.
    pub needed_by: NeededBy,
}

/// Acts that follow each other.
pub type Course = Vec<Act>;

/// What brings a node to its desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// Stages that follow each other; the courses of one may go on side by side.
    pub stages: Vec<Vec<Course>>,
    /// What is not done, and why; nothing of such a tenant or pool is touched.
    pub refusals: Vec<(Subject, Error)>,
    /// Instances that the counts would move if nothing held them back.
    pub deferrals: Vec<(InstanceRef, Held)>,
}

/// The acts that bring the node to `desired`.
#[must_use]
pub fn plan(desired: &DesiredState, found: &Found, room: Room, now: Timestamp) -> NodePlan {
    let mut draft = Draft::default();
    for record in &found.tenants {
        let id = &record.tenant_id;
        let is_wanted = desired.tenants.iter().any(|tenant| tenant.tenant_id == *id);
        let goes = desired.prune_unknown_tenants || record.destroying;
        if !is_wanted && goes && !id.is_own() {
            draft.gone.push(vec![tenant_destroy(id)]);
        }
    }
    for tenant in &desired.tenants {
        let record = found.tenants.iter().find(|record| record.tenant_id == tenant.tenant_id);
        if let Err(error) = compatible(tenant, record) {
            draft.refusals.push((Subject::Tenant(tenant.tenant_id.clone()), error));
            continue;
        }
        let pools = found.pools.iter().filter(|pool| pool.pool.tenant == tenant.tenant_id);
        let site = Site {
            tenant,
            // Of one that is going nothing will be left.
            record: record.filter(|record| !record.destroying),
            pools: pools.filter(|_| record.is_none_or(|record| !record.destroying)).collect(),
            instances: &found.instances,
            prunes: desired.prune_unknown_pools,
            room,
            now,
        };
        if record.is_some_and(|record| record.destroying) {
            draft.gone.push(vec![Act {
                needed_by: NeededBy::Tenant,
                ..tenant_destroy(&tenant.tenant_id)
            }]);
        }
        site.plan(&mut draft);
    }
    draft.finish()
}

/// Whether a tenant can be what is asked: its network is for life.
fn compatible(tenant: &DesiredTenant, record: Option<&Tenant>) -> Result<(), Error> {
    let id = &tenant.tenant_id;
    let egress = tenant.policy.egress.as_ref();
    if egress.is_some_and(|egress| egress.policy != EgressPolicy::Allow) {
        let message = format!("this version cannot restrict where guests of {id} send to yet");
        return Err(Error::new(ErrorKind::Unavailable, message).hint("leave egress away"));
    }
    let Some(record) = record.filter(|record| !record.destroying) else { return Ok(()) };
    let (net, subnet) = (tenant.network.tenant_net_id, tenant.network.ipv4_subnet);
    if (record.network.net, record.network.subnet) == (net, subnet) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "tenant {id} has net-id {} and subnet {} for life, not {net} and {subnet}",
            record.network.net, record.network.subnet
        ),
    )
    .hint(format!("see its network: mvm tenant info {id}")))
}

/// A wanted tenant and what there is of it.
struct Site<'a> {
    tenant: &'a DesiredTenant,
    record: Option<&'a Tenant>,
    pools: Vec<&'a Pool>,
    instances: &'a [Instance],
    prunes: bool,
    room: Room,
    now: Timestamp,
}

impl Site<'_> {
    fn plan(&self, draft: &mut Draft) {
        let mut parts = Parts::default();
        self.plan_tenant(&mut parts);
        for record in &self.pools {
            let is_wanted = self.tenant.pools.iter().any(|pool| pool.pool_id == record.pool.pool);
            let goes = record.destroying || (self.prunes && !is_wanted);
            if goes {
                let needed_by = if is_wanted { NeededBy::Pool } else { NeededBy::Nobody };
                let act = pool_destroy(&record.pool, needed_by);
                let priority = Reverse(record.role.priority());
                draft.down.entry(priority).or_default().push(vec![act]);
            }
        }
        let mut wanted: Vec<&DesiredPool> = self.tenant.pools.iter().collect();
        wanted.sort_by_key(|pool| pool.role.priority());
        for pool in wanted {
            let id = PoolRef { tenant: self.tenant.tenant_id.clone(), pool: pool.pool_id.clone() };
            if pool.policy.seccomp_policy == SeccompPolicy::Strict {
                let message = format!("this version cannot confine the VMMs of {id} strictly yet");
                let error = Error::new(ErrorKind::Unavailable, message);
                let error = error.hint("ask for the seccomp_policy baseline");
                draft.refusals.push((Subject::Pool(id), error));
                continue;
            }
            let record = self.pools.iter().find(|one| one.pool == id && !one.destroying);
            match record {
                Some(record) => change(pool, record, &mut parts),
                None => make(&id, pool, &mut parts),
            }
            self.plan_counts(&id, pool, record.copied(), draft);
        }
        let Parts { rise, fall, records, routes, builds } = parts;
        draft.tenants.push(rise);
        draft.pools.push([fall, records, routes, builds].concat());
    }

    fn plan_tenant(&self, parts: &mut Parts) {
        let DesiredTenant { tenant_id: id, network, quotas, policy, .. } = self.tenant;
        let subject = Subject::Tenant(id.clone());
        let Some(record) = self.record else {
            let operation = Operation::TenantCreate {
                tenant: id.clone(),
                net: Some(network.tenant_net_id),
                subnet: Some(network.ipv4_subnet),
                quotas: *quotas,
                keyed: true,
            };
            parts.rise.push(Act { subject, operation, needed_by: NeededBy::Tenant });
            if *policy != TenantPolicy::default() {
                parts.rise.push(tenant_update(id, QuotaChange::default(), Some(policy.clone())));
            }
            return;
        };
        let between = highest(&record.quotas, quotas);
        let (up, down) = (quota_change(&record.quotas, &between), quota_change(&between, quotas));
        let policy = (record.policy != *policy).then(|| policy.clone());
        if up != QuotaChange::default() || policy.is_some() {
            parts.rise.push(tenant_update(id, up, policy));
        }
        if down != QuotaChange::default() {
            parts.fall.push(tenant_update(id, down, None));
        }
    }

    fn plan_counts(
        &self,
        id: &PoolRef,
        pool: &DesiredPool,
        record: Option<&Pool>,
        draft: &mut Draft,
    ) {
        let counts = pool.desired_counts;
        let held =
            self.instances.iter().filter(|one| record.is_some() && one.instance.pool_ref() == *id);
        let held: Vec<Instance> = held.cloned().collect();
        let before = record.map_or(Counts::default(), |record| record.desired_counts);
        let assignments = assign(&held, counts, self.now);
        draft.deferrals.extend(held_back(&held, counts, self.now));
        if counts == before && assignments.is_empty() {
            return;
        }
        let is_built = record.is_some_and(|record| record.current().is_some());
        let priority = pool.role.priority();
        let down = draft.down.entry(Reverse(priority)).or_default();
        if is_built && falls(before, counts, &assignments) {
            down.push(vec![pool_scale(id, counts)]);
            return;
        }
        let least = least(census(&held), counts);
        if is_built && self.room == Room::Tight && !assign(&held, least, self.now).is_empty() {
            down.push(vec![pool_scale(id, least)]);
        }
        draft.up.entry(priority).or_default().push(vec![pool_scale(id, counts)]);
    }
}

/// The acts of one tenant that belong to different stages.
#[derive(Default)]
struct Parts {
    rise: Course,
    fall: Course,
    records: Course,
    routes: Course,
    builds: Course,
}

/// A plan in the making.
#[derive(Default)]
struct Draft {
    gone: Vec<Course>,
    tenants: Vec<Course>,
    down: BTreeMap<Reverse<u8>, Vec<Course>>,
    pools: Vec<Course>,
    up: BTreeMap<u8, Vec<Course>>,
    refusals: Vec<(Subject, Error)>,
    deferrals: Vec<(InstanceRef, Held)>,
}

impl Draft {
    fn finish(self) -> NodePlan {
        let mut stages = vec![self.gone, self.tenants];
        stages.extend(self.down.into_values());
        stages.push(self.pools);
        stages.extend(self.up.into_values());
        for stage in &mut stages {
            stage.retain(|course| !course.is_empty());
        }
        stages.retain(|stage| !stage.is_empty());
        NodePlan { stages, refusals: self.refusals, deferrals: self.deferrals }
    }
}

/// A pool that is not there. Its routes come when all pools are there that they may lead to.
fn make(id: &PoolRef, pool: &DesiredPool, parts: &mut Parts) {
    let operation = Operation::PoolCreate(Box::new(NewPool {
        pool: id.clone(),
        source: pool.source.clone(),
        profile: pool.profile.clone(),
        role: pool.role.clone(),
        resources: pool.instance_resources,
        runtime_policy: pool.runtime_policy,
        secret_scopes: pool.secret_scopes.clone(),
        integrations: pool.integrations.clone(),
        routing_table: None,
        policy: pool.policy.clone(),
    }));
    let subject = Subject::Pool(id.clone());
    parts.records.push(Act { subject, operation, needed_by: NeededBy::Pool });
    if let Some(table) = with_routes(pool.routing_table.as_ref()) {
        parts.routes.push(pool_routes(id, table.clone()));
    }
    parts.builds.push(pool_build(id, NeededBy::Pool));
}

/// What a pool that is there lacks.
fn change(pool: &DesiredPool, record: &Pool, parts: &mut Parts) {
    let id = &record.pool;
    let change = difference(pool, record);
    if change != PoolChange::default() {
        let operation = Operation::PoolUpdate { pool: id.clone(), change: Box::new(change) };
        let subject = Subject::Pool(id.clone());
        parts.records.push(Act { subject, operation, needed_by: NeededBy::Pool });
    }
    let is = record.routing_table.as_ref();
    if let Some(shall) = with_routes(pool.routing_table.as_ref()).filter(|one| Some(*one) != is) {
        parts.routes.push(pool_routes(id, shall.clone()));
    }
    let built_from = record.revisions.first().and_then(|newest| newest.source.as_ref());
    if record.current().is_none() {
        parts.builds.push(pool_build(id, NeededBy::Pool));
    } else if built_from.is_some_and(|source| *source != pool.source) {
        // Until it is there, the counts hold with what there is.
        parts.builds.push(pool_build(id, NeededBy::Nobody));
    }
}

/// Whether counts and instances only become fewer.
fn falls(before: Counts, after: Counts, assignments: &[Assignment]) -> bool {
    let is_less = after.running <= before.running
        && after.warm <= before.warm
        && after.sleeping <= before.sleeping;
    let stops = |one: &Assignment| matches!(one, Assignment::Move { to: Want::Stopped, .. });
    is_less && assignments.iter().all(stops)
}

fn least(a: Counts, b: Counts) -> Counts {
    Counts {
        running: a.running.min(b.running),
        warm: a.warm.min(b.warm),
        sleeping: a.sleeping.min(b.sleeping),
    }
}

fn tenant_destroy(id: &TenantId) -> Act {
    let (tenant, volumes) = (id.clone(), VolumeFate::Delete);
    let operation = Operation::TenantDestroy { tenant, force: true, volumes };
    Act { subject: Subject::Tenant(id.clone()), operation, needed_by: NeededBy::Nobody }
}

fn tenant_update(id: &TenantId, quotas: QuotaChange, policy: Option<TenantPolicy>) -> Act {
    let operation = Operation::TenantUpdate { tenant: id.clone(), quotas, policy };
    Act { subject: Subject::Tenant(id.clone()), operation, needed_by: NeededBy::Nobody }
}

fn pool_destroy(id: &PoolRef, needed_by: NeededBy) -> Act {
    let (pool, volumes) = (id.clone(), VolumeFate::Delete);
    let operation = Operation::PoolDestroy { pool, force: true, volumes };
    Act { subject: Subject::Pool(id.clone()), operation, needed_by }
}

fn pool_build(id: &PoolRef, needed_by: NeededBy) -> Act {
    let operation = Operation::build(id.clone());
    Act { subject: Subject::Pool(id.clone()), operation, needed_by }
}

fn pool_scale(id: &PoolRef, counts: Counts) -> Act {
    let operation = Operation::PoolScale {
        pool: id.clone(),
        running: Some(counts.running),
        warm: Some(counts.warm),
        sleeping: Some(counts.sleeping),
        no_wait: false,
    };
    Act { subject: Subject::Pool(id.clone()), operation, needed_by: NeededBy::Nobody }
}

fn pool_routes(id: &PoolRef, table: RoutingTable) -> Act {
    let change = PoolChange { routing_table: Some(table), ..PoolChange::default() };
    let operation = Operation::PoolUpdate { pool: id.clone(), change: Box::new(change) };
    Act { subject: Subject::Pool(id.clone()), operation, needed_by: NeededBy::Nobody }
}

#[cfg(test)]
mod tests;
