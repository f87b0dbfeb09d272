//! One suite over both stores, and what only the durable one can show.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]
#![expect(clippy::disallowed_methods, reason = "R3: the tests read what the store exported")]

mod audit;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use mvm_core::{
    error::{Error, ErrorKind},
    event::{Actor, Event, EventKind},
    id::TenantId,
    port::{Store, Table, Transaction},
    units::Timestamp,
};

use proptest::prelude::*;

use super::{
    chain,
    memory::MemoryStore,
    records::{rehearse, within},
    sqlite::SqliteStore,
};

fn acme() -> TenantId {
    "acme".parse().unwrap()
}

fn event(reason: &str) -> Event {
    Event {
        time: Timestamp(5),
        tenant: acme(),
        pool: None,
        instance: None,
        event: EventKind::PoolScaled,
        actor: Actor::Uid(7),
        reason: reason.to_owned(),
        detail: BTreeMap::from([("running".to_owned(), "2".to_owned())]),
    }
}

/// Runs a test over each kind of store.
fn over_both(test: impl Fn(&dyn Store)) {
    test(&MemoryStore::new());
    let directory = tempfile::tempdir().unwrap();
    test(&SqliteStore::open(&directory.path().join("state.db"), None).unwrap());
}

fn put(store: &dyn Store, table: Table, keys: &[&str]) {
    within(store, |tx| keys.iter().try_for_each(|key| tx.put(table, key, key))).unwrap();
}

fn keys(store: &dyn Store, table: Table, prefix: &str) -> Vec<String> {
    let rows = within(store, |tx| tx.list(table, prefix)).unwrap();
    rows.into_iter().map(|(key, _)| key).collect()
}

fn spoil(tx: &mut dyn Transaction) -> Result<(), Error> {
    tx.put(Table::Tenants, "acme", "changed")?;
    tx.put(Table::Tenants, "new", "1")?;
    tx.delete(Table::Tenants, "other")?;
    tx.claim("uid/2", "new")?;
    tx.append(&event("lost"))
}

fn is_unspoiled(store: &dyn Store) {
    assert_eq!(keys(store, Table::Tenants, ""), ["acme", "other"]);
    assert_eq!(within(store, |tx| tx.get(Table::Tenants, "acme")).unwrap().unwrap(), "acme");
    assert_eq!(within(store, |tx| tx.claimed("uid")).unwrap(), [1]);
    assert_eq!(store.events(&acme(), 0, 10).unwrap().len(), 1);
}

fn stock(store: &dyn Store) {
    put(store, Table::Tenants, &["acme", "other"]);
    within(store, |tx| {
        tx.claim("uid/1", "other")?;
        tx.append(&event("kept"))
    })
    .unwrap();
}

#[test]
fn a_transaction_that_fails_leaves_nothing() {
    over_both(|store| {
        stock(store);
        let failed = store.transact(&mut |tx| {
            spoil(tx)?;
            Err(Error::new(ErrorKind::Refused, "no"))
        });
        assert_eq!(failed.unwrap_err().kind, ErrorKind::Refused);
        is_unspoiled(store);
    });
}

#[test]
fn a_transaction_that_unwinds_leaves_nothing() {
    over_both(|store| {
        stock(store);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            store.transact(&mut |tx| {
                spoil(tx)?;
                std::panic::resume_unwind(Box::new("crash"))
            })
        }));
        assert!(unwound.is_err());
        is_unspoiled(store);
    });
}

#[test]
fn a_rehearsal_answers_and_leaves_nothing() {
    over_both(|store| {
        stock(store);
        rehearse(store, spoil).unwrap();
        is_unspoiled(store);
    });
}

#[test]
fn a_prefix_lists_what_is_there_and_below_and_no_name_that_begins_alike() {
    over_both(|store| {
        put(store, Table::Instances, &["a", "a/b", "a/b/c", "a-b", "a0", "ab/c", "b"]);
        put(store, Table::Pools, &["a/z"]);
        assert_eq!(keys(store, Table::Instances, "a"), ["a", "a/b", "a/b/c"]);
        assert_eq!(keys(store, Table::Instances, "a/b"), ["a/b", "a/b/c"]);
        assert_eq!(keys(store, Table::Instances, "a/b/c/d"), [""; 0]);
        assert_eq!(keys(store, Table::Instances, "").len(), 7);
        assert_eq!(keys(store, Table::Tenants, ""), [""; 0]);
    });
}

