//! Bringing the node to a desired state.
//!
//! ```text
//! look at everything ─▶ plan::node ─▶ each stage: its courses side by side, with a bound
//!                                                 └─ each act: the operation that a person would ask for
//! ```
//!
//! What fails is told and does not stop what does not need it. Whoever asks, the acts are those of the
//! counts: a person's command on an instance stands until its time is over. A node that is as desired is
//! looked at, and nothing is written. This module decides nothing that [`plan::node`] decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use mvm_core::{
    desired::DesiredState,
    error::{Error, ErrorKind},
    event::{Actor, EventKind},
    id::{PoolRef, Subject, TenantId},
    operation::Operation,
    plan::{
        self,
        node::{Act, Course, Found, NeededBy, NodePlan, Room},
    },
    pool::PoolChange,
    port::Transaction,
    tenant::Tenant,
};

use super::{change, scale::held_back};
use crate::{
    engine::{Context, Engine, Telling},
    outcome::{Acted, Failed, Outcome},
    preview::Preview,
    query::Filter,
    run::{self, is_cancelled},
    store::records,
};

impl Engine {
    pub(crate) fn agent_reconcile(
        &self,
        cx: &Context,
        desired: &DesiredState,
    ) -> Result<Outcome, Error> {
        cx.cancel.check()?;
        let broken = Mutex::new(Broken::default());
        let failures = self.mend(desired, &broken)?;
        let (plan, mut outcome) = self.planned(desired, Room::Ample)?;
        outcome.failures.extend(failures);
        if plan.stages.is_empty() {
            return Ok(outcome);
        }
        self.tell_accepted(cx, desired, &plan)?;
        let counts = Context { actor: on_behalf(&cx.actor), ..cx.clone() };
        let mut refused = self.run_stages(&counts, &plan.stages, &broken, &mut outcome);
        if !refused.is_empty()
            && let Ok((again, _)) = self.planned(desired, Room::Tight)
        {
            let only: Vec<Vec<Course>> = again.stages.into_iter().map(needing_room).collect();
            refused = self.run_stages(&counts, &only, &broken, &mut outcome);
        }
        outcome.failures.extend(refused);
        let mut told = BTreeSet::new();
        outcome.deferrals.retain(|one| told.insert(one.instance.to_string()));
        Ok(outcome)
    }

    pub(crate) fn preview_reconcile(&self, desired: &DesiredState) -> Result<Preview, Error> {
        let (plan, outcome) = self.planned(desired, Room::Ample)?;
        let acts = plan.stages.iter().flatten().flatten().map(told).collect();
        let Outcome { deferrals, failures, notes, .. } = outcome;
        Ok(Preview { acts, deferrals, failures, notes, ..Preview::default() })
    }

    /// Looks at every wanted instance that there is, and makes what the machine lacks of their tenants,
    /// since a crash or a reboot of the host may have left it undone.
    fn mend(&self, desired: &DesiredState, broken: &Mutex<Broken>) -> Result<Vec<Failed>, Error> {
        let mut failures = Vec::new();
        for tenant in self.within(|tx| records::list::<Tenant>(tx, ""))? {
            let id = tenant.tenant_id;
            let is_wanted = desired.tenants.iter().any(|wanted| wanted.tenant_id == id);
            if !is_wanted || tenant.destroying {
                continue;
            }
            let looked = self.instances(&Filter::Tenant(id.clone())).map(drop);
            if let Err(error) = looked.and_then(|()| self.converge_tenant(&id)) {
                failures.push(Failed { subject: id.to_string(), error });
                hold(broken).tenants.insert(id);
            }
        }
        Ok(failures)
    }

    /// The plan, and what of the document is not done.
    fn planned(&self, desired: &DesiredState, room: Room) -> Result<(NodePlan, Outcome), Error> {
        let found = self.within(everything)?;
        let plan = plan::node::plan(desired, &found, room, self.ports.clock.now());
        let now = self.ports.clock.now();
        let deferrals = plan.deferrals.iter().filter_map(|(id, why)| {
            let record = found.instances.iter().find(|one| one.instance == *id)?;
            Some(held_back(record, *why, now))
        });
        let refusals = plan
            .refusals
            .iter()
            .map(|(subject, error)| Failed { subject: address(subject), error: error.clone() });
        let unchecked = desired.tenants.iter().filter(|tenant| tenant.secrets_hash.is_some());
        let note = "secrets_hash is not compared: secrets come by mvm tenant secrets set";
        let outcome = Outcome {
            deferrals: deferrals.collect(),
            failures: refusals.collect(),
            notes: unchecked.map(|tenant| format!("{}: {note}", tenant.tenant_id)).collect(),
            ..Outcome::default()
        };
        Ok((plan, outcome))
    }

    /// Follows the courses of each stage side by side; what lacked room is returned.
    fn run_stages(
        &self,
        cx: &Context,
        stages: &[Vec<Course>],
        broken: &Mutex<Broken>,
        outcome: &mut Outcome,
    ) -> Vec<Failed> {
        let mut refused = Vec::new();
        for stage in stages {
            if outcome.failures.iter().any(|one| is_cancelled(&one.error)) {
                break;
            }
            let width = self.config.parallel.min(stage.len()).max(1);
            let share = self.with_width((self.config.parallel / width).max(1));
            for (part, lacking) in run::each(width, stage, |one| share.run_course(cx, one, broken))
            {
                outcome.absorb(part);
                refused.extend(lacking);
            }
        }
        refused
    }

