//! `--dry-run`: every operation can be planned where it can be done, and planning changes nothing.

use std::collections::BTreeSet;

use mvm_core::{
    event::Actor,
    id::ImageHash,
    instance::{Drain, Instance},
    operation::Operation,
    pool::{PoolChange, RevisionName, RollFailure, RollPace, Source},
    port::Table,
    quota::QuotaChange,
    secrets::SecretsSource,
    state::Move,
    units::{Generation, Mib},
    volume::VolumeFate,
};
use mvm_engine::Context;
use mvm_sim::process::Simulation;

use crate::harness::{
    Mvm, build_template, create_pool, create_tenant, instances, pool, pulled, quotas, scale,
    simulation, step, template, tenant,
};

/// How many variants [`Operation`] has.
const OPERATIONS: usize = 27;

/// A new operation does not compile until it has a place here, and [`OPERATIONS`] must follow.
const fn position(operation: &Operation) -> usize {
    match operation {
        Operation::TenantCreate { .. } => 0,
        Operation::TenantDestroy { .. } => 1,
        Operation::PoolCreate(_) => 2,
        Operation::PoolUpdate { .. } => 3,
        Operation::PoolBuild { .. } => 4,
        Operation::PoolRollback { .. } => 5,
        Operation::PoolScale { .. } => 6,
        Operation::PoolGc { .. } => 7,
        Operation::PoolDestroy { .. } => 8,
        Operation::NodeGc { .. } => 9,
        Operation::InstanceCreate { .. } => 10,
        Operation::InstanceMove { .. } => 11,
        Operation::TenantUpdate { .. } => 12,
        Operation::InstancePublish { .. } => 13,
        Operation::InstanceUnpublish { .. } => 14,
        Operation::TenantKeyRotate { .. } => 15,
        Operation::InstanceGrow { .. } => 16,
        Operation::InstanceDestroy { .. } => 17,
        Operation::VolumeRemove { .. } => 18,
        Operation::TenantSecretsSet { .. } => 19,
        Operation::TenantSecretsRotate { .. } => 20,
        Operation::AgentReconcile { .. } => 21,
        Operation::PoolRoll { .. } => 22,
        Operation::TemplateCreate(_) => 23,
        Operation::TemplateBuild { .. } => 24,
        Operation::TemplatePull(_) => 25,
        Operation::TemplateDelete { .. } => 26,
    }
}

/// Everything stored, and everything that the machine shows.
fn everything(sim: &Simulation) -> String {
    let mut rows = Vec::new();
    let tables = [
        Table::Tenants,
        Table::Pools,
        Table::Instances,
        Table::Tombstones,
        Table::Volumes,
        Table::Templates,
        Table::Meta,
    ];
    sim.store
        .transact(&mut |tx| {
            for table in tables {
                rows.extend(tx.list(table, "")?);
            }
            rows.push(("uids".to_owned(), format!("{:?}", tx.claimed("uid")?)));
            Ok(())
        })
        .unwrap();
    let events = sim.store.events(&tenant("acme"), 0, 1000).unwrap();
    let world = sim.machine.world();
    let seen: Vec<_> =
        instances(&*sim.store).iter().map(|one| world.observe_instance(one)).collect();
    let (node, stock) = (world.observe_node(), world.observe_stock());
    let web = world.observe_pool(&pool("acme", "web"));
    format!("{rows:?}\n{events:?}\n{seen:?}\n{node:?}\n{stock:?}\n{web:?}")
}

