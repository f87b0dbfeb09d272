#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

use serde_json::{Value, json};

use super::*;
use crate::{
    desired::{Addressee, parse},
    net::Network,
    plan::{fixture::instance, pool::Held},
    pool::{PoolPolicy, Revision, Source},
    state::State,
    units::{Generation, Vcpus},
};

const NOW: Timestamp = Timestamp(1_000_000);

/// A desired state with `tenants`; prunes nothing.
fn desired(tenants: &Value) -> DesiredState {
    let text = json!({ "schema_version": 1, "node_id": "local", "tenants": tenants }).to_string();
    parse(text.as_bytes(), Addressee::Anyone).unwrap()
}

fn wanted(pools: &Value) -> DesiredState {
    desired(&json!([{
        "tenant_id": "acme",
        "network": { "tenant_net_id": 3, "ipv4_subnet": "10.240.3.0/24" },
        "quotas": { "max_running": 8 },
        "pools": pools,
    }]))
}

fn wanted_pool(name: &str, role: &str, running: u32) -> Value {
    json!({
        "pool_id": name,
        "image": "default",
        "role": role,
        "instance_resources": { "vcpus": 1, "mem_mib": 128 },
        "desired_counts": { "running": running },
    })
}

fn tenant() -> Tenant {
    Tenant {
        tenant_id: "acme".parse().unwrap(),
        network: Network {
            tenant: "acme".parse().unwrap(),
            net: crate::net::NetId(3),
            subnet: "10.240.3.0/24".parse().unwrap(),
        },
        quotas: crate::quota::Quotas::default(),
        keyed: true,
        rotating: false,
        secrets: None,
        policy: TenantPolicy::default(),
        destroying: false,
        created_at: Timestamp(0),
        generation: Generation(1),
    }
}

fn pool(name: &str, role: &str, running: u32) -> Pool {
    let source = Source::Image("default".to_owned());
    Pool {
        pool: format!("acme/{name}").parse().unwrap(),
        source: source.clone(),
        profile: "minimal".to_owned(),
        role: role.parse().unwrap(),
        instance_resources: crate::pool::Resources::new(
            Vcpus(1),
            crate::units::Mib(128),
            crate::units::Mib(0),
        ),
        desired_counts: Counts { running, warm: 0, sleeping: 0 },
        runtime_policy: crate::pool::RuntimePolicy::default(),
        secret_scopes: Vec::new(),
        integrations: Vec::new(),
        routing_table: None,
        policy: PoolPolicy::default(),
        revisions: vec![Revision {
            image: "a".repeat(64).parse().unwrap(),
            built_at: Timestamp(0),
            source: Some(source),
        }],
        rolled_back_to: None,
        rolling: None,
        destroying: false,
        created_at: Timestamp(0),
        generation: Generation(1),
    }
}

/// `count` running instances of a pool.
fn running(pool: &str, count: u32) -> Vec<Instance> {
    let of = |n| {
        let mut one = instance(n, State::Running);
        let name = one.instance.instance.clone();
        one.instance = format!("acme/{pool}/{name}").parse().unwrap();
        one
    };
    let first = pool.bytes().map(u32::from).sum::<u32>() * 100;
    (0..count).map(|n| of(first + n)).collect()
}

fn planned(desired: &DesiredState, pools: &[Pool], instances: &[Instance]) -> NodePlan {
    let found =
        Found { tenants: vec![tenant()], pools: pools.to_vec(), instances: instances.to_vec() };
    plan(desired, &found, Room::Ample, NOW)
}

/// Each stage as its acts, in words.
fn words(plan: &NodePlan) -> Vec<Vec<String>> {
    let word = |act: &Act| {
        let subject = match &act.subject {
            Subject::Tenant(id) => id.to_string(),
            Subject::Pool(id) => id.to_string(),
            other @ (Subject::Instance(_) | Subject::Firewall) => panic!("an act on {other}"),
        };
        format!("{} {subject}", act.operation.name())
    };
    plan.stages.iter().map(|stage| stage.iter().flatten().map(word).collect()).collect()
}

#[test]
fn an_empty_node_gets_tenant_then_pools_then_builds_then_counts_gateways_first() {
    let state = wanted(&json!([
        wanted_pool("tool", "capability-tool", 1),
        wanted_pool("work", "worker", 2),
        wanted_pool("gate", "gateway", 1),
    ]));
    let plan = plan(&state, &Found::default(), Room::Ample, NOW);
    assert_eq!(
        words(&plan),
        [
            vec!["tenant_create acme"],
            vec![
                "pool_create acme/gate",
                "pool_create acme/work",
                "pool_create acme/tool",
                "pool_build acme/gate",
                "pool_build acme/work",
                "pool_build acme/tool",
            ],
            vec!["pool_scale acme/gate"],
            vec!["pool_scale acme/work"],
            vec!["pool_scale acme/tool"],
        ]
    );
    let needed: Vec<NeededBy> =
        plan.stages.iter().flatten().flatten().map(|act| act.needed_by).collect();
    assert_eq!(needed[0], NeededBy::Tenant);
    assert!(needed[1..7].iter().all(|by| *by == NeededBy::Pool));
}

