//! Anchors, rotation and what a look at a log finds.

use std::path::PathBuf;

use super::*;
use crate::store::{export::Rotation, segments};

/// A durable store with exported files, of a tenant with some events.
struct Log {
    directory: tempfile::TempDir,
    rotation: Rotation,
}

impl Log {
    fn of(events: usize, rotation: Rotation) -> Self {
        let log = Self { directory: tempfile::tempdir().unwrap(), rotation };
        let store = log.store();
        within(&store, |tx| tx.put(Table::Tenants, "acme", "{}")).unwrap();
        log.add(events);
        log
    }

    fn store(&self) -> SqliteStore {
        let data = self.directory.path();
        SqliteStore::open(&data.join("state.db"), Some(data.to_owned()))
            .unwrap()
            .rotating(self.rotation)
    }

    fn add(&self, events: usize) {
        let store = self.store();
        for number in 0..events {
            within(&store, |tx| tx.append(&event(&format!("event {number}")))).unwrap();
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("tenants/acme").join(name)
    }

    fn names(&self) -> Vec<String> {
        let found = segments::list(&self.file("")).unwrap();
        found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.store().audit(&acme()).unwrap().problems
    }

    fn sql(&self, statement: &str) {
        let raw = rusqlite::Connection::open(self.directory.path().join("state.db")).unwrap();
        raw.execute_batch(statement).unwrap();
    }

    /// Alters a file, sees that it is noticed, puts it back, and sees that all is well.
    fn notices(&self, name: &str, alter: impl Fn(&str) -> String, word: &str) {
        let whole = fs::read_to_string(self.file(name)).unwrap();
        fs::write(self.file(name), alter(&whole)).unwrap();
        let found = self.problems();
        assert!(found.iter().any(|one| one.contains(name) && one.contains(word)), "{found:?}");
        fs::write(self.file(name), whole).unwrap();
        assert_eq!(self.problems(), [""; 0]);
    }
}

fn small() -> Rotation {
    Rotation { bytes: 4096, keep: 3 }
}

fn without_line(text: &str, number: usize) -> String {
    let lines = text.lines().enumerate().filter(|(at, _)| *at != number);
    lines.map(|(_, line)| format!("{line}\n")).collect()
}

/// The text with its second and third line in the other order.
fn swapped(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.swap(1, 2);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_single_byte_of_every_line_counts() {
    let log = Log::of(3, Rotation::default());
    let whole = fs::read(log.file("audit.log")).unwrap();
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        fs::write(log.file("audit.log"), &altered).unwrap();
        assert!(!log.problems().is_empty(), "byte {at} was altered and nobody noticed");
    }
    fs::write(log.file("audit.log"), whole).unwrap();
    assert_eq!(log.problems(), [""; 0]);
}

#[test]
fn every_alteration_of_the_growing_file_is_noticed_and_named() {
    let log = Log::of(5, Rotation::default());
    assert_eq!(log.problems(), [""; 0]);
    log.notices("audit.log", |text| text.replace("event 2", "event 9"), "entry 3 was altered");
    log.notices("audit.log", |text| without_line(text, 2), "entry 4 does not follow");
    log.notices("audit.log", |text| without_line(text, 0), "begins with entry 2");
    log.notices("audit.log", |text| without_line(text, 4), "cut short");
    log.notices("audit.log", |text| text[..text.len() - 30].to_owned(), "cut short");
    log.notices("audit.log", |_| String::new(), "cut short");
    log.notices("audit.log", |text| format!("{text}{{\"seq\":6"), "is no entry");
    log.notices("audit.log", |text| text.replace("\"seq\":3", "\"seq\": 3"), "line 3 is no entry");
    log.notices("audit.log", swapped, "entry 3 does not follow");
    log.notices("audit.log", |text| text.replace("\"seq\":3", "\"seq\":"), "line 3 is no entry");
}

#[test]
fn entries_that_leave_the_store_by_another_way_are_missed() {
    for (statement, word) in [
        ("DELETE FROM event WHERE seq = 1", "entry 1 is gone"),
        ("DELETE FROM event WHERE seq = 3", "entry 3 is gone"),
        ("DELETE FROM event WHERE seq = 5", "its anchor is entry 5"),
        ("DELETE FROM event", "are gone"),
        ("DELETE FROM audit", "no anchor"),
        ("UPDATE event SET body = replace(body, 'event 1', 'event 7')", "was altered"),
    ] {
        let log = Log::of(5, Rotation::default());
        log.sql(statement);
        let found = log.problems();
        assert!(found.iter().any(|one| one.contains(word)), "{statement}: {found:?}");
    }
}

#[test]
fn a_rotation_carries_the_chain_over_and_keeps_a_bound() {
    let log = Log::of(100, small());
    assert_eq!(log.problems(), [""; 0]);
    assert_eq!(log.names().len(), 4, "{:?}", log.names());
    let report = log.store().audit(&acme()).unwrap();
    assert_eq!(report.files.last().unwrap().name, "audit.log");
    assert!(report.first_stored_seq > report.files[0].first_seq, "older entries left the store");
    let events = log.store().events(&acme(), report.files[0].first_seq - 1, 1000).unwrap();
    let seqs: Vec<u64> = events.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (report.files[0].first_seq..=100).collect::<Vec<_>>());
    chain::verify(&events).unwrap();
    let some = log.store().events(&acme(), 0, 60).unwrap();
    assert_eq!(some.len(), 60.min(seqs.len()));
    let oldest = report.files[0].name.clone();
    log.notices(&oldest, |text| text.replace("\"uid\":7", "\"uid\":8"), "was altered");
    log.notices(&oldest, |text| without_line(text, 0), "that was rotated");
    fs::remove_file(log.file(&oldest)).unwrap();
    assert!(log.problems()[0].contains("is gone"));
}

