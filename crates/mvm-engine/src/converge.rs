//! One instance to what its record wants: observe, notice, plan, run the steps, until at rest.
//!
//! The caller holds the instance's lock. A step that fails is looked at again; when that does not
//! help, the wish goes back to a state in which the instance can rest, and the first error is
//! returned:
//!
//! ```text
//! start fails                      → Ready or Stopped, with last_failure
//! wake fails, snapshot published   → Sleeping
//! wake fails, snapshot retired     → Stopped, with last_failure: its memory is lost
//! warm or sleep fails              → as before it, resumed and thawed
//! stop and destroy                 → stay wanted; the next command goes on
//! ```

use mvm_core::{
    effect::Effect,
    error::{Error, ErrorKind},
    event::{Actor, Event, EventKind},
    instance::{Drain, Failure, Instance, Want},
    observed::{ObservedInstance, Phase, SnapshotPhase},
    plan::{self, Step, Transition},
    port::{GuestAct, GuestAnswer, Table},
    state::State,
};

use crate::{
    engine::{Context, Engine, Telling},
    firewall,
    run::{self, Fault, Patience},
    store::records,
};

/// Where an instance came to rest.
#[derive(Debug)]
pub(crate) enum Rest {
    /// With this record.
    There(Box<Instance>),
    /// It is destroyed.
    Gone,
}

/// Whether the firewall follows a destroyed instance at once or after many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirewallAfter {
    Each,
    All,
}

impl Engine {
    /// Brings the instance to what its record wants. `seen` is what was observed under the lock.
    pub(crate) fn converge(
        &self,
        cx: &Context,
        record: Instance,
        seen: Option<ObservedInstance>,
        firewall: FirewallAfter,
    ) -> Result<Rest, Error> {
        let course = Course {
            engine: self,
            cx,
            origin: record.clone(),
            record,
            seen,
            firewall,
            is_gone: false,
            is_drain_silent: false,
            first_error: None,
        };
        course.run()
    }

    /// Commits a transition with its events; none is left of a destroyed instance.
    pub(crate) fn commit(
        &self,
        actor: &Actor,
        record: &Instance,
        to: &Transition,
    ) -> Result<Instance, Error> {
        let mut changed = record.clone();
        apply(&mut changed, to, self.ports.clock.now());
        self.within(|tx| {
            let mut changed = changed.clone();
            for event in self.events_of(actor, record, to) {
                tx.append(&event)?;
            }
            if to.state == State::Destroyed {
                tx.delete(Table::Instances, &record.instance.to_string())?;
                records::raise_network_generation(tx)?;
            } else {
                records::put(tx, &mut changed)?;
            }
            Ok(changed)
        })
    }

    fn events_of(&self, actor: &Actor, record: &Instance, to: &Transition) -> Vec<Event> {
        let event = |kind| {
            self.event(actor, &record.instance.tenant, kind)
                .of_pool(&record.instance.pool)
                .of_instance(&record.instance.instance)
        };
        let mut events = Vec::new();
        match (record.state, to.event) {
            (_, EventKind::InstanceSlept) => {
                let published = event(EventKind::SnapshotPublished);
                events.push(published.with("epoch", record.epoch.0));
            }
            (State::Sleeping, EventKind::InstanceStopped | EventKind::InstanceDestroyed) => {
                let discarded = event(EventKind::SnapshotDiscarded);
                events.push(discarded.with("epoch", record.epoch.0));
            }
            (_, _) => {}
        }
        events.push(event(to.event).because(to.reason.clone()).with("from", record.state));
        events
    }
}

fn apply(record: &mut Instance, to: &Transition, now: mvm_core::units::Timestamp) {
    if record.state != to.state {
        record.state_since = now;
    }
    record.state = to.state;
    match to.state {
        State::Running => {
            record.epoch = record.epoch.next();
            record.last_failure = None;
            if record.want == Want::Running {
                record.parked_by = None;
            }
        }
        State::Created | State::Ready | State::Stopped => record.parked_by = None,
        State::Warm | State::Sleeping | State::Destroyed => {}
    }
    if to.event == EventKind::InstanceFailed {
        record.want = Want::rest(to.state);
        record.last_failure = Some(Failure { at: now, reason: to.reason.clone() });
    }
}

/// The error of an instance that was found dead.
pub(crate) fn death(record: &Instance, found: &Transition) -> Error {
    Error::new(ErrorKind::Failed, format!("{} died: {}", record.instance, found.reason))
        .hint(format!("see why: mvm instance logs {}", record.instance))
}

enum Round {
    AtRest,
    Again,
    Gone,
}

struct Course<'a> {
    engine: &'a Engine,
    cx: &'a Context,
    record: Instance,
    origin: Instance,
    seen: Option<ObservedInstance>,
    firewall: FirewallAfter,
    is_gone: bool,
    is_drain_silent: bool,
    first_error: Option<Error>,
}

