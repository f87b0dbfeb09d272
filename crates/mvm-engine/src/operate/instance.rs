//! Moving an instance.
//!
//! A move under the instance's lock: load → observe → notice the truth → is it legal → finish what
//! was under way → admit and record the wish → converge.

use mvm_core::{
    error::{Error, ErrorKind},
    event::{Actor, EventKind},
    id::{InstanceRef, Subject},
    instance::{Drain, Instance, ParkedBy, Want},
    observed::ObservedInstance,
    plan,
    port::Transaction,
    quota::Capacity,
    state::{Move, State},
    units::Generation,
    volume::VolumeFate,
};

use super::{
    living,
    secrets::{grant, takes_newest},
    volume::leave,
};
use crate::{
    admit,
    converge::{FirewallAfter, Rest},
    engine::{Context, Engine, Telling},
    outcome::{Change, Outcome},
    run,
    store::records,
};

/// A wish about one instance.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) instance: InstanceRef,
    pub(crate) want: Want,
    /// The move that must be legal; the counts need none.
    pub(crate) by_move: Option<Move>,
    pub(crate) drain: Drain,
    pub(crate) by: ParkedBy,
    pub(crate) precedence: Precedence,
    pub(crate) firewall: FirewallAfter,
    /// What becomes of its volume when it is destroyed.
    pub(crate) volumes: VolumeFate,
}

/// Whether an instance has a volume that can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HasVolume(bool);

impl HasVolume {
    pub(crate) fn seen(record: &Instance, seen: Option<&ObservedInstance>) -> Self {
        Self(record.volume.joining.is_some() || seen.is_none_or(|seen| seen.volume.is_some()))
    }
}

/// Whether a wish stands above an earlier command of a person (SPEC §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precedence {
    /// A person asks, who may change their mind at any time.
    Person,
    /// Policy or counts ask by themselves, and wait for the override to end.
    Background,
    /// The instance leaves its state only to come back to it: an override holds nothing, and stays.
    InPassing,
}

impl Precedence {
    pub(crate) const fn of(actor: &Actor) -> Self {
        match actor {
            // Who asks a node to move one instance is a person with a certificate.
            Actor::Uid(_) | Actor::Certificate(_) => Self::Person,
            Actor::Engine | Actor::Policy => Self::Background,
        }
    }
}

/// What came of a wish.
#[derive(Debug)]
pub(crate) enum Granted {
    Changed(Change),
    Deferred(String),
}

/// Who a wish counts as, by who asks.
pub(crate) const fn mover(actor: &Actor) -> ParkedBy {
    match actor {
        Actor::Uid(_) | Actor::Certificate(_) => ParkedBy::Person,
        Actor::Engine => ParkedBy::Counts,
        Actor::Policy => ParkedBy::Policy,
    }
}

const fn target(wish: Move) -> Option<Want> {
    match wish {
        Move::Prepare => None,
        Move::Start | Move::Wake => Some(Want::Running),
        Move::Warm => Some(Want::Warm),
        Move::Sleep => Some(Want::Sleeping),
        Move::Stop => Some(Want::Stopped),
        Move::Destroy => Some(Want::Destroyed),
    }
}

impl Engine {
    pub(crate) fn instance_move(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        wish: Move,
        drain: Drain,
    ) -> Result<Outcome, Error> {
        let wish = self.wish(cx, instance, wish, drain)?;
        match self.bring(cx, &wish)? {
            Granted::Changed(change) => Ok(Outcome { changes: vec![change], ..Outcome::default() }),
            Granted::Deferred(reason) => Err(Error::new(ErrorKind::Conflict, reason)),
        }
    }

    pub(crate) fn instance_destroy(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        volumes: VolumeFate,
    ) -> Result<Outcome, Error> {
        let wish = self.wish(cx, instance, Move::Destroy, Drain::Ask)?;
        match self.bring(cx, &Wish { volumes, ..wish })? {
            Granted::Changed(change) => Ok(Outcome { changes: vec![change], ..Outcome::default() }),
            Granted::Deferred(reason) => Err(Error::new(ErrorKind::Conflict, reason)),
        }
    }

