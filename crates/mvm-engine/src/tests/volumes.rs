//! Volumes, keys, room and figures.

use mvm_core::{
    disk::Room,
    error::{Error, ErrorKind},
    event::EventKind,
    id::{InstanceRef, TenantId, VolumeId},
    operation::{NewPool, Operation},
    port::{GuestAnswer, Table, Transaction},
    quota::{Quotas, Usage},
    state::{Move, State},
    units::{Gib, Mib, Vcpus},
    volume::{VolumeFate, VolumeKind, VolumeStage},
};

use crate::{
    fake::*,
    outcome::Made,
    store::{records, tally},
};

fn grow(id: &InstanceRef, mib: u32) -> Operation {
    Operation::InstanceGrow { instance: id.clone(), data_disk: Mib(mib) }
}

fn destroy(id: &InstanceRef, volumes: VolumeFate) -> Operation {
    Operation::InstanceDestroy { instance: id.clone(), volumes }
}

fn with(volume: &VolumeId) -> Operation {
    Operation::InstanceCreate {
        pool: pool("acme/web"),
        publish: Vec::new(),
        volume: Some(volume.clone()),
    }
}

/// A rig with one kept volume, and its name.
fn shelf() -> (Rig, VolumeId) {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    rig.operate(&destroy(&id, VolumeFate::Keep)).unwrap();
    (rig, id.instance.as_str().parse().unwrap())
}

#[test]
fn a_running_instance_gets_its_larger_disk_at_once_and_others_when_they_run_next() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    let outcome = rig.operate(&grow(&id, 128)).unwrap();
    assert!(outcome.deferrals.is_empty());
    assert_eq!(rig.world.look().volumes[&id.instance], Mib(128));
    rig.go(&id, Move::Sleep).unwrap();
    let outcome = rig.operate(&grow(&id, 256)).unwrap();
    assert_eq!(outcome.deferrals.len(), 1);
    assert_eq!(rig.world.look().volumes[&id.instance], Mib(128), "it grew under its snapshot");
    rig.go(&id, Move::Wake).unwrap();
    assert_eq!(rig.world.look().volumes[&id.instance], Mib(256));
    assert!(!rig.record(&id).volume.is_growing);
    assert_eq!(rig.kinds().iter().filter(|kind| **kind == EventKind::VolumeGrown).count(), 2);
}

#[test]
fn a_disk_never_shrinks_and_never_grows_beyond_the_quota() {
    let quotas = Quotas { max_disk_gib: Gib(1), ..Quotas::default() };
    let rig = Rig::with_pool(quotas);
    let id = rig.instance_in(State::Running);
    let kind = |mib| rig.operate(&grow(&id, mib)).unwrap_err().kind;
    assert_eq!(kind(32), ErrorKind::Invalid);
    assert_eq!(kind(2048), ErrorKind::Refused);
    assert_eq!(rig.record(&id).resources.data_disk_mib, Mib(64));
}

#[test]
fn a_guest_that_does_not_use_its_larger_disk_can_still_be_stopped_and_asked_again() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    let refusal = GuestAnswer::Refused("no room for tables".to_owned());
    rig.world.look().answers.insert("resize", refusal);
    let error = rig.operate(&grow(&id, 128)).unwrap_err();
    assert!(error.message.contains("no room for tables"), "{error}");
    rig.go(&id, Move::Sleep).unwrap();
    rig.go(&id, Move::Wake).unwrap();
    rig.world.look().answers.clear();
    rig.operate(&grow(&id, 128)).unwrap();
    assert!(rig.kinds().contains(&EventKind::VolumeGrown));
}

#[test]
fn a_kept_volume_is_given_to_one_instance_and_no_other() {
    let (rig, volume) = shelf();
    assert_eq!(rig.engine.volume(&volume).unwrap().stage, VolumeStage::Kept);
    assert!(rig.kinds().contains(&EventKind::VolumeKept));
    let made = rig.operate(&with(&volume)).unwrap().made;
    let Some(Made::Instance(record)) = made else { unreachable!("{made:?}") };
    assert!(record.volume.joining.is_none() && record.volume.kind == VolumeKind::Luks);
    assert!(rig.world.look().volumes.contains_key(&record.instance.instance));
    assert_eq!(rig.operate(&with(&volume)).unwrap_err().kind, ErrorKind::NotFound);
    assert!(rig.kinds().contains(&EventKind::VolumeAttached));
}

#[test]
fn a_volume_that_is_on_its_way_to_an_instance_is_nobody_elses() {
    let (rig, volume) = shelf();
    rig.world.fail("attach_volume", 9, ErrorKind::Refused);
    rig.operate(&with(&volume)).unwrap_err();
    assert_eq!(rig.operate(&with(&volume)).unwrap_err().kind, ErrorKind::Conflict);
    let remove = Operation::VolumeRemove { volume: volume.clone(), wipe: true };
    assert_eq!(rig.operate(&remove).unwrap_err().kind, ErrorKind::Conflict);
    rig.world.look().failing.clear();
    let all = rig.engine.instances(&crate::query::Filter::All).unwrap();
    let id = all[0].record.instance.clone();
    rig.go(&id, Move::Start).unwrap();
    assert!(rig.engine.volumes().unwrap().is_empty());
}