impl Course<'_> {
    fn run(mut self) -> Result<Rest, Error> {
        let mut patience = Patience::default();
        loop {
            let fault = match self.round() {
                Ok(Round::AtRest) => break,
                Ok(Round::Gone) => return self.first_error.map_or(Ok(Rest::Gone), Err),
                Ok(Round::Again) => match patience.another_round() {
                    Ok(()) => continue,
                    Err(error) => Fault::last(error),
                },
                Err(fault) => fault,
            };
            if self.is_gone || run::is_cancelled(&fault.error) {
                return Err(self.first_error.unwrap_or(fault.error));
            }
            if let Err(error) = patience.after(fault, &*self.engine.ports.clock) {
                self.fall_back(error)?;
                patience = Patience::default();
            }
        }
        if let Some(error) = self.first_error {
            return Err(error);
        }
        Ok(Rest::There(Box::new(self.record)))
    }

    fn no_image(&self) -> Error {
        let pool = self.record.instance.pool_ref();
        Error::new(ErrorKind::Conflict, format!("{} has no image to boot", self.record.instance))
            .hint(format!("build its pool first: mvm pool build {pool}"))
    }

    fn round(&mut self) -> Result<Round, Fault> {
        self.cx.cancel.check()?;
        let seen = match self.seen.take() {
            Some(seen) => seen,
            None => self.engine.ports.host.observe_instance(&self.record)?,
        };
        if let Some(found) = plan::truth::notice(&self.record, &seen) {
            let error = death(&self.record, &found);
            self.record = self.engine.commit(&Actor::Engine, &self.record, &found)?;
            self.first_error.get_or_insert(error);
            self.seen = Some(seen);
            return Ok(Round::Again);
        }
        let generation = if seen.vmm.is_none() && firewall::is_asked_by(self.record.want) {
            self.engine.within(records::network_generation)?
        } else {
            mvm_core::units::Generation(0)
        };
        let steps = plan::instance::plan(&self.record, &seen, generation);
        if steps.is_empty() {
            return if self.record.in_flight() {
                Err(Fault::last(self.no_image()))
            } else {
                Ok(Round::AtRest)
            };
        }
        for (place, step) in steps.iter().enumerate() {
            self.cx.cancel.check()?;
            self.cx.tell(&self.record.instance, name(step), (place, steps.len()));
            self.step(step)?;
        }
        Ok(if self.is_gone { Round::Gone } else { Round::Again })
    }

    fn step(&mut self, step: &Step) -> Result<(), Fault> {
        match step {
            Step::Do(effect) => self.act(effect),
            Step::Ask(act) => self.ask(act),
            Step::SyncFirewall => {
                if self.is_gone && self.firewall == FirewallAfter::All {
                    return Ok(());
                }
                self.engine.sync_firewall(&self.record.network).map_err(Fault::last)
            }
            Step::Record(to) => {
                self.record = self.engine.commit(&self.cx.actor, &self.record, to)?;
                self.is_gone = to.state == State::Destroyed;
                Ok(())
            }
        }
    }

    fn act(&self, effect: &Effect) -> Result<(), Fault> {
        tracing::debug!(instance = %self.record.instance, effect = effect.name(), "effect");
        self.engine.ports.host.execute(effect).map_err(|error| {
            let act = effect.name().replace('_', " ");
            Fault::from(error.context(format!("cannot {act} for {}", self.record.instance)))
        })
    }

    fn ask(&mut self, act: &GuestAct) -> Result<(), Fault> {
        let id = &self.record.instance;
        tracing::debug!(instance = %id, ?act, "asks the guest");
        let stopping = self.record.want == Want::Stopped;
        let answer = match self.engine.ports.guest.ask(id, act) {
            Ok(answer) => answer,
            Err(error) if stopping => {
                tracing::warn!(instance = %id, %error, "the guest cannot be asked; it is stopped");
                return Ok(());
            }
            Err(error) => {
                return Err(error.context(format!("cannot ask the guest of {id}")).into());
            }
        };
        let is_forced = self.is_drain_silent || self.record.drain == Drain::Skip;
        match (act, answer) {
            (_, GuestAnswer::Done) | (GuestAct::Shutdown { .. }, _) => Ok(()),
            (GuestAct::Thaw, _) if stopping => Ok(()),
            (GuestAct::Quiesce, _) if is_forced => Ok(()),
            (GuestAct::Drain { timeout }, GuestAnswer::Silent) => {
                let reason = format!("no answer within {timeout}");
                self.is_drain_silent = true;
                Ok(self.tell(EventKind::DrainForced, reason)?)
            }
            (GuestAct::Drain { .. }, GuestAnswer::Refused(why)) => Err(Fault::last(
                Error::new(
                    ErrorKind::Conflict,
                    format!("the guest of {id} refuses to sleep: {why}"),
                )
                .hint("wait until it is done, or sleep it all the same with --force"),
            )),
            (_, GuestAnswer::Silent) => Err(Fault::last(
                Error::new(
                    ErrorKind::Unavailable,
                    format!("the guest of {id} does not answer ({})", word(act)),
                )
                .hint(format!("see what it does: mvm instance logs {id}")),
            )),
            (_, GuestAnswer::Refused(why)) => Err(Fault::last(Error::new(
                ErrorKind::Failed,
                format!("the guest of {id} refuses ({}): {why}", word(act)),
            ))),
        }
    }

    fn tell(&self, kind: EventKind, reason: String) -> Result<(), Error> {
        let id = &self.record.instance;
        let event = self
            .engine
            .event(&self.cx.actor, &id.tenant, kind)
            .of_pool(&id.pool)
            .of_instance(&id.instance)
            .because(reason);
        self.engine.within(|tx| tx.append(&event))
    }

    /// Sets the wish to a state in which the instance can rest, or returns the error when there is
    /// none or the way there failed too.
    fn fall_back(&mut self, error: Error) -> Result<(), Error> {
        if let Some(first) = self.first_error.take() {
            tracing::warn!(%error, "the way back failed as well");
            return Err(first.hint(format!("the way back failed as well: {error}")));
        }
        let to = match (self.record.state, self.record.want) {
            (_, Want::Idle | Want::Stopped | Want::Destroyed) => return Err(error),
            (State::Running, Want::Running)
            | (State::Warm, Want::Warm)
            | (State::Sleeping, Want::Sleeping) => return Err(error),
            (State::Created | State::Ready | State::Stopped | State::Destroyed, _) => {
                let rest = Want::rest(self.record.state);
                return self.retreat(error, rest, true);
            }
            (State::Sleeping, _) => return self.leave_wake(error),
            (State::Warm, Want::Running) => Want::Warm,
            (State::Running | State::Warm, _) => match self.origin.state {
                State::Warm if self.origin.want == Want::Sleeping => Want::Running,
                State::Warm => Want::Warm,
                State::Created | State::Ready | State::Stopped => Want::Stopped,
                State::Running | State::Sleeping | State::Destroyed => Want::Running,
            },
        };
        self.thaw();
        self.retreat(error, to, false)
    }

    fn leave_wake(&mut self, error: Error) -> Result<(), Error> {
        let Ok(seen) = self.engine.ports.host.observe_instance(&self.record) else {
            return Err(error);
        };
        if seen.snapshots.get(&self.record.epoch) == Some(&SnapshotPhase::Published) {
            return self.retreat(error, Want::Sleeping, false);
        }
        let lost = Transition {
            state: State::Stopped,
            event: EventKind::InstanceFailed,
            reason: format!("lost while waking: {error}"),
        };
        match self.engine.commit(&Actor::Engine, &self.record, &lost) {
            Ok(record) => self.record = record,
            Err(_) => return Err(error),
        }
        self.first_error = Some(error);
        Ok(())
    }

    /// A guest that was drained and frozen but never paused: no later plan would thaw it. This
    /// comes before the change of the wish, so that a crash in between goes on with the sleep.
    fn thaw(&self) {
        let Ok(seen) = self.engine.ports.host.observe_instance(&self.record) else { return };
        if seen.vmm.is_some_and(|vmm| vmm.phase == Phase::Running)
            && let Err(error) = self.engine.ports.guest.ask(&self.record.instance, &GuestAct::Thaw)
        {
            tracing::warn!(%error, "the guest cannot be thawed");
        }
    }

    fn retreat(&mut self, error: Error, to: Want, is_failure: bool) -> Result<(), Error> {
        let now = self.engine.ports.clock.now();
        let mut changed = self.record.clone();
        changed.want = to;
        changed.parked_by = match to {
            Want::Warm | Want::Sleeping => self.origin.parked_by,
            Want::Idle | Want::Running | Want::Stopped | Want::Destroyed => None,
        };
        let mut event = None;
        if is_failure {
            changed.last_failure = Some(Failure { at: now, reason: error.to_string() });
            let id = &changed.instance;
            event = Some(
                self.engine
                    .event(&Actor::Engine, &id.tenant, EventKind::InstanceFailed)
                    .of_pool(&id.pool)
                    .of_instance(&id.instance)
                    .because(error.to_string())
                    .with("from", changed.state),
            );
        }
        let stored = self.engine.within(|tx| {
            let mut changed = changed.clone();
            records::put(tx, &mut changed)?;
            if let Some(event) = &event {
                tx.append(event)?;
            }
            Ok(changed)
        });
        match stored {
            Ok(record) => self.record = record,
            Err(second) => {
                return Err(error.hint(format!("the way back failed as well: {second}")));
            }
        }
        self.first_error = Some(error);
        Ok(())
    }
}

const fn name(step: &Step) -> &'static str {
    match step {
        Step::Do(effect) => effect.name(),
        Step::Ask(act) => word(act),
        Step::SyncFirewall => "sync_firewall",
        Step::Record(_) => "record",
    }
}

const fn word(act: &GuestAct) -> &'static str {
    match act {
        GuestAct::Await { .. } => "await_agent",
        GuestAct::Drain { .. } => "drain",
        GuestAct::Quiesce => "quiesce",
        GuestAct::Wake { .. } => "wake",
        GuestAct::Thaw => "thaw",
        GuestAct::Shutdown { .. } => "shutdown",
    }
}
