//! Checking audit logs: entries against their chain and anchor, files against both.
//!
//! Nothing here changes anything. It refuses to know what an entry says.

use std::{io, path::Path};

use mvm_core::{
    audit::{AuditFile, AuditReport},
    error::{Error, ErrorKind},
    event::LoggedEvent,
    id::TenantId,
};

use super::{
    chain,
    export::Exporter,
    ledger::{Anchor, Archived, Closed},
    segments::{self, Segment},
    sqlite::SqliteStore,
};

fn unreadable(what: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("cannot read {what}")).because(error)
}

fn nothing() -> Anchor {
    Anchor {
        last_seq: 0,
        last_hash: chain::START.to_owned(),
        left_seq: 0,
        exported_seq: 0,
        exported_boot: String::new(),
    }
}

/// Looks at the log of a living tenant.
pub(super) fn living(store: &SqliteStore, tenant: &TenantId) -> Result<AuditReport, Error> {
    let Some(exporter) = &store.exporter else {
        return Ok(stored(store, tenant)?.0);
    };
    let directory = exporter.directory(tenant);
    // Nobody writes or rotates meanwhile; a directory that is not there has no writer.
    let _lock = if directory.is_dir() {
        Some(
            segments::lock(&directory, exporter.owner())
                .map_err(|e| unreadable("the audit log", &e))?,
        )
    } else {
        None
    };
    let (mut report, entries, anchor) = stored(store, tenant)?;
    let closed = store.closed(tenant)?;
    exported(&mut report, &directory, &closed, &entries, &anchor)
        .map_err(|e| unreadable("the audit log's files", &e))?;
    Ok(report)
}

/// The entries in the database against chain and anchor.
fn stored(
    store: &SqliteStore,
    tenant: &TenantId,
) -> Result<(AuditReport, Vec<LoggedEvent>, Anchor), Error> {
    let anchored = store.anchor(tenant)?;
    let is_anchored = anchored.is_some();
    let anchor = anchored.unwrap_or_else(nothing);
    let mut report = AuditReport::of(tenant, anchor.last_seq, &anchor.last_hash);
    report.first_stored_seq = anchor.left_seq + 1;
    let mut entries: Vec<LoggedEvent> = Vec::new();
    let mut next = anchor.left_seq + 1;
    for (seq, body, hash) in store.raw_events(tenant)? {
        if seq != next {
            let gone = if seq - 1 == next { "is" } else { "and what follows it are" };
            report.problems.push(format!("store: entry {next} {gone} gone"));
        }
        next = seq + 1;
        match serde_json::from_str::<LoggedEvent>(&body) {
            Ok(entry) if entry.seq == seq && entry.hash == hash => entries.push(entry),
            Ok(_) | Err(_) => report.problems.push(format!("store: entry {seq} was altered")),
        }
    }
    if report.problems.is_empty() {
        let broken = chain::verify(&entries).err();
        report.problems.extend(broken.map(|error| format!("store: {}", error.message)));
    }
    let end = entries.last().map(|entry| (entry.seq, entry.hash.as_str()));
    match end {
        Some((seq, hash)) if is_anchored && (seq, hash) == (anchor.last_seq, &anchor.last_hash) => {
        }
        None if anchor.last_seq == anchor.left_seq => {}
        Some((seq, _)) if is_anchored => report.problems.push(format!(
            "store: the log ends with entry {seq}, its anchor is entry {}",
            anchor.last_seq
        )),
        Some(_) => report.problems.push("store: the log has no anchor".to_owned()),
        None => report.problems.push(format!(
            "store: the entries up to the anchor, entry {}, are gone",
            anchor.last_seq
        )),
    }
    Ok((report, entries, anchor))
}

/// The files against what was recorded of them and against the entries in the database.
fn exported(
    report: &mut AuditReport,
    directory: &Path,
    closed: &[Closed],
    entries: &[LoggedEvent],
    anchor: &Anchor,
) -> io::Result<()> {
    let mut next = closed.first().map_or(1, |file| file.first_seq);
    let mut is_renamed = true;
    for file in closed {
        let name = segments::name(file.number);
        if file.first_seq != next {
            report.problems.push(format!("{name}: does not follow the file before it"));
        }
        next = file.last_seq + 1;
        let mut segment = segments::read(&directory.join(&name))?;
        // A crash may have come before the file got its new name.
        let current = directory.join(segments::CURRENT);
        if segment.is_none()
            && current.exists()
            && segments::first_seq(&current)? == Some(file.first_seq)
        {
            segment = segments::read(&current)?;
            is_renamed = false;
        }
        let Some(segment) = segment else {
            report.problems.push(format!("{name}: is gone"));
            continue;
        };
        check(report, &name, &segment, entries);
        whole(report, &name, &segment);
        if segment.first_seq() != file.first_seq
            || segment.entries.last().is_none_or(|last| last.hash != file.last_hash)
        {
            report.problems.push(format!(
                "{name}: is not the file of entries {} to {} that was rotated",
                file.first_seq, file.last_seq
            ));
        }
    }
    let current = if is_renamed {
        segments::read(&directory.join(segments::CURRENT))?.unwrap_or_default()
    } else {
        Segment::default()
    };
    check(report, segments::CURRENT, &current, entries);
    grown(report, &current, next, anchor);
    unfinished(report, &current, next, entries)
}