#[test]
fn a_claim_is_held_by_one_and_released_with_its_record() {
    over_both(|store| {
        put(store, Table::Instances, &["a/p/i", "a/p/j"]);
        let claim = |name: &str, owner: &str| within(store, |tx| tx.claim(name, owner));
        claim("uid/10", "a/p/i").unwrap();
        claim("uid/9", "a/p/i").unwrap();
        claim("uid/9", "a/p/i").unwrap();
        claim("uidx/4", "a/p/i").unwrap();
        claim("uid/9/1", "a/p/i").unwrap();
        claim("uid/name", "a/p/j").unwrap();
        assert_eq!(claim("uid/9", "a/p/j").unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(within(store, |tx| tx.claimed("uid")).unwrap(), [9, 10]);
        within(store, |tx| tx.delete(Table::Instances, "a/p/i")).unwrap();
        assert_eq!(within(store, |tx| tx.claimed("uid")).unwrap(), [0; 0]);
        claim("uid/9", "a/p/j").unwrap();
        assert_eq!(claim("uid/name", "x").unwrap_err().kind, ErrorKind::Conflict);
    });
}

#[test]
fn the_audit_log_is_a_chain_that_shows_every_alteration() {
    over_both(|store| {
        for reason in ["one", "two \"quoted\" ü", ""] {
            within(store, |tx| tx.append(&event(reason))).unwrap();
        }
        let log = store.events(&acme(), 0, 10).unwrap();
        assert_eq!(log.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(log[0].previous, chain::START);
        chain::verify(&log).unwrap();
        chain::verify(&log[1..]).unwrap();
        let mut altered = log.clone();
        altered[1].event.reason = "other".to_owned();
        assert_eq!(chain::verify(&altered).unwrap_err().kind, ErrorKind::Integrity);
        assert!(chain::verify(&[log[0].clone(), log[2].clone()]).is_err());
        let mut rehashed = altered;
        rehashed[1] = chain::link(&log[0].hash, 2, &rehashed[1].event).unwrap();
        assert!(chain::verify(&rehashed).is_err());
    });
}

#[test]
fn events_are_the_last_ones_after_a_place_and_go_with_their_tenant() {
    over_both(|store| {
        put(store, Table::Tenants, &["acme"]);
        for _ in 0..5 {
            within(store, |tx| tx.append(&event(""))).unwrap();
        }
        let seqs = |after, limit| -> Vec<u64> {
            let log = store.events(&acme(), after, limit).unwrap();
            log.iter().map(|entry| entry.seq).collect()
        };
        assert_eq!(seqs(0, 2), [4, 5]);
        assert_eq!(seqs(3, 10), [4, 5]);
        assert_eq!(seqs(5, 10), [0; 0]);
        let firsts = |after, limit| -> Vec<u64> {
            let log = store.first_events(&acme(), after, limit).unwrap();
            log.iter().map(|entry| entry.seq).collect()
        };
        assert_eq!(firsts(0, 2), [1, 2]);
        assert_eq!(firsts(3, 10), [4, 5]);
        assert_eq!(firsts(5, 10), [0; 0]);
        within(store, |tx| tx.delete(Table::Tenants, "acme")).unwrap();
        assert_eq!(seqs(0, 10), [0; 0]);
    });
}

#[test]
fn both_stores_chain_the_same_hashes() {
    let directory = tempfile::tempdir().unwrap();
    let durable = SqliteStore::open(&directory.path().join("state.db"), None).unwrap();
    let memory = MemoryStore::new();
    let stores: [&dyn Store; 2] = [&durable, &memory];
    for store in stores {
        within(store, |tx| tx.append(&event("same"))).unwrap();
    }
    let of = |store: &dyn Store| store.events(&acme(), 0, 1).unwrap();
    assert_eq!(of(&durable), of(&memory));
}

#[test]
fn a_reopened_store_has_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    stock(&SqliteStore::open(&file, None).unwrap());
    is_unspoiled(&SqliteStore::open(&file, None).unwrap());
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    drop(SqliteStore::open(&file, None).unwrap());
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let refused = SqliteStore::open(&file, None).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Conflict);
}

