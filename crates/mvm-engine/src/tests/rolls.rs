//! A pool's running instances are replaced by its current build, or return to the former one.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use mvm_core::{
    error::{Error, ErrorKind},
    event::{Actor, Event, EventKind},
    id::{ImageHash, InstanceId, Subject},
    instance::{Instance, ParkedBy, Want},
    operation::Operation,
    pool::{PoolChange, Readiness, ReadinessChange, RollFailure, RollPace, Source},
    port::{GuestAct, GuestAnswer, Locks, Store},
    quota::Quotas,
    state::{Move, State},
    units::Seconds,
};

use crate::{engine::Context, fake::*, outcome::Outcome};

const OLD: &str = "ab";
const NEW: &str = "11";

fn image(byte: &str) -> ImageHash {
    byte.repeat(32).parse().unwrap()
}

fn build(rig: &Rig, byte: &str) {
    let source = Some(Source::Image(format!("image-{byte}")));
    let change = Box::new(PoolChange { source, ..PoolChange::default() });
    rig.operate(&Operation::PoolUpdate { pool: pool("acme/web"), change }).unwrap();
    rig.operate(&Operation::build(pool("acme/web"))).unwrap();
}

/// Three that run, one Warm and one that sleeps, all on an older build than the current one.
fn rig() -> Rig {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&scale(3, 1, 1)).unwrap();
    build(&rig, NEW);
    rig
}

fn asked(batch: u32, on_failure: RollFailure) -> Operation {
    let pace = RollPace { batch, ..RollPace::default() };
    Operation::PoolRoll { pool: pool("acme/web"), pace, on_failure }
}

fn roll(rig: &Rig) -> Result<Outcome, Error> {
    rig.operate(&asked(1, RollFailure::Return))
}

fn all(rig: &Rig) -> Vec<Instance> {
    let mut all = rig.engine.look(&pool("acme/web")).unwrap();
    all.sort_by_key(|one| (one.created_at, one.instance.clone()));
    all
}

/// State and first byte of the image of each.
fn states(rig: &Rig) -> Vec<(State, String)> {
    let of = |one: Instance| (one.state, one.image.unwrap().as_str()[..2].to_owned());
    let mut states: Vec<_> = all(rig).into_iter().map(of).collect();
    states.sort();
    states
}

/// What there is after a roll that is over: those that ran and were Warm on this build.
fn whole(byte: &str) -> Vec<(State, String)> {
    let one = |state| (state, byte.to_owned());
    let awake = [State::Running, State::Running, State::Running, State::Warm].map(one);
    awake.into_iter().chain([(State::Sleeping, OLD.to_owned())]).collect()
}

fn current(rig: &Rig) -> ImageHash {
    rig.engine.pool(&pool("acme/web")).unwrap().record.current().unwrap().clone()
}

fn is_rolling(rig: &Rig) -> bool {
    rig.engine.pool(&pool("acme/web")).unwrap().record.rolling.is_some()
}

fn events(rig: &Rig, kind: EventKind) -> Vec<Event> {
    let log = rig.store.events(&"acme".parse().unwrap(), 0, usize::MAX).unwrap();
    log.into_iter().map(|one| one.event).filter(|one| one.event == kind).collect()
}

