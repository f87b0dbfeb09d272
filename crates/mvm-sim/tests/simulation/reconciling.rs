//! A node reaches any desired state, from any other one, whatever happens on the way.
//!
//! Each seed walks through random desired states. Some passes are cut off or meet faults; a pass over a
//! whole machine then does all that is left, and one more does nothing at all.

use std::sync::Arc;

use mvm_core::{
    Error,
    desired::{Addressee, DesiredState, parse},
    event::Actor,
    instance::Instance,
    operation::Operation,
    plan::pool::assign,
    port::{Clock, Table},
    state::{Move, State},
};
use mvm_engine::{Context, Outcome};
use mvm_sim::{
    chance::Chance,
    fault::{Fault, Plan},
    process::Simulation,
};
use serde_json::{Value, json};

use crate::harness::{
    Mvm, destroy_all, instances, pools, settle, simulation, step, tenants, volumes,
};

const TENANTS: [(&str, u32); 3] = [("acme", 3), ("bolt", 4), ("core", 5)];
const POOLS: [(&str, &str); 3] =
    [("gate", "gateway"), ("web", "worker"), ("tool", "capability-tool")];
/// Desired states of one seed.
const STATES: u64 = 5;
/// The most instances that run at once, by quota; the pools together never ask for more.
const RUNNING: u64 = 4;

/// A random desired state. Nothing in it breaks a quota of its own, so all of it can be had.
fn random_state(chance: &mut Chance) -> DesiredState {
    let mut all = Vec::new();
    for (name, net) in TENANTS {
        if name == "core" && chance.one_in(2) {
            continue;
        }
        let mut left = RUNNING;
        let mut named = Vec::new();
        for (pool, role) in POOLS {
            if chance.one_in(4) {
                continue;
            }
            let mut count = |most: u64| {
                let count = chance.below(most.min(left) + 1);
                left -= count;
                count
            };
            let (running, warm, sleeping) = (count(3), count(1), count(1));
            named.push(json!({
                "pool_id": pool,
                "image": "default",
                "role": role,
                "instance_resources": {
                    "vcpus": 1,
                    "mem_mib": 256,
                    "data_disk_mib": if chance.one_in(3) { 64 } else { 0 },
                },
                "desired_counts": { "running": running, "warm": warm, "sleeping": sleeping },
                "pinned": chance.one_in(3),
            }));
        }
        all.push(json!({
            "tenant_id": name,
            "network": { "tenant_net_id": net, "ipv4_subnet": format!("10.240.{net}.0/24") },
            "quotas": { "max_running": RUNNING + chance.below(3), "max_vcpus": 4 + chance.below(4) },
            "pools": named,
        }));
    }
    state_of(&all, chance.one_in(2))
}

fn state_of(tenants: &[Value], prunes: bool) -> DesiredState {
    let document = json!({
        "schema_version": 1,
        "node_id": "local",
        "tenants": tenants,
        // A pool that nobody names holds its part of the quota.
        "prune_unknown_pools": true,
        "prune_unknown_tenants": prunes,
    });
    parse(document.to_string().as_bytes(), Addressee::Anyone).unwrap()
}

fn reconcile(mvm: &Mvm, desired: &DesiredState) -> Result<Outcome, Error> {
    let operation = Operation::AgentReconcile { desired: Box::new(desired.clone()) };
    mvm.engine.operate(&Context::silent(Actor::Policy), &operation)
}

/// Every row of the store, and how long every log is.
fn rows(sim: &Simulation) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let tables = [Table::Tenants, Table::Pools, Table::Instances, Table::Volumes, Table::Meta];
    sim.store
        .transact(&mut |tx| {
            for table in tables {
                rows.extend(tx.list(table, "")?);
            }
            Ok(())
        })
        .unwrap();
    for name in TENANTS.map(|(name, _)| name).into_iter().chain(["node"]) {
        let log = sim.store.events(&name.parse().unwrap(), 0, usize::MAX).unwrap();
        rows.push((name.to_owned(), log.len().to_string()));
    }
    rows
}

