//! How long planning takes. Run by hand, in release:
//! `cargo test --release -p mvm-engine -- --ignored planning --nocapture`.

#![expect(clippy::disallowed_methods, reason = "R3: a measurement reads the clock")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use mvm_core::{
    desired::{Addressee, DesiredState, parse},
    event::Actor,
    id::InstanceId,
    instance::{Drain, Instance},
    observed::{ObservedInstance, ObservedVmm, Origin, Phase, SnapshotPhase},
    operation::Operation,
    plan,
    pool::Counts,
    quota::Quotas,
    state::{Move, State},
    units::{Generation, Mib, Timestamp},
};

use serde_json::{Value, json};

use crate::{
    engine::{Config, Context, Engine, Ports},
    fake::*,
    store::sqlite::SqliteStore,
};

/// Tenants, pools of each, and instances of each pool: half run, half sleep.
const TENANTS: u32 = 10;
const POOLS: u32 = 4;
const IN_POOL: u32 = 100;

fn at_rest(record: &Instance) -> ObservedInstance {
    let up = record.state == State::Running;
    let vmm = ObservedVmm { origin: Origin::Boot, phase: Phase::Running, pid: 1, resident_kib: 1 };
    ObservedInstance {
        vmm: up.then_some(vmm),
        shim: up,
        tap: up,
        cgroup: up,
        jail: up,
        bridge: true,
        routes: true,
        files: true,
        snapshots: if up {
            BTreeMap::new()
        } else {
            BTreeMap::from([(record.epoch, SnapshotPhase::Published)])
        },
        firewall: Some(Generation(1)),
        ..ObservedInstance::default()
    }
}

#[test]
#[ignore = "measures; needs a release build to mean something"]
fn planning_nothing_for_ten_thousand_instances() {
    let rig = Rig::with_pool(Quotas::default());
    let models = [rig.instance_in(State::Running), rig.instance_in(State::Sleeping)]
        .map(|id| rig.record(&id));
    let records: Vec<Instance> = (0..10_000u32)
        .map(|n| {
            let mut record = models[n as usize % 2].clone();
            record.instance.instance = InstanceId::from_random(n);
            record.manual_override_until = None;
            record
        })
        .collect();
    let seen: Vec<ObservedInstance> = records.iter().map(at_rest).collect();
    let start = Instant::now();
    for (record, seen) in records.iter().zip(&seen) {
        assert_eq!(plan::truth::notice(record, seen), None);
        assert!(plan::instance::plan(record, seen, Generation(1)).is_empty());
    }
    let instances = start.elapsed();
    let start = Instant::now();
    for pool in records.chunks(100) {
        let counts = Counts { running: 50, warm: 0, sleeping: 50 };
        assert!(plan::pool::assign(pool, counts, Timestamp(0)).is_empty());
    }
    let pools = start.elapsed();
    let said = format!(
        "planning a no-op for 10000 instances: {instances:?}, for their 100 pools: {pools:?}\n"
    );
    std::io::Write::write_all(&mut std::io::stdout(), said.as_bytes()).unwrap();
}

#[test]
#[ignore = "measures; needs a quiet machine to mean something"]
fn planning_and_recording_a_wake_over_the_durable_store() {
    let directory = tempfile::tempdir().unwrap();
    let rig = Rig::new();
    let file = directory.path().join("state.db");
    let store = SqliteStore::open(&file, Some(directory.path().to_owned())).unwrap();
    let engine = rig.engine_over(Arc::new(store));
    for operation in [
        tenant_create("acme", Quotas::default()),
        pool_create("acme/web"),
        Operation::build(pool("acme/web")),
        scale(1, 0, 0),
    ] {
        engine.operate(&rig.cx, &operation).unwrap();
    }
    let id = engine.look(&pool("acme/web")).unwrap()[0].instance.clone();
    let mut spans = BTreeMap::from([("sleep", Vec::new()), ("wake", Vec::new())]);
    for _ in 0..50 {
        for (name, wish) in [("sleep", Move::Sleep), ("wake", Move::Wake)] {
            let (instance, drain) = (id.clone(), Drain::Ask);
            let start = Instant::now();
            engine.operate(&rig.cx, &Operation::InstanceMove { instance, wish, drain }).unwrap();
            spans.get_mut(name).unwrap().push(start.elapsed());
        }
    }
    let start = Instant::now();
    for _ in 0..50 {
        drop(SqliteStore::open(&file, Some(directory.path().to_owned())).unwrap());
    }
    let opening = start.elapsed() / 50;
    for (name, mut all) in spans {
        all.sort();
        let said = format!("{name}: half within {:?}, opening {opening:?}\n", all[25]);
        std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).unwrap();
    }
}

