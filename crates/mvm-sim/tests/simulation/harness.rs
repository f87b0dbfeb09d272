//! What the simulated tests share: engines over processes that may die, and settling.

use std::{collections::BTreeMap, sync::Arc};

use mvm_core::{
    Error, ErrorKind, base64,
    event::Actor,
    id::{ImageHash, InstanceRef, PoolRef, TenantId},
    instance::{Drain, Instance, Want},
    integration::Integration,
    operation::{NewPool, Operation, Rebuild},
    plan,
    pool::{Resources, Role, Source},
    port::{Store, Table},
    quota::Quotas,
    secrets::SecretsSource,
    signed::SignedDocument,
    state::{Move, State},
    template::{INDEX_SCHEMA, Index, SignedTemplate, TemplateBuild, TemplateSpec, Variant},
    tenant::Tenant,
    units::{Generation, Gib, Mib, Timestamp, Vcpus},
    volume::{Volume, VolumeFate, VolumeStage},
};
use mvm_engine::{
    Config, Context, Engine, Outcome, Ports, query::Filter, store::memory::MemoryStore,
};
use mvm_sim::process::{Process, Simulation};

pub(crate) fn image() -> ImageHash {
    "a".repeat(64).parse().unwrap()
}

pub(crate) fn simulation(seed: u64) -> Arc<Simulation> {
    Simulation::new(seed, Arc::new(MemoryStore::new()), image())
}

pub(crate) fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

pub(crate) fn pool(tenant: &str, name: &str) -> PoolRef {
    format!("{tenant}/{name}").parse().unwrap()
}

/// An engine in its own process.
pub(crate) struct Mvm {
    pub(crate) process: Process,
    pub(crate) engine: Engine,
}

impl Mvm {
    pub(crate) fn over(process: Process) -> Self {
        let port = process.shared();
        let ports = Ports {
            host: port.clone(),
            guest: port.clone(),
            store: port.clone(),
            builder: port.clone(),
            sources: port.clone(),
            vault: port.clone(),
            clock: port.clone(),
            locks: port,
        };
        let config = Config { parallel: 1, guest_memory: Some(Mib(1 << 20)), ..Config::default() };
        Self { process, engine: Engine::new(ports, config) }
    }

    pub(crate) fn start(sim: &Arc<Simulation>) -> Self {
        Self::over(Process::start(sim))
    }

    pub(crate) fn operate(&self, operation: &Operation) -> Result<Outcome, Error> {
        let outcome = self.engine.operate(&Context::silent(Actor::Uid(0)), operation)?;
        match outcome.error() {
            Some(error) => Err(error),
            None => Ok(outcome),
        }
    }
}

pub(crate) fn create_tenant(name: &str, quotas: Quotas) -> Operation {
    Operation::TenantCreate { tenant: tenant(name), net: None, subnet: None, quotas, keyed: true }
}

pub(crate) fn create_pool(pool: PoolRef, data_disk: u32) -> Operation {
    let source = Source::Image("default".to_owned());
    let size = Resources::new(Vcpus(1), Mib(256), Mib(data_disk));
    let workers = NewPool::of_workers(pool, source, size);
    Operation::PoolCreate(Box::new(NewPool { integrations: integrations(), ..workers }))
}

/// One that must be saved, and one that may fail.
fn integrations() -> Vec<Integration> {
    let one = |name: &str, critical| Integration {
        name: name.to_owned(),
        checkpoint_cmd: Some(vec!["save".to_owned()]),
        restore_cmd: Some(vec!["load".to_owned()]),
        critical,
    };
    vec![one("ledger", true), one("cache", false)]
}

pub(crate) fn scale(pool: PoolRef, running: u32, warm: u32, sleeping: u32) -> Operation {
    Operation::PoolScale {
        pool,
        running: Some(running),
        warm: Some(warm),
        sleeping: Some(sleeping),
        no_wait: false,
    }
}

pub(crate) fn step(instance: &InstanceRef, wish: Move) -> Operation {
    Operation::InstanceMove { instance: instance.clone(), wish, drain: Drain::Ask }
}

pub(crate) fn set_secrets(name: &str) -> Operation {
    let source = SecretsSource::File("/etc/secrets.json".into());
    Operation::TenantSecretsSet { tenant: tenant(name), source }
}

pub(crate) fn rotate_live(name: &str) -> Operation {
    Operation::TenantSecretsRotate { tenant: tenant(name), source: None, live: true }
}

