//! Steps that fail, guests that do not answer, and where the instance comes to rest.

use mvm_core::{
    error::ErrorKind,
    event::EventKind,
    instance::{Drain, Want},
    observed::{PausedFor, Phase},
    operation::Operation,
    port::{GuestAct, GuestAnswer},
    quota::Quotas,
    state::{Move, State},
};

use crate::{fake::*, run::is_cancelled};

fn rig(state: State) -> (Rig, mvm_core::id::InstanceRef) {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(state);
    rig.world.look().asked.clear();
    (rig, id)
}

fn rests(rig: &Rig, id: &mvm_core::id::InstanceRef, state: State) {
    let record = rig.record(id);
    assert_eq!((record.state, record.want), (state, Want::rest(state)));
}

#[test]
fn what_is_unavailable_for_a_moment_is_tried_again() {
    for effect in ["spawn_vmm", "boot_vmm", "ensure_tap", "ensure_jail"] {
        let (rig, id) = rig(State::Ready);
        rig.world.fail(effect, 2, ErrorKind::Unavailable);
        rig.go(&id, Move::Start).unwrap();
    }
}

#[test]
fn a_shim_that_died_is_reported_and_replaced_by_the_next_command() {
    let (rig, id) = rig(State::Running);
    rig.world.look().orphans.insert(id.instance.clone());
    rig.go(&id, Move::Warm).unwrap();
    assert!(rig.world.look().orphans.is_empty());
    assert_eq!(rig.kinds().iter().filter(|kind| **kind == EventKind::ShimLost).count(), 1);
}

#[test]
fn an_altered_firewall_is_reported_and_put_back_by_the_next_start() {
    let (rig, id) = rig(State::Ready);
    rig.world.look().firewall_altered = true;
    rig.go(&id, Move::Start).unwrap();
    assert!(!rig.world.look().firewall_altered);
    let repairs = |kind: &&EventKind| **kind == EventKind::FirewallRepaired;
    assert_eq!(rig.kinds().iter().filter(repairs).count(), 1);
}

#[test]
fn a_start_that_fails_leaves_nothing_but_its_reason() {
    for (from, effect) in [(State::Ready, "boot_vmm"), (State::Stopped, "spawn_vmm")] {
        let (rig, id) = rig(from);
        rig.world.fail(effect, 99, ErrorKind::Failed);
        let error = rig.go(&id, Move::Start).unwrap_err();
        assert!(error.to_string().contains("was told to fail"), "{error}");
        rests(&rig, &id, from);
        assert!(rig.record(&id).last_failure.is_some());
        let content = rig.world.look();
        assert!(content.vmms.is_empty() && content.taps.is_empty() && content.jails.is_empty());
    }
}

#[test]
fn a_guest_that_never_answers_after_boot_is_not_left_running() {
    let (rig, id) = rig(State::Ready);
    rig.world.look().answers.insert("await", GuestAnswer::Silent);
    assert_eq!(rig.go(&id, Move::Start).unwrap_err().kind, ErrorKind::Unavailable);
    rests(&rig, &id, State::Ready);
    assert!(rig.world.look().vmms.is_empty());
}

#[test]
fn a_wake_that_fails_before_its_snapshot_is_retired_sleeps_on() {
    for effect in ["load_snapshot", "spawn_vmm", "retire_snapshot"] {
        let (rig, id) = rig(State::Sleeping);
        rig.world.fail(effect, 99, ErrorKind::Integrity);
        assert_eq!(rig.go(&id, Move::Wake).unwrap_err().kind, ErrorKind::Integrity);
        rests(&rig, &id, State::Sleeping);
        assert!(rig.world.look().vmms.is_empty());
        rig.world.look().failing.clear();
        rig.go(&id, Move::Wake).unwrap();
    }
}

#[test]
fn a_wake_that_fails_after_its_snapshot_was_retired_is_a_failure() {
    let (rig, id) = rig(State::Sleeping);
    rig.world.fail("resume_vmm", 99, ErrorKind::Failed);
    rig.go(&id, Move::Wake).unwrap_err();
    rests(&rig, &id, State::Stopped);
    assert!(rig.record(&id).last_failure.unwrap().reason.contains("lost while waking"));
    assert!(rig.world.look().vmms.is_empty());
}

#[test]
fn a_sleep_that_does_not_fit_leaves_the_guest_running_and_thawed() {
    for effect in ["write_snapshot", "publish_snapshot", "pause_vmm"] {
        let (rig, id) = rig(State::Running);
        rig.world.fail(effect, 99, ErrorKind::Refused);
        assert_eq!(rig.go(&id, Move::Sleep).unwrap_err().kind, ErrorKind::Refused);
        rests(&rig, &id, State::Running);
        let content = rig.world.look();
        assert_eq!(content.vmms[&id.instance].phase, Phase::Running);
        let last = content.asked.last().unwrap();
        let thaws = matches!(last, GuestAct::Wake { .. } | GuestAct::Thaw);
        assert!(thaws, "{effect}: the guest stays frozen after {last:?}");
    }
}

