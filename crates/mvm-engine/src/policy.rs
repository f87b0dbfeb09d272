//! One tick of policy (SPEC §7): look at what runs, park what nobody needs, make room when memory is short;
//! and demand, which brings back what policy parked.
//!
//! [`plan::policy`] decides. Moves are the same that a person asks for, made on behalf of policy: a person's
//! own command stands above them. Whoever ticks keeps a [`Watch`]; without it everything counts as busy, so a
//! restart puts a sleep off and never hastens one.

use std::collections::{BTreeMap, BTreeSet};

use mvm_core::{
    error::{Error, ErrorKind},
    event::Actor,
    id::{InstanceId, InstanceRef, PoolRef, TenantId},
    instance::{Drain, Instance, Want},
    meter::Pressure,
    plan::{
        self,
        policy::{Advice, Idleness, Look, Subject},
    },
    pool::{Pool, PoolPolicy},
    port::Wanted,
    state::{Move, State},
    tenant::Tenant,
    units::{Mib, Seconds, Timestamp},
};

use crate::{
    engine::{Context, Engine},
    outcome::{Deferral, Failed, Outcome},
    run::{self, is_cancelled},
    store::records,
};

/// How often a guest that does not let itself be parked is asked again (SPEC §1.23).
const TRIES: u32 = 3;
/// How long it is left alone in between.
const RETRY: Seconds = Seconds(60);

/// What whoever ticks remembers from tick to tick.
#[derive(Debug, Default)]
pub struct Watch {
    idle: BTreeMap<InstanceId, Idleness>,
    /// What was put off and is told already.
    deferred: BTreeSet<(InstanceId, State)>,
    refusals: BTreeMap<InstanceId, Refusal>,
}

/// A guest that did not let itself be parked.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    tries: u32,
    again: Timestamp,
}

/// An instance that shall rest, and why.
struct Parking {
    instance: InstanceRef,
    to: Move,
    reason: String,
}

/// The records that policy looks at.
struct Known {
    instances: Vec<Instance>,
    pools: BTreeMap<PoolRef, PoolPolicy>,
    pinned: BTreeSet<TenantId>,
}

impl Engine {
    /// Looks at everything that runs and parks what the pools' policies say; says what changed, what was put
    /// off, and what could not be parked in several attempts.
    ///
    /// # Errors
    /// When the store or the host cannot be read. What fails of one instance stands in the outcome.
    pub fn policy_tick(&self, cx: &Context, watch: &mut Watch) -> Result<Outcome, Error> {
        let known = self.known()?;
        let now = self.ports.clock.now();
        self.learn(&known, now, watch);
        let subjects: Vec<Subject<'_>> =
            known.instances.iter().filter_map(|one| known.subject(one, watch)).collect();
        let mut outcome = Outcome::default();
        let mut parkings = Vec::new();
        for subject in &subjects {
            let record = subject.record;
            match plan::policy::advise(subject, now) {
                Advice::Stay => {
                    watch.deferred.retain(|(id, _)| *id != record.instance.instance);
                }
                Advice::Park(to) if watch.may_try(record, now) => {
                    parkings.extend(Parking::of(record, to, idle_for(subject, now)));
                }
                Advice::Park(_) => {}
                Advice::Defer { to, until } => {
                    let to = to.state(record.state);
                    if watch.deferred.insert((record.instance.instance.clone(), to)) {
                        let wait = until.0.saturating_sub(now.0).div_ceil(1000);
                        let reason = format!("its minimum time before {to} lasts {wait} s more");
                        let instance = record.instance.clone();
                        outcome.deferrals.push(Deferral { instance, reason });
                    }
                }
            }
        }
        self.make_room(&subjects, now, &mut parkings)?;
        self.tell_deferrals(&on_behalf(cx), &outcome.deferrals)?;
        let done = run::each(self.config.parallel, &parkings, |one| self.park(cx, one));
        for (parking, done) in parkings.iter().zip(done) {
            settle(&mut outcome, watch, parking, done, now);
        }
        Ok(outcome)
    }

