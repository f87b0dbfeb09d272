//! A person's command and the counts: whose word is the latest (SPEC §3).

use mvm_core::{
    event::Actor,
    instance::Drain,
    operation::Operation,
    quota::Quotas,
    state::{Move, State},
};

use crate::{engine::Context, fake::*};

fn running(count: u32) -> Operation {
    Operation::PoolScale {
        pool: pool("acme/web"),
        running: Some(count),
        warm: None,
        sleeping: None,
        no_wait: false,
    }
}

#[test]
fn counts_in_the_background_leave_alone_what_a_person_moved() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    assert!(rig.record(&id).manual_override_until.is_some());
    let agent = Context::silent(Actor::Policy);
    let outcome = rig.engine.operate(&agent, &running(0)).unwrap();
    assert_eq!((outcome.changes.len(), outcome.deferrals.len()), (0, 1));
    assert_eq!(rig.record(&id).state, State::Running);
}

#[test]
fn who_wakes_an_instance_from_afar_is_a_person_too() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    rig.go(&id, Move::Sleep).unwrap();
    let afar = Context::silent(Actor::Certificate("coordinator:boss".to_owned()));
    let (instance, wish, drain) = (id.clone(), Move::Wake, Drain::Ask);
    let wake = Operation::InstanceMove { instance, wish, drain };
    rig.engine.operate(&afar, &wake).unwrap();
    let record = rig.record(&id);
    assert_eq!(record.state, State::Running, "the hold of who put it to sleep is no hindrance");
    assert!(record.manual_override_until.is_some(), "and policy leaves it alone");
}

#[test]
fn counts_that_a_person_sets_are_the_latest_word_and_end_the_override() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    let outcome = rig.operate(&running(0)).unwrap();
    assert_eq!((outcome.changes.len(), outcome.deferrals.len()), (1, 0));
    let record = rig.record(&id);
    assert_eq!((record.state, record.manual_override_until), (State::Stopped, None));
    let agent = Context::silent(Actor::Policy);
    assert_eq!(rig.engine.operate(&agent, &running(1)).unwrap().changes.len(), 1);
}

#[test]
fn a_move_by_hand_after_the_counts_stands_until_the_override_ends() {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&running(1)).unwrap();
    let id = rig.engine.instances(&crate::query::Filter::All).unwrap().remove(0).record.instance;
    rig.go(&id, Move::Stop).unwrap();
    let agent = Context::silent(Actor::Policy);
    let started = rig.engine.operate(&agent, &running(1)).unwrap();
    assert_eq!(rig.record(&id).state, State::Stopped, "{started:?}");
}
