//! One instance to what its record wants: observe, notice, plan, run the steps, until at rest.
//!
//! The caller holds the instance's lock. A step that fails is looked at again; when that does not
//! help, the wish goes back to a state in which the instance can rest, and the first error is
//! returned:
//!
//! ```text
//! a base or its clone fails        → it is removed, and the start goes on by a cold boot
//! start fails                      → Ready or Stopped, with last_failure
//! wake fails, snapshot published   → Sleeping
//! wake fails, snapshot retired     → Stopped, with last_failure: its memory is lost
//! warm or sleep fails              → as before it, resumed and thawed
//! secrets cannot be delivered      → Running with those it has
//! stop and destroy                 → stay wanted; the next command goes on
//! ```

mod base;
mod guest;
mod place;
mod record;
mod retreat;

use std::time::Duration;

use mvm_core::{
    effect::{BaseAct, Effect},
    error::{Error, ErrorKind},
    event::{Actor, EventKind},
    instance::{Instance, Want},
    observed::{BootId, ObservedInstance},
    plan::{self, Step, Transition},
    port::Lock,
    state::State,
    units::Generation,
};

use crate::{
    engine::{Context, Engine},
    firewall,
    run::{self, Fault, Patience},
    store::records,
};

/// Where an instance came to rest, and what happened on the way.
#[derive(Debug)]
pub(crate) enum Rest {
    /// With this record.
    There(Box<Instance>, Vec<EventKind>),
    /// It is destroyed.
    Gone(Vec<EventKind>),
}

/// Whether the firewall follows a destroyed instance at once or after many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirewallAfter {
    Each,
    All,
}

impl Engine {
    /// Brings the instance to what its record wants. `seen` is what was observed under the lock,
    /// `origin` the record before the wish: where a failed warm or sleep goes back to.
    pub(crate) fn converge(
        &self,
        cx: &Context,
        origin: Instance,
        record: Instance,
        seen: Option<ObservedInstance>,
        firewall: FirewallAfter,
    ) -> Result<Rest, Error> {
        let course = Course {
            engine: self,
            cx,
            origin,
            record,
            seen,
            boot: None,
            firewall,
            is_gone: false,
            is_drain_silent: false,
            is_clone: false,
            place: None,
            begins_anew: false,
            began: self.ports.clock.elapsed(),
            failed: None,
            first_error: None,
            events: Vec::new(),
        };
        course.run()
    }
}

/// The error of an instance that was found dead.
pub(crate) fn death(record: &Instance, found: &Transition) -> Error {
    Error::new(ErrorKind::Failed, format!("{} died: {}", record.instance, found.reason))
        .hint(format!("see why: mvm instance logs {}", record.instance))
}

/// The error of an instance that cannot be asked or told anything.
fn silence(record: &Instance) -> Error {
    let id = &record.instance;
    Error::new(ErrorKind::Unavailable, format!("the VMM of {id} does not answer"))
        .hint(format!("end it, and start it again: mvm instance stop {id}"))
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
    boot: Option<BootId>,
    firewall: FirewallAfter,
    is_gone: bool,
    is_drain_silent: bool,
    /// Whether a clone of a base was loaded that did not answer yet.
    is_clone: bool,
    /// Held from the first VMM on, until the instance is at rest.
    place: Option<Box<dyn Lock>>,
    /// Whether what was planned is of no use any more.
    begins_anew: bool,
    /// By the clock of this process.
    began: Duration,
    /// What the last round failed of, while it is tried again.
    failed: Option<Error>,
    first_error: Option<Error>,
    events: Vec<EventKind>,
}

