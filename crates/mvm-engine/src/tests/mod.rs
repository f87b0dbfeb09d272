//! What operations do to a small world, whatever fails or dies in it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

mod accept;
mod audit;
mod bench;
mod crashes;
mod desired;
mod durable;
mod faults;
mod flakes;
mod integrations;
mod metrics;
mod network;
mod overrides;
mod own;
mod policy;
mod races;
mod rebuild;
mod reconcile;
mod rolls;
mod routes;
mod secrets;
mod templates;
mod tenants;
mod volumes;

use mvm_core::{
    error::ErrorKind,
    event::EventKind,
    instance::Want,
    operation::Operation,
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
        (Move::Warm, State::Warm),
        (Move::Sleep, State::Sleeping),
        (Move::Stop, State::Stopped),
    ] {
        let outcome = rig.go(&id, wish).unwrap();
        assert_eq!(outcome.changes[0].to, state);
        assert!(!outcome.changes[0].events.is_empty());
        assert_eq!(rig.record(&id).state, state);
    }
    rig.go(&id, Move::Destroy).unwrap();
    assert!(rig.world.look().is_bare(), "something is left");
}

#[test]
fn exactly_the_legal_moves_are_done_and_the_others_change_nothing() {
    for state in State::ALL {
        if matches!(state, State::Created | State::Destroyed) {
            continue;
        }
        for wish in Move::ALL {
            let rig = Rig::with_pool(Quotas::default());
            let id = rig.instance_in(state);
            let before = (rig.record(&id), rig.world.look().done.len());
            match (state.next(wish), rig.go(&id, wish)) {
                (Ok(to), Ok(outcome)) => assert_eq!(outcome.changes[0].to, to, "{state} {wish}"),
                (Err(_), Err(error)) => {
                    let kinds = [ErrorKind::Conflict, ErrorKind::Invalid];
                    assert!(kinds.contains(&error.kind), "{state} {wish}: {error}");
                    assert_eq!(before, (rig.record(&id), rig.world.look().done.len()));
                }
                (legal, done) => unreachable!("{wish} while {state}: {legal:?} but {done:?}"),
            }
        }
    }
}

#[test]
fn a_created_instance_can_only_be_destroyed_until_its_pool_is_built() {
    let rig = Rig::new();
    rig.operate(&tenant_create("acme", Quotas::default())).unwrap();
    rig.operate(&pool_create("acme/web")).unwrap();
    let id = rig.create();
    assert_eq!(rig.record(&id).state, State::Created);
    for wish in [Move::Start, Move::Warm, Move::Sleep, Move::Wake, Move::Stop] {
        assert_eq!(rig.go(&id, wish).unwrap_err().kind, ErrorKind::Conflict);
    }
    assert_eq!(rig.operate(&scale(1, 0, 0)).unwrap_err().kind, ErrorKind::Conflict);
    rig.operate(&Operation::build(pool("acme/web"))).unwrap();
    assert_eq!(rig.record(&id).state, State::Ready);
    rig.go(&id, Move::Start).unwrap();
}

#[test]
fn a_pool_scales_up_and_down_and_a_second_pass_does_nothing() {
    let rig = Rig::with_pool(Quotas::default());
    let first = rig.operate(&scale(3, 1, 1)).unwrap();
    assert_eq!((first.failures.len(), first.changes.len()), (0, 5));
    assert!(rig.operate(&scale(3, 1, 1)).unwrap().changes.is_empty());
    let down = rig.operate(&scale(1, 0, 0)).unwrap();
    assert_eq!((down.failures.len(), down.changes.len()), (0, 4));
    assert!(rig.operate(&scale(1, 0, 0)).unwrap().changes.is_empty());
}

#[test]
fn scaling_brings_the_firewall_into_force_once_for_all_new_instances() {
    let rig = Rig::with_pool(Quotas::default());
    rig.world.look().done.clear();
    rig.operate(&scale(6, 0, 0)).unwrap();
    let done = rig.world.look().done.clone();
    assert_eq!(done.iter().filter(|name| **name == "replace_firewall").count(), 1);
    assert_eq!(rig.world.look().firewall.as_ref().unwrap().ports.len(), 6);
}

#[test]
fn one_failing_instance_does_not_stop_the_others() {
    let rig = Rig::with_pool(Quotas::default());
    rig.world.fail("boot_vmm", 1, ErrorKind::Permission);
    let outcome = rig.operate(&scale(4, 0, 0)).unwrap();
    assert_eq!((outcome.changes.len(), outcome.failures.len()), (3, 1));
    assert_eq!(outcome.error().unwrap().kind, ErrorKind::Permission);
    assert_eq!(rig.operate(&scale(4, 0, 0)).unwrap().changes.len(), 1);
}