fn four_thousand() -> DesiredState {
    let pool = |number: u32| {
        json!({
            "pool_id": format!("pool-{number}"), "image": "default", "pinned": true,
            "instance_resources": { "vcpus": 1, "mem_mib": 128 },
            "desired_counts": { "running": IN_POOL / 2, "warm": 0, "sleeping": IN_POOL / 2 },
        })
    };
    let tenant = |number: u32| {
        let pools: Vec<Value> = (0..POOLS).map(pool).collect();
        json!({
            "tenant_id": format!("tenant-{number}"),
            "network": { "tenant_net_id": number, "ipv4_subnet": format!("10.240.{}.0/20", number * 16) },
            "quotas": {
                "max_vcpus": 1000, "max_mem_mib": 1_000_000, "max_running": 1000, "max_warm": 1000,
                "max_pools": 10, "max_instances_per_pool": 200, "max_disk_gib": 10_000,
            },
            "pools": pools,
        })
    };
    let tenants: Vec<Value> = (1..=TENANTS).map(tenant).collect();
    let text = json!({ "schema_version": 1, "node_id": "local", "tenants": tenants }).to_string();
    parse(text.as_bytes(), Addressee::Anyone).unwrap()
}

/// An engine with room for all of them.
fn over(rig: &Rig, store: Arc<SqliteStore>) -> Engine {
    let ports = Ports { store, ..rig.engine.ports.clone() };
    let (guest_memory, guest_vcpus) = (Some(Mib(10_000_000)), Some(100_000));
    Engine::new(ports, Config { guest_memory, guest_vcpus, ..Config::default() })
}

fn pass(engine: &Engine, desired: &DesiredState) -> Duration {
    let cx = Context::silent(Actor::Policy);
    let operation = Operation::AgentReconcile { desired: Box::new(desired.clone()) };
    let start = Instant::now();
    let outcome = engine.operate(&cx, &operation).unwrap();
    let took = start.elapsed();
    assert_eq!((outcome.acts.len(), outcome.failures.len()), (0, 0), "it is not at rest");
    took
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// Processor time of this process so far; the kernel counts in hundredths of a second.
fn processor_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum::<u64>() * 10
}

#[test]
#[ignore = "measures; needs a release build to mean something"]
fn passing_over_four_thousand_instances_at_rest() {
    let directory = tempfile::tempdir().unwrap();
    let rig = Rig::new();
    let file = directory.path().join("state.db");
    let open = || Arc::new(SqliteStore::open(&file, Some(directory.path().to_owned())).unwrap());
    let desired = four_thousand();
    let engine = over(&rig, open());
    // A node makes 300 instances a minute for its counts.
    for _ in 0..100 {
        rig.clock.now.fetch_add(61_000, std::sync::atomic::Ordering::SeqCst);
        let cx = Context::silent(Actor::Policy);
        let operation = Operation::AgentReconcile { desired: Box::new(desired.clone()) };
        if engine.operate(&cx, &operation).is_ok_and(|done| done.acts.is_empty()) {
            break;
        }
    }
    drop(engine);
    let before = resident_mib();
    let engine = over(&rig, open());
    let busy = processor_ms();
    let mut all: Vec<Duration> = (0..31).map(|_| pass(&engine, &desired)).collect();
    let busy = (processor_ms() - busy) / 31;
    let after = resident_mib();
    all.sort();
    let said = format!(
        "passing over 4000 instances at rest: half within {:?}, all within {:?}, {busy} ms of processor time; \
         {after} MiB resident ({before} MiB before the first pass), with the simulated machine\n",
        all[15], all[30]
    );
    std::io::Write::write_all(&mut std::io::stdout(), said.as_bytes()).unwrap();
}
