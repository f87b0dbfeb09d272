use proptest::prelude::*;

use super::*;
use crate::{
    plan::{
        fixture::instance,
        pool::{Assignment, assign},
    },
    pool::Counts,
};

const TICK: u64 = 10_000;

fn look(at: u64, worker: Option<WorkerState>, busy_ms: u64, net_bytes: u64) -> Look {
    Look { at: Timestamp(at), worker, cpu_total_ms: at, cpu_idle_ms: at - busy_ms, net_bytes }
}

fn idle_after(looks: &[Look]) -> Option<Timestamp> {
    let mut idleness = Idleness::default();
    for look in looks {
        idleness.add(Generation(1), *look, &SleepPolicy::default());
    }
    idleness.since()
}

fn subject<'a>(record: &'a Instance, pool: &'a PoolPolicy, idle: Option<u64>) -> Subject<'a> {
    Subject { record, pool, is_tenant_pinned: false, idle_since: idle.map(Timestamp) }
}

#[test]
fn without_hooks_it_is_idle_while_processor_and_network_are() {
    let still =
        [look(10_000, None, 0, 0), look(20_000, None, 400, 500), look(30_000, None, 800, 900)];
    assert_eq!(idle_after(&still), Some(Timestamp(10_000)));
    assert_eq!(idle_after(&still[..1]), None, "one look shows nothing");
    let computing = look(40_000, None, 1_400, 900);
    assert_eq!(idle_after(&[still[0], still[1], still[2], computing]), None);
    let talking = look(40_000, None, 800, 2_000);
    assert_eq!(idle_after(&[still[0], still[1], still[2], talking]), None);
    let rebooted = look(5_000, None, 0, 0);
    assert_eq!(idle_after(&[still[0], still[1], rebooted]), None);
}

#[test]
fn what_the_workload_says_counts_more_than_counters() {
    let said =
        |worker| [look(10_000, Some(worker), 0, 0), look(20_000, Some(worker), 9_000, 10 << 20)];
    assert_eq!(idle_after(&said(WorkerState::Idle)), Some(Timestamp(10_000)));
    let quiet = |worker| [look(10_000, Some(worker), 0, 0), look(20_000, Some(worker), 0, 0)];
    for worker in [WorkerState::Busy, WorkerState::Starting] {
        assert_eq!(idle_after(&quiet(worker)), None, "{worker:?}");
    }
    assert_eq!(idle_after(&quiet(WorkerState::Ready)), Some(Timestamp(10_000)));
}

#[test]
fn looks_of_an_earlier_epoch_do_not_count() {
    let mut idleness = Idleness::default();
    let policy = SleepPolicy::default();
    for (epoch, at) in [(1, 10_000), (1, 20_000), (2, 30_000)] {
        idleness.add(Generation(epoch), look(at, None, 0, 0), &policy);
    }
    assert_eq!(idleness.since(), None);
}

#[test]
fn an_idle_one_becomes_warm_then_sleeps_each_after_its_time_and_its_minimum() {
    let pool = PoolPolicy::default();
    let mut one = instance(1, State::Running);
    let at = |one: &Instance, idle, now| advise(&subject(one, &pool, idle), Timestamp(now));
    assert_eq!(at(&one, None, 10_000_000), Advice::Stay, "busy");
    assert_eq!(at(&one, Some(100_000), 399_999), Advice::Stay);
    assert_eq!(at(&one, Some(100_000), 400_000), Advice::Park(Want::Warm));
    assert_eq!(at(&one, Some(100_000), 1_000_000), Advice::Park(Want::Sleeping));
    one.state_since = Timestamp(390_000);
    let until = Timestamp(450_000);
    assert_eq!(at(&one, Some(100_000), 400_000), Advice::Defer { to: Want::Warm, until });
    one = instance(1, State::Warm);
    assert_eq!(at(&one, None, 10_000_000), Advice::Stay, "standby of the counts");
    one.parked_by = Some(ParkedBy::Policy);
    one.state_since = Timestamp(400_000);
    assert_eq!(at(&one, None, 999_999), Advice::Stay);
    assert_eq!(at(&one, None, 1_000_000), Advice::Park(Want::Sleeping));
}

#[test]
fn what_is_critical_in_hands_or_on_its_way_is_left_alone_and_what_is_pinned_never_sleeps() {
    let mut one = instance(1, State::Running);
    let plain = PoolPolicy::default();
    let pinned = PoolPolicy { pinned: true, ..PoolPolicy::default() };
    let critical = PoolPolicy { critical: true, ..PoolPolicy::default() };
    let late = Timestamp(100_000_000);
    let of = |one: &Instance, pool: &PoolPolicy| advise(&subject(one, pool, Some(0)), late);
    assert_eq!(of(&one, &plain), Advice::Park(Want::Sleeping));
    assert_eq!(of(&one, &pinned), Advice::Park(Want::Warm));
    let tenant = Subject { is_tenant_pinned: true, ..subject(&one, &plain, Some(0)) };
    assert_eq!(advise(&tenant, late), Advice::Park(Want::Warm));
    assert_eq!(of(&one, &critical), Advice::Stay);
    one.manual_override_until = Some(late.plus(Seconds(1)));
    assert_eq!(of(&one, &plain), Advice::Stay);
    one.manual_override_until = None;
    one.want = Want::Stopped;
    assert_eq!(of(&one, &plain), Advice::Stay);
}