#[test]
fn a_good_build_replaces_what_runs_one_after_the_other_in_its_place_and_leaves_what_sleeps() {
    let rig = rig();
    let before = all(&rig);
    let outcome = roll(&rig).unwrap();
    assert_eq!(states(&rig), whole(NEW));
    assert!(!is_rolling(&rig));
    let places = |all: &[Instance]| -> BTreeSet<_> {
        let of = |one: &Instance| (one.offset, one.uid, format!("{:?}", one.parked_by));
        all.iter().map(|one| (one.instance.clone(), of(one))).collect()
    };
    assert_eq!(
        places(&before),
        places(&all(&rig)),
        "each keeps id, address, user and who parked it"
    );
    let stopped: Vec<InstanceId> = events(&rig, EventKind::InstanceStopped)
        .into_iter()
        .filter_map(|one| one.instance)
        .collect();
    let awake = before.iter().filter(|one| one.state != State::Sleeping);
    assert_eq!(stopped, awake.map(|one| one.instance.instance.clone()).collect::<Vec<_>>());
    assert!(outcome.notes[0].contains("1 sleep on another build"), "{outcome:?}");
    assert_eq!(events(&rig, EventKind::PoolRolled)[0].detail["instances"], "4");
    assert_eq!(roll(&rig).unwrap().changes, [], "a second one has nothing to do");
    let sleeping = before.iter().find(|one| one.state == State::Sleeping).unwrap().instance.clone();
    rig.go(&sleeping, Move::Wake).unwrap();
    assert_eq!(rig.record(&sleeping).image, Some(image(OLD)), "it wakes as what it was");
    roll(&rig).unwrap();
    assert_eq!(rig.record(&sleeping).image, Some(image(NEW)));
}

#[test]
fn never_more_than_the_batch_is_away() {
    for batch in 1..=3 {
        let rig = rig();
        rig.operate(&scale(3, 0, 0)).unwrap();
        rig.operate(&asked(batch, RollFailure::Return)).unwrap();
        let log = rig.store.events(&"acme".parse().unwrap(), 0, usize::MAX).unwrap();
        let from = log.iter().position(|one| one.event.event == EventKind::PoolRolling).unwrap();
        let (mut away, mut most) = (0u32, 0);
        for one in &log[from..] {
            away += u32::from(one.event.event == EventKind::InstanceStopped);
            away -= u32::from(one.event.event == EventKind::InstanceStarted);
            most = most.max(away);
        }
        assert!((1..=batch).contains(&most), "{most} of {batch}");
    }
}

#[test]
fn a_build_that_does_not_become_ready_is_taken_back_and_the_error_says_why() {
    let refused = GuestAnswer::Refused("port 80 refuses".to_owned());
    for (answer, word) in [(refused, "port 80 refuses"), (GuestAnswer::Silent, "does not answer")] {
        let rig = rig();
        rig.world.look().answers.insert("ready", answer);
        let error = roll(&rig).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Failed);
        assert!(error.message.starts_with("the roll of acme/web failed"), "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!((current(&rig), states(&rig)), (image(OLD), whole(OLD)));
        assert!(!is_rolling(&rig));
        assert!(events(&rig, EventKind::PoolRollFailed)[0].reason.contains(word));
        assert_eq!(events(&rig, EventKind::PoolRolledBack).len(), 1);
        let stopped = events(&rig, EventKind::InstanceStopped);
        assert_eq!(stopped.len(), 2, "one went there and back, the others never moved");
        rig.world.look().answers.clear();
        assert_eq!(roll(&rig).unwrap().changes, [], "all run what is current");
    }
}

#[test]
fn a_build_that_does_not_start_or_dies_is_taken_back() {
    let rig = rig();
    // The second one does not start.
    rig.world.look().done.clear();
    rig.world.look().bases.clear();
    rig.world.fail("boot_vmm", 1, ErrorKind::Permission);
    let error = roll(&rig).unwrap_err();
    assert!(error.to_string().contains("does not start"), "{error}");
    assert_eq!((current(&rig), states(&rig)), (image(OLD), whole(OLD)));
    let rig = super::rolls::rig();
    rig.world.look().dying_at = Some("ready");
    let error = roll(&rig).unwrap_err();
    assert!(
        error.to_string().contains("died: ") && error.to_string().contains("signal 9"),
        "{error}"
    );
    assert_eq!((current(&rig), states(&rig)), (image(OLD), whole(OLD)));
}

#[test]
fn without_a_return_it_stays_where_it_failed_and_the_same_command_goes_on() {
    let rig = rig();
    rig.world.look().answers.insert("ready", GuestAnswer::Silent);
    let error = rig.operate(&asked(1, RollFailure::Stay)).unwrap_err();
    assert!(error.message.contains("stays where it is"), "{error}");
    assert_eq!((current(&rig), is_rolling(&rig)), (image(NEW), true));
    assert_eq!(states(&rig).iter().filter(|(_, byte)| byte == NEW).count(), 1);
    rig.world.look().answers.clear();
    roll(&rig).unwrap();
    assert_eq!((states(&rig), is_rolling(&rig)), (whole(NEW), false));
}

