//! Replacing a pool's running instances by its current build, a few at a time and each in its place.
//!
//! ```text
//! take the oldest ─▶ stop ─▶ start (current build) ─▶ ready within the timeout, and for the soak ─▶ the next
//!                                                  └─▶ not ready ─▶ the former build is current again,
//!                                                                   and those that were taken return to it
//! ```
//!
//! The pool's lock is held from the first to the last, and the pool's record says how far it is, so that the
//! same command goes on after an end of whatever kind. [`plan::roll`] chooses; the moves are those of every
//! other operation. A person's override of an instance stays as it is.

use std::time::Duration;

use mvm_core::{
    error::{Error, ErrorKind},
    event::{Event, EventKind},
    id::{ImageHash, InstanceRef, PoolRef},
    instance::{Drain, Instance, ParkedBy, Want},
    plan,
    pool::{Pool, RevisionName, RollFailure, RollPace, Rolling, Taken},
    port::{GuestAct, GuestAnswer},
    state::State,
    units::Seconds,
    volume::VolumeFate,
};

use super::{
    instance::{Granted, Precedence, Wish},
    living,
};
use crate::{
    converge::FirewallAfter,
    engine::{Context, Engine, Telling},
    outcome::{Acted, Change, Made, Outcome},
    preview::Preview,
    query::Filter,
    run::{self, is_cancelled},
    store::records,
};

/// Between two looks at an instance that shall become ready.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// How long showing that it is ready may take a guest.
const SHOW: Seconds = Seconds(2);

/// A look at an instance that was replaced.
enum Look {
    Ready,
    NotYet(String),
    /// Somebody else has decided otherwise about it.
    Left,
}

impl Engine {
    pub(crate) fn pool_roll(
        &self,
        cx: &Context,
        id: &PoolRef,
        pace: RollPace,
        on_failure: RollFailure,
    ) -> Result<Outcome, Error> {
        pace.validate()?;
        self.within(|tx| living(tx, id))?;
        // Before the pool's lock, because it may need the tenant's.
        self.converge_tenant(&id.tenant)?;
        let _lock = self.lock_pool(id)?;
        let instances = self.look(id)?;
        let (pool, begun) = self.begin_roll(cx, id, &instances)?;
        let Some(mut rolling) = begun else {
            let notes = asleep(&pool, &instances).into_iter().collect();
            return Ok(Outcome { notes, ..Outcome::default() });
        };
        let mut outcome = Outcome::default();
        if rolling.failed.is_none() {
            match self.roll_on(cx, &pool, &mut rolling, pace, &mut outcome) {
                Ok(()) => return self.end_roll(cx, &pool, outcome),
                Err(error) if is_cancelled(&error) => return Err(error),
                Err(error) => {
                    self.tell_failed_roll(cx, &pool, &error)?;
                    if on_failure == RollFailure::Stay {
                        return Err(stayed(id, error));
                    }
                    rolling.failed = Some(error.to_string());
                    rolling.taken.iter_mut().for_each(|one| one.is_ready = false);
                    self.keep_roll(id, Some(&rolling))?;
                }
            }
        }
        Err(self.take_back(cx, &pool, &rolling)?)
    }

    /// What a roll would replace, in order.
    pub(crate) fn preview_roll(&self, id: &PoolRef, pace: RollPace) -> Result<Preview, Error> {
        pace.validate()?;
        let (pool, instances) = self.within(|tx| {
            let (_, pool) = living(tx, id)?;
            Ok((pool, records::list::<Instance>(tx, &id.to_string())?))
        })?;
        has_build(&pool)?;
        let notes = asleep(&pool, &instances).into_iter().collect();
        let Some(rolling) = plan::roll::begin(&pool, &instances) else {
            return Ok(Preview { notes, ..Preview::default() });
        };
        let replace = |one: &Instance| {
            let from =
                one.image.as_ref().map(|image| ("from".to_owned(), image.short().to_owned()));
            let to = ("to".to_owned(), rolling.to.short().to_owned());
            Acted {
                act: "replace".to_owned(),
                subject: one.instance.to_string(),
                detail: from.into_iter().chain([to]).collect(),
            }
        };
        let acts = plan::roll::all(&rolling, &instances).into_iter().map(replace).collect();
        Ok(Preview { acts, notes, ..Preview::default() })
    }

    /// Puts a roll into the pool's record, unless there is nothing to replace.
    fn begin_roll(
        &self,
        cx: &Context,
        id: &PoolRef,
        instances: &[Instance],
    ) -> Result<(Pool, Option<Rolling>), Error> {
        self.within(|tx| {
            let (_, mut pool) = living(tx, id)?;
            has_build(&pool)?;
            let begun = plan::roll::begin(&pool, instances);
            if pool.rolling != begun {
                pool.rolling.clone_from(&begun);
                records::put(tx, &mut pool)?;
            }
            if let Some(rolling) = &begun {
                let event = self.of_roll(cx, id, EventKind::PoolRolling);
                tx.append(&event.with("to", &rolling.to).with("from", &rolling.from))?;
            }
            Ok((pool, begun))
        })
    }