    /// Brings back what policy parked, since somebody needs it; nothing of what anybody else parked.
    ///
    /// # Errors
    /// Those of a wake.
    pub(crate) fn demand(&self, cx: &Context, record: &Instance) -> Result<(), Error> {
        if !record.is_on_call() {
            return Ok(());
        }
        self.lead_to(cx, &record.instance, Move::Wake, "somebody needs it").map(drop)
    }

    /// Brings back what policy parked and somebody tries to reach: a guest of its network, or whoever came to
    /// a port that leads to it. Who was asked for the last time and is so still is looked up again only when
    /// `again`; who wakes answers the next try of the same connection.
    ///
    /// # Errors
    /// When the store or the host cannot be read. What fails of one instance stands in the outcome.
    pub fn answer_demand(
        &self,
        cx: &Context,
        asked: &mut BTreeSet<Wanted>,
        again: bool,
    ) -> Result<Outcome, Error> {
        let wanted: BTreeSet<_> = self.ports.host.wanted()?.into_iter().collect();
        let is_new = !wanted.is_subset(asked);
        asked.clone_from(&wanted);
        let mut outcome = Outcome::default();
        if wanted.is_empty() || !(is_new || again) {
            return Ok(outcome);
        }
        let mut woken = self.within(|tx| records::list::<Instance>(tx, ""))?;
        woken.retain(|one| {
            // Who announces itself asks for its own address.
            let is_wanted = wanted.iter().any(|wanted| {
                wanted.net == one.network.net
                    && Some(wanted.address) == one.address()
                    && wanted.by != Some(one.offset)
            });
            one.is_on_call() && is_wanted
        });
        let done = run::each(self.config.parallel, &woken, |one| {
            self.lead_to(cx, &one.instance, Move::Wake, "somebody tries to reach it")
        });
        for (one, done) in woken.iter().zip(done) {
            match done {
                Ok(more) => outcome.changes.extend(more.changes),
                Err(error) if is_cancelled(&error) => {}
                Err(error) => {
                    outcome.failures.push(Failed { subject: one.instance.to_string(), error })
                }
            }
        }
        Ok(outcome)
    }

    fn known(&self) -> Result<Known, Error> {
        self.within(|tx| {
            let pools = records::list::<Pool>(tx, "")?;
            let tenants = records::list::<Tenant>(tx, "")?;
            let pinned = tenants.into_iter().filter(|tenant| tenant.policy.pinned);
            Ok(Known {
                instances: records::list(tx, "")?,
                pools: pools.into_iter().map(|pool| (pool.pool, pool.policy)).collect(),
                pinned: pinned.map(|tenant| tenant.tenant_id).collect(),
            })
        })
    }

    /// Looks at what runs. Who cannot be looked at counts as busy.
    fn learn(&self, known: &Known, now: Timestamp, watch: &mut Watch) {
        let running: Vec<&Instance> =
            known.instances.iter().filter(|one| one.is_available()).collect();
        let looks = run::each(self.config.parallel, &running, |record| {
            let guest = self.ports.guest.metrics(&record.instance).ok().flatten()?;
            let host = self.ports.host.meter(record).ok()?;
            Some(Look::new(now, &guest, &host))
        });
        let mut idle = BTreeMap::new();
        for (record, look) in running.iter().zip(looks) {
            let Some((look, policy)) = look.zip(known.pools.get(&record.instance.pool_ref()))
            else {
                continue;
            };
            let id = &record.instance.instance;
            let mut one = watch.idle.get(id).copied().unwrap_or_default();
            one.add(record.epoch, look, &policy.sleep_policy);
            if one.since().is_none() {
                watch.refusals.remove(id);
            }
            idle.insert(id.clone(), one);
        }
        watch.idle = idle;
        let alive: BTreeSet<&InstanceId> =
            known.instances.iter().map(|one| &one.instance.instance).collect();
        watch.refusals.retain(|id, _| alive.contains(id));
        watch.deferred.retain(|(id, _)| alive.contains(id));
    }