#[test]
fn the_coldest_make_room_first_and_only_as_many_as_it_takes() {
    let pool = PoolPolicy::default();
    let now = Timestamp(1_000_000);
    let mut records: Vec<Instance> = (0..5).map(|n| instance(n, State::Running)).collect();
    records[2].state_since = Timestamp(990_000);
    records[4].state = State::Warm;
    records[4].want = Want::Warm;
    records[4].state_since = Timestamp(300_000);
    // Idle since, of each; the fourth is busy, the third is new.
    let idle = [Some(500_000), Some(200_000), Some(100_000), None, None];
    let subjects: Vec<Subject<'_>> =
        records.iter().zip(idle).map(|(record, idle)| subject(record, &pool, idle)).collect();
    let order = |needed| -> Vec<usize> {
        let going = make_room(&subjects, Mib(needed), now);
        going.iter().map(|one| records.iter().position(|r| r == *one).unwrap()).collect()
    };
    assert_eq!(order(10_000), [1, 4, 0, 3, 2]);
    assert_eq!(order(129), [1, 4]);
    assert_eq!(order(128), [1]);
    assert!(order(0).is_empty());
    let critical = PoolPolicy { critical: true, ..PoolPolicy::default() };
    let pinned = PoolPolicy { pinned: true, ..PoolPolicy::default() };
    for policy in [critical, pinned] {
        assert!(make_room(&[subject(&records[0], &policy, Some(0))], Mib(1), now).is_empty());
    }
}

#[test]
fn memory_is_short_below_the_floor_and_while_tasks_wait_for_it() {
    let lacks = |available_mib, stalled_percent| {
        let pressure = Pressure { total_mib: 1000, available_mib, stalled_percent };
        shortage(&pressure, &PressureLimits::default())
    };
    assert_eq!(lacks(100, None), Mib(0));
    assert_eq!(lacks(99, None), Mib(1));
    assert_eq!(lacks(0, Some(50)), Mib(100));
    assert_eq!(lacks(900, Some(19)), Mib(0));
    assert_eq!(lacks(900, Some(20)), Mib(1));
    assert_eq!(shortage(&Pressure::default(), &PressureLimits::default()), Mib(0));
}

proptest! {
    /// SPEC §7: alternating ticks of counts and policy make at most one transition per instance and
    /// threshold, whatever the counts and thresholds are.
    #[test]
    fn counts_and_policy_never_fight(
        running in 0_u32..6, warm in 0_u32..3, sleeping in 0_u32..3,
        warm_after in 0_u32..400, rest in 0_u32..800, min_running in 0_u32..200, min_warm in 0_u32..200,
    ) {
        let counts = Counts { running, warm, sleeping };
        let pool = PoolPolicy {
            sleep_policy: SleepPolicy {
                warm_after_seconds: Seconds(warm_after),
                sleep_after_seconds: Seconds(warm_after + rest),
                ..SleepPolicy::default()
            },
            ..PoolPolicy::default()
        };
        let states = [(running, State::Running), (warm, State::Warm), (sleeping, State::Sleeping)];
        let mut all: Vec<Instance> = Vec::new();
        for (count, state) in states {
            for _ in 0..count {
                let mut one = instance(u32::try_from(all.len()).unwrap(), state);
                one.policy.min_running_seconds = Seconds(min_running);
                one.policy.min_warm_seconds = Seconds(min_warm);
                one.parked_by = (state != State::Running).then_some(ParkedBy::Counts);
                all.push(one);
            }
        }
        let mut moves = vec![0_u32; all.len()];
        for tick in 1..=1_000_u64 {
            let now = Timestamp(tick * TICK);
            let assignments: Vec<Assignment> = assign(&all, counts, now);
            prop_assert!(assignments.is_empty(), "tick {tick}: {assignments:?}");
            for (one, moves) in all.iter_mut().zip(&mut moves) {
                let idle = (one.state == State::Running).then_some(0);
                match advise(&subject(one, &pool, idle), now) {
                    Advice::Park(to) => {
                        one.want = to;
                        one.state = to.state(one.state);
                        one.state_since = now;
                        one.parked_by = Some(ParkedBy::Policy);
                        *moves += 1;
                    }
                    Advice::Stay | Advice::Defer { .. } => {}
                }
            }
        }
        prop_assert!(moves.iter().all(|moves| *moves <= 2), "{moves:?}");
        let asleep = all.iter().filter(|one| one.parked_by == Some(ParkedBy::Policy));
        prop_assert_eq!(u32::try_from(asleep.count()).unwrap(), running);
    }
}
