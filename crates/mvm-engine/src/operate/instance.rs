//! Making an instance and moving it.
//!
//! A move under the instance's lock: load → observe → notice the truth → is it legal → finish what
//! was under way → admit and record the wish → converge.

use mvm_core::{
    alloc,
    error::{Error, ErrorKind},
    event::{Actor, EventKind},
    id::{InstanceId, InstanceRef, PoolRef, Subject},
    instance::{Drain, Instance, ParkedBy, Want},
    net::Offset,
    observed::ObservedInstance,
    plan,
    pool::Pool,
    port::Transaction,
    quota::Capacity,
    state::{Move, State},
    tenant::Tenant,
    units::{Generation, Uid},
};

use crate::{
    admit,
    converge::{FirewallAfter, Rest},
    engine::{Context, Engine, Telling},
    outcome::{Change, Made, Outcome},
    run,
    store::records,
};

/// How often a drawn id may be taken before the store is taken for broken.
const DRAWS: u32 = 64;

/// A wish about one instance.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) instance: InstanceRef,
    pub(crate) want: Want,
    /// The move that must be legal; the counts need none.
    pub(crate) by_move: Option<Move>,
    pub(crate) drain: Drain,
    pub(crate) by: ParkedBy,
    pub(crate) firewall: FirewallAfter,
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
        Actor::Uid(_) => ParkedBy::Person,
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

/// The refusal of a tenant or pool that is going.
pub(crate) fn refuse_destroying(
    what: &str,
    id: &dyn std::fmt::Display,
    is: bool,
) -> Result<(), Error> {
    if !is {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, format!("{what} {id} is being destroyed"))
        .hint(format!("finish it: mvm {what} destroy {id} --force")))
}

/// The tenant and the pool, neither of them going.
pub(crate) fn living(tx: &mut dyn Transaction, id: &PoolRef) -> Result<(Tenant, Pool), Error> {
    let tenant = records::tenant(tx, &id.tenant)?;
    refuse_destroying("tenant", &id.tenant, tenant.destroying)?;
    let pool = records::pool(tx, id)?;
    refuse_destroying("pool", id, pool.destroying)?;
    Ok((tenant, pool))
}

impl Engine {
    pub(crate) fn instance_create(&self, cx: &Context, pool: &PoolRef) -> Result<Outcome, Error> {
        let record = self.instance_record(cx, pool)?;
        self.sync_firewall(&record.network)?;
        Ok(Outcome { made: Some(Made::Instance(Box::new(record))), ..Outcome::default() })
    }

    /// Makes the record of a new instance; its tenant's network is whole then, the firewall not.
    pub(crate) fn instance_record(&self, cx: &Context, pool: &PoolRef) -> Result<Instance, Error> {
        self.converge_tenant(&pool.tenant)?;
        self.within(|tx| self.instance_allocate(tx, cx, pool))
    }

