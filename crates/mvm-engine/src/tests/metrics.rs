//! What is counted of the audit logs, whoever writes, destroys and makes anew meanwhile.

#![expect(clippy::disallowed_methods, reason = "R3: the tests move what the store exported")]

use std::{fs, path::Path, sync::Arc};

use mvm_core::{
    event::EventKind, operation::Operation, quota::Quotas, state::State, volume::VolumeFate,
};

use crate::{Engine, fake::*, history::PAGE, metrics::Counted, store::sqlite::SqliteStore};

/// An engine, and where its store writes files, if it does.
struct Ground {
    rig: Rig,
    engine: Engine,
    data: Option<tempfile::TempDir>,
}

/// The test over both stores.
fn over_both(test: impl Fn(&Ground)) {
    let rig = Rig::new();
    let engine = rig.engine_over(Arc::new(rig.store.clone()));
    test(&Ground { rig, engine, data: None });
    let directory = tempfile::tempdir().unwrap();
    let rig = Rig::new();
    let engine = rig.engine_over(store(directory.path()));
    test(&Ground { rig, engine, data: Some(directory) });
}

fn store(data: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&data.join("state.db"), Some(data.to_owned())).unwrap())
}

impl Ground {
    fn operate(&self, operation: &Operation) {
        self.engine.operate(&self.rig.cx, operation).unwrap();
    }

    fn make(&self) {
        self.operate(&tenant_create("acme", Quotas::default()));
        self.operate(&pool_create("acme/web"));
    }

    fn destroy(&self) {
        let (tenant, volumes) = ("acme".parse().unwrap(), VolumeFate::Delete);
        self.operate(&Operation::TenantDestroy { tenant, force: true, volumes });
        // The host moves the files away, and the one of these tests has none.
        if let Some(data) = &self.data {
            let archive = data.path().join("archive");
            fs::create_dir_all(&archive).unwrap();
            let count = fs::read_dir(&archive).unwrap().count() + 1;
            fs::rename(data.path().join("tenants/acme"), archive.join(format!("acme-{count}")))
                .unwrap();
        }
    }

    /// How many tenants began, how many pools began, and how many tenants ended, as counted now.
    fn look(&self, counted: &mut Counted) -> (u64, u64, u64) {
        self.engine.count_events(counted).unwrap();
        let of = |kind| count(counted, kind);
        (of(EventKind::TenantCreated), of(EventKind::PoolCreated), of(EventKind::TenantDestroyed))
    }
}

fn count(counted: &Counted, kind: EventKind) -> u64 {
    counted.events.iter().filter(|((one, _), _)| *one == kind).map(|(_, count)| *count).sum()
}

#[test]
fn what_was_there_before_the_first_look_is_not_counted() {
    over_both(|ground| {
        ground.make();
        let mut counted = Counted::default();
        assert_eq!(ground.look(&mut counted), (0, 0, 0));
        ground.operate(&pool_create("acme/api"));
        assert_eq!(ground.look(&mut counted), (0, 1, 0));
        assert_eq!(ground.look(&mut counted), (0, 1, 0));
    });
}

#[test]
fn the_last_words_of_a_destroyed_tenant_are_counted_once() {
    over_both(|ground| {
        let mut counted = Counted::default();
        ground.look(&mut counted);
        ground.make();
        assert_eq!(ground.look(&mut counted), (1, 1, 0));
        ground.operate(&pool_create("acme/api"));
        ground.destroy();
        assert_eq!(ground.look(&mut counted), (1, 2, 1));
        assert_eq!(ground.look(&mut counted), (1, 2, 1));
    });
}

#[test]
fn tenants_made_anew_under_a_name_are_counted_from_their_beginning() {
    over_both(|ground| {
        let mut counted = Counted::default();
        ground.look(&mut counted);
        ground.make();
        assert_eq!(ground.look(&mut counted), (1, 1, 0));
        // The second one comes and goes between two looks, the third stays and has the longer log.
        ground.destroy();
        ground.make();
        ground.destroy();
        ground.make();
        for id in ["acme/a", "acme/b", "acme/c"] {
            ground.operate(&pool_create(id));
        }
        assert_eq!(ground.look(&mut counted), (3, 6, 2));
        assert_eq!(ground.look(&mut counted), (3, 6, 2));
    });
}

#[test]
fn what_was_archived_before_the_first_look_is_not_counted() {
    over_both(|ground| {
        ground.make();
        ground.destroy();
        let mut counted = Counted::default();
        assert_eq!(ground.look(&mut counted), (0, 0, 0));
        ground.make();
        assert_eq!(ground.look(&mut counted), (1, 1, 0));
    });
}

#[test]
fn a_log_longer_than_a_page_is_counted_whole() {
    let rig = Rig::with_pool(Quotas::default());
    let mut counted = Counted::default();
    rig.engine.count_events(&mut counted).unwrap();
    let mut updates: u64 = 0;
    while rig.engine.events_from(&"acme".parse().unwrap(), 0, 3 * PAGE).unwrap().len() < 2 * PAGE {
        updates += 1;
        let counts = (updates % 2).try_into().unwrap();
        rig.engine.operate(&rig.cx, &scale_only(counts)).unwrap();
    }
    rig.engine.count_events(&mut counted).unwrap();
    assert_eq!(count(&counted, EventKind::PoolScaled), updates);
}

fn scale_only(running: u32) -> Operation {
    let pool = pool("acme/web");
    Operation::PoolScale { pool, running: Some(running), warm: None, sleeping: None, no_wait: true }
}

#[test]
fn what_there_is_has_each_pool_with_every_state_and_its_counts() {
    let rig = Rig::with_pool(Quotas::default());
    rig.operate(&pool_create("acme/empty")).unwrap();
    rig.operate(&scale(2, 1, 1)).unwrap();
    let present = rig.engine.present().unwrap();
    let web = &present.pools[&pool("acme/web")];
    let empty = &present.pools[&pool("acme/empty")];
    let of = |state| web.states[&state];
    assert_eq!((of(State::Running), of(State::Warm), of(State::Sleeping)), (2, 1, 1));
    assert_eq!(web.counted, web.desired);
    assert!(web.memory.0 > 0 && web.memory.0.is_multiple_of(3));
    assert_eq!(empty.states.len(), State::ALL.len());
    assert!(empty.states.values().all(|count| *count == 0));
}