/// A template of one variant.
pub(crate) fn template(name: &str) -> TemplateSpec {
    let resources = Resources::new(Vcpus(1), Mib(256), Mib(0));
    let (role, profile) = (Role::Worker, "minimal".to_owned());
    let name_of_variant = "small".parse().unwrap();
    let variant =
        Variant { name: name_of_variant, role, profile: profile.clone(), resources, build: None };
    let source = Source::Image("default".to_owned());
    TemplateSpec { template_id: name.parse().unwrap(), source, profile, variants: vec![variant] }
}

pub(crate) fn build_template(name: &str) -> Operation {
    Operation::TemplateBuild {
        template: name.parse().unwrap(),
        variant: None,
        tenant: None,
        timeout: Operation::BUILD_TIMEOUT,
        rebuild: Rebuild::WhenChanged,
    }
}

/// The template as somebody signed it, whose variants all have this image.
pub(crate) fn pulled(spec: TemplateSpec, image: &ImageHash) -> SignedTemplate {
    let TemplateSpec { template_id, source, profile, mut variants } = spec;
    for variant in &mut variants {
        let (image, source, built_at) = (image.clone(), source.clone(), Timestamp(1));
        variant.build = Some(TemplateBuild { image, source, built_at });
    }
    let images = BTreeMap::from([(image.clone(), Vec::new())]);
    let (schema, pushed_at) = (INDEX_SCHEMA, Timestamp(2));
    let index = Index { schema, template_id, source, profile, variants, images, pushed_at };
    let payload = base64::encode(&serde_json::to_vec(&index).unwrap());
    let signed = SignedDocument { payload, signature: String::new(), signer_id: "aa".to_owned() };
    SignedTemplate { index, signed }
}

pub(crate) fn quotas() -> Quotas {
    Quotas { max_disk_gib: Gib(100), ..Quotas::default() }
}

pub(crate) fn instances(store: &dyn Store) -> Vec<Instance> {
    list(store, Table::Instances)
}

pub(crate) fn tenants(store: &dyn Store) -> Vec<Tenant> {
    list(store, Table::Tenants)
}

pub(crate) fn volumes(store: &dyn Store) -> Vec<Volume> {
    list(store, Table::Volumes)
}

pub(crate) fn pools(store: &dyn Store) -> Vec<mvm_core::pool::Pool> {
    list(store, Table::Pools)
}

fn list<T: serde::de::DeserializeOwned>(store: &dyn Store, table: Table) -> Vec<T> {
    let mut rows = Vec::new();
    store
        .transact(&mut |tx| {
            rows = tx.list(table, "")?;
            Ok(())
        })
        .unwrap();
    rows.into_iter().map(|(_, text)| serde_json::from_str(&text).unwrap()).collect()
}

/// The operation that asks again for what the record wants.
fn again(record: &Instance) -> Option<Operation> {
    let wish = match record.want {
        Want::Idle => return None,
        Want::Running if matches!(record.state, State::Warm | State::Sleeping) => Move::Wake,
        Want::Running => Move::Start,
        Want::Warm => Move::Warm,
        Want::Sleeping => Move::Sleep,
        Want::Stopped => Move::Stop,
        Want::Destroyed => Move::Destroy,
    };
    Some(step(&record.instance, wish))
}

/// There and back, for an instance that rests with something left behind.
fn round_trip(state: State) -> [Move; 2] {
    match state {
        State::Running => [Move::Warm, Move::Wake],
        State::Warm => [Move::Wake, Move::Warm],
        State::Sleeping => [Move::Wake, Move::Sleep],
        State::Created | State::Ready | State::Stopped | State::Destroyed => {
            [Move::Start, Move::Stop]
        }
    }
}