#[test]
fn a_failed_sleep_of_a_warm_instance_leaves_it_warm() {
    let (rig, id) = rig(State::Warm);
    rig.world.fail("write_snapshot", 99, ErrorKind::Refused);
    rig.go(&id, Move::Sleep).unwrap_err();
    rests(&rig, &id, State::Warm);
    assert!(matches!(rig.world.look().vmms[&id.instance].phase, Phase::Paused(_)));
    rig.world.look().failing.clear();
    rig.go(&id, Move::Wake).unwrap();
    rests(&rig, &id, State::Running);
}

#[test]
fn a_warm_guest_that_does_not_answer_its_wake_stays_warm() {
    let (rig, id) = rig(State::Warm);
    rig.world.look().answers.insert("wake", GuestAnswer::Silent);
    assert_eq!(rig.go(&id, Move::Wake).unwrap_err().kind, ErrorKind::Unavailable);
    rests(&rig, &id, State::Warm);
    assert_eq!(rig.world.look().vmms[&id.instance].phase, Phase::Paused(PausedFor::Warm));
}

#[test]
fn a_vmm_that_does_not_answer_is_told_of_and_can_be_stopped() {
    let (rig, id) = rig(State::Running);
    let silent = || rig.world.look().vmms.get_mut(&id.instance).unwrap().phase = Phase::Silent;
    silent();
    let error = rig.go(&id, Move::Sleep).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.hints[0].contains("mvm instance stop acme"), "{error:?}");
    rests(&rig, &id, State::Running);
    silent();
    rig.world.look().asked.clear();
    rig.go(&id, Move::Stop).unwrap();
    rests(&rig, &id, State::Stopped);
    assert!(rig.world.look().asked.is_empty(), "it was asked although it cannot answer");
    rig.go(&id, Move::Start).unwrap();
    rests(&rig, &id, State::Running);
}

#[test]
fn a_silent_guest_is_put_to_sleep_and_that_is_audited() {
    let (rig, id) = rig(State::Running);
    rig.world.look().answers.insert("drain", GuestAnswer::Silent);
    rig.world.look().answers.insert("quiesce", GuestAnswer::Silent);
    rig.go(&id, Move::Sleep).unwrap();
    assert!(rig.kinds().contains(&EventKind::DrainForced));
}

#[test]
fn a_guest_that_refuses_to_sleep_runs_on_unless_forced() {
    let (rig, id) = rig(State::Running);
    rig.world.look().answers.insert("drain", GuestAnswer::Refused("at work".to_owned()));
    let error = rig.go(&id, Move::Sleep).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.contains("at work") && error.hints[0].contains("--force"));
    rests(&rig, &id, State::Running);
    let (instance, wish, drain) = (id.clone(), Move::Sleep, Drain::Skip);
    rig.operate(&Operation::InstanceMove { instance, wish, drain }).unwrap();
    rests(&rig, &id, State::Sleeping);
}

#[test]
fn a_guest_that_answers_the_drain_but_not_the_freeze_is_not_slept() {
    let (rig, id) = rig(State::Running);
    rig.world.look().answers.insert("quiesce", GuestAnswer::Silent);
    assert_eq!(rig.go(&id, Move::Sleep).unwrap_err().kind, ErrorKind::Unavailable);
    rests(&rig, &id, State::Running);
}

#[test]
fn a_guest_that_ignores_shutdown_is_stopped() {
    for state in [State::Running, State::Warm] {
        let (rig, id) = rig(state);
        for act in ["shutdown", "thaw"] {
            rig.world.look().answers.insert(act, GuestAnswer::Silent);
        }
        rig.go(&id, Move::Stop).unwrap();
        rests(&rig, &id, State::Stopped);
    }
}

#[test]
fn a_stop_that_fails_stays_wanted_and_the_next_one_goes_on() {
    let (rig, id) = rig(State::Running);
    rig.world.fail("remove_jail", 99, ErrorKind::Failed);
    rig.go(&id, Move::Stop).unwrap_err();
    assert_eq!(rig.record(&id).want, Want::Stopped);
    rig.world.look().failing.clear();
    rig.go(&id, Move::Stop).unwrap();
    rests(&rig, &id, State::Stopped);
}

#[test]
fn a_vmm_that_dies_while_it_boots_is_reported_with_its_reason() {
    let (rig, id) = rig(State::Ready);
    rig.world.fail("boot_vmm", 99, ErrorKind::Unavailable);
    rig.world.look().dying_at = Some("boot_vmm");
    let error = rig.go(&id, Move::Start).unwrap_err();
    assert!(error.message.contains("signal 9"), "{error}");
    let act = |cause: &String| cause.contains("boot_vmm was told to fail");
    assert!(error.causes.iter().any(act), "what the act had to say is lost: {error}");
    rests(&rig, &id, State::Stopped);
    let failure = rig.record(&id).last_failure.unwrap();
    assert!(failure.reason.contains("boot_vmm was told to fail"), "{failure:?}");
    rig.world.look().failing.clear();
    rig.world.look().dying_at = None;
    rig.go(&id, Move::Start).unwrap();
}

#[test]
fn an_interrupted_operation_can_be_repeated() {
    let (rig, id) = rig(State::Running);
    rig.cx.cancel.raise();
    let error = rig.go(&id, Move::Sleep).unwrap_err();
    assert!(is_cancelled(&error), "{error}");
    assert!(rig.record(&id).in_flight());
    let again = rig.again();
    again.go(&id, Move::Sleep).unwrap();
    rests(&again, &id, State::Sleeping);
}