    pub(crate) fn wish(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        wish: Move,
        drain: Drain,
    ) -> Result<Wish, Error> {
        let Some(want) = target(wish) else {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{instance} becomes Ready when its pool has a build"),
            )
            .hint(format!("mvm pool build {}", instance.pool_ref())));
        };
        Ok(Wish {
            instance: instance.clone(),
            want,
            by_move: Some(wish),
            drain,
            by: mover(&cx.actor),
            precedence: Precedence::of(&cx.actor),
            firewall: FirewallAfter::Each,
            volumes: VolumeFate::Delete,
        })
    }

    /// Grants a wish under the instance's lock, and waits until the instance is there.
    pub(crate) fn bring(&self, cx: &Context, wish: &Wish) -> Result<Granted, Error> {
        let start = self.ports.clock.elapsed();
        self.within(|tx| records::instance(tx, &wish.instance))?;
        let lock = self.lock(&Subject::Instance(wish.instance.clone()))?;
        let (record, seen) = match self.truth(&wish.instance) {
            Ok(truth) => truth,
            Err(error) if error.kind == ErrorKind::NotFound => {
                lock.retire();
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let from = record.state;
        let change = |to, events| {
            let duration_ms = self.milliseconds_since(start);
            let instance = wish.instance.clone();
            Granted::Changed(Change { instance, from: Some(from), to, events, duration_ms })
        };
        legal(&record, wish)?;
        if wish.precedence == Precedence::Background
            && wish.want != Want::Destroyed
            && record.is_overridden(self.ports.clock.now())
        {
            return Ok(Granted::Deferred("a person's command is more recent".to_owned()));
        }
        let (record, seen, mut events) = match self.finish(cx, record, seen, wish)? {
            Underway::Done(record, events) => return Ok(change(record.state, events)),
            Underway::Resting(record, seen, events) => (*record, seen.map(|seen| *seen), events),
        };
        let origin = record.clone();
        let record = self.record_wish(cx, record, wish, seen.as_ref())?;
        // What was seen tells of the base of the build that it had.
        let seen = seen.filter(|_| record.image == origin.image);
        match self.lead(cx, origin, record, seen, wish.firewall)? {
            Rest::There(record, more) => {
                events.extend(more);
                Ok(change(record.state, events))
            }
            Rest::Gone(more) => {
                events.extend(more);
                lock.retire();
                Ok(change(State::Destroyed, events))
            }
        }
    }

    /// Converges, and lets gateways know: before a guest that takes traffic is asked to leave, and
    /// once one that came takes it or one that rests may be called.
    fn lead(
        &self,
        cx: &Context,
        origin: Instance,
        record: Instance,
        seen: Option<ObservedInstance>,
        firewall: FirewallAfter,
    ) -> Result<Rest, Error> {
        let (id, pool) = (record.instance.clone(), record.instance.pool_ref());
        if origin.is_available() && !record.is_available() {
            self.share_routes(&pool);
        }
        let before = (record.is_available(), record.is_on_call());
        let rest = self.converge(cx, origin, record, seen, firewall);
        let role = |record: &Instance| (record.is_available(), record.is_on_call());
        let after = match &rest {
            Ok(Rest::There(record, _)) => role(record),
            Ok(Rest::Gone(_)) => (false, false),
            Err(_) => self.within(|tx| records::instance(tx, &id)).map_or(before, |r| role(&r)),
        };
        if after != before {
            self.share_routes(&pool);
        }
        rest
    }

    /// The record after a look at the instance; the caller holds its lock.
    pub(crate) fn truth(&self, id: &InstanceRef) -> Result<(Instance, ObservedInstance), Error> {
        let record = self.within(|tx| self.prepared(tx, id))?;
        let seen =
            run::patiently(&*self.ports.clock, || self.ports.host.observe_instance(&record))?;
        match plan::truth::notice(&record, &seen) {
            Some(found) => {
                let found = self.commit(&Actor::Engine, &record, &found, None)?;
                if record.is_available() {
                    self.share_routes(&id.pool_ref());
                }
                Ok((found, seen))
            }
            None => Ok((record, seen)),
        }
    }

    /// Finishes what is under way and clears what was left behind, unless the instance shall stop.
    fn finish(
        &self,
        cx: &Context,
        record: Instance,
        seen: ObservedInstance,
        wish: &Wish,
    ) -> Result<Underway, Error> {
        let is_leaving = record.want == Want::Destroyed;
        if wish.want == Want::Destroyed || (wish.want == Want::Stopped && !is_leaving) {
            return Ok(Underway::Resting(Box::new(record), Some(Box::new(seen)), Vec::new()));
        }
        let is_clean = plan::instance::plan(&record, &seen, Generation(0)).is_empty();
        if is_clean && !record.in_flight() {
            return Ok(Underway::Resting(Box::new(record), Some(Box::new(seen)), Vec::new()));
        }
        let record = if takes_newest(record.state, record.want) {
            self.within(|tx| grant(tx, &record))?
        } else {
            record
        };
        let was_same = record.want == wish.want;
        match self.lead(cx, record.clone(), record, Some(seen), wish.firewall)? {
            Rest::There(record, events) if was_same => Ok(Underway::Done(record, events)),
            Rest::There(record, events) => {
                legal(&record, wish)?;
                Ok(Underway::Resting(record, None, events))
            }
            Rest::Gone(_) => Err(Error::new(
                ErrorKind::NotFound,
                format!("{} was being destroyed and is gone", wish.instance),
            )),
        }
    }

    fn record_wish(
        &self,
        cx: &Context,
        record: Instance,
        wish: &Wish,
        seen: Option<&ObservedInstance>,
    ) -> Result<Instance, Error> {
        let capacity = self.capacity()?;
        let has_volume = HasVolume::seen(&record, seen);
        let admitted = self.admit_disk(&record, seen, wish.want).and_then(|()| {
            self.within(|tx| {
                if wish.by == ParkedBy::Person && wish.precedence == Precedence::Person {
                    self.tell_override(tx, &cx.actor, &record, wish.want)?;
                }
                self.admit_wish(tx, &record, wish, capacity, has_volume)
            })
        });
        if let Err(error) = &admitted
            && error.kind == ErrorKind::Refused
        {
            self.tell_refusal(cx, &wish.instance, error);
        }
        admitted
    }

    /// Checks a wish against quota and capacity and puts it into the record.
    pub(crate) fn admit_wish(
        &self,
        tx: &mut dyn Transaction,
        record: &Instance,
        wish: &Wish,
        capacity: Option<Capacity>,
        has_volume: HasVolume,
    ) -> Result<Instance, Error> {
        let stored = record;
        let mut record = record.clone();
        if wish.want == Want::Destroyed {
            leave(tx, &mut record, wish.volumes, has_volume.0, self.ports.clock.now())?;
        }
        if !matches!(wish.want, Want::Stopped | Want::Destroyed) {
            let (tenant, pool) = living(tx, &wish.instance.pool_ref())?;
            let wanted = Instance { want: wish.want, ..stored.clone() };
            admit::check(tx, &tenant, Some(stored), &wanted, capacity)?;
            if matches!(record.state, State::Ready | State::Stopped) {
                record.image = pool.current().cloned().or(record.image);
                record.secrets.scopes.clone_from(&pool.secret_scopes);
            }
            if takes_newest(record.state, wish.want) {
                record.secrets.epoch = tenant.secrets_epoch();
            }
            record.integrations = pool.integrations;
            record.compression = pool.policy.snapshot_compression;
            record.routing_table = pool.routing_table;
        }
        record.want = wish.want;
        record.drain = wish.drain;
        if matches!(wish.want, Want::Warm | Want::Sleeping) {
            record.parked_by = Some(wish.by);
        }
        if wish.precedence == Precedence::Person {
            record.failures = 0;
        }
        record.manual_override_until = match (wish.precedence, wish.by) {
            (Precedence::Person, ParkedBy::Person) => {
                Some(self.ports.clock.now().plus(self.config.manual_override))
            }
            // A person set the counts: from now on those decide.
            (Precedence::Person, ParkedBy::Counts | ParkedBy::Policy) => None,
            (Precedence::Background | Precedence::InPassing, _) => record.manual_override_until,
        };
        records::put(tx, &mut record)?;
        Ok(record)
    }

    /// Tells that a person's command comes before a minimum time is over: those bind policy and counts
    /// only (SPEC §7).
    fn tell_override(
        &self,
        tx: &mut dyn Transaction,
        actor: &Actor,
        record: &Instance,
        want: Want,
    ) -> Result<(), Error> {
        let least = match (record.state, want) {
            (State::Running, Want::Warm | Want::Sleeping | Want::Stopped) => {
                record.policy.min_running_seconds
            }
            (State::Warm, Want::Sleeping) => record.policy.min_warm_seconds,
            (_, _) => return Ok(()),
        };
        if record.state_since.plus(least) <= self.ports.clock.now() {
            return Ok(());
        }
        let event = self
            .event(actor, &record.instance.tenant, EventKind::MinRuntimeOverridden)
            .of_pool(&record.instance.pool)
            .of_instance(&record.instance.instance)
            .because(format!("{} for less than {least}", record.state))
            .with("from", record.state)
            .with("to", want.state(record.state));
        tx.append(&event)
    }

    /// The record of an instance, Ready if its pool got a build since.
    fn prepared(&self, tx: &mut dyn Transaction, id: &InstanceRef) -> Result<Instance, Error> {
        let mut record = records::instance(tx, id)?;
        if record.state == State::Created
            && let Some(image) = records::pool(tx, &id.pool_ref())?.current()
        {
            record.state = State::Ready;
            record.image = Some(image.clone());
            records::put(tx, &mut record)?;
            let event = self
                .event(&Actor::Engine, &id.tenant, EventKind::InstanceReady)
                .of_pool(&id.pool)
                .of_instance(&id.instance);
            tx.append(&event.because("its pool has a build").with("image", image))?;
        }
        Ok(record)
    }
}

enum Underway {
    Resting(Box<Instance>, Option<Box<ObservedInstance>>, Vec<EventKind>),
    Done(Box<Instance>, Vec<EventKind>),
}

/// Whether the wish is legal in the instance's state, or in the one that it is on its way to.
pub(crate) fn legal(record: &Instance, wish: &Wish) -> Result<(), Error> {
    let Some(by_move) = wish.by_move else { return Ok(()) };
    let Err(illegal) = record.state.next(by_move) else { return Ok(()) };
    let arriving = record.want.state(record.state);
    let is_repeated = record.in_flight() && record.want == wish.want;
    if is_repeated || (record.in_flight() && arriving.next(by_move).is_ok()) {
        return Ok(());
    }
    let mut error =
        Error::new(ErrorKind::Conflict, format!("cannot {by_move} {}", record.instance))
            .because(&illegal);
    if let Some(failure) = &record.last_failure {
        error = error.hint(format!("it died before: {}", failure.reason));
    }
    let hint = match (record.state, by_move) {
        (State::Created, _) => Some(format!("mvm pool build {}", record.instance.pool_ref())),
        (State::Warm | State::Sleeping, Move::Start) => {
            Some(format!("mvm instance wake {}", record.instance))
        }
        (State::Ready | State::Stopped, Move::Wake) => {
            Some(format!("mvm instance start {}", record.instance))
        }
        (_, _) => None,
    };
    Err(hint.into_iter().fold(error, Error::hint))
}
