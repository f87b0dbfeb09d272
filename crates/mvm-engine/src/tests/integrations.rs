//! Integrations around a sleep: what is told, what blocks, what goes on.

use mvm_core::{
    error::ErrorKind,
    event::EventKind,
    id::InstanceRef,
    instance::Drain,
    integration::Integration,
    operation::{NewPool, Operation},
    port::{GuestAct, GuestAnswer, IntegrationFailure},
    quota::Quotas,
    state::{Move, State},
};

use crate::fake::*;

/// A running instance of a pool with the critical integration `ledger` and the other `cache`.
fn rig() -> (Rig, InstanceRef) {
    let one = |name: &str, critical| Integration {
        name: name.to_owned(),
        checkpoint_cmd: Some(vec!["save".to_owned()]),
        restore_cmd: Some(vec!["load".to_owned()]),
        critical,
    };
    let rig = Rig::new();
    rig.operate(&tenant_create("acme", Quotas::default())).unwrap();
    let Operation::PoolCreate(workers) = pool_create("acme/web") else {
        unreachable!("it creates a pool")
    };
    let pool = workers.pool.clone();
    let integrations = vec![one("ledger", true), one("cache", false)];
    rig.operate(&Operation::PoolCreate(Box::new(NewPool { integrations, ..*workers }))).unwrap();
    rig.operate(&Operation::build(pool)).unwrap();
    let id = rig.create();
    rig.go(&id, Move::Start).unwrap();
    rig.world.look().asked.clear();
    (rig, id)
}

fn fails(rig: &Rig, act: &'static str, names: &[&str]) {
    let failed = names.iter().map(|name| IntegrationFailure {
        name: (*name).to_owned(),
        detail: "exit code 1".to_owned(),
    });
    rig.world.look().answers.insert(act, GuestAnswer::Partly(failed.collect()));
}

fn count(rig: &Rig, kind: EventKind) -> usize {
    rig.kinds().iter().filter(|seen| **seen == kind).count()
}

fn forced(rig: &Rig, id: &InstanceRef) -> Result<crate::Outcome, mvm_core::Error> {
    let (instance, wish, drain) = (id.clone(), Move::Sleep, Drain::Skip);
    rig.operate(&Operation::InstanceMove { instance, wish, drain })
}

#[test]
fn they_are_saved_before_a_sleep_and_restored_after_a_wake_and_the_log_says_so() {
    let (rig, id) = rig();
    rig.go(&id, Move::Sleep).unwrap();
    rig.go(&id, Move::Wake).unwrap();
    assert_eq!(count(&rig, EventKind::IntegrationCheckpointed), 2);
    assert_eq!(count(&rig, EventKind::IntegrationRestored), 2);
    rig.go(&id, Move::Warm).unwrap();
    rig.go(&id, Move::Wake).unwrap();
    assert_eq!(count(&rig, EventKind::IntegrationRestored), 2, "a pause needs no restore");
}

#[test]
fn a_critical_one_that_cannot_be_saved_keeps_the_guest_awake_unless_it_is_forced() {
    let (rig, id) = rig();
    fails(&rig, "checkpoint", &["ledger"]);
    let error = rig.go(&id, Move::Sleep).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(error.causes, ["ledger: exit code 1"]);
    assert!(error.hints.iter().any(|hint| hint.contains("--force")), "{error:?}");
    assert_eq!(rig.record(&id).state, State::Running);
    assert_eq!(rig.world.look().asked.last(), Some(&GuestAct::Thaw), "the guest may go on");
    forced(&rig, &id).unwrap();
    assert_eq!(rig.record(&id).state, State::Sleeping);
    assert_eq!(count(&rig, EventKind::IntegrationFailed), 2, "both failures are in the log");
}

#[test]
fn another_one_that_cannot_be_saved_or_restored_is_told_and_stands_in_no_way() {
    let (rig, id) = rig();
    fails(&rig, "checkpoint", &["cache"]);
    fails(&rig, "restore", &["ledger"]);
    rig.go(&id, Move::Sleep).unwrap();
    rig.go(&id, Move::Wake).unwrap();
    assert_eq!(rig.record(&id).state, State::Running);
    assert_eq!(count(&rig, EventKind::IntegrationFailed), 2);
    assert_eq!(count(&rig, EventKind::IntegrationCheckpointed), 1);
    assert_eq!(count(&rig, EventKind::IntegrationRestored), 1);
}

#[test]
fn a_guest_that_falls_silent_over_it_sleeps_all_the_same_and_the_log_says_so() {
    for silent in ["drain", "checkpoint"] {
        let (rig, id) = rig();
        for act in [silent, "quiesce"] {
            rig.world.look().answers.insert(act, GuestAnswer::Silent);
        }
        rig.go(&id, Move::Sleep).unwrap();
        assert_eq!(rig.record(&id).state, State::Sleeping);
        assert_eq!(count(&rig, EventKind::DrainForced), 1);
        assert_eq!(count(&rig, EventKind::IntegrationFailed), 2);
        let saves = |act: &&GuestAct| matches!(act, GuestAct::Checkpoint { .. });
        let asked = rig.world.look().asked.iter().filter(saves).count();
        assert_eq!(asked, usize::from(silent == "checkpoint"), "who is silent is not asked again");
    }
}

#[test]
fn an_agent_that_knows_no_integrations_counts_as_a_failure_of_all() {
    let (rig, id) = rig();
    let refusal = GuestAnswer::Refused("unsupported".to_owned());
    rig.world.look().answers.insert("checkpoint", refusal);
    assert_eq!(rig.go(&id, Move::Sleep).unwrap_err().kind, ErrorKind::Conflict);
    forced(&rig, &id).unwrap();
}
