//! Ticks of policy: what rests, what is brought back, what makes room (SPEC §7).

use std::{sync::atomic::Ordering, sync::mpsc};

use mvm_core::{
    error::ErrorKind,
    event::{Actor, EventKind},
    id::InstanceRef,
    instance::ParkedBy,
    meter::{GuestMetrics, Pressure},
    operation::Operation,
    pool::PoolChange,
    port::{ExecRequest, ExecStreams, Wanted},
    quota::Quotas,
    state::{Move, State},
    units::Seconds,
};

use crate::{Outcome, Watch, engine::Context, fake::*, query::Filter};

const MINUTE: u64 = 60_000;

fn running(count: u32) -> Operation {
    let (pool, running) = (pool("acme/web"), Some(count));
    Operation::PoolScale { pool, running, warm: None, sleeping: None, no_wait: false }
}

/// A rig whose counts ask for so many running instances, and these.
fn rig(count: u32) -> (Rig, Vec<InstanceRef>) {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&running(count)).unwrap();
    let views = rig.engine.instances(&Filter::All).unwrap();
    (rig, views.into_iter().map(|view| view.record.instance).collect())
}

/// Lets a minute pass in which guests do nothing, and ticks.
fn tick(rig: &Rig, watch: &mut Watch) -> Outcome {
    let now = rig.clock.now.fetch_add(MINUTE, Ordering::SeqCst) + MINUTE;
    for view in rig.engine.instances(&Filter::All).unwrap() {
        let still = GuestMetrics { cpu_total_ms: now, cpu_idle_ms: now, ..GuestMetrics::default() };
        rig.world.look().metrics.insert(view.record.instance.instance, still);
    }
    rig.engine.policy_tick(&rig.cx, watch).unwrap()
}

fn exec(rig: &Rig, id: &InstanceRef) -> Result<(), mvm_core::Error> {
    let request = ExecRequest {
        argv: vec!["true".to_owned()],
        env: Vec::new(),
        cwd: None,
        user: None,
        terminal: None,
    };
    let streams = ExecStreams {
        stdin: Box::new(std::io::empty()),
        stdout: Box::new(std::io::sink()),
        stderr: Box::new(std::io::sink()),
        control: mpsc::channel().1,
    };
    rig.engine.exec(&rig.cx, id, &request, streams).map(drop)
}

#[test]
fn what_nobody_needs_is_parked_warm_and_then_asleep_and_the_counts_leave_it_there() {
    let (rig, ids) = rig(1);
    let agent = Context::silent(Actor::Policy);
    let mut watch = Watch::default();
    let mut states = Vec::new();
    for _ in 0..20 {
        tick(&rig, &mut watch);
        let counts = rig.engine.operate(&agent, &running(1)).unwrap();
        assert!(counts.changes.is_empty(), "counts against policy: {counts:?}");
        states.push(rig.record(&ids[0]).state);
    }
    states.dedup();
    assert_eq!(states, [State::Running, State::Warm, State::Sleeping]);
    let record = rig.record(&ids[0]);
    assert_eq!((record.parked_by, record.manual_override_until), (Some(ParkedBy::Policy), None));
    let asleep = rig.kinds().into_iter().filter(|kind| *kind == EventKind::InstanceSlept).count();
    assert_eq!(asleep, 1);
}