/// A file that grows no more has no unfinished line.
fn whole(report: &mut AuditReport, name: &str, segment: &Segment) {
    if !segment.unfinished.is_empty() {
        report.problems.push(format!("{name}: its last line has no end"));
    }
}

/// What a crash cut off in the growing file is the beginning of the entry that belongs there.
fn unfinished(
    report: &mut AuditReport,
    current: &Segment,
    first: u64,
    entries: &[LoggedEvent],
) -> io::Result<()> {
    let next = current.last_seq().max(first - 1) + 1;
    let entry = entries.iter().find(|entry| entry.seq == next);
    let line = entry.map(segments::line).transpose()?.unwrap_or_default();
    if !line.starts_with(&current.unfinished) {
        let name = segments::CURRENT;
        report.problems.push(format!("{name}: its last line has no end and is no entry"));
    }
    Ok(())
}

/// Whether the growing file begins and ends where it shall.
fn grown(report: &mut AuditReport, current: &Segment, first: u64, anchor: &Anchor) {
    let name = segments::CURRENT;
    if !current.entries.is_empty() && current.first_seq() != first {
        let begins = current.first_seq();
        report.problems.push(format!("{name}: begins with entry {begins} instead of {first}"));
    }
    let last = current.last_seq().max(first - 1);
    let is_same_boot = anchor.exported_boot == segments::boot();
    if last > anchor.last_seq {
        report.problems.push(format!(
            "{name}: ends with entry {last}, but the last one was entry {}",
            anchor.last_seq
        ));
    } else if last < anchor.exported_seq && is_same_boot {
        report.problems.push(format!(
            "{name}: was cut short: it ends with entry {last}, and entry {} had been written",
            anchor.exported_seq
        ));
    } else {
        report.unexported = anchor.last_seq - last;
    }
}

/// One file: its lines, its chain, and that it says what the database says.
fn check(report: &mut AuditReport, name: &str, segment: &Segment, entries: &[LoggedEvent]) {
    report.files.push(AuditFile {
        name: name.to_owned(),
        first_seq: segment.first_seq(),
        last_seq: segment.last_seq(),
    });
    if let Some(line) = segment.damage {
        report.problems.push(format!("{name}: line {line} is no entry as it was written"));
    }
    if let Err(error) = chain::verify(&segment.entries) {
        report.problems.push(format!("{name}: {}", error.message));
        return;
    }
    let other = segment.entries.iter().find(|entry| {
        let at = entries.binary_search_by_key(&entry.seq, |stored| stored.seq);
        at.ok().and_then(|at| entries.get(at)).is_some_and(|stored| stored != *entry)
    });
    if let Some(other) = other {
        report.problems.push(format!("{name}: entry {} is not that of the store", other.seq));
    }
}

/// The entries in rotated files with places inside of `range`, which excludes both ends: the last
/// `limit` of them, oldest first.
pub(super) fn older(
    store: &SqliteStore,
    exporter: &Exporter,
    tenant: &TenantId,
    range: (u64, u64),
    limit: usize,
) -> Result<Vec<LoggedEvent>, Error> {
    let mut found: Vec<LoggedEvent> = Vec::new();
    for file in store.closed(tenant)?.iter().rev() {
        if file.last_seq <= range.0 || found.len() >= limit {
            break;
        }
        let path = exporter.directory(tenant).join(segments::name(file.number));
        let segment = segments::read(&path).map_err(|e| unreadable("a rotated audit log", &e))?;
        let entries = segment.unwrap_or_default().entries.into_iter();
        let mut those: Vec<_> =
            entries.filter(|entry| entry.seq > range.0 && entry.seq < range.1).collect();
        those.append(&mut found);
        found = those;
    }
    Ok(found.split_off(found.len().saturating_sub(limit)))
}