#[test]
fn a_node_that_is_as_desired_gets_an_empty_plan() {
    let state =
        wanted(&json!([wanted_pool("gate", "gateway", 1), wanted_pool("work", "worker", 2)]));
    let pools = [pool("gate", "gateway", 1), pool("work", "worker", 2)];
    let instances = [running("gate", 1), running("work", 2)].concat();
    assert_eq!(planned(&state, &pools, &instances), NodePlan::default());
}

#[test]
fn going_down_comes_before_going_up_and_in_reverse_order_of_roles() {
    let state = wanted(&json!([
        wanted_pool("gate", "gateway", 0),
        wanted_pool("work", "worker", 1),
        wanted_pool("more", "worker", 2),
    ]));
    let pools = [pool("gate", "gateway", 1), pool("work", "worker", 2), pool("more", "worker", 1)];
    let instances = [running("gate", 1), running("work", 2), running("more", 1)].concat();
    let plan = planned(&state, &pools, &instances);
    assert_eq!(
        words(&plan),
        [vec!["pool_scale acme/work"], vec!["pool_scale acme/gate"], vec!["pool_scale acme/more"]]
    );
}

#[test]
fn limits_rise_before_anything_and_fall_after_what_holds_them_went() {
    let mut state = wanted(&json!([wanted_pool("work", "worker", 1)]));
    let quotas = &mut state.tenants[0].quotas;
    (quotas.max_running, quotas.max_warm) = (2, 9);
    let plan = planned(&state, &[pool("work", "worker", 2)], &running("work", 2));
    assert_eq!(
        words(&plan),
        [vec!["tenant_update acme"], vec!["pool_scale acme/work"], vec!["tenant_update acme"]]
    );
    let changes: Vec<QuotaChange> = plan
        .stages
        .iter()
        .flatten()
        .flatten()
        .filter_map(|act| {
            if let Operation::TenantUpdate { quotas, .. } = act.operation {
                Some(quotas)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(changes[0], QuotaChange { max_warm: Some(9), ..QuotaChange::default() });
    assert_eq!(changes[1], QuotaChange { max_running: Some(2), ..QuotaChange::default() });
}

#[test]
fn another_network_is_refused_and_nothing_of_that_tenant_is_touched() {
    let mut state = wanted(&json!([wanted_pool("work", "worker", 1)]));
    state.tenants[0].network.tenant_net_id = crate::net::NetId(9);
    let plan = planned(&state, &[], &[]);
    assert!(plan.stages.is_empty());
    assert_eq!(plan.refusals[0].1.kind, ErrorKind::Conflict);
}

#[test]
fn what_this_version_cannot_enforce_is_refused_instead_of_ignored() {
    let mut strict = wanted_pool("safe", "worker", 1);
    strict["seccomp_policy"] = json!("strict");
    let state = wanted(&json!([strict, wanted_pool("work", "worker", 0)]));
    let plan = planned(&state, &[pool("work", "worker", 0)], &[]);
    assert_eq!(plan.refusals[0].0, Subject::Pool("acme/safe".parse().unwrap()));
    assert!(plan.stages.is_empty(), "{:?}", words(&plan));
    let mut state = wanted(&json!([]));
    state.tenants[0].policy.egress = Some(crate::tenant::Egress {
        policy: EgressPolicy::Deny,
        ..crate::tenant::Egress::default()
    });
    assert_eq!(planned(&state, &[], &[]).refusals[0].0, Subject::Tenant("acme".parse().unwrap()));
}

#[test]
fn only_what_is_pruned_or_going_already_is_destroyed() {
    let mut state = wanted(&json!([wanted_pool("work", "worker", 0)]));
    let mut pools = vec![pool("work", "worker", 0), pool("old", "worker", 0)];
    assert_eq!(planned(&state, &pools, &[]), NodePlan::default());
    state.prune_unknown_pools = true;
    assert_eq!(words(&planned(&state, &pools, &[])), [["pool_destroy acme/old"]]);
    state.prune_unknown_pools = false;
    pools[1].destroying = true;
    assert_eq!(words(&planned(&state, &pools, &[])), [["pool_destroy acme/old"]]);
    state.tenants.clear();
    assert_eq!(planned(&state, &pools, &[]), NodePlan::default());
    state.prune_unknown_tenants = true;
    assert_eq!(words(&planned(&state, &pools, &[])), [["tenant_destroy acme"]]);
}

#[test]
fn a_pool_that_is_going_and_wanted_again_goes_to_its_end_and_is_made_anew() {
    let state = wanted(&json!([wanted_pool("work", "worker", 0)]));
    let mut going = pool("work", "worker", 0);
    going.destroying = true;
    assert_eq!(
        words(&planned(&state, &[going], &[])),
        [vec!["pool_destroy acme/work"], vec!["pool_create acme/work", "pool_build acme/work"]]
    );
}

#[test]
fn another_source_is_recorded_and_built_and_so_is_one_whose_build_failed() {
    let mut other = wanted_pool("work", "worker", 0);
    other["image"] = json!("other");
    let state = wanted(&json!([other]));
    let mut record = pool("work", "worker", 0);
    let expected = [vec!["pool_update acme/work", "pool_build acme/work"]];
    assert_eq!(words(&planned(&state, std::slice::from_ref(&record), &[])), expected);
    record.source = Source::Image("other".to_owned());
    let again = planned(&state, std::slice::from_ref(&record), &[]);
    assert_eq!(words(&again), [vec!["pool_build acme/work"]]);
    assert_eq!(again.stages[0][0][0].needed_by, NeededBy::Nobody, "the present build serves on");
    record.revisions[0].source = None;
    assert_eq!(planned(&state, &[record], &[]), NodePlan::default(), "older records do not say");
}

#[test]
fn a_rollback_by_a_person_is_not_undone() {
    let state = wanted(&json!([wanted_pool("work", "worker", 0)]));
    let mut record = pool("work", "worker", 0);
    let older = Revision {
        image: "b".repeat(64).parse().unwrap(),
        built_at: Timestamp(0),
        source: Some(Source::Image("older".to_owned())),
    };
    record.rolled_back_to = Some(older.image.clone());
    record.revisions.push(older);
    assert_eq!(planned(&state, &[record], &[]), NodePlan::default());
}

#[test]
fn routes_come_when_every_pool_is_there_that_they_lead_to() {
    let mut gate = wanted_pool("gate", "gateway", 0);
    gate["routing_table"] = json!({ "routes": [
        { "name": "all", "match_rule": { "port": 80 }, "target": { "pool_id": "work" } },
    ] });
    let state = wanted(&json!([gate, wanted_pool("work", "worker", 0)]));
    let plan = planned(&state, &[], &[]);
    assert_eq!(
        words(&plan)[0],
        [
            "pool_create acme/gate",
            "pool_create acme/work",
            "pool_update acme/gate",
            "pool_build acme/gate",
            "pool_build acme/work",
        ]
    );
}

#[test]
fn an_instance_that_died_is_asked_for_again_and_one_under_a_persons_command_is_told() {
    let state = wanted(&json!([wanted_pool("work", "worker", 1)]));
    let pools = [pool("work", "worker", 1)];
    let mut instances = running("work", 1);
    instances[0].state = State::Stopped;
    instances[0].want = Want::Stopped;
    assert_eq!(words(&planned(&state, &pools, &instances)), [["pool_scale acme/work"]]);
    instances[0].manual_override_until = Some(Timestamp(NOW.0 + 1));
    let plan = planned(&state, &pools, &instances);
    assert_eq!(plan.deferrals, [(instances[0].instance.clone(), Held::Person)]);
}

#[test]
fn policies_of_tenant_and_pool_are_part_of_the_plan() {
    let mut work = wanted_pool("work", "worker", 0);
    work["pinned"] = json!(true);
    let mut state = wanted(&json!([work]));
    state.tenants[0].policy.pinned = true;
    let plan = planned(&state, &[pool("work", "worker", 0)], &[]);
    assert_eq!(words(&plan), [["tenant_update acme"], ["pool_update acme/work"]]);
}

#[test]
fn where_pools_wait_for_each_others_places_each_gives_up_first_what_it_has_too_much() {
    let mut pools = [pool("a", "worker", 2), pool("b", "worker", 0)];
    pools[1].desired_counts.warm = 2;
    let mut instances = [running("a", 2), running("b", 2)].concat();
    for one in &mut instances[2..] {
        (one.state, one.want) = (State::Warm, Want::Warm);
    }
    let mut first = wanted_pool("a", "worker", 0);
    first["desired_counts"] = json!({ "warm": 2 });
    let state = wanted(&json!([first, wanted_pool("b", "worker", 2)]));
    let found = Found { tenants: vec![tenant()], pools: pools.to_vec(), instances };
    let of = |room| words(&plan(&state, &found, room, NOW));
    assert_eq!(of(Room::Ample), [["pool_scale acme/a", "pool_scale acme/b"]]);
    assert_eq!(
        of(Room::Tight),
        [["pool_scale acme/a", "pool_scale acme/b"], ["pool_scale acme/a", "pool_scale acme/b"]]
    );
}