/// Whether the node is what the document asks for, told by the records alone.
fn is_reached(sim: &Simulation, desired: &DesiredState) -> Result<(), String> {
    let (all, kinds) = (instances(&*sim.store), pools(&*sim.store));
    let known = tenants(&*sim.store);
    for tenant in &desired.tenants {
        let record = known.iter().find(|record| record.tenant_id == tenant.tenant_id);
        let Some(record) = record else { return Err(format!("no tenant {}", tenant.tenant_id)) };
        if record.quotas != tenant.quotas {
            return Err(format!("{}: {:?}", tenant.tenant_id, record.quotas));
        }
        for pool in &tenant.pools {
            let id = format!("{}/{}", tenant.tenant_id, pool.pool_id);
            let Some(record) = kinds.iter().find(|one| one.pool.to_string() == id) else {
                return Err(format!("no pool {id}"));
            };
            let held: Vec<Instance> =
                all.iter().filter(|one| one.instance.pool_ref() == record.pool).cloned().collect();
            let left = assign(&held, pool.desired_counts, sim.clock.now());
            if record.desired_counts != pool.desired_counts
                || record.policy != pool.policy
                || !left.is_empty()
            {
                return Err(format!("{id}: {:?} {left:?}", record.desired_counts));
            }
        }
        let surplus = kinds.iter().find(|one| {
            let is_its = one.pool.tenant == tenant.tenant_id;
            is_its && !tenant.pools.iter().any(|pool| pool.pool_id == one.pool.pool)
        });
        if let Some(pool) = surplus.filter(|_| desired.prune_unknown_pools) {
            return Err(format!("{} is still there", pool.pool));
        }
    }
    let lost = known
        .iter()
        .find(|one| !desired.tenants.iter().any(|tenant| tenant.tenant_id == one.tenant_id));
    match lost.filter(|_| desired.prune_unknown_tenants) {
        Some(tenant) => Err(format!("{} is still there", tenant.tenant_id)),
        None => Ok(()),
    }
}

/// How many passes are needed after a mishap: one, and another where a guest turns out to be broken.
const AFTER_A_MISHAP: usize = 2;

/// In milliseconds; longer than an override lasts and a net-id rests.
const LONG: i64 = 60 * 24 * 3600 * 1000;

/// A pass brings all of it about, and the next one does nothing and writes nothing.
fn converges(sim: &Arc<Simulation>, desired: &DesiredState, passes: usize) -> Result<(), String> {
    sim.heal();
    sim.clock.jump(LONG);
    let mvm = Mvm::start(sim);
    let mut failed = None;
    for _ in 0..passes {
        let outcome = reconcile(&mvm, desired).map_err(|error| error.to_string())?;
        failed = outcome.error();
        if failed.is_none() {
            break;
        }
    }
    if let Some(error) = failed {
        return Err(format!("passes on a whole machine fail: {error}"));
    }
    is_reached(sim, desired)?;
    let before = rows(sim);
    let again = reconcile(&mvm, desired).map_err(|error| error.to_string())?;
    let bare = Outcome { operation: None, duration_ms: 0, ..again };
    if bare != Outcome::default() || rows(sim) != before {
        return Err(format!("the next pass does something: {bare:?}"));
    }
    Ok(())
}

/// What a person does meanwhile.
fn disturb(sim: &Arc<Simulation>, chance: &mut Chance) {
    let mvm = Mvm::start(sim);
    let running: Vec<Instance> =
        instances(&*sim.store).into_iter().filter(|one| one.state == State::Running).collect();
    if let Some(one) = chance.pick(&running) {
        let wish = if chance.one_in(2) { Move::Stop } else { Move::Sleep };
        let _ = mvm.operate(&step(&one.instance, wish));
    }
}

