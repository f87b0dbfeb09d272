//! Gateways hear of who is available, and stand in nobody's way.

use mvm_core::{
    error::ErrorKind,
    id::{InstanceRef, PoolId},
    operation::{NewPool, Operation},
    pool::{PoolChange, Role},
    port::{GuestAct, GuestAnswer},
    quota::Quotas,
    route::{MatchRule, Route, Routes, RoutingTable, Selector, Target},
    state::{Move, State},
};

use crate::fake::*;

fn table(target: &str) -> RoutingTable {
    let target = Target {
        pool_id: target.parse().unwrap(),
        instance_selector: Selector::Any,
        target_port: None,
    };
    let match_rule = MatchRule { port: Some(80), ..MatchRule::default() };
    RoutingTable { routes: vec![Route { name: "all".parse().unwrap(), match_rule, target }] }
}

fn gateway_pool(role: Role, target: &str) -> Operation {
    let Operation::PoolCreate(workers) = pool_create("acme/gateways") else {
        unreachable!("it creates a pool")
    };
    Operation::PoolCreate(Box::new(NewPool {
        role,
        routing_table: Some(table(target)),
        ..*workers
    }))
}

/// `acme/web` with its build, a gateway that leads to it, and two of its instances at rest.
fn rig() -> (Rig, InstanceRef, [InstanceRef; 2]) {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&gateway_pool(Role::Gateway, "web")).unwrap();
    rig.operate(&Operation::build(pool("acme/gateways"))).unwrap();
    let made = rig
        .operate(&Operation::InstanceCreate {
            pool: pool("acme/gateways"),
            publish: Vec::new(),
            volume: None,
        })
        .unwrap();
    let Some(crate::Made::Instance(gateway)) = made.made else { unreachable!("none was made") };
    let workers = [rig.create(), rig.create()];
    (rig, gateway.instance, workers)
}

fn letters(rig: &Rig) -> Vec<Routes> {
    let asked = std::mem::take(&mut rig.world.look().asked);
    let mut letters = Vec::new();
    for act in asked {
        if let GuestAct::Routes(routes) = act {
            letters.push(*routes);
        }
    }
    letters
}

fn names(routes: &Routes) -> Vec<InstanceRef> {
    let web: PoolId = "web".parse().unwrap();
    let all = routes.backends[&web].iter();
    all.map(|one| format!("acme/web/{}", one.instance_id).parse().unwrap()).collect()
}

#[test]
fn a_gateway_hears_of_everybody_who_comes_and_goes_in_rising_order() {
    let (rig, gateway, [one, other]) = rig();
    rig.go(&one, Move::Start).unwrap();
    assert_eq!(letters(&rig), [], "no gateway runs yet");
    rig.go(&gateway, Move::Start).unwrap();
    let mut last = letters(&rig).pop().unwrap();
    assert_eq!(names(&last), std::slice::from_ref(&one));
    assert_eq!(last.backends[&"web".parse().unwrap()][0].ip, rig.record(&one).address().unwrap());
    let mut both = vec![one.clone(), other.clone()];
    both.sort();
    for (id, wish, then) in [
        (&other, Move::Start, both.clone()),
        (&one, Move::Sleep, vec![other.clone()]),
        (&other, Move::Warm, vec![]),
        (&one, Move::Wake, vec![one.clone()]),
        (&other, Move::Wake, both),
        (&one, Move::Destroy, vec![other.clone()]),
        (&other, Move::Stop, vec![]),
    ] {
        rig.go(id, wish).unwrap();
        let told = letters(&rig);
        assert_eq!(told.len(), 1, "{wish} {id}");
        assert!(told[0].generation > last.generation);
        assert_eq!(names(&told[0]), then, "{wish} {id}");
        last = told[0].clone();
    }
}

#[test]
fn one_that_shall_sleep_leaves_the_rotation_before_it_is_asked_to_drain() {
    let (rig, gateway, [one, _]) = rig();
    rig.go(&one, Move::Start).unwrap();
    rig.go(&gateway, Move::Start).unwrap();
    rig.world.look().asked.clear();
    rig.go(&one, Move::Sleep).unwrap();
    let asked = rig.world.look().asked.clone();
    let at = |what: fn(&GuestAct) -> bool| asked.iter().position(what).unwrap();
    let told = at(|act| matches!(act, GuestAct::Routes(_)));
    assert!(told < at(|act| matches!(act, GuestAct::Drain { .. })));
}

#[test]
fn one_that_refuses_to_sleep_or_dies_is_told_of_too() {
    let (rig, gateway, [one, other]) = rig();
    for id in [&one, &other, &gateway] {
        rig.go(id, Move::Start).unwrap();
    }
    letters(&rig);
    let no = GuestAnswer::Refused("busy".to_owned());
    rig.world.look().answers.insert("drain", no);
    rig.go(&one, Move::Sleep).unwrap_err();
    let told = letters(&rig);
    assert_eq!(told.iter().map(|one| names(one).len()).collect::<Vec<_>>(), [1, 2]);
    rig.world.kill(&one);
    assert_eq!(rig.record(&one).state, State::Stopped);
    assert_eq!(names(&letters(&rig)[0]), [other]);
}

#[test]
fn a_new_table_is_told_to_the_gateways_that_run_and_a_wrong_one_to_nobody() {
    let (rig, gateway, [one, _]) = rig();
    rig.operate(&pool_create("acme/db")).unwrap();
    for id in [&one, &gateway] {
        rig.go(id, Move::Start).unwrap();
    }
    letters(&rig);
    let update = |target| Operation::PoolUpdate {
        pool: pool("acme/gateways"),
        change: Box::new(PoolChange {
            routing_table: Some(table(target)),
            ..PoolChange::default()
        }),
    };
    rig.operate(&update("db")).unwrap();
    let told = letters(&rig);
    assert_eq!(told[0].routes, table("db").routes);
    assert_eq!(told[0].backends[&"db".parse().unwrap()], []);
    let error = rig.operate(&update("gateways")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(letters(&rig), []);
}

#[test]
fn a_gateway_that_does_not_answer_fails_nobody() {
    let (rig, gateway, [one, _]) = rig();
    rig.go(&gateway, Move::Start).unwrap();
    rig.world.look().answers.insert("routes", GuestAnswer::Silent);
    rig.go(&one, Move::Start).unwrap();
    rig.world.look().answers.insert("routes", GuestAnswer::Refused("unsupported".to_owned()));
    rig.go(&one, Move::Sleep).unwrap();
    rig.go(&gateway, Move::Warm).unwrap();
    letters(&rig);
    rig.go(&one, Move::Wake).unwrap();
    assert_eq!(letters(&rig), [], "a paused gateway is not asked");
}

#[test]
fn a_table_of_another_role_or_to_nowhere_is_refused_with_all_findings_and_nothing_is_made() {
    let rig = Rig::with_pool(Quotas::default());
    let error = rig.operate(&gateway_pool(Role::Worker, "absent")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(
        error.causes,
        [
            "routing_table: is for the role gateway, and acme/gateways has the role worker",
            "routing_table.routes[0].target.pool_id: there is no pool absent",
        ]
    );
    assert_eq!(rig.engine.pools(None).unwrap().len(), 1);
}
