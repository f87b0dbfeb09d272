//! Tenants: networks are never shared, removal leaves nothing.

use mvm_core::{
    error::ErrorKind,
    event::EventKind,
    net::NetId,
    operation::Operation,
    port::Store,
    quota::{QuotaChange, Quotas},
    state::{Move, State},
    units::Seconds,
    volume::VolumeFate,
};
use std::sync::atomic::Ordering;

use crate::{fake::*, outcome::Made};

fn tenant() -> mvm_core::id::TenantId {
    "acme".parse().unwrap()
}

fn create(rig: &Rig, id: &str, net: Option<u16>, subnet: Option<&str>) -> Result<u16, ErrorKind> {
    let made = rig.operate(&Operation::TenantCreate {
        tenant: id.parse().unwrap(),
        net: net.map(NetId),
        subnet: subnet.map(|s| s.parse().unwrap()),
        quotas: Quotas::default(),
        keyed: true,
    });
    match made.map_err(|e| e.kind)?.made {
        Some(Made::Tenant(tenant)) => Ok(tenant.network.net.0),
        _ => unreachable!("no tenant was made"),
    }
}

fn destroy(rig: &Rig, id: &str, force: bool) -> Result<(), ErrorKind> {
    let tenant = id.parse().unwrap();
    let outcome = rig
        .operate(&Operation::TenantDestroy { tenant, force, volumes: VolumeFate::Delete })
        .map_err(|e| e.kind)?;
    assert_eq!(outcome.failures, []);
    Ok(())
}

#[test]
fn net_ids_and_subnets_are_never_shared() {
    let rig = Rig::new();
    assert_eq!(create(&rig, "a", None, None), Ok(1));
    assert_eq!(create(&rig, "b", Some(3), None), Ok(3));
    assert_eq!(create(&rig, "c", None, Some("10.240.2.0/24")), Ok(2));
    assert_eq!(create(&rig, "d", None, None), Ok(4));
    assert_eq!(create(&rig, "e", Some(3), Some("10.250.0.0/24")), Err(ErrorKind::Conflict));
    assert_eq!(create(&rig, "e", None, Some("10.240.0.0/16")), Err(ErrorKind::Conflict));
    assert_eq!(create(&rig, "e", Some(0), None), Err(ErrorKind::Invalid));
    assert_eq!(rig.world.look().lock_files.len(), 4 + 1, "of four tenants and the firewall");
    assert_eq!(create(&rig, "local", None, None), Err(ErrorKind::Invalid));
    assert_eq!(create(&rig, "a", None, None), Err(ErrorKind::Conflict));
}

#[test]
fn a_destroyed_tenants_net_id_rests_thirty_days() {
    let rig = Rig::new();
    assert_eq!(create(&rig, "a", None, None), Ok(1));
    destroy(&rig, "a", false).unwrap();
    assert_eq!(create(&rig, "b", None, None), Ok(2));
    assert_eq!(create(&rig, "c", Some(1), None), Err(ErrorKind::Conflict));
    let days = Seconds(31 * 24 * 3600).duration();
    rig.clock.now.fetch_add(u64::try_from(days.as_millis()).unwrap(), Ordering::SeqCst);
    assert_eq!(create(&rig, "c", None, None), Ok(1));
}

#[test]
fn a_net_id_of_which_the_host_still_shows_something_is_not_given_out() {
    let rig = Rig::new();
    rig.world.look().bridges.insert(NetId(1));
    assert_eq!(create(&rig, "a", None, None), Ok(2));
}

#[test]
fn a_tenant_with_pools_is_destroyed_by_force_only_and_leaves_nothing() {
    let rig = Rig::with_pool(Quotas::default());
    for state in [State::Running, State::Warm, State::Sleeping, State::Stopped, State::Ready] {
        rig.instance_in(state);
    }
    assert_eq!(destroy(&rig, "acme", false), Err(ErrorKind::Conflict));
    assert_eq!(rig.engine.instances(&crate::query::Filter::All).unwrap().len(), 5);
    destroy(&rig, "acme", true).unwrap();
    let content = rig.world.look();
    assert!(content.is_bare() && content.bridges.is_empty() && content.routes.is_empty());
    assert!(content.keys.is_empty() && content.firewall.is_none());
    assert!(content.lock_files.is_empty(), "{:?}", content.lock_files);
    drop(content);
    assert!(rig.engine.tenants().unwrap().is_empty());
    assert_eq!(destroy(&rig, "acme", true), Err(ErrorKind::NotFound));
    assert!(rig.world.look().lock_files.is_empty());
}