#[test]
fn a_kept_volume_counts_against_the_quota_of_who_gets_it() {
    let (rig, volume) = shelf();
    rig.operate(&tenant_create("bolt", Quotas { max_disk_gib: Gib(0), ..Quotas::default() }))
        .unwrap();
    let source = mvm_core::pool::Source::Image("default".to_owned());
    let size = mvm_core::pool::Resources::new(Vcpus(1), Mib(256), Mib(0));
    rig.operate(&Operation::PoolCreate(Box::new(NewPool::of_workers(
        pool("bolt/web"),
        source,
        size,
    ))))
    .unwrap();
    let create = Operation::InstanceCreate {
        pool: pool("bolt/web"),
        publish: Vec::new(),
        volume: Some(volume.clone()),
    };
    assert_eq!(rig.operate(&create).unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(rig.engine.volume(&volume).unwrap().stage, VolumeStage::Kept);
}

#[test]
fn a_wiped_volume_is_wiped_and_told() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    rig.operate(&destroy(&id, VolumeFate::Wipe)).unwrap();
    assert!(rig.world.look().done.contains(&"wipe_volume"));
    assert!(rig.kinds().contains(&EventKind::VolumeWiped));
    assert!(rig.engine.volumes().unwrap().is_empty());
}

#[test]
fn what_does_not_fit_on_the_disk_is_refused_before_anything_is_touched() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    let before = rig.world.look().done.len();
    rig.world.look().room = Some(Room { total_mib: 10_000, free_mib: 1_100, reserve_mib: 1_000 });
    let kind = |done: Result<_, Error>| done.map(|_: crate::Outcome| ()).unwrap_err().kind;
    assert_eq!(kind(rig.go(&id, Move::Sleep)), ErrorKind::Refused);
    assert_eq!(kind(rig.operate(&grow(&id, 512))), ErrorKind::Refused);
    rig.world.look().room = Some(Room { total_mib: 10_000, free_mib: 1_010, reserve_mib: 1_000 });
    let create =
        Operation::InstanceCreate { pool: pool("acme/web"), publish: Vec::new(), volume: None };
    assert_eq!(kind(rig.operate(&create)), ErrorKind::Refused);
    assert_eq!(rig.world.look().done.len(), before);
    assert!(!rig.world.look().asked.contains(&mvm_core::port::GuestAct::Quiesce));
    assert_eq!(rig.record(&id).state, State::Running);
    assert!(rig.kinds().contains(&EventKind::QuotaExceeded));
}

#[test]
fn a_rotation_that_was_interrupted_goes_on_and_loses_nobody() {
    let rig = Rig::with_pool(Quotas::default());
    let ids = [rig.instance_in(State::Running), rig.instance_in(State::Sleeping)];
    let rotate = Operation::TenantKeyRotate { tenant: "acme".parse().unwrap() };
    rig.world.fail("rekey_instance", 1, ErrorKind::Refused);
    let outcome = rig.operate(&rotate).unwrap();
    assert_eq!(outcome.failures.len(), 1);
    assert_eq!(rig.world.look().next_keys.len(), 1, "the next key is gone before it was needed");
    assert!(!rig.kinds().contains(&EventKind::KeyRotated));
    rig.operate(&rotate).unwrap();
    assert!(ids.iter().all(|id| rig.world.look().rekeyed.contains(&id.instance)));
    assert!(rig.world.look().next_keys.is_empty());
    assert!(rig.kinds().contains(&EventKind::KeyRotated));
}

/// The figures are the sums, whatever was done.
fn figures_fit(rig: &Rig) {
    let check = |tx: &mut dyn Transaction| {
        let all = records::list::<mvm_core::instance::Instance>(tx, "")?;
        assert_eq!(tally::of_node(tx)?, Usage::of(&all));
        assert_eq!(tally::of_tenant(tx, &"acme".parse().unwrap())?, Usage::of(&all));
        Ok(())
    };
    records::within(&rig.store, check).unwrap();
}

#[test]
fn the_figures_of_admission_follow_every_change() {
    let rig = Rig::with_pool(Quotas::default());
    figures_fit(&rig);
    let id = rig.create();
    for wish in [Move::Start, Move::Warm, Move::Wake, Move::Sleep, Move::Wake, Move::Stop] {
        rig.go(&id, wish).unwrap();
        figures_fit(&rig);
    }
    rig.operate(&grow(&id, 128)).unwrap();
    figures_fit(&rig);
    rig.go(&id, Move::Destroy).unwrap();
    figures_fit(&rig);
}

#[test]
fn a_store_without_figures_gets_them_before_the_first_change() {
    let rig = Rig::with_pool(Quotas::default());
    let id = rig.instance_in(State::Running);
    let forget = |tx: &mut dyn Transaction| {
        tx.delete(Table::Meta, "usage")?;
        tx.delete(Table::Meta, "usage/acme")
    };
    records::within(&rig.store, forget).unwrap();
    rig.go(&id, Move::Sleep).unwrap();
    figures_fit(&rig);
}

#[test]
fn a_key_that_commands_bring_along_is_not_replaced() {
    let rig = Rig::with_pool(Quotas::default());
    let tenant: TenantId = "acme".parse().unwrap();
    rig.world.look().given_keys.insert(tenant.clone());
    let rotate = Operation::TenantKeyRotate { tenant: tenant.clone() };
    assert_eq!(rig.engine.plan_only(&rig.cx, &rotate).unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(rig.operate(&rotate).unwrap_err().kind, ErrorKind::Conflict);
    assert!(!rig.engine.tenant(&tenant).unwrap().record.rotating);
    assert!(rig.world.look().next_keys.is_empty());
}