#[test]
fn a_guest_must_stay_ready_for_the_soak_and_become_so_within_the_timeout() {
    let rig = rig();
    let waited = |timeout, soak| {
        let pace = RollPace { batch: 1, timeout: Seconds(timeout), soak: Seconds(soak) };
        let (pool, on_failure) = (pool("acme/web"), RollFailure::Return);
        let asks = || {
            rig.world
                .look()
                .asked
                .iter()
                .filter(|one| matches!(one, GuestAct::Ready { .. }))
                .count()
        };
        let before = asks();
        drop(rig.operate(&Operation::PoolRoll { pool, pace, on_failure }));
        asks() - before
    };
    // Four instances, a look each half second.
    assert!((4 * 20..=4 * 22).contains(&waited(1, 10)));
    build(&rig, "22");
    rig.world.look().answers.insert("ready", GuestAnswer::Silent);
    let looks = waited(30, 0);
    assert!((50..=61).contains(&looks), "{looks}");
}

#[test]
fn a_roll_asks_for_the_readiness_that_was_set_last_and_for_none_that_was_taken_away() {
    let rig = rig();
    let asked = |byte: &str, readiness: ReadinessChange| -> BTreeSet<String> {
        build(&rig, byte);
        let change = PoolChange { readiness: Some(readiness), ..PoolChange::default() };
        let change = Box::new(change);
        let update = Operation::PoolUpdate { pool: pool("acme/web"), change };
        let outcome = rig.operate(&update).unwrap();
        assert!(outcome.notes[0].contains("the next roll"), "{outcome:?}");
        rig.world.look().asked.clear();
        roll(&rig).unwrap();
        let of = |act: &GuestAct| {
            let GuestAct::Ready { readiness, .. } = act else { return None };
            Some(format!("{readiness:?}"))
        };
        rig.world.look().asked.iter().filter_map(of).collect()
    };
    for (byte, readiness) in [("22", Readiness::Tcp { port: 80 }), ("33", Readiness::WorkerReady)] {
        let wanted = BTreeSet::from([format!("{:?}", Some(&readiness))]);
        assert_eq!(asked(byte, ReadinessChange::Show(readiness)), wanted);
    }
    assert_eq!(asked("44", ReadinessChange::Nothing), BTreeSet::from(["None".to_owned()]));
    let told = events(&rig, EventKind::PoolUpdated);
    let told: Vec<_> = told.iter().filter_map(|one| one.detail.get("readiness")).collect();
    assert_eq!(told, ["none -> tcp:80", "tcp:80 -> worker-ready", "worker-ready -> none"]);
}

