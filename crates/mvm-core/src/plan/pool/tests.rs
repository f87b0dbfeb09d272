#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

use proptest::prelude::*;

use super::*;
use crate::{instance::Failure, plan::fixture::instance};

const NOW: Timestamp = Timestamp(1_000_000);

fn counts(running: u32, warm: u32, sleeping: u32) -> Counts {
    Counts { running, warm, sleeping }
}

/// What the pool is once every assignment was carried out.
fn carried_out(mut pool: Vec<Instance>, assignments: &[Assignment]) -> Vec<Instance> {
    for assignment in assignments {
        let to = match assignment {
            Assignment::Create { to } => {
                let n = 1000 + u32::try_from(pool.len()).unwrap();
                pool.push(instance(n, State::Ready));
                (pool.last().unwrap().instance.clone(), *to)
            }
            Assignment::Move { instance, to } => (instance.clone(), *to),
        };
        let one = pool.iter_mut().find(|one| one.instance == to.0).unwrap();
        one.state = to.1.state(one.state);
        one.want = to.1;
        one.parked_by =
            matches!(one.state, State::Warm | State::Sleeping).then_some(ParkedBy::Counts);
    }
    pool
}

fn any_instances() -> impl Strategy<Value = Vec<Instance>> {
    let state = prop::sample::select(vec![
        State::Created,
        State::Ready,
        State::Running,
        State::Warm,
        State::Sleeping,
        State::Stopped,
    ]);
    prop::collection::vec((state, any::<bool>()), 0..12).prop_map(|all| {
        all.into_iter()
            .zip(0u32..)
            .map(|((state, parked), n)| {
                let mut one = instance(n, state);
                if parked && matches!(state, State::Warm | State::Sleeping) {
                    one.parked_by = Some(ParkedBy::Policy);
                }
                one
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn a_second_pass_does_nothing(pool in any_instances(), r in 0u32..6, w in 0u32..6, s in 0u32..6) {
        let wanted = counts(r, w, s);
        let after = carried_out(pool.clone(), &assign(&pool, wanted, NOW));
        prop_assert_eq!(assign(&after, wanted, NOW), vec![]);
        let available = after.iter().filter(|one| is_available(one)).count();
        let warm = after.iter().filter(|one| one.state == State::Warm && !is_available(one)).count();
        let asleep = after.iter().filter(|one| one.state == State::Sleeping && !is_available(one)).count();
        prop_assert_eq!((available, warm, asleep), (r as usize, w as usize, s as usize));
    }

    #[test]
    fn no_instance_is_assigned_twice(pool in any_instances(), r in 0u32..6, w in 0u32..6, s in 0u32..6) {
        let mut seen = std::collections::BTreeSet::new();
        for assignment in assign(&pool, counts(r, w, s), NOW) {
            if let Assignment::Move { instance, .. } = assignment {
                prop_assert!(seen.insert(instance));
            }
        }
    }
}

#[test]
fn a_parked_instance_counts_as_running_and_is_not_woken() {
    let mut parked = instance(1, State::Sleeping);
    parked.parked_by = Some(ParkedBy::Policy);
    assert_eq!(assign(&[parked], counts(1, 0, 0), NOW), vec![]);
}

#[test]
fn growing_wakes_the_sleeping_before_resuming_the_warm_before_starting_anything() {
    let pool =
        [instance(1, State::Stopped), instance(2, State::Warm), instance(3, State::Sleeping)];
    let got = assign(&pool, counts(4, 0, 0), NOW);
    let moved =
        |n: usize| Assignment::Move { instance: pool[n].instance.clone(), to: Want::Running };
    assert_eq!(got, vec![moved(2), moved(1), moved(0), Assignment::Create { to: Want::Running }]);
}

#[test]
fn shrinking_stops_the_newest_first() {
    let pool =
        [instance(1, State::Running), instance(2, State::Running), instance(3, State::Running)];
    let got = assign(&pool, counts(1, 0, 0), NOW);
    let stopped =
        |n: usize| Assignment::Move { instance: pool[n].instance.clone(), to: Want::Stopped };
    assert_eq!(got, vec![stopped(2), stopped(1)]);
}

#[test]
fn an_instance_under_its_brake_keeps_its_place_and_standby_stands_in_for_it() {
    let mut failed = instance(1, State::Stopped);
    failed.failures = 3;
    failed.last_failure = Some(Failure { at: NOW, reason: "died".to_owned() });
    let pool = [failed.clone()];
    assert_eq!(assign(&pool, counts(1, 0, 0), NOW), vec![]);
    let until = Timestamp(NOW.0 + 20_000);
    let held = vec![(failed.instance.clone(), Held::Brake(Brake::Until(until)))];
    assert_eq!(held_back(&pool, counts(1, 0, 0), NOW), held);
    assert_eq!(assign(&pool, counts(1, 0, 0), until).len(), 1, "its time is over");
    let with_standby = [failed, instance(2, State::Sleeping)];
    let wakes = Assignment::Move { instance: with_standby[1].instance.clone(), to: Want::Running };
    assert_eq!(assign(&with_standby, counts(1, 0, 1), NOW), vec![wakes]);
}

#[test]
fn an_instance_under_a_persons_override_is_counted_and_left_alone() {
    let mut held = instance(1, State::Running);
    held.manual_override_until = Some(Timestamp(NOW.0 + 1));
    assert_eq!(assign(std::slice::from_ref(&held), counts(0, 0, 0), NOW), vec![]);
    held.manual_override_until = Some(NOW);
    assert_eq!(assign(&[held], counts(0, 0, 0), NOW).len(), 1);
}