#[test]
fn only_the_given_limits_change_and_the_log_says_from_what_to_what() {
    let rig = Rig::with_pool(Quotas::default());
    let update =
        |quotas| rig.operate(&Operation::TenantUpdate { tenant: tenant(), quotas, policy: None });
    let wider = QuotaChange { max_running: Some(9), max_pools: Some(4), ..QuotaChange::default() };
    update(wider).unwrap();
    update(wider).unwrap();
    let quotas = rig.engine.tenant(&tenant()).unwrap().record.quotas;
    assert_eq!(quotas, Quotas { max_running: 9, ..Quotas::default() });
    let log = rig.store.events(&tenant(), 0, usize::MAX).unwrap();
    let told: Vec<_> =
        log.iter().filter(|one| one.event.event == EventKind::TenantUpdated).collect();
    assert_eq!(told.len(), 1, "what changes nothing is not told");
    let detail = &told.first().unwrap().event.detail;
    assert_eq!(detail.keys().collect::<Vec<_>>(), ["max_running", "operation"]);
    assert_eq!(detail.get("max_running").unwrap(), "8 -> 9");
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_and_changes_nothing() {
    let rig = Rig::with_pool(Quotas::default());
    rig.instance_in(State::Running);
    rig.instance_in(State::Warm);
    let before = rig.engine.tenant(&tenant()).unwrap().record;
    let quotas = QuotaChange {
        max_warm: Some(0),
        max_instances_per_pool: Some(1),
        max_running: Some(1),
        ..QuotaChange::default()
    };
    let ask = Operation::TenantUpdate { tenant: tenant(), quotas, policy: None };
    for error in [rig.operate(&ask).unwrap_err(), rig.engine.plan_only(&rig.cx, &ask).unwrap_err()]
    {
        assert_eq!(error.kind, ErrorKind::Refused);
        let said = error.to_string();
        assert!(said.contains("max_warm 4 to 0") && said.contains("per_pool 16 to 1"), "{said}");
        assert!(!said.contains("max_running"), "{said}");
    }
    assert_eq!(rig.engine.tenant(&tenant()).unwrap().record, before);
}

#[test]
fn nothing_is_made_in_a_tenant_whose_destruction_was_cut_off() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    rig.world.fail("remove_tap", 9, ErrorKind::Permission);
    let tenant = || "acme".parse().unwrap();
    let outcome = rig
        .operate(&Operation::TenantDestroy {
            tenant: tenant(),
            force: true,
            volumes: VolumeFate::Delete,
        })
        .unwrap();
    assert_eq!(outcome.failures.len(), 1);
    let conflict =
        |op: Operation| assert_eq!(rig.operate(&op).unwrap_err().kind, ErrorKind::Conflict);
    conflict(pool_create("acme/db"));
    conflict(Operation::InstanceCreate {
        pool: pool("acme/web"),
        publish: Vec::new(),
        volume: None,
    });
    conflict(scale(1, 0, 0));
    conflict(Operation::build(pool("acme/web")));
    conflict(tenant_create("acme", Quotas::default()));
    assert_eq!(rig.go(&id, Move::Start).unwrap_err().kind, ErrorKind::Conflict);
    rig.world.look().failing.clear();
    destroy(&rig, "acme", true).unwrap();
    assert!(rig.world.look().is_bare());
}

#[test]
fn the_audit_log_tells_the_whole_life_in_order() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Sleeping);
    rig.go(&id, Move::Wake).unwrap();
    rig.go(&id, Move::Stop).unwrap();
    rig.go(&id, Move::Destroy).unwrap();
    use EventKind::*;
    let life = [
        TenantCreated,
        KeyCreated,
        PoolCreated,
        PoolBuilt,
        InstanceCreated,
        VolumeCreated,
        InstanceStarted,
        MinRuntimeOverridden,
        InstanceWarmed,
        SnapshotPublished,
        InstanceSlept,
        SnapshotRetired,
        InstanceWoken,
        MinRuntimeOverridden,
        InstanceStopped,
        InstanceDestroyed,
    ];
    assert_eq!(rig.kinds(), life);
}