#[test]
fn all_openers_of_a_new_store_get_it() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..32 {
        let file = directory.path().join(format!("{round}.db"));
        std::thread::scope(|scope| {
            let open = || SqliteStore::open(&file, None).map(drop);
            let openers: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            for opener in openers {
                opener.join().unwrap().unwrap();
            }
        });
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_documented_files_follow_each_commit_and_heal() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_owned();
    let store = SqliteStore::open(&data.join("state.db"), Some(data.clone())).unwrap();
    within(&store, |tx| {
        tx.put(Table::Tenants, "acme", r#"{"tenant_id":"acme"}"#)?;
        tx.put(Table::Instances, "acme/web/i-00000001", r#"{"instance":"x"}"#)?;
        tx.append(&event("one"))
    })
    .unwrap();
    let home = data.join("tenants/acme");
    let instance = home.join("pools/web/instances/i-00000001/instance.json");
    assert!(fs::read_to_string(home.join("tenant.json")).unwrap().contains("acme"));
    assert!(instance.exists());
    assert_eq!((mode(&home), mode(&instance)), (0o700, 0o600));
    let log = home.join("audit.log");
    fs::write(&log, b"").unwrap();
    within(&store, |tx| tx.append(&event("two"))).unwrap();
    let whole = fs::read_to_string(&log).unwrap();
    assert_eq!(whole.lines().count(), 2, "the lost entry came back");
    fs::write(&log, &whole[..whole.len() - 20]).unwrap();
    within(&store, |tx| tx.append(&event("three"))).unwrap();
    let entries: Vec<mvm_core::event::LoggedEvent> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    chain::verify(&entries).unwrap();
    assert_eq!(entries, store.events(&acme(), 0, 10).unwrap());
    within(&store, |tx| tx.delete(Table::Instances, "acme/web/i-00000001")).unwrap();
    assert!(!instance.exists());
}

#[test]
fn the_files_of_a_removed_tenant_do_not_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_owned();
    let store = SqliteStore::open(&data.join("state.db"), Some(data.clone())).unwrap();
    within(&store, |tx| {
        tx.put(Table::Tenants, "acme", "{}")?;
        tx.append(&event("one"))
    })
    .unwrap();
    fs::remove_dir_all(data.join("tenants/acme")).unwrap();
    within(&store, |tx| tx.delete(Table::Tenants, "acme")).unwrap();
    assert!(!data.join("tenants/acme").exists());
}

/// What a test does to a store, drawn at random.
#[derive(Debug, Clone)]
enum Act {
    Put(u8, u8),
    Delete(u8),
    Claim(u8, u8),
    Append,
    Fail(Box<Act>),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let simple = prop_oneof![
        (0..6u8, any::<u8>()).prop_map(|(key, value)| Act::Put(key, value)),
        (0..6u8).prop_map(Act::Delete),
        (0..4u8, 0..6u8).prop_map(|(name, owner)| Act::Claim(name, owner)),
        Just(Act::Append),
    ];
    let act = prop_oneof![
        4 => simple.clone(),
        1 => simple.prop_map(|act| Act::Fail(Box::new(act))),
    ];
    proptest::collection::vec(act, 1..25)
}

fn key(number: u8) -> &'static str {
    ["a", "a/b", "a/b/c", "ab", "ab/c", "acme"][usize::from(number)]
}

fn act(tx: &mut dyn Transaction, what: &Act) -> Result<(), Error> {
    match what {
        Act::Put(place, value) => tx.put(Table::Tenants, key(*place), &value.to_string()),
        Act::Delete(place) => tx.delete(Table::Tenants, key(*place)),
        Act::Claim(name, owner) => tx.claim(&format!("uid/{name}"), key(*owner)),
        Act::Append => tx.append(&event("drawn")),
        Act::Fail(inner) => {
            act(tx, inner)?;
            Err(Error::new(ErrorKind::Failed, "drawn"))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn both_stores_always_agree(acts in acts()) {
        let directory = tempfile::tempdir().unwrap();
        let durable = SqliteStore::open(&directory.path().join("state.db"), None).unwrap();
        let memory = MemoryStore::new();
        for what in &acts {
            let one = within(&durable, |tx| act(tx, what)).map_err(|e| e.kind);
            let two = within(&memory, |tx| act(tx, what)).map_err(|e| e.kind);
            prop_assert_eq!(one, two);
            for prefix in ["", "a", "a/b", "ab"] {
                let list = |store: &dyn Store| within(store, |tx| tx.list(Table::Tenants, prefix));
                prop_assert_eq!(list(&durable).unwrap(), list(&memory).unwrap());
            }
            let claims = |store: &dyn Store| within(store, |tx| tx.claimed("uid")).unwrap();
            prop_assert_eq!(claims(&durable), claims(&memory));
            let log = |store: &dyn Store| store.events(&acme(), 0, 100).unwrap();
            prop_assert_eq!(log(&durable), log(&memory));
        }
    }
}