#[test]
fn figures_out_of_range_and_a_pool_without_a_build_are_refused_before_anything_happens() {
    let rig = rig();
    let before = (rig.kinds(), states(&rig));
    let good = RollPace::default();
    for pace in [
        RollPace { batch: 0, ..good },
        RollPace { batch: 101, ..good },
        RollPace { timeout: Seconds(0), ..good },
        RollPace { soak: Seconds(90_000), ..good },
    ] {
        let on_failure = RollFailure::Return;
        let ask = Operation::PoolRoll { pool: pool("acme/web"), pace, on_failure };
        assert_eq!(rig.operate(&ask).unwrap_err().kind, ErrorKind::Invalid, "{pace:?}");
    }
    rig.operate(&pool_create("acme/empty")).unwrap();
    let ask = Operation::PoolRoll {
        pool: pool("acme/empty"),
        pace: good,
        on_failure: RollFailure::Return,
    };
    assert_eq!(rig.operate(&ask).unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!((rig.kinds()[..before.0.len()].to_vec(), states(&rig)), before);
}

#[test]
fn a_dry_run_shows_who_would_be_replaced_in_order() {
    let rig = rig();
    let plan = rig.engine.plan_only(&rig.cx, &asked(1, RollFailure::Return)).unwrap();
    let subjects: Vec<String> = plan.acts.iter().map(|one| one.subject.clone()).collect();
    let awake = all(&rig).into_iter().filter(|one| one.state != State::Sleeping);
    assert_eq!(subjects, awake.map(|one| one.instance.to_string()).collect::<Vec<_>>());
    assert_eq!(plan.notes.len(), 1);
    assert_eq!(events(&rig, EventKind::PoolRolling), []);
}

#[test]
fn who_was_stopped_destroyed_or_put_to_sleep_meanwhile_is_left_alone() {
    let rig = rig();
    // A roll that stopped its first one and ended.
    rig.world.fail("spawn_vmm", 9, ErrorKind::Unavailable);
    rig.operate(&asked(1, RollFailure::Stay)).unwrap_err();
    rig.world.look().failing.clear();
    let ids: Vec<_> = all(&rig).into_iter().map(|one| one.instance).collect();
    rig.go(&ids[0], Move::Destroy).unwrap();
    let running: Vec<_> = all(&rig).into_iter().filter(|one| one.state == State::Running).collect();
    rig.go(&running[0].instance, Move::Sleep).unwrap();
    roll(&rig).unwrap();
    let old = all(&rig).into_iter().filter(|one| one.image == Some(image(OLD)));
    assert!(old.clone().all(|one| one.state == State::Sleeping), "{:?}", states(&rig));
    assert_eq!(old.count(), 2);
    assert!(!is_rolling(&rig));
}

#[test]
fn a_persons_override_outlives_a_roll_and_does_not_hold_it() {
    let rig = rig();
    let one = all(&rig).into_iter().find(|one| one.state == State::Running).unwrap().instance;
    rig.go(&one, Move::Stop).unwrap();
    build(&rig, "22");
    rig.go(&one, Move::Start).unwrap();
    build(&rig, "33");
    let until = rig.record(&one).manual_override_until;
    assert!(until.is_some());
    roll(&rig).unwrap();
    let record = rig.record(&one);
    assert_eq!((record.image, record.manual_override_until), (Some(image("33")), until));
    let others = all(&rig).into_iter().filter(|other| other.instance != one);
    assert!(others.into_iter().all(|other| other.manual_override_until.is_none()));
}

#[test]
fn what_a_roll_may_have_to_return_to_is_kept() {
    let rig = rig();
    rig.world.look().answers.insert("ready", GuestAnswer::Silent);
    rig.operate(&asked(3, RollFailure::Stay)).unwrap_err();
    build(&rig, "22");
    let record = rig.engine.pool(&pool("acme/web")).unwrap().record;
    let kept = mvm_core::plan::gc::kept(&record, &[], 1);
    assert_eq!(kept, [image(OLD), image(NEW), image("22")].into());
}

#[test]
fn the_agent_leaves_a_pool_that_is_being_rolled_alone_and_mends_one_whose_roll_ended() {
    let rig = rig();
    rig.world.fail("spawn_vmm", 9, ErrorKind::Unavailable);
    rig.operate(&asked(1, RollFailure::Stay)).unwrap_err();
    rig.world.look().failing.clear();
    assert_eq!(states(&rig).iter().filter(|(state, _)| *state == State::Running).count(), 2);
    let agent = Context::silent(Actor::Policy);
    let count = all(&rig).len();
    let lock = rig.world.lock(&Subject::Pool(pool("acme/web")), Duration::ZERO).unwrap();
    let outcome = rig.engine.operate(&agent, &scale(3, 1, 1)).unwrap();
    assert!(
        outcome.changes.is_empty() && outcome.notes[0].contains("is being rolled"),
        "{outcome:?}"
    );
    drop(lock);
    assert_eq!(rig.engine.operate(&agent, &scale(3, 1, 1)).unwrap().error(), None);
    assert_eq!(all(&rig).len(), count, "nothing is made in its stead");
    roll(&rig).unwrap();
    let awake = states(&rig).into_iter().filter(|(state, _)| *state != State::Sleeping);
    assert!(awake.into_iter().all(|(_, byte)| byte == NEW), "{:?}", states(&rig));
    assert!(rig.engine.operate(&agent, &scale(3, 1, 1)).unwrap().changes.is_empty());
}

#[test]
fn a_roll_that_dies_anywhere_goes_on_with_the_same_command() {
    let (mut points, mut died) = (0, true);
    while died {
        let rig = rig();
        rig.world.look().crash_after = Some(points);
        died = catch_unwind(AssertUnwindSafe(|| drop(alone(&rig, &hasty(1))))).is_err();
        rig.world.look().crash_after = None;
        let rig = rig.again();
        assert_eq!(roll(&rig).err().map(|error| error.to_string()), None, "after {points}");
        assert_eq!((states(&rig), is_rolling(&rig)), (whole(NEW), false), "after {points}");
        assert!(all(&rig).iter().all(|one| !one.in_flight()), "after {points}");
        assert!(
            all(&rig)
                .iter()
                .all(|one| one.state != State::Warm || one.parked_by == Some(ParkedBy::Counts))
        );
        points += 1;
    }
    assert!(points > 60, "only {points} points were tried");
}

#[test]
fn the_base_of_the_former_build_is_not_taken_for_that_of_the_current_one() {
    let rig = rig();
    roll(&rig).unwrap();
    let log = rig.store.events(&"acme".parse().unwrap(), 0, usize::MAX).unwrap();
    let refused: Vec<_> =
        log.iter().filter(|one| one.event.event == EventKind::BaseRefused).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn a_return_that_dies_anywhere_is_finished_by_the_same_command() {
    let (mut points, mut died) = (0, true);
    while died {
        let rig = rig();
        rig.world.look().answers.insert("ready", GuestAnswer::Refused("broken".to_owned()));
        rig.world.look().crash_after = Some(points);
        died = catch_unwind(AssertUnwindSafe(|| drop(alone(&rig, &hasty(2))))).is_err();
        rig.world.look().crash_after = None;
        let rig = rig.again();
        let again = rig.operate(&hasty(2));
        assert_eq!((states(&rig), is_rolling(&rig)), (whole(OLD), false), "after {points}");
        assert!(all(&rig).iter().all(|one| one.want == Want::rest(one.state)), "after {points}");
        if died
            && current(&rig) == image(OLD)
            && let Err(error) = again
        {
            assert!(error.to_string().contains("broken"), "after {points}");
        }
        points += 1;
    }
    assert!(points > 60, "only {points} points were tried");
}

#[test]
fn a_third_build_takes_the_place_of_a_return_that_died() {
    let (mut points, mut tried) = (0, 0);
    let mut died = true;
    while died {
        let rig = rig();
        rig.world.look().answers.insert("ready", GuestAnswer::Refused("broken".to_owned()));
        rig.world.look().crash_after = Some(points);
        died = catch_unwind(AssertUnwindSafe(|| drop(alone(&rig, &hasty(2))))).is_err();
        (rig.world.look().crash_after, points) = (None, points + 3);
        let rig = rig.again();
        let rolling = rig.engine.pool(&pool("acme/web")).unwrap().record.rolling;
        if rolling.is_some_and(|rolling| rolling.failed.is_some()) {
            tried += 1;
            rig.world.look().answers.clear();
            build(&rig, "22");
            rig.operate(&hasty(2)).unwrap();
            assert_eq!((states(&rig), is_rolling(&rig)), (whole("22"), false), "after {points}");
        }
    }
    assert!(tried > 5, "only {tried} points were tried");
}

/// With few looks, each of which is a point to die at.
fn hasty(batch: u32) -> Operation {
    let pace = RollPace { batch, timeout: Seconds(1), soak: Seconds(0) };
    Operation::PoolRoll { pool: pool("acme/web"), pace, on_failure: RollFailure::Return }
}

/// All on this thread, so that it dies as a whole.
fn alone(rig: &Rig, operation: &Operation) -> Result<Outcome, Error> {
    let mut alone = rig.again();
    alone.engine.config.parallel = 1;
    alone.operate(operation)
}
