//! The process dies after each act and each commit; the next one finds the truth and converges.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mvm_core::{
    error::ErrorKind,
    operation::Operation,
    quota::Quotas,
    state::{Move, State},
    volume::VolumeFate,
};

use crate::fake::*;

/// Moves on whose way an instance that goes on has a VMM.
const MOVES_OF_A_VMM: [(State, Move); 8] = [
    (State::Ready, Move::Start),
    (State::Running, Move::Warm),
    (State::Running, Move::Sleep),
    (State::Warm, Move::Sleep),
    (State::Warm, Move::Wake),
    (State::Sleeping, Move::Wake),
    (State::Running, Move::Stop),
    (State::Warm, Move::Stop),
];

/// Runs `act` on fresh rigs, dying ever later, and hands what is left to `after`; ends when `act`
/// comes through alive.
fn at_each_death(make: impl Fn() -> Rig, act: impl Fn(&Rig), after: impl Fn(&Rig, u32)) -> u32 {
    for deaths in 0..1000 {
        let rig = make();
        rig.world.look().crash_after = Some(deaths);
        let died = catch_unwind(AssertUnwindSafe(|| act(&rig))).is_err();
        rig.world.look().crash_after = None;
        after(&rig.again(), deaths);
        if !died {
            return deaths;
        }
    }
    unreachable!("it never comes through")
}

#[test]
fn a_tenant_is_whole_after_its_creation_died_anywhere() {
    let points = at_each_death(
        Rig::new,
        |rig| drop(rig.operate(&tenant_create("acme", Quotas::default()))),
        |rig, deaths| {
            match rig.operate(&tenant_create("acme", Quotas::default())) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind, ErrorKind::Conflict, "after {deaths}"),
            }
            rig.operate(&pool_create("acme/web")).unwrap();
            let content = rig.world.look();
            assert_eq!(
                (content.bridges.len(), content.routes.len(), content.keys.len()),
                (1, 1, 1)
            );
            assert_eq!(content.firewall.as_ref().unwrap().networks.len(), 1, "after {deaths}");
        },
    );
    assert!(points > 4, "only {points} points were tried");
}

#[test]
fn a_tenant_is_gone_after_its_destruction_died_anywhere_and_was_repeated() {
    let destroy = || Operation::TenantDestroy {
        tenant: "acme".parse().unwrap(),
        force: true,
        volumes: VolumeFate::Delete,
    };
    let points = at_each_death(
        || {
            let rig = Rig::with_pool(Quotas::default());
            rig.instance_in(State::Running);
            rig.instance_in(State::Sleeping);
            rig
        },
        |rig| drop(rig.operate(&destroy())),
        |rig, deaths| {
            match rig.operate(&destroy()) {
                Ok(outcome) => assert_eq!(outcome.failures, [], "after {deaths}"),
                Err(error) => assert_eq!(error.kind, ErrorKind::NotFound, "after {deaths}"),
            }
            let content = rig.world.look();
            assert!(content.is_bare() && content.bridges.is_empty(), "after {deaths}");
            assert!(content.keys.is_empty() && content.firewall.is_none(), "after {deaths}");
            drop(content);
            assert!(rig.engine.tenants().unwrap().is_empty());
            let created = rig.operate(&tenant_create("next", Quotas::default())).unwrap();
            let Some(crate::outcome::Made::Tenant(next)) = created.made else { unreachable!() };
            assert_eq!(next.network.net.0, 2, "the net-id rests after {deaths}");
        },
    );
    assert!(points > 15, "only {points} points were tried");
}