#[test]
fn a_command_in_it_brings_back_what_policy_parked_and_nothing_else() {
    let (rig, ids) = rig(1);
    let mut watch = Watch::default();
    while rig.record(&ids[0]).state != State::Sleeping {
        tick(&rig, &mut watch);
    }
    exec(&rig, &ids[0]).unwrap();
    let record = rig.record(&ids[0]);
    assert_eq!((record.state, record.manual_override_until), (State::Running, None));
    rig.go(&ids[0], Move::Sleep).unwrap();
    assert_eq!(exec(&rig, &ids[0]).unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(rig.record(&ids[0]).state, State::Sleeping, "a person put it there");
}

#[test]
fn a_busy_guest_and_one_that_does_not_answer_are_left_alone() {
    let (rig, ids) = rig(2);
    let mut watch = Watch::default();
    for minute in 1..30 {
        rig.clock.now.fetch_add(MINUTE, Ordering::SeqCst);
        let total = minute * MINUTE;
        let busy =
            GuestMetrics { cpu_total_ms: total, cpu_idle_ms: total / 2, ..GuestMetrics::default() };
        rig.world.look().metrics.insert(ids[0].instance.clone(), busy);
        let outcome = rig.engine.policy_tick(&rig.cx, &mut watch).unwrap();
        assert_eq!(outcome, Outcome::default());
    }
}

#[test]
fn what_is_put_off_is_told_once() {
    let rig = Rig::with_pool(Quotas::default());
    let change = PoolChange { min_running_seconds: Some(Seconds(3600)), ..PoolChange::default() };
    let change = Box::new(change);
    rig.operate(&Operation::PoolUpdate { pool: pool("acme/web"), change }).unwrap();
    rig.operate(&running(1)).unwrap();
    let mut watch = Watch::default();
    let told: usize = (0..14).map(|_| tick(&rig, &mut watch).deferrals.len()).sum();
    assert_eq!(told, 1);
    let deferred = |kind: &EventKind| *kind == EventKind::TransitionDeferred;
    assert_eq!(rig.kinds().into_iter().filter(deferred).count(), 1);
}

#[test]
fn a_guest_that_does_not_let_itself_be_parked_is_asked_three_times_and_then_told() {
    let (rig, ids) = rig(1);
    let change = PoolChange { min_running_seconds: Some(Seconds(0)), ..PoolChange::default() };
    let change = Box::new(change);
    rig.operate(&Operation::PoolUpdate { pool: pool("acme/web"), change }).unwrap();
    rig.world.fail("pause_vmm", 1_000, ErrorKind::Conflict);
    let mut watch = Watch::default();
    let outcomes: Vec<Outcome> = (0..30).map(|_| tick(&rig, &mut watch)).collect();
    let put_off: usize = outcomes.iter().map(|one| one.deferrals.len()).sum();
    let failures: Vec<_> = outcomes.iter().flat_map(|one| &one.failures).collect();
    assert_eq!((put_off, failures.len()), (2, 1), "{failures:?}");
    assert!(failures[0].error.to_string().contains("3 attempts"), "{failures:?}");
    assert_eq!(rig.record(&ids[0]).state, State::Running);
}

#[test]
fn a_host_that_is_short_of_memory_puts_the_coldest_to_sleep_and_no_more() {
    let (rig, ids) = rig(3);
    let mut watch = Watch::default();
    tick(&rig, &mut watch);
    tick(&rig, &mut watch);
    let short = Pressure { total_mib: 1000, available_mib: 90, stalled_percent: None };
    rig.world.look().pressure = short;
    let outcome = tick(&rig, &mut watch);
    assert_eq!(outcome.changes.len(), 1, "{outcome:?}");
    assert_eq!(outcome.changes[0].to, State::Sleeping);
    rig.world.look().pressure = Pressure { available_mib: 900, ..short };
    assert!(tick(&rig, &mut watch).changes.is_empty());
    let asleep = ids.iter().filter(|id| rig.record(id).state == State::Sleeping).count();
    assert_eq!(asleep, 1);
}

#[test]
fn who_tries_to_reach_what_policy_parked_brings_it_back_and_nothing_else() {
    let (rig, ids) = rig(2);
    let mut watch = Watch::default();
    while rig.record(&ids[0]).state != State::Sleeping {
        tick(&rig, &mut watch);
    }
    rig.go(&ids[1], Move::Wake).unwrap();
    rig.go(&ids[1], Move::Sleep).unwrap();
    let place = |id: &InstanceRef| {
        let record = rig.record(id);
        Wanted { net: record.network.net, by: None, address: record.address().unwrap() }
    };
    let mut asked = std::collections::BTreeSet::new();
    let outcome = rig.engine.answer_demand(&rig.cx, &mut asked, true).unwrap();
    assert_eq!(outcome.changes.len(), 0, "nobody is asked for");
    let foreign = Wanted { net: mvm_core::net::NetId(99), ..place(&ids[0]) };
    let (policys, persons) = (place(&ids[0]), place(&ids[1]));
    let own = Wanted { by: Some(rig.record(&ids[0]).offset), ..policys };
    rig.world.look().wanted = vec![foreign, persons, own];
    let outcome = rig.engine.answer_demand(&rig.cx, &mut asked, true).unwrap();
    assert_eq!(
        outcome.changes.len(),
        0,
        "another network, one that a person put to sleep, one that announced itself"
    );
    rig.world.look().wanted.push(policys);
    let outcome = rig.engine.answer_demand(&rig.cx, &mut asked, false).unwrap();
    assert_eq!(outcome.changes.len(), 1);
    assert_eq!(rig.record(&ids[0]).state, State::Running);
    assert_eq!(rig.record(&ids[1]).state, State::Sleeping);
}
