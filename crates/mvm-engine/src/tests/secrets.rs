//! Secrets: epochs rise, guests get the newest when they start or wake, and at once when asked.

use mvm_core::{
    error::ErrorKind,
    event::EventKind,
    id::InstanceRef,
    operation::Operation,
    port::{GuestAct, GuestAnswer, Store},
    quota::Quotas,
    secrets::SecretsSource,
    state::{Move, State},
    units::Generation,
};

use crate::{engine::Config, fake::*, outcome::Outcome};

fn tenant() -> mvm_core::id::TenantId {
    "acme".parse().unwrap()
}

fn file() -> SecretsSource {
    SecretsSource::File("/etc/acme.json".into())
}

fn set(source: SecretsSource) -> Operation {
    Operation::TenantSecretsSet { tenant: tenant(), source }
}

fn rotate(live: bool) -> Operation {
    Operation::TenantSecretsRotate { tenant: tenant(), source: None, live }
}

fn delivered(rig: &Rig, id: &InstanceRef) -> u64 {
    rig.record(id).secrets.delivered.0
}

fn told(outcome: &Outcome) -> Vec<String> {
    let changes = outcome.changes.iter().map(|one| format!("{:?}", one.events));
    changes.chain(outcome.deferrals.iter().map(|one| one.reason.clone())).collect()
}

#[test]
fn new_secrets_reach_a_guest_at_its_next_start_or_wake() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    rig.operate(&set(file())).unwrap();
    assert_eq!(delivered(&rig, &id), 0);
    rig.go(&id, Move::Warm).unwrap();
    rig.go(&id, Move::Wake).unwrap();
    assert_eq!(delivered(&rig, &id), 1);
    rig.go(&id, Move::Sleep).unwrap();
    rig.operate(&rotate(false)).unwrap();
    rig.go(&id, Move::Wake).unwrap();
    assert_eq!(delivered(&rig, &id), 2);
    rig.go(&id, Move::Stop).unwrap();
    rig.operate(&rotate(false)).unwrap();
    rig.go(&id, Move::Start).unwrap();
    assert_eq!(delivered(&rig, &id), 3);
    let words = rig.world.look().asked.clone();
    let epoch = match words.last() {
        Some(GuestAct::Configure { jail, .. }) => Some(jail.secrets.epoch),
        _ => None,
    };
    assert_eq!(epoch, Some(Generation(3)));
}

#[test]
fn a_live_rotation_reaches_running_guests_and_says_what_becomes_of_the_others() {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&set(file())).unwrap();
    let running = rig.instance_in(State::Running);
    rig.instance_in(State::Warm);
    rig.instance_in(State::Sleeping);
    rig.instance_in(State::Ready);
    let outcome = rig.operate(&rotate(true)).unwrap();
    assert_eq!(delivered(&rig, &running), 2);
    let mut told = told(&outcome);
    told.sort();
    assert_eq!(
        told,
        [
            "[SecretsDelivered]",
            "it is Ready; it gets them at its next start",
            "it is Sleeping; it gets them at its next wake",
            "it is Warm; it gets them at its next wake",
        ]
    );
    assert!(rig.kinds().ends_with(&[EventKind::SecretsRotated, EventKind::SecretsDelivered]));
}

#[test]
fn a_guest_that_cannot_take_secrets_keeps_its_own_and_can_still_sleep() {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&set(file())).unwrap();
    let id = rig.instance_in(State::Running);
    rig.world.look().answers.insert("refresh", GuestAnswer::Refused("no drive".to_owned()));
    let outcome = rig.operate(&rotate(true)).unwrap();
    assert_eq!(outcome.failures.len(), 1);
    assert_eq!((rig.record(&id).state, delivered(&rig, &id)), (State::Running, 1));
    rig.go(&id, Move::Sleep).unwrap();
    rig.go(&id, Move::Wake).unwrap();
    assert_eq!(delivered(&rig, &id), 2);
}

#[test]
fn a_rotation_needs_a_source_that_can_be_read_again() {
    let rig = Rig::with_pool(Quotas::default());
    assert_eq!(rig.operate(&rotate(false)).unwrap_err().kind, ErrorKind::Invalid);
    rig.operate(&set(SecretsSource::Stdin)).unwrap();
    let refused = rig.operate(&rotate(true)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.to_string().contains("standard input"), "{refused}");
    assert_eq!(rig.engine.tenant(&tenant()).unwrap().record.secrets_epoch(), Generation(1));
    let source = Some(file());
    let with_source = Operation::TenantSecretsRotate { tenant: tenant(), source, live: false };
    rig.engine.plan_only(&rig.cx, &with_source).unwrap();
    assert_eq!(rig.engine.tenant(&tenant()).unwrap().record.secrets_epoch(), Generation(1));
    rig.operate(&with_source).unwrap();
    rig.operate(&rotate(false)).unwrap();
    let secrets = rig.engine.secrets(&tenant()).unwrap();
    assert_eq!((secrets.record.unwrap().epoch, secrets.keys.len()), (Generation(3), 2));
    let log = rig.store.events(&tenant(), 0, usize::MAX).unwrap();
    let last = &log.last().unwrap().event;
    assert_eq!(last.event, EventKind::SecretsRotated);
    assert_eq!(last.detail.get("epoch").unwrap(), "3");
    assert_eq!(last.detail.get("count").unwrap(), "2");
}

#[test]
fn in_production_a_tenant_without_a_key_keeps_no_secrets() {
    let rig = Rig::new();
    let mut create = tenant_create("acme", Quotas::default());
    if let Operation::TenantCreate { keyed, .. } = &mut create {
        *keyed = false;
    }
    rig.operate(&create).unwrap();
    let config = Config { production: true, ..Config::default() };
    let strict = crate::Engine::new(rig.engine.ports.clone(), config);
    let refused = strict.operate(&rig.cx, &set(file())).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(rig.world.look().secrets.is_empty());
    rig.operate(&set(file())).unwrap();
}

#[test]
fn a_live_rotation_that_is_cut_off_anywhere_leaves_no_guest_older_than_its_record_says() {
    for acts in 0.. {
        let rig = Rig::with_pool(Quotas::default());
        rig.operate(&set(file())).unwrap();
        let id = rig.instance_in(State::Running);
        rig.world.look().crash_after = Some(acts);
        let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            rig.operate(&rotate(true)).unwrap();
        }));
        let again = rig.again();
        again.world.look().crash_after = None;
        let record = again.record(&id);
        let drive = again.world.look().drives.get(&id.instance).copied().unwrap();
        assert!(drive >= record.secrets.delivered, "after {acts} acts");
        again.operate(&rotate(true)).unwrap();
        let epoch = again.engine.tenant(&tenant()).unwrap().record.secrets_epoch();
        assert_eq!(again.record(&id).secrets.delivered, epoch, "after {acts} acts");
        if cut.is_ok() {
            assert!(acts > 5, "{acts}");
            return;
        }
    }
}