#[test]
fn every_move_can_be_repeated_after_it_died_anywhere() {
    let others = [
        (State::Sleeping, Move::Stop),
        (State::Running, Move::Destroy),
        (State::Sleeping, Move::Destroy),
    ];
    for (from, wish) in MOVES_OF_A_VMM.into_iter().chain(others) {
        let to = from.next(wish).unwrap();
        let points = at_each_death(
            || {
                let rig = Rig::with_pool(Quotas::default());
                rig.instance_in(from);
                rig
            },
            |rig| drop(rig.go(&only(rig), wish)),
            |rig, deaths| {
                let what = format!("{wish} from {from}, dead after {deaths}");
                let all = rig.engine.look(&pool("acme/web")).unwrap();
                let Some(record) = all.first() else {
                    assert_eq!(to, State::Destroyed, "{what}");
                    return;
                };
                match rig.go(&record.instance, wish) {
                    Ok(outcome) => assert_eq!(outcome.changes[0].to, to, "{what}"),
                    Err(error) => {
                        assert_eq!(error.kind, ErrorKind::Conflict, "{what}: {error}");
                        assert_eq!(record.state, to, "{what}: {error}");
                    }
                }
                if to != State::Destroyed {
                    let record = rig.record(&record.instance);
                    assert_eq!((record.state, record.in_flight()), (to, false), "{what}");
                    assert_eq!(record.last_failure, None, "{what}");
                }
            },
        );
        assert!(points > 2, "only {points} points of {wish} from {from} were tried");
    }
}

#[test]
fn a_wake_after_a_sleep_that_died_anywhere_keeps_the_guests_memory() {
    at_each_death(
        || {
            let rig = Rig::with_pool(Quotas::default());
            rig.instance_in(State::Running);
            rig
        },
        |rig| drop(rig.go(&only(rig), Move::Sleep)),
        |rig, deaths| {
            let id = only(rig);
            match rig.go(&id, Move::Wake) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind, ErrorKind::Conflict, "after {deaths}"),
            }
            let record = rig.record(&id);
            assert_eq!(record.state, State::Running, "after {deaths}");
            assert_eq!(record.last_failure, None, "after {deaths}");
        },
    );
}

#[test]
fn a_scaled_pool_is_whole_after_the_scaling_died_anywhere() {
    let points = at_each_death(
        || Rig::with_pool(Quotas::default()),
        |rig| {
            let mut alone = rig.again();
            alone.engine.config.parallel = 1;
            drop(alone.operate(&scale(2, 1, 1)));
        },
        |rig, deaths| {
            rig.operate(&scale(2, 1, 1)).unwrap();
            rig.operate(&scale(2, 1, 1)).unwrap();
            let all = rig.engine.look(&pool("acme/web")).unwrap();
            let count = |state| all.iter().filter(|one| one.state == state).count();
            let states =
                (count(State::Running), count(State::Warm), count(State::Sleeping), all.len());
            assert_eq!(states, (2, 1, 1, 4), "after {deaths}");
        },
    );
    assert!(points > 40, "only {points} points were tried");
}

#[test]
fn a_vmm_that_dies_anywhere_leaves_an_instance_that_rests_and_comes_back() {
    for (from, wish) in MOVES_OF_A_VMM {
        for acts in 0.. {
            let rig = Rig::with_pool(Quotas::default());
            let id = rig.instance_in(from);
            rig.world.look().vmms_die_after = Some(acts);
            let result = rig.go(&id, wish);
            let has_died = rig.world.look().vmms_die_after.take().is_none();
            let what = format!("{wish} from {from}, VMM dead after {acts}: {result:?}");
            let record = rig.record(&id);
            assert!(!record.in_flight(), "{what}: {record:?}");
            let has_vmm = rig.world.look().vmms.contains_key(&id.instance);
            assert_eq!(has_vmm, record.state.has_process(), "{what}");
            match record.state {
                State::Sleeping | State::Warm => rig.go(&id, Move::Wake).map(drop),
                State::Ready | State::Stopped => rig.go(&id, Move::Start).map(drop),
                State::Created | State::Running | State::Destroyed => Ok(()),
            }
            .unwrap();
            assert_eq!(rig.record(&id).state, State::Running, "{what}");
            if !has_died {
                break;
            }
        }
    }
}

fn only(rig: &Rig) -> mvm_core::id::InstanceRef {
    rig.engine.look(&pool("acme/web")).unwrap()[0].instance.clone()
}