    /// Chooses id, address and uid of a new instance and puts its record.
    pub(crate) fn instance_allocate(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        id: &PoolRef,
    ) -> Result<Instance, Error> {
        let (tenant, pool) = living(tx, id)?;
        let held = records::list::<Instance>(tx, &id.to_string())?.len();
        let limit = tenant.quotas.max_instances_per_pool;
        if held >= limit as usize {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("pool {id} has {held} instances (limit {limit})"),
            )
            .hint("destroy one, or raise --max-instances-per-pool"));
        }
        let now = self.ports.clock.now();
        let state = if pool.current().is_some() { State::Ready } else { State::Created };
        let mut record = Instance {
            instance: self.free_id(tx, id)?,
            network: tenant.network.clone(),
            offset: free_offset(tx, &tenant)?,
            uid: free_uid(tx)?,
            resources: pool.instance_resources,
            role: pool.role.clone(),
            policy: pool.runtime_policy,
            image: pool.current().cloned(),
            keyed: tenant.keyed,
            state,
            want: Want::Idle,
            drain: Drain::Ask,
            epoch: Generation(0),
            parked_by: None,
            manual_override_until: None,
            last_failure: None,
            created_at: now,
            state_since: now,
            generation: Generation(0),
        };
        admit_new(tx, &tenant, &record)?;
        let key = record.instance.to_string();
        tx.claim(&format!("instance/{}", record.instance.instance), &key)?;
        tx.claim(&format!("address/{}/{}", record.network.net, record.offset.0), &key)?;
        tx.claim(&format!("uid/{}", record.uid.0), &key)?;
        records::put(tx, &mut record)?;
        records::raise_network_generation(tx)?;
        let event = self
            .event(&cx.actor, &id.tenant, EventKind::InstanceCreated)
            .of_pool(&id.pool)
            .of_instance(&record.instance.instance);
        tx.append(&event)?;
        Ok(record)
    }

    fn free_id(&self, tx: &mut dyn Transaction, pool: &PoolRef) -> Result<InstanceRef, Error> {
        for _ in 0..DRAWS {
            let instance = InstanceRef {
                tenant: pool.tenant.clone(),
                pool: pool.pool.clone(),
                instance: InstanceId::from_random(self.ports.clock.draw()),
            };
            if tx.claim(&format!("instance/{}", instance.instance), &instance.to_string()).is_ok()
                && records::find::<Instance>(tx, &instance.to_string())?.is_none()
            {
                return Ok(instance);
            }
        }
        Err(Error::new(ErrorKind::Failed, format!("no free instance id in {DRAWS} draws")))
    }

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
            firewall: FirewallAfter::Each,
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
        let change = |to| {
            let duration_ms = self.milliseconds_since(start);
            let instance = wish.instance.clone();
            Granted::Changed(Change { instance, from: Some(from), to, duration_ms })
        };
        legal(&record, wish)?;
        if let Some(until) = record.manual_override_until
            && wish.by != ParkedBy::Person
            && wish.want != Want::Destroyed
            && until > self.ports.clock.now()
        {
            return Ok(Granted::Deferred("a person's command is more recent".to_owned()));
        }
        let (record, seen) = match self.finish(cx, record, seen, wish)? {
            Underway::Done(record) => return Ok(change(record.state)),
            Underway::Resting(record, seen) => (*record, seen),
        };
        let record = self.record_wish(cx, record, wish)?;
        match self.converge(cx, record, seen, wish.firewall)? {
            Rest::There(record) => Ok(change(record.state)),
            Rest::Gone => {
                lock.retire();
                Ok(change(State::Destroyed))
            }
        }
    }

    /// The record after a look at the instance; the caller holds its lock.
    pub(crate) fn truth(&self, id: &InstanceRef) -> Result<(Instance, ObservedInstance), Error> {
        let record = self.within(|tx| prepared(tx, id))?;
        let seen =
            run::patiently(&*self.ports.clock, || self.ports.host.observe_instance(&record))?;
        match plan::truth::notice(&record, &seen) {
            Some(found) => Ok((self.commit(&Actor::Engine, &record, &found)?, seen)),
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
        if matches!(wish.want, Want::Stopped | Want::Destroyed) {
            return Ok(Underway::Resting(Box::new(record), Some(seen)));
        }
        let is_clean = plan::instance::plan(&record, &seen, Generation(0)).is_empty();
        if is_clean && !record.in_flight() {
            return Ok(Underway::Resting(Box::new(record), Some(seen)));
        }
        let was_same = record.want == wish.want;
        match self.converge(cx, record, Some(seen), wish.firewall)? {
            Rest::There(record) if was_same => Ok(Underway::Done(record)),
            Rest::There(record) => {
                legal(&record, wish)?;
                Ok(Underway::Resting(record, None))
            }
            Rest::Gone => Err(Error::new(
                ErrorKind::NotFound,
                format!("{} was being destroyed and is gone", wish.instance),
            )),
        }
    }

    fn record_wish(&self, cx: &Context, record: Instance, wish: &Wish) -> Result<Instance, Error> {
        let capacity = self.capacity()?;
        let admitted = self.within(|tx| self.admit_wish(tx, &record, wish, capacity));
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
    ) -> Result<Instance, Error> {
        let mut record = record.clone();
        if !matches!(wish.want, Want::Stopped | Want::Destroyed) {
            let (tenant, pool) = living(tx, &wish.instance.pool_ref())?;
            admit::check(tx, &tenant, &record, wish.want, capacity)?;
            if matches!(record.state, State::Ready | State::Stopped) {
                record.image = pool.current().cloned().or(record.image);
            }
        }
        record.want = wish.want;
        record.drain = wish.drain;
        if matches!(wish.want, Want::Warm | Want::Sleeping) {
            record.parked_by = Some(wish.by);
        }
        if wish.by == ParkedBy::Person {
            let now = self.ports.clock.now();
            record.manual_override_until = Some(now.plus(self.config.manual_override));
        }
        records::put(tx, &mut record)?;
        Ok(record)
    }
}

/// The record of an instance, Ready if its pool got a build since.
fn prepared(tx: &mut dyn Transaction, id: &InstanceRef) -> Result<Instance, Error> {
    let mut record = records::instance(tx, id)?;
    if record.state == State::Created
        && let Some(image) = records::pool(tx, &id.pool_ref())?.current()
    {
        record.state = State::Ready;
        record.image = Some(image.clone());
        records::put(tx, &mut record)?;
    }
    Ok(record)
}

enum Underway {
    Resting(Box<Instance>, Option<ObservedInstance>),
    Done(Box<Instance>),
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

/// A new instance costs its data disk only.
fn admit_new(tx: &mut dyn Transaction, tenant: &Tenant, record: &Instance) -> Result<(), Error> {
    let before = admit::of_tenant(tx, tenant)?;
    let mut after = before;
    after.add(record);
    tenant.quotas.admit(&after.growth(before))
}

fn free_offset(tx: &mut dyn Transaction, tenant: &Tenant) -> Result<Offset, Error> {
    let network = &tenant.network;
    let taken = tx.claimed(&format!("address/{}", network.net))?;
    let taken = taken.into_iter().filter_map(|n| u16::try_from(n).ok().map(Offset)).collect();
    alloc::offset(network.subnet, &taken).ok_or_else(|| {
        Error::new(ErrorKind::Refused, format!("every address of {} is taken", network.subnet))
            .hint("destroy an instance first: mvm instance list")
    })
}

fn free_uid(tx: &mut dyn Transaction) -> Result<Uid, Error> {
    let taken = tx.claimed("uid")?.into_iter().map(Uid).collect();
    alloc::uid(&taken).ok_or_else(|| {
        Error::new(ErrorKind::Refused, "every uid for instances is taken on this node")
    })
}
