//! What operations do to a small world, whatever fails or dies in it.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use mvm_core::{
    quota::Quotas,
    state::{Move, State},
};

use crate::fake::*;

#[test]
fn an_instance_runs_warms_sleeps_wakes_and_is_destroyed() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.create();
    for (wish, state) in [
        (Move::Start, State::Running),
        (Move::Warm, State::Warm),
        (Move::Wake, State::Running),
        (Move::Sleep, State::Sleeping),
        (Move::Wake, State::Running),
        (Move::Stop, State::Stopped),
    ] {
        let outcome = rig.go(&id, wish).unwrap();
        assert_eq!(outcome.changes[0].to, state);
        assert_eq!(rig.record(&id).state, state);
    }
    rig.go(&id, Move::Destroy).unwrap();
    let content = rig.world.look();
    assert!(content.taps.is_empty() && content.jails.is_empty() && content.volumes.is_empty());
}

#[test]
fn a_pool_scales_up_and_down_and_a_second_pass_does_nothing() {
    let rig = Rig::with_pool(Quotas::default());
    let first = rig.operate(&scale(3, 1, 1)).unwrap();
    assert_eq!(first.failures, []);
    assert_eq!(first.changes.len(), 5);
    assert!(rig.operate(&scale(3, 1, 1)).unwrap().changes.is_empty());
    let down = rig.operate(&scale(1, 0, 0)).unwrap();
    assert_eq!((down.failures.len(), down.changes.len()), (0, 4));
    assert!(rig.operate(&scale(1, 0, 0)).unwrap().changes.is_empty());
}
