//! Setting a pool's counts, and bringing its instances there.
//!
//! The counts are checked and recorded first. Then, under the pool's lock: look at every instance,
//! let [`plan::pool::assign`] choose, make the new records, bring the firewall into force once, and
//! move all of them with a bound. One that fails does not stop the others.
//!
//! Counts that are brought about in the background leave an instance alone while a person's command on
//! it is recent. Counts that a person sets are that person's latest word: they hold at once, also for
//! what was started, stopped or put to sleep by hand before.

use std::time::Duration;

use mvm_core::{
    error::{Error, ErrorKind},
    event::EventKind,
    id::{InstanceRef, PoolRef, Subject},
    instance::{Drain, Instance, ParkedBy, Want},
    plan::{
        self,
        brake::Brake,
        pool::{Assignment, Held},
    },
    pool::{Counts, Pool},
    port::{Lock, Transaction},
    quota::Usage,
    state::State,
    units::Timestamp,
    volume::VolumeFate,
};

use super::{
    instance::{Granted, Precedence, Wish},
    living,
};
use crate::{
    converge::FirewallAfter,
    engine::{Context, Engine, Telling},
    outcome::{Deferral, Failed, Made, Outcome},
    run,
    store::records,
};

/// The greatest count (SPEC §5).
const MAX_COUNT: u32 = 100;

/// The counts that are asked of a pool; an absent one stays.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    pub(crate) pool: PoolRef,
    pub(crate) running: Option<u32>,
    pub(crate) warm: Option<u32>,
    pub(crate) sleeping: Option<u32>,
}

impl Engine {
    pub(crate) fn pool_scale(
        &self,
        cx: &Context,
        ask: &Scale,
        no_wait: bool,
    ) -> Result<Outcome, Error> {
        let known = self.within(|tx| records::pool(tx, &ask.pool))?;
        // Before the pool's lock, because it may need the tenant's.
        self.converge_tenant(&ask.pool.tenant)?;
        let Some(_lock) = self.lock_for_counts(cx, &known)? else {
            let notes = vec![format!("{} is being rolled; its counts hold after that", ask.pool)];
            return Ok(Outcome { notes, ..Outcome::default() });
        };
        let pool = self.within(|tx| self.record_counts(tx, cx, ask, no_wait))?;
        if no_wait {
            return Ok(Outcome { made: Some(Made::Pool(Box::new(pool))), ..Outcome::default() });
        }
        let instances = in_reach(self.look(&ask.pool)?, Precedence::of(&cx.actor));
        let deferrals = self.held_back(&instances, pool.desired_counts);
        let mut outcome = Outcome { deferrals, ..Outcome::default() };
        let assignments =
            plan::pool::assign(&instances, pool.desired_counts, self.ports.clock.now());
        let wishes = self.wishes(cx, &pool, &assignments, &mut outcome);
        let results = run::each(self.config.parallel, &wishes, |wish| {
            cx.cancel.check()?;
            self.bring(cx, wish)
        });
        for (wish, result) in wishes.iter().zip(results) {
            settle(&mut outcome, &wish.instance, result);
        }
        self.tell_deferrals(cx, &outcome.deferrals)?;
        outcome.made = Some(Made::Pool(Box::new(pool)));
        Ok(outcome)
    }

    /// The pool's lock. Counts that are brought about in the background do not wait for a roll that is under
    /// way, which puts every instance back where it was; one that was interrupted is in nobody's way.
    fn lock_for_counts(&self, cx: &Context, pool: &Pool) -> Result<Option<Box<dyn Lock>>, Error> {
        let subject = Subject::Pool(pool.pool.clone());
        let is_by_itself = Precedence::of(&cx.actor) == Precedence::Background;
        if !is_by_itself || pool.rolling.is_none() {
            return self.lock(&subject).map(Some);
        }
        match self.ports.locks.lock(&subject, Duration::ZERO) {
            Err(error) if error.kind == ErrorKind::Unavailable => Ok(None),
            lock => lock.map(Some),
        }
    }

    /// Puts what was left alone into the audit log.
    pub(crate) fn tell_deferrals(&self, cx: &Context, deferrals: &[Deferral]) -> Result<(), Error> {
        if deferrals.is_empty() {
            return Ok(());
        }
        self.within(|tx| {
            for Deferral { instance, reason } in deferrals {
                let event = self
                    .event(&cx.actor, &instance.tenant, EventKind::TransitionDeferred)
                    .of_pool(&instance.pool)
                    .of_instance(&instance.instance);
                tx.append(&event.because(reason.clone()))?;
            }
            Ok(())
        })
    }

