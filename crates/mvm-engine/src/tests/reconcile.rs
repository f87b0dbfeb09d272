//! Bringing the node to a desired state, with the operations of people.

use mvm_core::{
    desired::{Addressee, DesiredState, parse},
    error::{Error, ErrorKind},
    event::{Actor, EventKind},
    id::TenantId,
    instance::Want,
    operation::Operation,
    port::{Store, Table},
    quota::Quotas,
    state::{Move, State},
};
use serde_json::{Value, json};

use crate::{fake::*, outcome::Outcome, query::Filter};

fn pool_of(name: &str, role: &str, running: u32) -> Value {
    json!({
        "pool_id": name,
        "image": "default",
        "role": role,
        "instance_resources": { "vcpus": 1, "mem_mib": 256 },
        "desired_counts": { "running": running },
    })
}

fn tenant_of(name: &str, net: u32, pools: &Value) -> Value {
    json!({
        "tenant_id": name,
        "network": { "tenant_net_id": net, "ipv4_subnet": format!("10.240.{net}.0/24") },
        "pools": pools,
    })
}

fn desired(tenants: &Value) -> DesiredState {
    let text = json!({ "schema_version": 1, "node_id": "local", "tenants": tenants }).to_string();
    parse(text.as_bytes(), Addressee::Anyone).unwrap()
}

fn reconcile(rig: &Rig, desired: &DesiredState) -> Result<Outcome, Error> {
    rig.operate(&Operation::AgentReconcile { desired: Box::new(desired.clone()) })
}

/// How many entries all logs have.
fn entries(rig: &Rig, tenants: &[&str]) -> usize {
    let logs = tenants.iter().copied().chain([TenantId::NODE]);
    logs.map(|name| rig.store.events(&name.parse().unwrap(), 0, usize::MAX).unwrap().len()).sum()
}

/// Every row of the store.
fn dump(rig: &Rig) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let tables = [Table::Tenants, Table::Pools, Table::Instances, Table::Meta];
    rig.store
        .transact(&mut |tx| {
            for table in tables {
                rows.extend(tx.list(table, "")?);
            }
            Ok(())
        })
        .unwrap();
    rows
}

/// A pass that finds nothing to do, and writes nothing.
fn at_rest(rig: &Rig, desired: &DesiredState, tenants: &[&str]) {
    let before = (entries(rig, tenants), dump(rig));
    let outcome = reconcile(rig, desired).unwrap();
    let bare = Outcome { operation: None, duration_ms: 0, ..outcome };
    assert_eq!(bare, Outcome::default());
    assert_eq!((entries(rig, tenants), dump(rig)), before, "a pass at rest wrote something");
}

fn running(rig: &Rig, pool_id: &str) -> usize {
    let all = rig.engine.instances(&Filter::Pool(pool(pool_id))).unwrap();
    all.iter().filter(|one| one.record.state == State::Running).count()
}

#[test]
fn a_desired_state_is_brought_about_from_nothing_and_the_second_pass_writes_nothing() {
    let rig = Rig::new();
    let state = desired(&json!([
        tenant_of("acme", 3, &json!([pool_of("gate", "gateway", 1), pool_of("web", "worker", 2)])),
        tenant_of("bolt", 4, &json!([pool_of("web", "worker", 1)])),
    ]));
    let outcome = reconcile(&rig, &state).unwrap();
    assert_eq!(outcome.error(), None, "{outcome:?}");
    assert_eq!(outcome.changes.len(), 4);
    assert_eq!(
        [running(&rig, "acme/gate"), running(&rig, "acme/web"), running(&rig, "bolt/web")],
        [1, 2, 1]
    );
    at_rest(&rig, &state, &["acme", "bolt"]);
    let told = rig.store.events(&TenantId::node(), 0, 10).unwrap();
    let accepted: Vec<_> =
        told.iter().filter(|one| one.event.event == EventKind::DesiredStateAccepted).collect();
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].event.actor, Actor::Uid(1000), "who asked is told");
}