impl Course<'_> {
    fn run(mut self) -> Result<Rest, Error> {
        let mut patience = Patience::default();
        loop {
            let fault = match self.round() {
                Ok(Round::AtRest) => break,
                Ok(Round::Gone) => {
                    return self.first_error.map_or(Ok(Rest::Gone(self.events)), Err);
                }
                Ok(Round::Again) => match patience.another_round() {
                    Ok(()) => {
                        self.failed = None;
                        continue;
                    }
                    Err(error) => Fault::last(error),
                },
                Err(fault) => fault,
            };
            if self.is_gone || run::is_cancelled(&fault.error) {
                return Err(self.first_error.unwrap_or(fault.error));
            }
            self.failed = Some(fault.error.clone());
            if let Err(error) = patience.after(fault, &*self.engine.ports.clock) {
                self.fall_back(error)?;
                patience = Patience::default();
            }
        }
        if let Some(error) = self.first_error {
            return Err(error);
        }
        Ok(Rest::There(Box::new(self.record), self.events))
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
        self.boot = Some(seen.boot.clone());
        // What came to its end asleep is on its way: the plan clears up and says so.
        let found = plan::truth::notice(&self.record, &seen);
        if let Some(mut found) = found.filter(|found| found.state == State::Stopped) {
            let mut error = death(&self.record, &found);
            // What came to its end in an act was heard of there first, and with what can be done about it.
            if let Some(failed) = self.failed.take() {
                found.reason = format!("{}: {failed}", found.reason);
                error.causes.push(failed.message);
                error.causes.extend(failed.causes);
                error.hints = [failed.hints, error.hints].concat();
            }
            self.record = self.engine.commit(&Actor::Engine, &self.record, &found, None)?;
            self.first_error.get_or_insert(error);
            self.seen = Some(seen);
            return Ok(Round::Again);
        }
        if plan::instance::is_silent(&self.record, &seen) {
            return Err(silence(&self.record).into());
        }
        let generation = if seen.vmm.is_none() && firewall::is_asked_by(self.record.want) {
            self.engine.within(records::network_generation)?
        } else {
            Generation(0)
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
            if std::mem::take(&mut self.begins_anew) {
                return Ok(Round::Again);
            }
        }
        Ok(match steps.last() {
            _ if self.is_gone => Round::Gone,
            // What was wanted is recorded, which a plan does last: another look would tell no more.
            Some(Step::Record(_)) if !self.record.in_flight() => Round::AtRest,
            _ => Round::Again,
        })
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
                if to.state == State::Running {
                    self.record.boot.clone_from(&self.boot);
                }
                let took = self.engine.ports.clock.elapsed().saturating_sub(self.began);
                self.record = self.engine.commit(&self.cx.actor, &self.record, to, Some(took))?;
                self.events.push(to.event);
                self.is_gone = to.state == State::Destroyed;
                Ok(())
            }
            Step::Tell { event, reason } => Ok(self.tell(*event, reason.clone())?),
        }
    }

    fn act(&mut self, effect: &Effect) -> Result<(), Fault> {
        if matches!(effect, Effect::SpawnVmm { .. }) {
            self.take_place()?;
        }
        tracing::debug!(instance = %self.record.instance, effect = effect.name(), "effect");
        let Err(error) = self.engine.ports.host.execute(effect) else {
            self.is_clone |= matches!(effect, Effect::Base { act: BaseAct::Load, .. });
            return Ok(());
        };
        if let Effect::Base { act, jail } = effect {
            return self.settle_base(*act, jail, error);
        }
        // A guest that cannot be resumed is not asked to shut down; it is stopped all the same.
        if matches!(effect, Effect::ResumeVmm(_)) && self.record.want == Want::Stopped {
            tracing::warn!(instance = %self.record.instance, %error, "cannot resume to shut down");
            return Ok(());
        }
        let act = effect.name().replace('_', " ");
        Err(error.context(format!("cannot {act} for {}", self.record.instance)).into())
    }
}

const fn name(step: &Step) -> &'static str {
    match step {
        Step::Do(effect) => effect.name(),
        Step::Ask(act) => guest::word(act),
        Step::SyncFirewall => "sync_firewall",
        Step::Record(_) => "record",
        Step::Tell { .. } => "tell",
    }
}
