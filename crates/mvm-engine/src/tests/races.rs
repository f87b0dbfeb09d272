//! Many at once: nothing is given out twice, no quota is broken, nobody waits for ever.

use std::{collections::BTreeSet, thread};

use mvm_core::{
    error::ErrorKind,
    operation::Operation,
    port::Locks,
    quota::{Quotas, Usage},
    state::{Move, State},
    volume::VolumeFate,
};

use crate::{fake::*, query::Filter};

fn generous() -> Quotas {
    Quotas { max_instances_per_pool: 100, ..Quotas::default() }
}

#[test]
fn eight_threads_never_get_the_same_id_address_or_uid() {
    let rig = Rig::with_pool(generous());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..8 {
                    rig.create();
                }
            });
        }
    });
    let all = rig.engine.look(&pool("acme/web")).unwrap();
    assert_eq!(all.len(), 64);
    assert_eq!(all.iter().map(|i| i.offset).collect::<BTreeSet<_>>().len(), 64);
    assert_eq!(all.iter().map(|i| i.uid).collect::<BTreeSet<_>>().len(), 64);
    assert_eq!(rig.world.look().firewall.as_ref().unwrap().ports.len(), 64);
}

#[test]
fn of_two_that_want_the_last_place_one_gets_it() {
    for (from, wish) in [(State::Ready, Move::Start), (State::Running, Move::Warm)] {
        for _ in 0..20 {
            let max_running = if from == State::Running { 2 } else { 1 };
            let rig = Rig::with_pool(Quotas { max_running, max_warm: 1, ..Quotas::default() });
            let ids = [rig.instance_in(from), rig.instance_in(from)];
            let results = thread::scope(|scope| {
                let both = ids.each_ref().map(|id| scope.spawn(|| rig.go(id, wish).is_ok()));
                both.map(|one| one.join().unwrap())
            });
            assert_eq!(results.iter().filter(|ok| **ok).count(), 1, "{wish}");
        }
    }
}

#[test]
fn eight_at_once_on_one_pool_leave_every_instance_at_rest_within_the_quota() {
    let quotas = Quotas { max_running: 3, max_warm: 2, ..Quotas::default() };
    let rig = Rig::with_pool(quotas);
    rig.operate(&scale(3, 1, 1)).unwrap();
    let ids: Vec<_> =
        rig.engine.look(&pool("acme/web")).unwrap().into_iter().map(|i| i.instance).collect();
    thread::scope(|scope| {
        for seed in 0..8usize {
            let (rig, ids) = (&rig, &ids);
            scope.spawn(move || {
                for turn in 0..40usize {
                    let id = &ids[(seed * 7 + turn * 3) % ids.len()];
                    let wish = Move::ALL[1 + (seed + turn * 5) % 5];
                    drop(rig.go(id, wish));
                    let all = rig.store_usage();
                    assert!(all.running <= 3 && all.warm <= 2, "{all:?}");
                }
            });
        }
    });
    for view in rig.engine.instances(&Filter::All).unwrap() {
        assert!(!view.in_flight, "{:?}", view.record);
        let is_up = matches!(view.record.state, State::Running | State::Warm);
        assert_eq!(view.observed.vmm.is_some(), is_up);
    }
}

#[test]
fn creation_and_destruction_of_a_tenant_at_once_leave_all_or_nothing() {
    for _ in 0..10 {
        let rig = Rig::with_pool(generous());
        let destroy = Operation::TenantDestroy {
            tenant: "acme".parse().unwrap(),
            force: true,
            volumes: VolumeFate::Delete,
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    drop(rig.operate(&scale(2, 0, 0)));
                    drop(rig.operate(&Operation::InstanceCreate {
                        pool: pool("acme/web"),
                        publish: Vec::new(),
                        volume: None,
                    }));
                });
            }
            scope.spawn(|| rig.operate(&destroy).unwrap());
        });
        assert!(rig.engine.tenants().unwrap().is_empty());
        assert!(rig.engine.instances(&Filter::All).unwrap().is_empty());
        let content = rig.world.look();
        assert!(content.is_bare() && content.bridges.is_empty() && content.firewall.is_none());
    }
}

impl Rig {
    fn store_usage(&self) -> Usage {
        let all = crate::store::records::within(&self.store, |tx| {
            crate::store::records::list::<mvm_core::instance::Instance>(tx, "")
        });
        Usage::of(&all.unwrap())
    }
}

#[test]
fn a_start_waits_for_a_place_and_has_it_until_its_guest_runs() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.create();
    let places = 0..rig.engine.config.places;
    let held: Vec<_> = places.map(|place| rig.world.place(place).unwrap().unwrap()).collect();
    let error = rig.go(&id, Move::Start).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("on their way to life"), "{error}");
    assert_eq!(rig.record(&id).state, State::Ready);
    assert!(rig.world.look().vmms.is_empty());
    drop(held);
    rig.go(&id, Move::Start).unwrap();
    assert!(rig.world.look().places.is_empty());
}
