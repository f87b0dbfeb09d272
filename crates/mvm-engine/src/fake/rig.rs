//! An engine over the small world, and what tests ask of it.

use super::*;
use crate::{
    engine::{Config, Context, Engine, Ports},
    outcome::{Made, Outcome},
    query::Filter,
};

/// An engine over a world; cloning the parts makes a second engine over the same world.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) world: World,
    pub(crate) store: MemoryStore,
    pub(crate) clock: Arc<Ticks>,
    pub(crate) cx: Context,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::over(World::default(), MemoryStore::new(), Arc::default())
    }

    fn over(world: World, store: MemoryStore, clock: Arc<Ticks>) -> Self {
        let ports = Ports {
            host: Arc::new(world.clone()),
            guest: Arc::new(world.clone()),
            store: Arc::new(Dying(store.clone(), world.clone())),
            builder: Arc::new(world.clone()),
            sources: Arc::new(world.clone()),
            clock: clock.clone(),
            vault: Arc::new(world.clone()),
            locks: Arc::new(world.clone()),
        };
        let cx = Context::silent(Actor::Uid(1000));
        let engine = Engine::new(ports, Self::config());
        Self { engine, world, store, clock, cx }
    }

    /// An engine over the same world and another store.
    pub(crate) fn engine_over(&self, store: Arc<dyn Store>) -> Engine {
        Engine::new(Ports { store, ..self.engine.ports.clone() }, Self::config())
    }

    fn config() -> Config {
        Config {
            parallel: 2,
            lock_wait: Duration::from_secs(20),
            builder: Resources::new(Vcpus(2), Mib(512), Mib(64)),
            ..Config::default()
        }
    }

    /// A new process over what is left of the world.
    pub(crate) fn again(&self) -> Self {
        Self::over(self.world.clone(), self.store.clone(), self.clock.clone())
    }

    pub(crate) fn operate(&self, operation: &Operation) -> Result<Outcome, Error> {
        self.engine.operate(&self.cx, operation)
    }

    /// A rig with tenant `acme` and its built pool `acme/web`.
    pub(crate) fn with_pool(quotas: Quotas) -> Self {
        let rig = Self::new();
        rig.operate(&tenant_create("acme", quotas)).unwrap();
        rig.operate(&pool_create("acme/web")).unwrap();
        rig.operate(&Operation::build(pool("acme/web"))).unwrap();
        rig
    }

    pub(crate) fn create(&self) -> InstanceRef {
        let made = self
            .operate(&Operation::InstanceCreate {
                pool: pool("acme/web"),
                publish: Vec::new(),
                volume: None,
            })
            .unwrap();
        let Some(Made::Instance(record)) = made.made else { unreachable!("no instance was made") };
        record.instance
    }

    pub(crate) fn go(&self, id: &InstanceRef, wish: Move) -> Result<Outcome, Error> {
        let drain = Drain::Ask;
        self.operate(&Operation::InstanceMove { instance: id.clone(), wish, drain })
    }

    /// A new instance that was brought to `state`.
    pub(crate) fn instance_in(&self, state: State) -> InstanceRef {
        let id = self.create();
        let moves: &[Move] = match state {
            State::Created | State::Ready | State::Destroyed => &[],
            State::Running => &[Move::Start],
            State::Warm => &[Move::Start, Move::Warm],
            State::Sleeping => &[Move::Start, Move::Sleep],
            State::Stopped => &[Move::Start, Move::Stop],
        };
        for wish in moves {
            self.go(&id, *wish).unwrap();
        }
        id
    }

    pub(crate) fn record(&self, id: &InstanceRef) -> Instance {
        let view = self.engine.instances(&Filter::Instance(id.clone())).unwrap();
        view.into_iter().next().unwrap().record
    }

    pub(crate) fn kinds(&self) -> Vec<EventKind> {
        let tenant: TenantId = "acme".parse().unwrap();
        let log = self.store.events(&tenant, 0, usize::MAX).unwrap();
        log.into_iter().map(|entry| entry.event.event).collect()
    }
}

pub(crate) fn pool(text: &str) -> PoolRef {
    text.parse().unwrap()
}

pub(crate) fn tenant_create(id: &str, quotas: Quotas) -> Operation {
    let tenant = id.parse().unwrap();
    Operation::TenantCreate { tenant, net: None, subnet: None, quotas, keyed: true }
}

pub(crate) fn pool_create(id: &str) -> Operation {
    let source = Source::Image("default".to_owned());
    let size = Resources::new(Vcpus(1), Mib(256), Mib(64));
    Operation::PoolCreate(Box::new(NewPool::of_workers(pool(id), source, size)))
}

pub(crate) fn scale(running: u32, warm: u32, sleeping: u32) -> Operation {
    Operation::PoolScale {
        pool: pool("acme/web"),
        running: Some(running),
        warm: Some(warm),
        sleeping: Some(sleeping),
        no_wait: false,
    }
}