#[test]
fn a_log_read_page_by_page_is_the_whole_log_also_where_it_left_the_store() {
    let log = Log::of(60, Rotation { bytes: 4096, keep: 100 });
    let store = log.store();
    assert!(store.stored_events(&acme(), 0, usize::MAX).unwrap().len() < 60, "some have left");
    for limit in [1, 7, 500] {
        let mut seen: Vec<u64> = Vec::new();
        loop {
            let after = seen.last().copied().unwrap_or(0);
            let page = store.first_events(&acme(), after, limit).unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            seen.extend(page.iter().map(|entry| entry.seq));
        }
        assert_eq!(seen, (1..=60).collect::<Vec<u64>>(), "{limit} a page");
    }
}

#[test]
fn a_crash_between_the_record_of_a_rotation_and_the_rename_is_made_good() {
    let log = Log::of(1, small());
    while !log.file("audit.log.1").exists() {
        log.add(1);
    }
    fs::rename(log.file("audit.log.1"), log.file("audit.log")).unwrap();
    assert_eq!(log.problems(), [""; 0]);
    log.add(1);
    assert_eq!(log.names(), ["audit.log.1", "audit.log"]);
    assert_eq!(fs::read_to_string(log.file("audit.log")).unwrap().lines().count(), 1);
    assert_eq!(log.problems(), [""; 0]);
}

#[test]
fn entries_stay_in_the_store_while_their_file_is_not_whole() {
    let log = Log::of(1, small());
    while log.names().len() < 2 {
        log.add(1);
    }
    let whole = fs::read_to_string(log.file("audit.log.1")).unwrap();
    fs::write(log.file("audit.log.1"), without_line(&whole, 3)).unwrap();
    log.add(60);
    assert_eq!(log.store().audit(&acme()).unwrap().first_stored_seq, 1);
    fs::write(log.file("audit.log.1"), whole).unwrap();
    log.add(60);
    assert!(log.store().audit(&acme()).unwrap().first_stored_seq > 1);
    assert_eq!(log.problems(), [""; 0]);
}

#[test]
fn entries_that_a_crash_kept_out_of_the_file_are_no_alteration() {
    let log = Log::of(3, Rotation::default());
    let silent = SqliteStore::open(&log.directory.path().join("state.db"), None).unwrap();
    within(&silent, |tx| tx.append(&event("unexported"))).unwrap();
    let report = log.store().audit(&acme()).unwrap();
    assert_eq!((report.unexported, report.problems.len()), (1, 0));
    log.add(1);
    assert_eq!(log.store().audit(&acme()).unwrap().unexported, 0);
    assert_eq!(log.problems(), [""; 0]);
}

#[test]
fn the_log_of_a_destroyed_tenant_can_be_verified_for_ever() {
    let log = Log::of(30, small());
    let (home, archive) = (log.file(""), log.directory.path().join("archive/acme-1"));
    fs::create_dir_all(archive.parent().unwrap()).unwrap();
    fs::rename(&home, &archive).unwrap();
    within(&log.store(), |tx| tx.delete(Table::Tenants, "acme")).unwrap();
    let found = || log.store().audit_archives(None).unwrap();
    assert_eq!((found().len(), found()[0].problems.len()), (1, 0), "{:?}", found());
    assert_eq!(log.store().archived_events(&acme()).unwrap().last().unwrap().seq, 30);
    let whole = fs::read_to_string(archive.join("audit.log.1")).unwrap();
    fs::write(archive.join("audit.log.1"), whole.replace("event 1", "event 2")).unwrap();
    assert!(!found()[0].problems.is_empty());
    fs::write(archive.join("audit.log.1"), whole).unwrap();
    assert!(found()[0].problems.is_empty());
    fs::remove_dir_all(&archive).unwrap();
    assert!(found()[0].problems[0].contains("no archived log"));
}

#[test]
fn a_log_from_before_the_anchors_is_anchored_when_its_store_is_opened() {
    let log = Log::of(4, Rotation::default());
    log.sql("DROP TABLE audit; DROP TABLE audit_file; DROP TABLE audit_archive; PRAGMA user_version = 1");
    assert_eq!(log.problems(), [""; 0]);
    log.add(1);
    assert_eq!(log.store().audit(&acme()).unwrap().last_seq, 5);
    assert_eq!(log.problems(), [""; 0]);
}