#[expect(clippy::too_many_lines, reason = "one step for every operation")]
fn steps(mvm: &Mvm, sim: &Simulation) -> BTreeSet<usize> {
    let web = || pool("acme", "web");
    let mut tried = BTreeSet::new();
    let mut go = |operation: Operation| {
        let before = everything(sim);
        mvm.engine
            .plan_only(&Context::silent(Actor::Uid(0)), &operation)
            .unwrap_or_else(|error| panic!("{operation:?} cannot be planned: {error}"));
        assert_eq!(before, everything(sim), "planning {operation:?} changed something");
        mvm.operate(&operation).unwrap();
        tried.insert(position(&operation));
    };
    go(create_tenant("acme", quotas()));
    go(Operation::TenantUpdate {
        tenant: tenant("acme"),
        quotas: QuotaChange { max_pools: Some(7), ..QuotaChange::default() },
        policy: None,
    });
    go(create_pool(web(), 64));
    go(Operation::build(web()));
    go(Operation::PoolUpdate {
        pool: web(),
        change: Box::new(PoolChange { mem_mib: Some(Mib(128)), ..PoolChange::default() }),
    });
    go(Operation::PoolRollback { pool: web(), revision: RevisionName::Ordinal(1) });
    go(scale(web(), 1, 1, 1));
    let (pace, on_failure) = (RollPace::default(), RollFailure::Return);
    go(Operation::PoolRoll { pool: web(), pace, on_failure });
    let mut desired = mvm.engine.desired(None).unwrap();
    desired.tenants[0].pools[0].desired_counts.running = 2;
    go(Operation::AgentReconcile { desired: Box::new(desired) });
    go(Operation::InstanceCreate { pool: web(), publish: Vec::new(), volume: None });
    let published = instances(&*sim.store).remove(0).instance;
    let ports = || vec!["8080:80".parse().unwrap()];
    go(Operation::InstancePublish { instance: published.clone(), publish: ports() });
    go(Operation::InstanceUnpublish { instance: published, publish: ports() });
    for (wish, drain) in
        [(Move::Stop, Drain::Ask), (Move::Start, Drain::Ask), (Move::Sleep, Drain::Skip)]
    {
        let one =
            instances(&*sim.store).into_iter().find(|one| one.state.next(wish).is_ok()).unwrap();
        go(Operation::InstanceMove { instance: one.instance, wish, drain });
    }
    let source = SecretsSource::File("/etc/acme.json".into());
    go(Operation::TenantSecretsSet { tenant: tenant("acme"), source });
    go(Operation::TenantSecretsRotate { tenant: tenant("acme"), source: None, live: true });
    sim.machine.world().has_downloads = true;
    go(Operation::PoolGc { pool: web(), keep: Some(1) });
    go(Operation::NodeGc { keep: Some(1) });
    let last = instances(&*sim.store).remove(0);
    go(step(&last.instance, Move::Destroy));
    go(Operation::TenantKeyRotate { tenant: tenant("acme") });
    // One that ran has a volume to keep.
    let ran = |one: &Instance| one.epoch > Generation(0);
    let next = instances(&*sim.store).into_iter().find(ran).unwrap();
    let (volumes, instance) = (VolumeFate::Keep, next.instance);
    go(Operation::InstanceGrow { instance: instance.clone(), data_disk: Mib(128) });
    go(Operation::InstanceDestroy { instance: instance.clone(), volumes });
    go(Operation::VolumeRemove { volume: instance.instance.as_str().parse().unwrap(), wipe: true });
    of_templates(&sim.image, &mut go);
    let volumes = VolumeFate::Delete;
    go(Operation::PoolDestroy { pool: web(), force: true, volumes });
    go(Operation::TenantDestroy { tenant: tenant("acme"), force: true, volumes });
    tried
}

/// A template from its making to its end, and one that was pulled.
fn of_templates(image: &ImageHash, go: &mut dyn FnMut(Operation)) {
    go(Operation::TemplateCreate(Box::new(template("web"))));
    go(build_template("web"));
    let web = || pool("acme", "web");
    for source in [Source::Template("web".to_owned()), Source::Image("default".to_owned())] {
        let change = Box::new(PoolChange { source: Some(source), ..PoolChange::default() });
        go(Operation::PoolUpdate { pool: web(), change });
        go(Operation::build(web()));
    }
    go(Operation::TemplateDelete { template: template("web").template_id });
    go(Operation::TemplatePull(Box::new(pulled(template("web"), image))));
}

#[test]
fn a_dry_run_of_every_operation_changes_nothing() {
    let sim = simulation(1);
    let mvm = Mvm::start(&sim);
    let tried = steps(&mvm, &sim);
    assert_eq!(tried, (0..OPERATIONS).collect());
    assert!(sim.violations().is_empty(), "{:?}", sim.violations());
}

#[test]
fn a_rollback_to_what_is_not_there_and_an_update_of_nothing_are_refused() {
    let sim = simulation(2);
    let mvm = Mvm::start(&sim);
    let web = pool("acme", "web");
    mvm.operate(&create_tenant("acme", quotas())).unwrap();
    mvm.operate(&create_pool(web.clone(), 0)).unwrap();
    mvm.operate(&Operation::build(web.clone())).unwrap();
    let rollback = |text: &str| Operation::PoolRollback {
        pool: web.clone(),
        revision: text.parse::<RevisionName>().unwrap(),
    };
    mvm.operate(&rollback("aaaa")).unwrap();
    for absent in ["2", "bbbb"] {
        let error = mvm.operate(&rollback(absent)).unwrap_err();
        assert_eq!(error.kind, mvm_core::ErrorKind::NotFound, "{absent}");
    }
    let nothing = Operation::PoolUpdate { pool: web, change: Box::default() };
    assert_eq!(mvm.operate(&nothing).unwrap_err().kind, mvm_core::ErrorKind::Usage);
}