#[test]
fn what_the_records_amount_to_is_what_is_there_already() {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&scale(1, 1, 1)).unwrap();
    let state = rig.engine.desired(None).unwrap();
    at_rest(&rig, &state, &["acme"]);
}

#[test]
fn a_pool_and_a_tenant_that_fail_stop_nobody_else() {
    let rig = Rig::new();
    let mut wrong = pool_of("wrong", "worker", 1);
    wrong["image"] = json!("absent");
    let state = desired(&json!([
        tenant_of("acme", 3, &json!([wrong, pool_of("web", "worker", 1)])),
        // Its net-id is taken by then.
        tenant_of("bolt", 4, &json!([pool_of("web", "worker", 1)])),
        tenant_of("core", 5, &json!([pool_of("web", "worker", 1)])),
    ]));
    rig.operate(&Operation::TenantCreate {
        tenant: "squatter".parse().unwrap(),
        net: Some(mvm_core::net::NetId(4)),
        subnet: None,
        quotas: Quotas::default(),
        keyed: true,
    })
    .unwrap();
    let outcome = reconcile(&rig, &state).unwrap();
    let failed: Vec<&str> = outcome.failures.iter().map(|one| one.subject.as_str()).collect();
    assert_eq!(failed, ["bolt", "acme/wrong"], "{outcome:?}");
    assert_eq!([running(&rig, "acme/web"), running(&rig, "core/web")], [1, 1]);
    assert_eq!(outcome.error().unwrap().kind, ErrorKind::Conflict);
    let again = reconcile(&rig, &state).unwrap();
    assert_eq!((again.failures.len(), again.changes.len()), (2, 0), "{again:?}");
}

#[test]
fn a_persons_command_stands_and_reconcile_is_no_persons_command() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    let state = rig.engine.desired(None).unwrap();
    let held = reconcile(&rig, &state).unwrap();
    assert_eq!((held.changes.len(), held.deferrals.len()), (0, 1), "{held:?}");
    assert_eq!(rig.record(&id).state, State::Running);
    rig.clock.now.fetch_add(3_600_000, std::sync::atomic::Ordering::SeqCst);
    let stopped = reconcile(&rig, &state).unwrap();
    assert_eq!((stopped.changes.len(), stopped.deferrals.len()), (1, 0), "{stopped:?}");
    let mut one_more = state;
    one_more.tenants[0].pools[0].desired_counts.running = 1;
    reconcile(&rig, &one_more).unwrap();
    let record = rig.record(&id);
    let until = record.manual_override_until;
    assert!(until.is_none_or(|until| until.0 < 3_600_000), "{until:?}");
    assert_eq!((record.state, record.want), (State::Running, Want::Running));
    let log = rig.store.events(&"acme".parse().unwrap(), 0, 1).unwrap();
    assert_eq!(
        (&log[0].event.actor, log[0].event.reason.as_str()),
        (&Actor::Policy, "agent reconcile")
    );
}

#[test]
fn what_died_is_started_again() {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&scale(1, 0, 0)).unwrap();
    let state = rig.engine.desired(None).unwrap();
    let id = rig.engine.look(&pool("acme/web")).unwrap()[0].instance.clone();
    rig.world.kill(&id);
    let outcome = reconcile(&rig, &state).unwrap();
    assert_eq!(outcome.changes.len(), 1, "{outcome:?}");
    assert_eq!(rig.record(&id).state, State::Running);
    at_rest(&rig, &state, &["acme"]);
}