#[test]
fn counts_leave_an_instance_alone_after_a_persons_command() {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&scale(2, 0, 0)).unwrap();
    let all = rig.engine.look(&pool("acme/web")).unwrap();
    rig.go(&all[0].instance, Move::Sleep).unwrap();
    let agent = crate::engine::Context::silent(mvm_core::event::Actor::Policy);
    let outcome = rig.engine.operate(&agent, &scale(2, 0, 0)).unwrap();
    assert_eq!(outcome.deferrals.len(), 1);
    assert_eq!(rig.record(&all[0].instance).state, State::Sleeping);
    assert_eq!(outcome.changes.len(), 1, "another one runs in its place");
}

#[test]
fn a_quota_refuses_before_anything_happens_and_is_audited() {
    let rig = Rig::with_pool(Quotas { max_running: 1, max_warm: 1, ..Quotas::default() });
    let (one, two) = (rig.instance_in(State::Running), rig.create());
    let before = rig.record(&two);
    assert_eq!(rig.go(&two, Move::Start).unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(rig.record(&two), before);
    assert_eq!(rig.kinds().last(), Some(&EventKind::QuotaExceeded));
    assert_eq!(rig.operate(&scale(2, 0, 0)).unwrap_err().kind, ErrorKind::Refused);
    rig.go(&one, Move::Sleep).unwrap();
    rig.go(&two, Move::Start).unwrap();
    assert_eq!(rig.go(&one, Move::Wake).unwrap_err().kind, ErrorKind::Refused);
}

#[test]
fn the_node_refuses_what_its_memory_does_not_hold() {
    let mut rig = Rig::with_pool(Quotas::default());
    rig.engine.config.guest_memory = Some(mvm_core::units::Mib(300));
    let (one, two) = (rig.create(), rig.create());
    rig.go(&one, Move::Start).unwrap();
    let refused = rig.go(&two, Move::Start).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused);
    assert!(refused.message.contains("300 MiB"), "{refused}");
}

#[test]
fn a_dead_vmm_is_noticed_by_a_question_and_audited_once() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    rig.world.kill(&id);
    let record = rig.record(&id);
    assert_eq!((record.state, record.want), (State::Stopped, Want::Stopped));
    assert!(record.last_failure.unwrap().reason.contains("signal 9"));
    rig.record(&id);
    let failed = rig.kinds().into_iter().filter(|kind| *kind == EventKind::InstanceFailed).count();
    assert_eq!(failed, 1);
    rig.go(&id, Move::Start).unwrap();
    assert_eq!(rig.record(&id).last_failure, None);
}

#[test]
fn a_preview_changes_nothing_and_is_refused_where_the_operation_would_be() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.create();
    let before = (rig.kinds(), rig.world.look().done.len());
    let ask = |operation: Operation| rig.engine.plan_only(&rig.cx, &operation);
    let go = |wish| Operation::InstanceMove {
        instance: id.clone(),
        wish,
        drain: mvm_core::instance::Drain::Ask,
    };
    assert!(!ask(go(Move::Start)).unwrap().steps.is_empty());
    assert_eq!(ask(go(Move::Wake)).unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(ask(scale(2, 1, 0)).unwrap().assignments.len(), 3);
    assert_eq!(ask(scale(99, 0, 0)).unwrap_err().kind, ErrorKind::Refused);
    assert!(ask(tenant_create("other", Quotas::default())).unwrap().made.is_some());
    assert_eq!(
        ask(tenant_create("acme", Quotas::default())).unwrap_err().kind,
        ErrorKind::Conflict
    );
    assert_eq!(before, (rig.kinds(), rig.world.look().done.len()));
    assert_eq!(rig.engine.tenants().unwrap().len(), 1);
}

#[test]
fn what_is_missing_is_named_with_the_way_to_see_what_there_is() {
    let rig = Rig::with_pool(Quotas::default());
    let missing = |text: &str| rig.go(&text.parse().unwrap(), Move::Start).unwrap_err();
    let error = missing("nobody/web/i-00000001");
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(error.message, "there is no tenant nobody");
    assert!(error.hints[0].contains("mvm tenant list"));
    assert_eq!(missing("acme/db/i-00000001").message, "there is no pool acme/db");
    assert!(missing("acme/web/i-0000abcd").hints[0].contains("mvm instance list acme/web"));
}

#[test]
fn a_destruction_that_was_cut_off_cannot_be_turned_into_a_stop() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    rig.world.fail("remove_instance_files", 9, ErrorKind::Permission);
    rig.go(&id, Move::Destroy).unwrap_err();
    assert_eq!(rig.record(&id).want, Want::Destroyed);
    rig.world.look().failing.clear();
    assert_eq!(rig.go(&id, Move::Stop).unwrap_err().kind, ErrorKind::NotFound);
    assert!(rig.world.look().is_bare());
}
