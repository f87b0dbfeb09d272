//! A lost store is made anew from its exported files and what the machine shows.

#![expect(clippy::disallowed_methods, reason = "R3: the tests remove what the store exported")]

use std::{path::Path, sync::Arc};

use mvm_core::{
    event::{Actor, EventKind},
    id::{TenantId, VolumeId},
    operation::Operation,
    port::{Store, Table},
    quota::{Quotas, Usage},
    state::Move,
    units::Seconds,
    volume::{Volume, VolumeFate, VolumeStage},
};

use crate::{
    Engine,
    fake::*,
    outcome::Made,
    query::Filter,
    rebuild::{Rebuilt, salvage},
    store::{records, recover, sqlite::SqliteStore, tally},
};

fn store(data: &Path, name: &str) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&data.join(name), Some(data.to_owned())).unwrap())
}

fn created(outcome: crate::Outcome) -> mvm_core::id::InstanceRef {
    let Some(Made::Instance(record)) = outcome.made else { unreachable!("no instance was made") };
    record.instance
}

fn create(volume: Option<VolumeId>) -> Operation {
    Operation::InstanceCreate { pool: pool("acme/web"), publish: Vec::new(), volume }
}

/// A world with one that runs, one that sleeps, and the volume of one that is gone.
fn lived(rig: &Rig, engine: &Engine) -> VolumeId {
    let mut ids = Vec::new();
    for operation in [
        tenant_create("acme", Quotas::default()),
        pool_create("acme/web"),
        Operation::build(pool("acme/web")),
    ] {
        engine.operate(&rig.cx, &operation).unwrap();
    }
    for _ in 0..3 {
        let id = created(engine.operate(&rig.cx, &create(None)).unwrap());
        let drain = mvm_core::instance::Drain::Ask;
        let start = Operation::InstanceMove { instance: id.clone(), wish: Move::Start, drain };
        engine.operate(&rig.cx, &start).unwrap();
        ids.push(id);
    }
    let drain = mvm_core::instance::Drain::Ask;
    let sleep = Operation::InstanceMove { instance: ids[1].clone(), wish: Move::Sleep, drain };
    engine.operate(&rig.cx, &sleep).unwrap();
    let keep = Operation::InstanceDestroy { instance: ids[2].clone(), volumes: VolumeFate::Keep };
    engine.operate(&rig.cx, &keep).unwrap();
    engine.node().unwrap();
    ids[2].instance.as_str().parse().unwrap()
}

fn rebuild(rig: &Rig, data: &Path) -> (Rebuilt, Arc<SqliteStore>) {
    let found = recover::read(data).unwrap();
    let ports = &rig.engine.ports;
    let (host, clock) = (&*ports.host, &*ports.clock);
    let salvage = salvage(host, clock, found, Seconds(60), "a test".to_owned()).unwrap();
    let fresh = SqliteStore::open(&data.join("fresh.db"), None).unwrap();
    salvage.fill(&fresh, clock).unwrap();
    let fresh = store(data, "fresh.db");
    let operation = "0badcafe".parse().unwrap();
    salvage.tell(&fresh, clock, &Actor::Uid(0), &operation).unwrap();
    (salvage.report, fresh)
}

#[test]
fn records_volumes_claims_figures_and_logs_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let rig = Rig::new();
    let engine = rig.engine_over(store(data, "state.db"));
    let name = lived(&rig, &engine);
    let before = engine.instances(&Filter::All).unwrap();
    let node = engine.node().unwrap();
    drop(engine);
    let (report, fresh) = rebuild(&rig, data);
    assert_eq!(report.lost, [""; 0]);
    assert_eq!(report.volumes, std::slice::from_ref(&name));
    let engine = rig.engine_over(fresh.clone());
    assert_eq!(engine.instances(&Filter::All).unwrap(), before);
    let again = engine.node().unwrap();
    assert_eq!((again.node_id, again.usage), (node.node_id, node.usage));
    for (of, length) in [("acme", report.events + 1), ("node", 1)] {
        let of: TenantId = of.parse().unwrap();
        let log = fresh.events(&of, 0, usize::MAX).unwrap();
        assert_eq!(log.len(), length, "{of}");
        assert_eq!(log.last().unwrap().event.event, EventKind::StoreRebuilt);
        assert_eq!(fresh.audit(&of).unwrap().problems, [""; 0]);
    }
    let held = before[0].record.clone();
    let address = format!("address/{}/{}", held.network.net, held.offset.0);
    assert!(records::within(&*fresh, |tx| tx.claim(&address, "another")).is_err());
    created(engine.operate(&rig.cx, &create(Some(name.clone()))).unwrap());
    assert!(engine.operate(&rig.cx, &create(Some(name))).is_err(), "a volume was given twice");
    let usage = records::within(&*fresh, tally::of_node).unwrap();
    let views = engine.instances(&Filter::All).unwrap();
    assert_eq!((views.len(), usage), (3, Usage::of(views.iter().map(|view| &view.record))));
}

#[test]
fn a_kept_volume_that_no_file_tells_of_is_named_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let rig = Rig::new();
    let engine = rig.engine_over(store(data, "state.db"));
    let name = lived(&rig, &engine);
    drop(engine);
    std::fs::remove_file(data.join(format!("volumes/{name}.json"))).unwrap();
    let (report, fresh) = rebuild(&rig, data);
    assert!(report.volumes.is_empty());
    assert!(report.lost.iter().any(|lost| lost.contains(name.as_str())), "{:?}", report.lost);
    let rows = records::within(&*fresh, |tx| tx.list(Table::Volumes, "")).unwrap();
    assert!(rows.is_empty());
    assert!(rig.world.look().kept.contains_key(&name));
}

#[test]
fn a_volume_whose_instance_was_being_destroyed_is_kept_when_it_is_on_the_shelf() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let rig = Rig::new();
    let durable = store(data, "state.db");
    let engine = rig.engine_over(durable.clone());
    let name = lived(&rig, &engine);
    records::within(&*durable, |tx| {
        let mut volume = records::volume(tx, &name)?;
        volume.stage = VolumeStage::Leaving(volume.origin.clone());
        records::put::<Volume>(tx, &mut volume)
    })
    .unwrap();
    let (_, fresh) = rebuild(&rig, data);
    let volume = records::within(&*fresh, |tx| records::volume(tx, &name)).unwrap();
    assert_eq!(volume.stage, VolumeStage::Kept);
    assert_eq!(rig.world.look().kept.len(), 1, "nothing on the machine was touched");
}