    /// Checks the counts and puts them into the pool's record.
    pub(crate) fn record_counts(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        ask: &Scale,
        no_wait: bool,
    ) -> Result<Pool, Error> {
        let (tenant, mut pool) = living(tx, &ask.pool)?;
        let before = pool.desired_counts;
        let counts = Counts {
            running: ask.running.unwrap_or(before.running),
            warm: ask.warm.unwrap_or(before.warm),
            sleeping: ask.sleeping.unwrap_or(before.sleeping),
        };
        let total = in_range(counts)?;
        let limit = tenant.quotas.max_instances_per_pool;
        if total > limit {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("the counts ask for {total} instances of {} (limit {limit})", ask.pool),
            )
            .hint("ask for less, or raise --max-instances-per-pool"));
        }
        if total > 0 && pool.current().is_none() && !no_wait {
            return Err(Error::new(ErrorKind::Conflict, format!("pool {} has no build", ask.pool))
                .hint(format!("mvm pool build {}", ask.pool)));
        }
        let mut asked = Usage::default();
        for other in records::list::<Pool>(tx, ask.pool.tenant.as_str())? {
            if other.pool != ask.pool {
                hold(&mut asked, &other, other.desired_counts);
            }
        }
        let (mut then, mut now) = (asked, asked);
        hold(&mut then, &pool, before);
        hold(&mut now, &pool, counts);
        tenant.quotas.admit(&now.growth(then)).map_err(|e| e.context("the counts are too high"))?;
        if counts != before {
            pool.desired_counts = counts;
            records::put(tx, &mut pool)?;
            let event = self
                .event(&cx.actor, &ask.pool.tenant, EventKind::PoolScaled)
                .of_pool(&ask.pool.pool)
                .with("running", counts.running)
                .with("warm", counts.warm)
                .with("sleeping", counts.sleeping);
            tx.append(&event)?;
        }
        Ok(pool)
    }

    fn held_back(&self, instances: &[Instance], counts: Counts) -> Vec<Deferral> {
        let now = self.ports.clock.now();
        let held = plan::pool::held_back(instances, counts, now).into_iter();
        let record = |id| instances.iter().find(|one| one.instance == id);
        held.filter_map(|(id, why)| Some(held_back(record(id)?, why, now))).collect()
    }

    /// The assignments as wishes; the new instances are recorded and known to the firewall.
    fn wishes(
        &self,
        cx: &Context,
        pool: &Pool,
        assignments: &[Assignment],
        outcome: &mut Outcome,
    ) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let mut made = None;
        for assignment in assignments {
            let (instance, to) = match assignment {
                Assignment::Move { instance, to } => (instance.clone(), *to),
                Assignment::Create { to } => match self.new_record(cx, &pool.pool) {
                    Ok(record) => {
                        let instance = record.instance.clone();
                        made = Some(record);
                        (instance, *to)
                    }
                    Err(error) => {
                        let subject = format!("a new instance of {}", pool.pool);
                        outcome.failures.push(Failed { subject, error });
                        continue;
                    }
                },
            };
            wishes.push(Wish {
                instance,
                want: to,
                by_move: None,
                drain: Drain::Ask,
                by: ParkedBy::Counts,
                precedence: Precedence::of(&cx.actor),
                firewall: FirewallAfter::Each,
                volumes: VolumeFate::Delete,
            });
        }
        if let Some(record) = made
            && let Err(error) = self.sync_firewall(&record.network)
        {
            tracing::warn!(%error, "each launch will bring the firewall into force by itself");
        }
        wishes
    }

    fn new_record(&self, cx: &Context, pool: &PoolRef) -> Result<Instance, Error> {
        cx.cancel.check()?;
        self.within(|tx| self.instance_allocate(tx, cx, pool, &[], None))
    }
}

/// The instances as the counts see them: for a person's counts no earlier override stands.
pub(crate) fn in_reach(mut instances: Vec<Instance>, precedence: Precedence) -> Vec<Instance> {
    if precedence == Precedence::Person {
        for one in &mut instances {
            (one.manual_override_until, one.failures) = (None, 0);
        }
    }
    instances
}

/// Why the counts leave an instance alone, for people.
pub(crate) fn held_back(one: &Instance, why: Held, now: Timestamp) -> Deferral {
    let (state, failures) = (one.state, one.failures);
    let reason = match why {
        Held::Person => format!("stays {state}: a person's command is more recent"),
        Held::Brake(Brake::Until(until)) => {
            let left = until.0.saturating_sub(now.0).div_ceil(1000);
            format!(
                "stays {state}: it failed {failures} times in a row, and is started in {left} s"
            )
        }
        Held::Brake(Brake::Spent) => format!(
            "stays {state}: it failed {failures} times in a row; see mvm instance logs {0}, then start or destroy it",
            one.instance
        ),
        Held::Brake(Brake::Crowd) => {
            format!("stays {state}: others of its pool that failed are started first")
        }
    };
    Deferral { instance: one.instance.clone(), reason }
}

fn settle(outcome: &mut Outcome, instance: &InstanceRef, result: Result<Granted, Error>) {
    match result {
        Ok(Granted::Changed(change)) => outcome.changes.push(change),
        Ok(Granted::Deferred(reason)) => {
            outcome.deferrals.push(Deferral { instance: instance.clone(), reason });
        }
        Err(error) => outcome.failures.push(Failed { subject: instance.to_string(), error }),
    }
}

fn in_range(counts: Counts) -> Result<u32, Error> {
    for (name, count) in
        [("running", counts.running), ("warm", counts.warm), ("sleeping", counts.sleeping)]
    {
        if count > MAX_COUNT {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{name} is {count}: it must be 0 to {MAX_COUNT}"),
            ));
        }
    }
    Ok(counts.running + counts.warm + counts.sleeping)
}

fn hold(usage: &mut Usage, pool: &Pool, counts: Counts) {
    let places = [
        (counts.running, State::Running, Want::Running),
        (counts.warm, State::Warm, Want::Warm),
        (counts.sleeping, State::Sleeping, Want::Sleeping),
    ];
    for (count, state, want) in places {
        for _ in 0..count {
            usage.hold(pool.instance_resources, state, want);
        }
    }
}
