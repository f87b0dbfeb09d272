//! The engine over the durable store: the same life, its documented files, several processes.

#![expect(clippy::disallowed_methods, reason = "R3: the tests read what the store exported")]

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, thread};

use mvm_core::{
    event::LoggedEvent, instance::Instance, operation::Operation, pool::Pool, quota::Quotas,
    state::State,
};

use crate::{
    fake::*,
    query::Filter,
    store::{chain, sqlite::SqliteStore},
};

fn store(data: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&data.join("state.db"), Some(data.to_owned())).unwrap())
}

fn prepare(rig: &Rig, engine: &crate::Engine) {
    let quotas = Quotas { max_instances_per_pool: 100, ..Quotas::default() };
    for operation in
        [tenant_create("acme", quotas), pool_create("acme/web"), Operation::build(pool("acme/web"))]
    {
        engine.operate(&rig.cx, &operation).unwrap();
    }
}

#[test]
fn the_documented_files_show_the_records_and_the_whole_log() {
    let directory = tempfile::tempdir().unwrap();
    let rig = Rig::new();
    let engine = rig.engine_over(store(directory.path()));
    prepare(&rig, &engine);
    engine.operate(&rig.cx, &scale(2, 1, 1)).unwrap();
    let home = directory.path().join("tenants/acme");
    let read = |file: &str| fs::read_to_string(home.join(file)).unwrap();
    let shown: Pool = serde_json::from_str(&read("pools/web/pool.json")).unwrap();
    assert_eq!(shown.desired_counts.running, 2);
    assert!(read("pools/web/build_history.json").contains("abab"));
    for view in engine.instances(&Filter::All).unwrap() {
        let id = &view.record.instance.instance;
        let shown: Instance =
            serde_json::from_str(&read(&format!("pools/web/instances/{id}/instance.json")))
                .unwrap();
        assert_eq!(shown, view.record);
    }
    let log = read("audit.log");
    let entries: Vec<LoggedEvent> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    chain::verify(&entries).unwrap();
    assert_eq!(entries, engine.events(&"acme".parse().unwrap(), 0, usize::MAX).unwrap());
    engine.operate(&rig.cx, &scale(0, 0, 0)).unwrap();
    assert!(
        engine.instances(&Filter::All).unwrap().iter().all(|i| i.record.state == State::Stopped)
    );
}

#[test]
fn four_processes_over_one_database_never_give_out_the_same_twice() {
    let directory = tempfile::tempdir().unwrap();
    let rig = Rig::new();
    prepare(&rig, &rig.engine_over(store(directory.path())));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let engine = rig.engine_over(store(directory.path()));
                for _ in 0..6 {
                    let pool = pool("acme/web");
                    engine
                        .operate(
                            &rig.cx,
                            &Operation::InstanceCreate { pool, publish: Vec::new(), volume: None },
                        )
                        .unwrap();
                }
            });
        }
    });
    let all = rig.engine_over(store(directory.path())).instances(&Filter::All).unwrap();
    assert_eq!(all.len(), 24);
    assert_eq!(all.iter().map(|i| i.record.offset).collect::<BTreeSet<_>>().len(), 24);
    assert_eq!(all.iter().map(|i| i.record.uid).collect::<BTreeSet<_>>().len(), 24);
    let log = fs::read_to_string(directory.path().join("tenants/acme/audit.log")).unwrap();
    let entries: Vec<LoggedEvent> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    chain::verify(&entries).unwrap();
    assert_eq!(entries.len(), 28);
}
