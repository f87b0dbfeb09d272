//! How long planning takes. Run by hand, in release:
//! `cargo test --release -p mvm-engine -- --ignored planning --nocapture`.

#![expect(clippy::disallowed_methods, reason = "R3: a measurement reads the clock")]

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use mvm_core::{
    id::InstanceId,
    instance::{Drain, Instance},
    observed::{ObservedInstance, ObservedVmm, Origin, Phase, SnapshotPhase},
    operation::Operation,
    plan,
    pool::Counts,
    quota::Quotas,
    state::{Move, State},
    units::{Generation, Timestamp},
};

use crate::{fake::*, store::sqlite::SqliteStore};

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
