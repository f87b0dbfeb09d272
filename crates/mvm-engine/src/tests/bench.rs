//! How long planning takes. Run by hand, in release:
//! `cargo test --release -p mvm-engine -- --ignored planning --nocapture`.

use std::{collections::BTreeMap, time::Instant};

use mvm_core::{
    id::InstanceId,
    instance::Instance,
    observed::{ObservedInstance, ObservedVmm, Origin, Phase, SnapshotPhase},
    plan,
    pool::Counts,
    quota::Quotas,
    state::State,
    units::{Generation, Timestamp},
};

use crate::fake::*;

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
    let said = format!("instances {instances:?}, pools {pools:?}");
    std::io::Write::write_all(&mut std::io::stderr(), format!("{said}\n").as_bytes()).unwrap();
}