    /// Adds the coldest when the host is short of memory.
    fn make_room(
        &self,
        subjects: &[Subject<'_>],
        now: Timestamp,
        parkings: &mut Vec<Parking>,
    ) -> Result<(), Error> {
        let pressure = self.ports.host.pressure()?;
        let missing = plan::policy::shortage(&pressure, &self.config.pressure);
        if missing == Mib(0) {
            return Ok(());
        }
        for record in plan::policy::make_room(subjects, missing, now) {
            parkings.retain(|one| one.instance != record.instance);
            parkings.extend(Parking::of(record, Want::Sleeping, short(&pressure)));
        }
        Ok(())
    }

    fn park(&self, cx: &Context, parking: &Parking) -> Result<Outcome, Error> {
        cx.cancel.check()?;
        self.lead_to(cx, &parking.instance, parking.to, &parking.reason)
    }

    /// A move on behalf of policy, and why.
    fn lead_to(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        to: Move,
        reason: &str,
    ) -> Result<Outcome, Error> {
        let engine = self.bound(self.operation_of(cx)).because(reason.to_owned());
        engine.instance_move(&on_behalf(cx), instance, to, Drain::Ask)
    }
}

impl Known {
    /// What policy sees of an instance; none of one whose pool is going.
    fn subject<'a>(&'a self, record: &'a Instance, watch: &Watch) -> Option<Subject<'a>> {
        Some(Subject {
            record,
            pool: self.pools.get(&record.instance.pool_ref())?,
            is_tenant_pinned: self.pinned.contains(&record.instance.tenant),
            idle_since: watch.idle.get(&record.instance.instance).and_then(Idleness::since),
        })
    }
}

impl Watch {
    fn may_try(&self, record: &Instance, now: Timestamp) -> bool {
        self.refusals
            .get(&record.instance.instance)
            .is_none_or(|refusal| refusal.tries < TRIES && refusal.again <= now)
    }
}

impl Parking {
    fn of(record: &Instance, to: Want, reason: String) -> Option<Self> {
        let to = match to {
            Want::Warm => Move::Warm,
            Want::Sleeping => Move::Sleep,
            Want::Idle | Want::Running | Want::Stopped | Want::Destroyed => return None,
        };
        Some(Self { instance: record.instance.clone(), to, reason })
    }
}

/// What came of a parking. What is gone, or in a person's hands by now, needs none.
fn settle(
    outcome: &mut Outcome,
    watch: &mut Watch,
    parking: &Parking,
    done: Result<Outcome, Error>,
    now: Timestamp,
) {
    let id = &parking.instance.instance;
    let error = match done {
        Ok(part) => {
            watch.refusals.remove(id);
            outcome.absorb(part);
            return;
        }
        Err(error) if error.kind == ErrorKind::NotFound || is_cancelled(&error) => return,
        Err(error) => error,
    };
    let tries = watch.refusals.get(id).map_or(0, |refusal| refusal.tries) + 1;
    watch.refusals.insert(id.clone(), Refusal { tries, again: now.plus(RETRY) });
    if tries == TRIES {
        let error = error.context(format!("policy gave up after {TRIES} attempts"));
        outcome.failures.push(Failed { subject: parking.instance.to_string(), error });
    } else {
        let reason = format!("attempt {tries} of {TRIES} to park it: {error}");
        outcome.deferrals.push(Deferral { instance: parking.instance.clone(), reason });
    }
}

fn on_behalf(cx: &Context) -> Context {
    Context { actor: Actor::Policy, ..cx.clone() }
}

fn idle_for(subject: &Subject<'_>, now: Timestamp) -> String {
    match subject.idle_since {
        Some(since) => format!("idle for {} s", now.0.saturating_sub(since.0) / 1000),
        None => "idle, and Warm long enough".to_owned(),
    }
}

fn short(pressure: &Pressure) -> String {
    let stall = pressure.stalled_percent.map_or_else(String::new, |percent| {
        format!(", and tasks waited for memory {percent} % of the time")
    });
    format!(
        "the host is short of memory: {} of {} MiB are available{stall}",
        pressure.available_mib, pressure.total_mib
    )
}
