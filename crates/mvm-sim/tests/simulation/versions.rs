//! Several versions of Firecracker side by side: a snapshot wakes under its own, whatever the node moved to.

use std::sync::Arc;

use mvm_core::{
    ErrorKind,
    id::{InstanceRef, VmmVersion},
    operation::Operation,
    state::{Move, State},
};
use mvm_sim::process::Simulation;

use crate::harness::{Mvm, destroy_all, instances, running, settle, step};

const OLD: &str = "1.12.1";
const NEW: &str = "1.12.2";
const SPARE: &str = "1.12.0";

fn version(text: &str) -> VmmVersion {
    text.parse().unwrap()
}

/// An instance that sleeps under the old version, on a node that moved to the new one.
fn moved() -> (Arc<Simulation>, InstanceRef) {
    let (sim, id) = running();
    Mvm::start(&sim).operate(&step(&id, Move::Sleep)).unwrap();
    {
        let mut world = sim.machine.world();
        world.version = version(NEW);
        world.versions.extend([version(OLD), version(SPARE)]);
    }
    (sim, id)
}

fn runs(sim: &Simulation, id: &InstanceRef) -> Option<String> {
    sim.machine.world().vmms.get(&id.instance).map(|vmm| vmm.version.to_string())
}

#[test]
fn a_snapshot_wakes_under_its_own_version_and_a_start_takes_the_nodes() {
    let (sim, id) = moved();
    for _ in 0..2 {
        Mvm::start(&sim).operate(&step(&id, Move::Wake)).unwrap();
        assert_eq!(runs(&sim, &id).as_deref(), Some(OLD));
        Mvm::start(&sim).operate(&step(&id, Move::Sleep)).unwrap();
    }
    for wish in [Move::Stop, Move::Start] {
        Mvm::start(&sim).operate(&step(&id, wish)).unwrap();
    }
    assert_eq!(runs(&sim, &id).as_deref(), Some(NEW));
    settle(&sim).unwrap();
    destroy_all(&sim).unwrap();
}

#[test]
fn a_snapshot_whose_version_is_gone_sleeps_on_and_can_be_given_up() {
    let (sim, id) = moved();
    sim.machine.world().versions.remove(&version(OLD));
    let refused = Mvm::start(&sim).operate(&step(&id, Move::Wake)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
    assert_eq!(instances(&*sim.store).first().unwrap().state, State::Sleeping);
    for wish in [Move::Stop, Move::Start] {
        Mvm::start(&sim).operate(&step(&id, wish)).unwrap();
    }
    assert_eq!(runs(&sim, &id).as_deref(), Some(NEW));
    destroy_all(&sim).unwrap();
}

#[test]
fn gc_removes_only_versions_that_nothing_needs() {
    let (sim, id) = moved();
    let gc = || Mvm::start(&sim).operate(&Operation::NodeGc { keep: None }).unwrap().removals;
    let gone = gc();
    let versions = gone.iter().filter(|one| one.effect == "remove_version");
    assert_eq!(
        versions.map(|one| one.subject.as_str()).collect::<Vec<_>>(),
        ["Firecracker 1.12.0"]
    );
    assert_eq!(gc().len(), 0);
    Mvm::start(&sim).operate(&step(&id, Move::Wake)).unwrap();
    // The node moves back, and again nothing needs the new one.
    {
        let mut world = sim.machine.world();
        world.version = version(OLD);
        world.versions = [version(NEW)].into();
    }
    assert_eq!(gc().len(), 1);
    destroy_all(&sim).unwrap();
}