fn walk(seed: u64, is_told: bool) -> (Arc<Simulation>, Result<(), String>) {
    let sim = simulation(seed);
    if is_told {
        sim.record();
    }
    let mut chance = Chance::new(seed);
    let mut result = Ok(());
    for number in 0..STATES {
        let desired = random_state(&mut chance);
        sim.note(|| format!("--- {number}: {desired:?}"));
        let is_hindered = !seed.is_multiple_of(3);
        if is_hindered {
            // One that is cut off or hindered first: it may do what it can.
            let every = 5 + chance.below(120);
            sim.arm(Plan::random(&mut chance, 2000, every));
            let _ = reconcile(&Mvm::start(&sim), &desired);
            sim.heal();
        }
        if chance.one_in(2) {
            disturb(&sim, &mut chance);
        }
        let passes = if is_hindered { AFTER_A_MISHAP } else { 1 };
        result = converges(&sim, &desired, passes).map_err(|why| format!("state {number}: {why}"));
        if result.is_err() || !sim.violations().is_empty() {
            break;
        }
    }
    let result = result.and_then(|()| settle(&sim)).and_then(|()| destroy_all(&sim));
    let is_empty = volumes(&*sim.store).is_empty() && instances(&*sim.store).is_empty();
    let result = result.and_then(|()| if is_empty { Ok(()) } else { Err("rows are left".into()) });
    (sim, result)
}

#[test]
fn a_node_reaches_random_desired_states_whatever_happens_and_then_rests() {
    for seed in 0..100 {
        if walk(seed, false).1.is_err() {
            let (sim, result) = walk(seed, true);
            let lines = sim.transcript();
            let start = lines.len().saturating_sub(300);
            panic!("seed {seed}:\n{}\n=> {result:?}", lines[start..].join("\n"));
        }
    }
}

/// Two tenants of which one goes, and pools that are made, pruned, changed, grow and shrink.
fn from_and_to() -> (DesiredState, DesiredState) {
    let pool = |name: &str, role: &str, counts: [u32; 3], disk: u32| {
        json!({
            "pool_id": name,
            "image": "default",
            "role": role,
            "instance_resources": { "vcpus": 1, "mem_mib": 256, "data_disk_mib": disk },
            "desired_counts": { "running": counts[0], "warm": counts[1], "sleeping": counts[2] },
        })
    };
    let tenant = |name: &str, net: u32, most: u32, pools: Value| {
        json!({
            "tenant_id": name,
            "network": { "tenant_net_id": net, "ipv4_subnet": format!("10.240.{net}.0/24") },
            "quotas": { "max_running": most },
            "pools": pools,
        })
    };
    let old = json!([pool("gate", "gateway", [1, 0, 0], 0), pool("old", "worker", [1, 0, 0], 64)]);
    let new = json!([pool("gate", "gateway", [1, 1, 0], 0), pool("web", "worker", [1, 0, 1], 64)]);
    let from = [tenant("acme", 3, 3, old), tenant("bolt", 4, 2, json!([]))];
    let to = [tenant("acme", 3, 2, new)];
    (state_of(&from, false), state_of(&to, true))
}

#[test]
fn a_pass_that_is_hindered_at_any_one_call_is_made_good_by_the_next() {
    let (from, to) = from_and_to();
    let attempt = |plan: Plan, is_told: bool| {
        let sim = simulation(1);
        if is_told {
            sim.record();
        }
        converges(&sim, &from, 1).unwrap();
        sim.arm(plan);
        let _ = reconcile(&Mvm::start(&sim), &to);
        let calls = sim.calls();
        let result = converges(&sim, &to, AFTER_A_MISHAP).and_then(|()| settle(&sim));
        (sim, calls, result)
    };
    let (_, calls, clean) = attempt(Plan::none(), false);
    clean.unwrap();
    for call in 0..calls {
        // Half of the faults at each call, the other half at the next.
        for fault in Fault::ALL.into_iter().skip(usize::from(call % 2 == 1)).step_by(2) {
            if attempt(Plan::at(call, fault), false).2.is_err() {
                let (sim, _, result) = attempt(Plan::at(call, fault), true);
                panic!("{fault:?} at call {call}:\n{}\n=> {result:?}", sim.transcript().join("\n"));
            }
        }
    }
}