/// The first `limit` entries after `range.0` and up to `range.1` that left the store for rotated files; reads
/// no file more than it must.
pub(super) fn first_of(
    store: &SqliteStore,
    exporter: &Exporter,
    tenant: &TenantId,
    range: (u64, u64),
    limit: usize,
) -> Result<Vec<LoggedEvent>, Error> {
    let mut found: Vec<LoggedEvent> = Vec::new();
    for file in store.closed(tenant)?.iter().filter(|file| file.last_seq > range.0) {
        if file.first_seq > range.1 || found.len() >= limit {
            break;
        }
        let path = exporter.directory(tenant).join(segments::name(file.number));
        let segment = segments::read(&path).map_err(|e| unreadable("a rotated audit log", &e))?;
        let entries = segment.unwrap_or_default().entries.into_iter();
        let those = entries.filter(|entry| entry.seq > range.0 && entry.seq <= range.1);
        found.extend(those.take(limit - found.len()));
    }
    Ok(found)
}

/// One archived log: its name, its files, all its entries in their order.
struct Archive {
    name: String,
    segments: Vec<(String, Segment)>,
}

impl Archive {
    fn entries(&self) -> Vec<LoggedEvent> {
        self.segments.iter().flat_map(|(_, segment)| segment.entries.iter().cloned()).collect()
    }
}

fn read_archives(store: &SqliteStore, tenant: &TenantId) -> Result<Vec<Archive>, Error> {
    let Some(exporter) = &store.exporter else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for count in 1u64.. {
        let name = format!("{tenant}-{count}");
        let directory = exporter.archive().join(&name);
        if !directory.is_dir() {
            break;
        }
        let read = || -> io::Result<Vec<(String, Segment)>> {
            let mut segments = Vec::new();
            for path in segments::list(&directory)? {
                let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let segment = segments::read(&path)?.unwrap_or_default();
                segments.push((file.to_owned(), segment));
            }
            Ok(segments)
        };
        let segments = read().map_err(|e| unreadable(&name, &e))?;
        found.push(Archive { name, segments });
    }
    Ok(found)
}

/// The events of destroyed tenants of one name.
pub(super) fn archived_events(
    store: &SqliteStore,
    tenant: &TenantId,
) -> Result<Vec<LoggedEvent>, Error> {
    Ok(read_archives(store, tenant)?.iter().flat_map(Archive::entries).collect())
}

/// Looks at the logs of destroyed tenants.
pub(super) fn archives(
    store: &SqliteStore,
    tenant: Option<&TenantId>,
) -> Result<Vec<AuditReport>, Error> {
    let anchored = store.archived(tenant)?;
    let mut names: Vec<TenantId> = anchored.iter().map(|one| one.tenant.clone()).collect();
    names.extend(tenant.cloned());
    names.sort();
    names.dedup();
    let mut reports = Vec::new();
    for name in names {
        let archives = read_archives(store, &name)?;
        let mut left: Vec<&Archived> = anchored.iter().filter(|one| one.tenant == name).collect();
        for archive in &archives {
            reports.push(look(&name, archive, &mut left));
        }
        for gone in left {
            let mut report = AuditReport::of(&name, gone.last_seq, &gone.last_hash);
            report.problems.push(format!(
                "no archived log ends with entry {} as it was when the tenant was destroyed: it was altered, cut short or removed",
                gone.last_seq
            ));
            reports.push(report);
        }
    }
    Ok(reports)
}

/// One archive against its chain and the anchor that it ends in, which is taken from `left`.
fn look(tenant: &TenantId, archive: &Archive, left: &mut Vec<&Archived>) -> AuditReport {
    let entries = archive.entries();
    let end = entries.last().map(|entry| entry.hash.as_str());
    let anchor = left.iter().position(|one| Some(one.last_hash.as_str()) == end);
    let anchor = anchor.map(|at| left.remove(at));
    let (seq, hash) = entries.last().map_or((0, chain::START), |last| (last.seq, &*last.hash));
    let mut report = AuditReport::of(tenant, seq, hash);
    report.archive = Some(archive.name.clone());
    for (name, segment) in &archive.segments {
        let name = format!("{}/{name}", archive.name);
        check(&mut report, &name, segment, &[]);
        whole(&mut report, &name, segment);
    }
    report.first_stored_seq = seq + 1;
    if report.problems.is_empty()
        && let Err(error) = chain::verify(&entries)
    {
        report.problems.push(format!("{}: {}", archive.name, error.message));
    }
    match anchor {
        Some(anchor) if entries.first().is_none_or(|first| first.seq != anchor.first_seq) => {
            report.problems.push(format!("{}: its beginning is gone", archive.name));
        }
        Some(_) => {}
        None => report.problems.push(format!("{}: does not end in an anchor", archive.name)),
    }
    report
}
