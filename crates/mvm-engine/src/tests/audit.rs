//! Every operation that changes something leaves an event that says who did it and for which operation.

use mvm_core::{event::Actor, id::TenantId, operation::Operation, port::Store, quota::QuotaChange};

use super::*;

/// What an operation leaves when it changes something: a new operation does not compile without.
fn leaves(operation: &Operation) -> EventKind {
    match operation {
        Operation::TenantCreate { .. } => EventKind::TenantCreated,
        Operation::TenantUpdate { .. } => EventKind::TenantUpdated,
        Operation::TenantDestroy { .. } => EventKind::TenantDestroyed,
        Operation::PoolCreate(_) => EventKind::PoolCreated,
        Operation::PoolUpdate { .. } => EventKind::PoolUpdated,
        Operation::PoolBuild { .. } => EventKind::PoolBuilt,
        Operation::PoolRollback { .. } => EventKind::PoolRolledBack,
        Operation::PoolGc { .. } | Operation::NodeGc { .. } => EventKind::PoolCollected,
        Operation::PoolScale { .. } => EventKind::PoolScaled,
        Operation::PoolDestroy { .. } => EventKind::PoolDestroyed,
        Operation::InstanceCreate { .. } => EventKind::InstanceCreated,
        Operation::InstancePublish { .. } => EventKind::InstancePublished,
        Operation::InstanceUnpublish { .. } => EventKind::InstanceUnpublished,
        Operation::InstanceMove { wish, .. } => match wish {
            Move::Prepare => EventKind::InstanceReady,
            Move::Start => EventKind::InstanceStarted,
            Move::Warm => EventKind::InstanceWarmed,
            Move::Sleep => EventKind::InstanceSlept,
            Move::Wake => EventKind::InstanceWoken,
            Move::Stop => EventKind::InstanceStopped,
            Move::Destroy => EventKind::InstanceDestroyed,
        },
    }
}

fn log(rig: &Rig) -> Vec<mvm_core::event::LoggedEvent> {
    let acme: TenantId = "acme".parse().unwrap();
    rig.store.events(&acme, 0, usize::MAX).unwrap()
}

/// Does it and checks what it left.
fn does(rig: &Rig, operation: &Operation) {
    let before = log(rig).len();
    let outcome = rig.operate(operation).unwrap();
    let id = outcome.operation.unwrap().to_string();
    let log = log(rig);
    let fresh = &log[before..];
    assert!(
        fresh
            .iter()
            .any(|one| one.event.event == leaves(operation) && one.event.actor == Actor::Uid(1000)),
        "{operation:?} left {fresh:?}"
    );
    for one in fresh {
        assert_eq!(one.event.detail.get("operation"), Some(&id), "{operation:?}: {one:?}");
    }
    crate::store::chain::verify(&log).unwrap();
}

#[test]
fn every_change_leaves_an_event_with_its_actor_and_its_operation() {
    let rig = Rig::new();
    does(&rig, &tenant_create("acme", Quotas::default()));
    assert_eq!(rig.kinds(), [EventKind::TenantCreated, EventKind::KeyCreated]);
    let quotas = QuotaChange { max_running: Some(7), ..QuotaChange::default() };
    does(&rig, &Operation::TenantUpdate { tenant: "acme".parse().unwrap(), quotas });
    does(&rig, &pool_create("acme/web"));
    does(&rig, &Operation::InstanceCreate { pool: pool("acme/web"), publish: Vec::new() });
    let id = rig.engine.look(&pool("acme/web")).unwrap()[0].instance.clone();
    does(&rig, &Operation::build(pool("acme/web")));
    assert!(rig.kinds().contains(&EventKind::InstanceReady));
    does(&rig, &scale(1, 0, 0));
    let go = |wish| Operation::InstanceMove {
        instance: id.clone(),
        wish,
        drain: mvm_core::instance::Drain::Ask,
    };
    let publish = vec!["8080:80".parse().unwrap()];
    does(&rig, &Operation::InstancePublish { instance: id.clone(), publish: publish.clone() });
    does(&rig, &Operation::InstanceUnpublish { instance: id.clone(), publish });
    for wish in
        [Move::Warm, Move::Wake, Move::Sleep, Move::Wake, Move::Stop, Move::Start, Move::Destroy]
    {
        does(&rig, &go(wish));
    }
    for kind in [EventKind::SnapshotPublished, EventKind::SnapshotRetired] {
        assert!(rig.kinds().contains(&kind), "{kind}");
    }
    does(&rig, &Operation::PoolDestroy { pool: pool("acme/web"), force: true });
    let gone = Operation::TenantDestroy { tenant: "acme".parse().unwrap(), force: true };
    let id = rig.operate(&gone).unwrap().operation.unwrap();
    let archived = rig.store.archived_events(&"acme".parse().unwrap()).unwrap();
    let last = &archived.last().unwrap().event;
    assert_eq!((last.event, &last.actor), (leaves(&gone), &Actor::Uid(1000)));
    assert_eq!(last.detail.get("operation"), Some(&id.to_string()));
}

#[test]
fn an_id_that_the_caller_brings_is_the_operations_id() {
    let rig = Rig::with_pool(Quotas::default());
    let brought: mvm_core::id::OperationId = "0badcafe".parse().unwrap();
    let cx = crate::Context { operation: Some(brought.clone()), ..rig.cx.clone() };
    let create = Operation::InstanceCreate { pool: pool("acme/web"), publish: Vec::new() };
    let outcome = rig.engine.operate(&cx, &create).unwrap();
    assert_eq!(outcome.operation, Some(brought));
    assert_eq!(log(&rig).last().unwrap().event.detail["operation"], "0badcafe");
}

#[test]
fn a_persons_command_before_a_minimum_time_is_over_is_told() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    rig.go(&id, Move::Warm).unwrap();
    let overridden = |rig: &Rig| {
        let kinds = rig.kinds().into_iter();
        kinds.filter(|kind| *kind == EventKind::MinRuntimeOverridden).count()
    };
    assert_eq!(overridden(&rig), 1);
    rig.go(&id, Move::Wake).unwrap();
    assert_eq!(overridden(&rig), 1, "a wake overrides nothing");
}