#[test]
fn unknown_tenants_and_pools_go_only_when_that_is_asked() {
    let rig = Rig::new();
    let both = json!([pool_of("web", "worker", 1), pool_of("old", "worker", 1)]);
    let state = desired(&json!([tenant_of("acme", 3, &both), tenant_of("bolt", 4, &json!([]))]));
    reconcile(&rig, &state).unwrap();
    let mut less = desired(&json!([tenant_of("acme", 3, &json!([pool_of("web", "worker", 1)]))]));
    at_rest(&rig, &less, &["acme", "bolt"]);
    less.prune_unknown_pools = true;
    reconcile(&rig, &less).unwrap();
    assert_eq!(rig.engine.pools(None).unwrap().len(), 1);
    assert_eq!(rig.engine.tenants().unwrap().len(), 2);
    less.prune_unknown_tenants = true;
    let outcome = reconcile(&rig, &less).unwrap();
    assert_eq!(outcome.acts.len(), 1, "{outcome:?}");
    assert_eq!(rig.engine.tenants().unwrap().len(), 1);
    at_rest(&rig, &less, &["acme"]);
}

#[test]
fn counts_move_between_pools_within_a_quota_that_holds_them_once() {
    let rig = Rig::new();
    let of = |first: u32, second: u32| {
        let pools = json!([pool_of("gate", "gateway", first), pool_of("web", "worker", second)]);
        let mut tenant = tenant_of("acme", 3, &pools);
        tenant["quotas"] = json!({ "max_running": 2, "max_vcpus": 2 });
        desired(&json!([tenant]))
    };
    for (first, second) in [(0, 2), (2, 0), (1, 1)] {
        let outcome = reconcile(&rig, &of(first, second)).unwrap();
        assert_eq!(outcome.error(), None, "{outcome:?}");
        at_rest(&rig, &of(first, second), &["acme"]);
    }
}

#[test]
fn policies_routes_and_another_source_reach_the_records_once() {
    let rig = Rig::new();
    let mut gate = pool_of("gate", "gateway", 1);
    gate["routing_table"] = json!({ "routes": [
        { "name": "all", "match_rule": { "port": 80 }, "target": { "pool_id": "web" } },
    ] });
    let mut web = pool_of("web", "worker", 1);
    web["critical"] = json!(true);
    web["metadata"] = json!({ "owner": "ops" });
    let of = |gate: &Value, web: &Value| {
        let mut tenant = tenant_of("acme", 3, &json!([gate, web]));
        tenant["pinned"] = json!(true);
        desired(&json!([tenant]))
    };
    let state = of(&gate, &web);
    assert_eq!(reconcile(&rig, &state).unwrap().error(), None);
    at_rest(&rig, &state, &["acme"]);
    let recorded =
        DesiredState { node_id: "local".to_owned(), ..rig.engine.desired(None).unwrap() };
    assert_eq!(recorded, state);
    gate.as_object_mut().unwrap().remove("routing_table");
    gate["role"] = json!("worker");
    web["image"] = json!("other");
    let state = of(&gate, &web);
    let outcome = reconcile(&rig, &state).unwrap();
    assert_eq!(outcome.error(), None, "{outcome:?}");
    assert!(outcome.acts.iter().any(|one| one.act == "pool_build" && one.subject == "acme/web"));
    at_rest(&rig, &state, &["acme"]);
}

#[test]
fn a_dry_run_shows_the_plan_and_what_would_not_be_done() {
    let rig = Rig::with_pool(Quotas::default());
    let mut state = rig.engine.desired(None).unwrap();
    state.tenants[0].pools[0].desired_counts.running = 1;
    let mut other = state.tenants[0].clone();
    other.tenant_id = "bolt".parse().unwrap();
    other.network.tenant_net_id = mvm_core::net::NetId(9);
    other.network.ipv4_subnet = "10.240.9.0/24".parse().unwrap();
    state.tenants.push(other);
    state.tenants[0].network.tenant_net_id = mvm_core::net::NetId(7);
    let before = dump(&rig);
    let operation = Operation::AgentReconcile { desired: Box::new(state) };
    let plan = rig.engine.plan_only(&rig.cx, &operation).unwrap();
    let acts: Vec<&str> = plan.acts.iter().map(|one| one.act.as_str()).collect();
    assert_eq!(acts, ["tenant_create", "pool_create", "pool_build", "pool_scale"]);
    assert_eq!(plan.failures[0].subject, "acme");
    assert_eq!(dump(&rig), before);
    rig.go(&rig.create(), Move::Start).unwrap();
}