    /// The acts of a course, as far as nothing that they need is broken; and what lacked room.
    fn run_course(
        &self,
        cx: &Context,
        course: &Course,
        broken: &Mutex<Broken>,
    ) -> (Outcome, Vec<Failed>) {
        let (mut outcome, mut refused) = (Outcome::default(), Vec::new());
        for (number, act) in course.iter().enumerate() {
            if hold(broken).stops(&act.subject) {
                continue;
            }
            let subject = address(&act.subject);
            let activity = act.operation.name().replace('_', " ");
            cx.tell(&subject, &activity, (number, course.len()));
            let done = cx.cancel.check().and_then(|()| self.perform(cx, act));
            let mut part = done.unwrap_or_else(|error| {
                hold(broken).note(act);
                let failures = vec![Failed { subject, error }];
                Outcome { failures, ..Outcome::default() }
            });
            if needs_room(act) {
                let lacks = |one: &mut Failed| one.error.kind == ErrorKind::Refused;
                refused.extend(part.failures.extract_if(.., lacks));
            }
            let is_over = part.failures.iter().any(|one| is_cancelled(&one.error));
            outcome.absorb(part);
            if is_over {
                break;
            }
        }
        (outcome, refused)
    }

    fn perform(&self, cx: &Context, act: &Act) -> Result<Outcome, Error> {
        let destroys = matches!(
            act.operation,
            Operation::TenantDestroy { .. } | Operation::PoolDestroy { .. }
        );
        let part = match self.dispatch(cx, &act.operation) {
            // Somebody else destroyed it meanwhile.
            Err(error) if destroys && error.kind == ErrorKind::NotFound => Outcome::default(),
            done => done?,
        };
        if destroys && let Some(failed) = part.failures.first() {
            // What is left of it is in the way of what comes.
            let error = failed.error.clone();
            return Err(error.context(format!("{} is not gone", failed.subject)));
        }
        let subject = address(&act.subject);
        let notes = if let Operation::PoolUpdate { change, .. } = &act.operation {
            // The build that they would speak of is in the plan.
            change::notes(&PoolChange { source: None, profile: None, ..(**change).clone() })
        } else {
            part.notes
        };
        let notes = notes.into_iter().map(|note| format!("{subject}: {note}")).collect();
        Ok(Outcome { acts: vec![told(act)], notes, ..part })
    }

    fn tell_accepted(
        &self,
        cx: &Context,
        desired: &DesiredState,
        plan: &NodePlan,
    ) -> Result<(), Error> {
        let acts = plan.stages.iter().flatten().flatten().count();
        let kind = EventKind::DesiredStateAccepted;
        let event = self.event(&cx.actor, &TenantId::node(), kind);
        let event = event.with("tenants", desired.tenants.len()).with("acts", acts);
        self.within(|tx| tx.append(&event))
    }
}

/// Who the acts count as: never a person, whose commands stand above them.
fn on_behalf(actor: &Actor) -> Actor {
    match actor {
        Actor::Uid(_) | Actor::Certificate(_) => Actor::Policy,
        Actor::Engine | Actor::Policy => actor.clone(),
    }
}

/// Whether an act may succeed once others made room for it.
const fn needs_room(act: &Act) -> bool {
    matches!(act.operation, Operation::PoolScale { .. } | Operation::TenantUpdate { .. })
}

/// The courses of a stage without what needs no room.
fn needing_room(stage: Vec<Course>) -> Vec<Course> {
    let of = |course: Course| course.into_iter().filter(needs_room).collect::<Course>();
    stage.into_iter().map(of).filter(|course| !course.is_empty()).collect()
}

fn everything(tx: &mut dyn Transaction) -> Result<Found, Error> {
    let (tenants, pools) = (records::list(tx, "")?, records::pools(tx, "")?);
    Ok(Found { tenants, pools, instances: records::instances(tx, "")? })
}

/// What failed and is needed by what comes.
#[derive(Default)]
struct Broken {
    tenants: BTreeSet<TenantId>,
    pools: BTreeSet<PoolRef>,
}

impl Broken {
    fn stops(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Tenant(id) => self.tenants.contains(id),
            Subject::Pool(id) => self.tenants.contains(&id.tenant) || self.pools.contains(id),
            Subject::Instance(_) | Subject::Firewall => false,
        }
    }

    fn note(&mut self, act: &Act) {
        match (act.needed_by, &act.subject) {
            (NeededBy::Tenant, Subject::Tenant(id)) => {
                self.tenants.insert(id.clone());
            }
            (NeededBy::Pool, Subject::Pool(id)) => {
                self.pools.insert(id.clone());
            }
            (NeededBy::Nobody | NeededBy::Tenant | NeededBy::Pool, _) => {}
        }
    }
}

fn hold(broken: &Mutex<Broken>) -> std::sync::MutexGuard<'_, Broken> {
    broken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A subject's address without its kind.
fn address(subject: &Subject) -> String {
    match subject {
        Subject::Tenant(id) => id.to_string(),
        Subject::Pool(id) => id.to_string(),
        Subject::Instance(id) => id.to_string(),
        Subject::Firewall => "firewall".to_owned(),
    }
}

/// An act for people and programs.
fn told(act: &Act) -> Acted {
    let mut detail = BTreeMap::new();
    if let Operation::PoolScale { running, warm, sleeping, .. } = &act.operation {
        for (name, count) in [("running", running), ("warm", warm), ("sleeping", sleeping)] {
            detail.extend(count.map(|count| (name.to_owned(), count.to_string())));
        }
    }
    Acted { act: act.operation.name().to_owned(), subject: address(&act.subject), detail }
}