    /// Replaces one batch after the other until nothing is left.
    fn roll_on(
        &self,
        cx: &Context,
        pool: &Pool,
        rolling: &mut Rolling,
        pace: RollPace,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let batch = usize::try_from(pace.batch).unwrap_or(usize::MAX);
        loop {
            cx.cancel.check()?;
            let instances = self.look(&pool.pool)?;
            let next = plan::roll::next(rolling, &instances, batch);
            if next.is_empty() {
                return Ok(());
            }
            let is_next = |one: &Taken| next.iter().any(|next| next.instance == one.instance);
            rolling.taken.retain(|one| !is_next(one));
            let done = rolling.taken.len();
            rolling.taken.extend(next.iter().cloned());
            self.keep_roll(&pool.pool, Some(rolling))?;
            let left = plan::roll::all(rolling, &instances).len();
            cx.tell(&pool.pool, "roll", (done, done + left));
            let results = run::each(self.config.parallel, &next, |taken| {
                self.replace(cx, pool, taken, &rolling.to, Some(pace))
            });
            let mut failed = None;
            for (taken, result) in next.iter().zip(results) {
                match result {
                    Ok(changes) => {
                        outcome.changes.extend(changes);
                        let own =
                            rolling.taken.iter_mut().find(|one| one.instance == taken.instance);
                        own.into_iter().for_each(|one| one.is_ready = true);
                    }
                    // An interruption stands below a failure: what is known to be bad is taken back.
                    Err(error) if failed.as_ref().is_none_or(is_cancelled) => failed = Some(error),
                    Err(_) => {}
                }
            }
            self.keep_roll(&pool.pool, Some(rolling))?;
            failed.map_or(Ok(()), Err)?;
        }
    }

    /// Brings one instance to `to`, in its place; with a pace it must be ready then.
    fn replace(
        &self,
        cx: &Context,
        pool: &Pool,
        taken: &Taken,
        to: &ImageHash,
        pace: Option<RollPace>,
    ) -> Result<Vec<Change>, Error> {
        let PoolRef { tenant, pool: name } = pool.pool.clone();
        let id = InstanceRef { tenant, pool: name, instance: taken.instance.clone() };
        let mut changes = Vec::new();
        let Some(record) = self.seen(&id)? else { return Ok(changes) };
        if record.want == Want::Destroyed || record.state == State::Sleeping {
            return Ok(changes);
        }
        let bring = |want, by| self.bring(cx, &wish(&id, want, by));
        let is_old = record.image.as_ref() != Some(to);
        if is_old && (record.state.has_process() || record.in_flight()) {
            changes.extend(changed(bring(Want::Stopped, ParkedBy::Counts)?));
        }
        let began = self.ports.clock.elapsed();
        let started = bring(Want::Running, ParkedBy::Counts);
        changes.extend(changed(started.map_err(|e| e.context(format!("{id} does not start")))?));
        if let Some(pace) = pace {
            self.await_ready(cx, pool, &id, pace, began)?;
        }
        if let Some(by) = taken.warm
            && self.seen(&id)?.is_some_and(|record| record.is_available())
        {
            changes.extend(changed(bring(Want::Warm, by)?));
        }
        Ok(changes)
    }

    /// Waits until an instance was ready for as long as it must.
    fn await_ready(
        &self,
        cx: &Context,
        pool: &Pool,
        id: &InstanceRef,
        pace: RollPace,
        began: Duration,
    ) -> Result<(), Error> {
        let mut since = None;
        cx.tell(id, "await ready", (0, 0));
        loop {
            let look = self.look_whether_ready(pool, id)?;
            let now = self.ports.clock.elapsed();
            match look {
                Look::Left => return Ok(()),
                Look::Ready
                    if now.saturating_sub(*since.get_or_insert(now)) >= pace.soak.duration() =>
                {
                    return Ok(());
                }
                Look::Ready => {}
                Look::NotYet(why) if now.saturating_sub(began) >= pace.timeout.duration() => {
                    let message = format!("{id} is not ready after {}: {why}", pace.timeout);
                    return Err(Error::new(ErrorKind::Failed, message)
                        .hint(format!("see what it does: mvm instance logs {id}")));
                }
                Look::NotYet(_) => since = None,
            }
            run::pause(&*self.ports.clock, &cx.cancel, BETWEEN_LOOKS)?;
        }
    }

    fn look_whether_ready(&self, pool: &Pool, id: &InstanceRef) -> Result<Look, Error> {
        let Some(record) = self.seen(id)? else { return Ok(Look::Left) };
        if let (State::Stopped, Some(failure)) = (record.state, &record.last_failure) {
            let message = format!("{id} died: {}", failure.reason);
            return Err(Error::new(ErrorKind::Failed, message)
                .hint(format!("see why: mvm instance logs {id}")));
        }
        let Some(address) = record.address().filter(|_| record.is_available()) else {
            return Ok(Look::Left);
        };
        let readiness = pool.policy.readiness.clone();
        let act = GuestAct::Ready { address, readiness, timeout: SHOW };
        Ok(match self.ports.guest.ask(id, &act) {
            Ok(GuestAnswer::Done | GuestAnswer::Partly(_)) => Look::Ready,
            Ok(GuestAnswer::Silent) => Look::NotYet("its agent does not answer".to_owned()),
            Ok(GuestAnswer::Refused(why)) => Look::NotYet(why),
            Err(error) => Look::NotYet(error.to_string()),
        })
    }

