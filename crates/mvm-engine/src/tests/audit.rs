//! Every operation that changes something leaves an event that says who did it and for which operation.

use mvm_core::{
    event::{Actor, LoggedEvent},
    id::TenantId,
    operation::Operation,
    port::Store,
    quota::QuotaChange,
    units::Mib,
    volume::VolumeFate,
};

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
        Operation::PoolRoll { .. } => EventKind::PoolRolled,
        Operation::TenantSecretsSet { .. } => EventKind::SecretsSet,
        Operation::TenantSecretsRotate { .. } => EventKind::SecretsRotated,
        Operation::TenantKeyRotate { .. } => EventKind::KeyRotated,
        Operation::PoolGc { .. } => EventKind::PoolCollected,
        Operation::NodeGc { .. } => EventKind::NodeCollected,
        Operation::PoolScale { .. } => EventKind::PoolScaled,
        Operation::PoolDestroy { .. } => EventKind::PoolDestroyed,
        Operation::InstanceCreate { .. } => EventKind::InstanceCreated,
        Operation::InstancePublish { .. } => EventKind::InstancePublished,
        Operation::InstanceUnpublish { .. } => EventKind::InstanceUnpublished,
        Operation::InstanceGrow { .. } => EventKind::VolumeGrowing,
        Operation::InstanceDestroy { .. } => EventKind::InstanceDestroyed,
        Operation::VolumeRemove { wipe, .. } => match wipe {
            true => EventKind::VolumeWiped,
            false => EventKind::VolumeRemoved,
        },
        Operation::TemplateCreate(_) => EventKind::TemplateCreated,
        Operation::TemplateBuild { .. } => EventKind::TemplateBuilt,
        Operation::TemplatePull(_) => EventKind::TemplatePulled,
        Operation::TemplateDelete { .. } => EventKind::TemplateDeleted,
        Operation::AgentReconcile { .. } => EventKind::DesiredStateAccepted,
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

fn log_of(rig: &Rig, tenant: &str) -> Vec<LoggedEvent> {
    rig.store.events(&tenant.parse::<TenantId>().unwrap(), 0, usize::MAX).unwrap()
}

fn log(rig: &Rig) -> Vec<LoggedEvent> {
    log_of(rig, "acme")
}

/// Does it and checks what it left.
fn does(rig: &Rig, operation: &Operation) {
    let logs = ["acme", TenantId::LOCAL, TenantId::NODE];
    let before = logs.map(|name| log_of(rig, name).len());
    let outcome = rig.operate(operation).unwrap();
    let id = outcome.operation.unwrap().to_string();
    let after = logs.map(|name| log_of(rig, name));
    let fresh: Vec<&LoggedEvent> =
        after.iter().zip(before).flat_map(|(log, before)| &log[before..]).collect();
    assert!(
        fresh
            .iter()
            .any(|one| one.event.event == leaves(operation) && one.event.actor == Actor::Uid(1000)),
        "{operation:?} left {fresh:?}"
    );
    for one in fresh {
        assert_eq!(one.event.detail.get("operation"), Some(&id), "{operation:?}: {one:?}");
        assert!(!one.event.reason.is_empty(), "{operation:?}: {one:?}");
    }
    for log in &after {
        crate::store::chain::verify(log).unwrap();
    }
}

#[test]
fn every_change_of_a_template_leaves_an_event_in_the_node_s_log() {
    let rig = Rig::new();
    let spec = Box::new(templates::of_one_variant());
    let template = spec.template_id.clone();
    does(&rig, &Operation::TemplateCreate(spec));
    does(&rig, &templates::build(None, None));
    does(&rig, &Operation::TemplateDelete { template });
    let image = "ab".repeat(32).parse().unwrap();
    does(&rig, &templates::signed_at(1, &image));
}

#[test]
fn every_change_leaves_an_event_with_its_actor_and_its_operation() {
    let rig = Rig::new();
    does(&rig, &tenant_create("acme", Quotas::default()));
    assert_eq!(rig.kinds(), [EventKind::TenantCreated, EventKind::KeyCreated]);
    let quotas = QuotaChange { max_running: Some(7), ..QuotaChange::default() };
    does(&rig, &Operation::TenantUpdate { tenant: "acme".parse().unwrap(), quotas, policy: None });
    does(&rig, &pool_create("acme/web"));
    does(
        &rig,
        &Operation::InstanceCreate { pool: pool("acme/web"), publish: Vec::new(), volume: None },
    );
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
    does(&rig, &Operation::TenantKeyRotate { tenant: "acme".parse().unwrap() });
    does(&rig, &scale(2, 0, 0));
    let id = rig.engine.look(&pool("acme/web")).unwrap()[0].instance.clone();
    does(&rig, &Operation::InstanceGrow { instance: id.clone(), data_disk: Mib(128) });
    let destroy = Operation::InstanceDestroy { instance: id.clone(), volumes: VolumeFate::Keep };
    does(&rig, &destroy);
    let volume = id.instance.as_str().parse().unwrap();
    does(&rig, &Operation::VolumeRemove { volume, wipe: true });
    for kind in [EventKind::SnapshotPublished, EventKind::SnapshotRetired, EventKind::VolumeKept] {
        assert!(rig.kinds().contains(&kind), "{kind}");
    }
    does(
        &rig,
        &Operation::PoolDestroy {
            pool: pool("acme/web"),
            force: true,
            volumes: VolumeFate::Delete,
        },
    );
    let gone = Operation::TenantDestroy {
        tenant: "acme".parse().unwrap(),
        force: true,
        volumes: VolumeFate::Delete,
    };
    let id = rig.operate(&gone).unwrap().operation.unwrap();
    let archived = rig.store.archived_events(&"acme".parse().unwrap()).unwrap();
    let last = &archived.last().unwrap().event;
    assert_eq!((last.event, &last.actor), (leaves(&gone), &Actor::Uid(1000)));
    assert_eq!(last.detail.get("operation"), Some(&id.to_string()));
}

#[test]
fn a_desired_state_that_was_accepted_stands_in_the_nodes_log() {
    let rig = Rig::with_pool(Quotas::default());
    let mut desired = rig.engine.desired(None).unwrap();
    desired.tenants[0].quotas.max_running = 7;
    does(&rig, &Operation::AgentReconcile { desired: Box::new(desired) });
}

#[test]
fn an_id_that_the_caller_brings_is_the_operations_id() {
    let rig = Rig::with_pool(Quotas::default());
    let brought: mvm_core::id::OperationId = "0badcafe".parse().unwrap();
    let cx = crate::Context { operation: Some(brought.clone()), ..rig.cx.clone() };
    let create =
        Operation::InstanceCreate { pool: pool("acme/web"), publish: Vec::new(), volume: None };
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