/// Puts right what was broken, and does what a person does after a mishap: looks, and asks again.
/// A command that fails on a whole machine is a violation, except where it found a death.
pub(crate) fn settle(sim: &Arc<Simulation>) -> Result<(), String> {
    sim.heal();
    sim.note(|| "settle".to_owned());
    let mvm = Mvm::start(sim);
    let store = &*sim.store;
    for record in tenants(store) {
        let id = record.tenant_id.clone();
        if record.destroying {
            let operation =
                Operation::TenantDestroy { tenant: id, force: true, volumes: VolumeFate::Delete };
            mvm.operate(&operation).map_err(|error| format!("{operation:?}: {error}"))?;
        } else {
            match mvm.operate(&create_tenant(id.as_str(), quotas())) {
                Err(error) if error.kind == ErrorKind::Conflict => {}
                other => return Err(format!("making tenant {id} again: {other:?}")),
            }
        }
    }
    for record in tenants(store).into_iter().filter(|tenant| tenant.rotating) {
        let operation = Operation::TenantKeyRotate { tenant: record.tenant_id };
        mvm.operate(&operation).map_err(|error| format!("{operation:?}: {error}"))?;
    }
    for record in volumes(store).into_iter().filter(|one| one.stage == VolumeStage::Removing) {
        let operation = Operation::VolumeRemove { volume: record.volume, wipe: false };
        mvm.operate(&operation).map_err(|error| format!("{operation:?}: {error}"))?;
    }
    for record in pools(store).into_iter().filter(|pool| pool.destroying) {
        let operation =
            Operation::PoolDestroy { pool: record.pool, force: true, volumes: VolumeFate::Delete };
        mvm.operate(&operation).map_err(|error| format!("{operation:?}: {error}"))?;
    }
    mvm.engine.instances(&Filter::All).map_err(|error| format!("listing: {error}"))?;
    for record in instances(store) {
        settle_one(sim, &mvm, record)?;
    }
    sim.check_rest();
    let violations = sim.violations();
    if violations.is_empty() { Ok(()) } else { Err(violations.join("\n")) }
}

fn settle_one(sim: &Arc<Simulation>, mvm: &Mvm, first: Instance) -> Result<(), String> {
    let id = first.instance.clone();
    let now = || instances(&*sim.store).into_iter().find(|one| one.instance == id);
    for _ in 0..4 {
        let Some(record) = now() else { return Ok(()) };
        let seen = sim.machine.world().observe_instance(&record);
        if record.in_flight() {
            let Some(operation) = again(&record) else {
                return Err(format!("{id} is {} wanting {:?}", record.state, record.want));
            };
            // A death that is found on the way is reported once.
            let _ = mvm.operate(&operation);
            continue;
        }
        if record.state == State::Created
            || plan::instance::plan(&record, &seen, Generation(0)).is_empty()
        {
            return Ok(());
        }
        for wish in round_trip(record.state) {
            match mvm.operate(&step(&id, wish)) {
                Ok(_) => {}
                // Others hold its place: then it cannot be brought there, and must go.
                Err(error) if error.kind == ErrorKind::Refused => {
                    let gone = mvm.operate(&step(&id, Move::Destroy));
                    return gone.map(drop).map_err(|error| format!("destroy {id}: {error}"));
                }
                Err(error) => return Err(format!("{wish} {id}: {error}")),
            }
        }
    }
    Err(format!("{id} does not settle: {:?}", now()))
}

/// Destroys every tenant by force and checks that nothing is left but the archives.
pub(crate) fn destroy_all(sim: &Arc<Simulation>) -> Result<(), String> {
    let mvm = Mvm::start(sim);
    for record in tenants(&*sim.store) {
        let operation = Operation::TenantDestroy {
            tenant: record.tenant_id,
            force: true,
            volumes: VolumeFate::Delete,
        };
        mvm.operate(&operation).map_err(|error| format!("{operation:?}: {error}"))?;
    }
    for record in volumes(&*sim.store) {
        let operation = Operation::VolumeRemove { volume: record.volume, wipe: true };
        mvm.operate(&operation).map_err(|error| format!("{operation:?}: {error}"))?;
    }
    sim.check_rest();
    let world = sim.machine.world();
    let mut left = sim.violations();
    if world.firewall.is_some() {
        left.push("a firewall is left".to_owned());
    }
    if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
}

/// A machine with one running instance.
pub(crate) fn running() -> (Arc<Simulation>, InstanceRef) {
    let sim = simulation(1);
    let workers = pool("acme", "workers");
    for operation in [
        create_tenant("acme", quotas()),
        create_pool(workers.clone(), 64),
        Operation::build(workers.clone()),
        Operation::InstanceCreate { pool: workers, publish: Vec::new(), volume: None },
    ] {
        Mvm::start(&sim).operate(&operation).unwrap();
    }
    let id = instances(&*sim.store).first().unwrap().instance.clone();
    Mvm::start(&sim).operate(&step(&id, Move::Start)).unwrap();
    (sim, id)
}