    /// Returns to the former build; what is returned is why.
    fn take_back(&self, cx: &Context, pool: &Pool, rolling: &Rolling) -> Result<Error, Error> {
        let id = &pool.pool;
        let former = RevisionName::Prefix(rolling.from.to_string());
        let to = self.make_current(cx, id, &former)?;
        cx.tell(id, "roll back", (0, rolling.taken.len()));
        let results = run::each(self.config.parallel, &rolling.taken, |taken| {
            self.replace(cx, pool, taken, &to, None)
        });
        let why = rolling.failed.clone().unwrap_or_default();
        let mut error = Error::new(
            ErrorKind::Failed,
            format!("the roll of {id} failed, and build {} is current again", to.short()),
        )
        .hint("see what happened: mvm events ".to_owned() + id.tenant.as_str());
        error.causes.push(why);
        let failures: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
        if let Some(stopped) = failures.iter().find(|error| is_cancelled(error)) {
            return Err(stopped.clone());
        }
        if failures.is_empty() {
            self.keep_roll(id, None)?;
        } else {
            error = error.hint(format!("go on with those that did not return: mvm pool roll {id}"));
        }
        error.causes.extend(failures.iter().map(|one| format!("cannot return: {one}")));
        Ok(error)
    }

    fn end_roll(&self, cx: &Context, pool: &Pool, outcome: Outcome) -> Result<Outcome, Error> {
        let id = &pool.pool;
        let instances = self.within(|tx| {
            let mut pool = records::pool(tx, id)?;
            let rolling = pool.rolling.take();
            records::put(tx, &mut pool)?;
            let replaced = rolling.map_or(0, |rolling| rolling.taken.len());
            tx.append(&self.of_roll(cx, id, EventKind::PoolRolled).with("instances", replaced))?;
            records::list::<Instance>(tx, &id.to_string())
        })?;
        let made = pool.current().cloned().map(Made::Image);
        let notes = asleep(pool, &instances).into_iter().collect();
        Ok(Outcome { made, notes, ..outcome })
    }

    fn keep_roll(&self, id: &PoolRef, rolling: Option<&Rolling>) -> Result<(), Error> {
        self.within(|tx| {
            let mut pool = records::pool(tx, id)?;
            if pool.rolling.as_ref() == rolling {
                return Ok(());
            }
            pool.rolling = rolling.cloned();
            records::put(tx, &mut pool)
        })
    }

    fn tell_failed_roll(&self, cx: &Context, pool: &Pool, error: &Error) -> Result<(), Error> {
        let event = self.of_roll(cx, &pool.pool, EventKind::PoolRollFailed);
        self.within(|tx| tx.append(&event.clone().because(error.to_string())))
    }

    fn of_roll(&self, cx: &Context, id: &PoolRef, kind: EventKind) -> Event {
        self.event(&cx.actor, &id.tenant, kind).of_pool(&id.pool)
    }

    /// The instance after a look at it; none when it is gone.
    fn seen(&self, id: &InstanceRef) -> Result<Option<Instance>, Error> {
        match self.instances(&Filter::Instance(id.clone())) {
            Ok(views) => Ok(views.into_iter().next().map(|view| view.record)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn wish(id: &InstanceRef, want: Want, by: ParkedBy) -> Wish {
    Wish {
        instance: id.clone(),
        want,
        by_move: None,
        drain: Drain::Ask,
        by,
        precedence: Precedence::InPassing,
        firewall: FirewallAfter::Each,
        volumes: VolumeFate::Delete,
    }
}

fn changed(granted: Granted) -> Option<Change> {
    match granted {
        Granted::Changed(change) => (change.from != Some(change.to)).then_some(change),
        Granted::Deferred(_) => None,
    }
}

fn has_build(pool: &Pool) -> Result<(), Error> {
    let id = &pool.pool;
    let none = || Error::new(ErrorKind::Conflict, format!("pool {id} has no build"));
    pool.current().map(drop).ok_or_else(|| none().hint(format!("mvm pool build {id}")))
}

fn stayed(id: &PoolRef, error: Error) -> Error {
    let error = Error { kind: ErrorKind::Failed, ..error };
    error.context(format!("the roll of {id} failed and stays where it is")).hint(format!(
        "go on: mvm pool roll {id}; or return: mvm pool rollback {id} --revision 2, and roll"
    ))
}

/// What becomes of those that sleep.
fn asleep(pool: &Pool, instances: &[Instance]) -> Option<String> {
    let count = plan::roll::asleep(instances, pool.current()?);
    (count > 0).then(|| {
        format!("{count} sleep on another build and keep it until they are stopped, or rolled while they run")
    })
}
