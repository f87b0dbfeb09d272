//! What the database knows of audit logs besides their entries: the anchors.
//!
//! | table | a row says |
//! |---|---|
//! | `audit` | of a tenant: the last entry and its hash; which entries left the database for files; how far the files went when they were last written, and in which boot |
//! | `audit_file` | of a rotated file: its first and last entry and the last one's hash |
//! | `audit_archive` | of a destroyed tenant: its last entry and that one's hash |
//!
//! A chain ends in the hash that is anchored, so nothing before it can be altered, and the numbers
//! pin where it begins. This module refuses to know files.

use mvm_core::{
    error::{Error, ErrorKind},
    event::LoggedEvent,
    id::TenantId,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{chain, sqlite::failure};

/// The migration that brought the anchors: logs from before are anchored as they are.
pub(super) const MIGRATION: &str = "
    CREATE TABLE audit (
        tenant TEXT NOT NULL PRIMARY KEY, last_seq INTEGER NOT NULL, last_hash TEXT NOT NULL,
        left_seq INTEGER NOT NULL, exported_seq INTEGER NOT NULL, exported_boot TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE audit_file (
        tenant TEXT NOT NULL, number INTEGER NOT NULL, first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL, last_hash TEXT NOT NULL,
        PRIMARY KEY (tenant, number)
    ) WITHOUT ROWID;
    CREATE TABLE audit_archive (
        tenant TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
        last_hash TEXT NOT NULL,
        PRIMARY KEY (tenant, last_hash)
    ) WITHOUT ROWID;
    INSERT INTO audit
        SELECT tenant, seq, hash, 0, 0, '' FROM event AS last
        WHERE seq = (SELECT MAX(seq) FROM event WHERE tenant = last.tenant);
";

/// The anchor of a tenant's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) last_seq: u64,
    pub(super) last_hash: String,
    /// Entries up to this one are in rotated files only.
    pub(super) left_seq: u64,
    /// The files held the log up to this entry when they were last written …
    pub(super) exported_seq: u64,
    /// … in this boot of the host.
    pub(super) exported_boot: String,
}

/// A rotated file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) number: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) last_hash: String,
}

/// The anchored end of a destroyed tenant's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archived {
    pub(super) tenant: TenantId,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) last_hash: String,
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn column(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(number)
}

fn stored(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A tenant's anchor; none while its log is empty.
pub(super) fn anchor(db: &Connection, tenant: &TenantId) -> Result<Option<Anchor>, Error> {
    db.prepare_cached(
        "SELECT last_seq, last_hash, left_seq, exported_seq, exported_boot FROM audit WHERE tenant = ?1",
    )
    .and_then(|mut s| {
        s.query_row([tenant.as_str()], |row| {
            Ok(Anchor {
                last_seq: column(row, 0)?,
                last_hash: row.get(1)?,
                left_seq: column(row, 2)?,
                exported_seq: column(row, 3)?,
                exported_boot: row.get(4)?,
            })
        })
        .optional()
    })
    .map_err(|e| failure(&e))
}

/// The end of a tenant's chain: where the next entry hangs on.
pub(super) fn end(db: &Connection, tenant: &TenantId) -> Result<(u64, String), Error> {
    let anchor = anchor(db, tenant)?;
    Ok(anchor.map_or_else(|| (0, chain::START.to_owned()), |at| (at.last_seq, at.last_hash)))
}

/// Moves the end of a tenant's chain, in the transaction that adds the entry.
pub(super) fn advance(
    db: &Connection,
    tenant: &TenantId,
    seq: u64,
    hash: &str,
) -> Result<(), Error> {
    db.prepare_cached(
        "INSERT INTO audit VALUES (?1, ?2, ?3, 0, 0, '')
         ON CONFLICT (tenant) DO UPDATE SET last_seq = excluded.last_seq, last_hash = excluded.last_hash",
    )
    .and_then(|mut s| s.execute(params![tenant.as_str(), stored(seq), hash]))
    .map(drop)
    .map_err(|e| failure(&e))
}

/// The rotated files of a tenant, oldest first.
pub(super) fn closed(db: &Connection, tenant: &TenantId) -> Result<Vec<Closed>, Error> {
    let read = || -> rusqlite::Result<Vec<Closed>> {
        let mut statement = db.prepare_cached(
            "SELECT number, first_seq, last_seq, last_hash FROM audit_file WHERE tenant = ?1 ORDER BY number",
        )?;
        let rows = statement.query_map([tenant.as_str()], |row| {
            Ok(Closed {
                number: column(row, 0)?,
                first_seq: column(row, 1)?,
                last_seq: column(row, 2)?,
                last_hash: row.get(3)?,
            })
        })?;
        rows.collect()
    };
    read().map_err(|e| failure(&e))
}

/// Records a rotated file, or nothing when it is recorded already.
pub(super) fn close(db: &Connection, tenant: &TenantId, file: &Closed) -> Result<(), Error> {
    db.execute(
        "INSERT OR IGNORE INTO audit_file VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            tenant.as_str(),
            stored(file.number),
            stored(file.first_seq),
            stored(file.last_seq),
            file.last_hash
        ],
    )
    .map(drop)
    .map_err(|e| failure(&e))
}

/// Lets the entries up to `seq` leave the database, because files have them.
pub(super) fn leave(db: &Connection, tenant: &TenantId, seq: u64) -> Result<(), Error> {
    db.execute(
        "DELETE FROM event WHERE tenant = ?1 AND seq <= ?2",
        params![tenant.as_str(), stored(seq)],
    )
    .and_then(|_| {
        db.execute(
            "UPDATE audit SET left_seq = ?2 WHERE tenant = ?1 AND left_seq < ?2",
            params![tenant.as_str(), stored(seq)],
        )
    })
    .map(drop)
    .map_err(|e| failure(&e))
}

/// Forgets rotated files below `number`, whose entries left the database before.
pub(super) fn forget(db: &Connection, tenant: &TenantId, number: u64) -> Result<(), Error> {
    db.execute(
        "DELETE FROM audit_file WHERE tenant = ?1 AND number < ?2",
        params![tenant.as_str(), stored(number)],
    )
    .map(drop)
    .map_err(|e| failure(&e))
}

/// Notes how far the files go. It is not synced: it only tells a file that was cut short from one
/// that a crash left behind, and a power cut takes unsynced lines of the file as well. It must not be
/// less than NORMAL, which syncs at a checkpoint: this commit may be the one that makes it, and pages
/// that reach the database before their log are its end when the power goes (sqlite.org/pragma.html,
/// "synchronous").
pub(super) fn exported(
    db: &Connection,
    tenant: &TenantId,
    seq: u64,
    boot: &str,
) -> Result<(), Error> {
    let note = || -> rusqlite::Result<usize> {
        db.execute_batch("PRAGMA synchronous = NORMAL")?;
        let noted = db
            .prepare_cached(
                "UPDATE audit SET exported_seq = ?2, exported_boot = ?3
                 WHERE tenant = ?1 AND (exported_seq < ?2 OR exported_boot <> ?3)",
            )
            .and_then(|mut s| s.execute(params![tenant.as_str(), stored(seq), boot]));
        db.execute_batch("PRAGMA synchronous = FULL")?;
        noted
    };
    note().map(drop).map_err(|e| failure(&e))
}

/// Takes a destroyed tenant's log out of the database; what stays is the end of its chain.
pub(super) fn bury(db: &Connection, tenant: &str) -> Result<(), Error> {
    let bury = || -> rusqlite::Result<()> {
        db.execute(
            "INSERT OR REPLACE INTO audit_archive
             SELECT tenant,
                    COALESCE((SELECT MIN(first_seq) FROM audit_file WHERE tenant = ?1), 1),
                    last_seq, last_hash
             FROM audit WHERE tenant = ?1",
            [tenant],
        )?;
        for table in ["event", "audit_file", "audit"] {
            db.execute(&format!("DELETE FROM {table} WHERE tenant = ?1"), [tenant])?;
        }
        Ok(())
    };
    bury().map_err(|e| failure(&e))
}

/// Puts exported entries back, with their anchor and the files that have them.
pub(super) fn import(
    db: &Connection,
    tenant: &TenantId,
    entries: &[LoggedEvent],
    files: &[Closed],
) -> Result<(), Error> {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
    for entry in entries {
        let body = serde_json::to_string(entry).map_err(|e| {
            Error::new(ErrorKind::Failed, "cannot write an audit entry").because(&e)
        })?;
        db.execute(
            "INSERT INTO event (tenant, seq, body, hash) VALUES (?1, ?2, ?3, ?4)",
            params![tenant.as_str(), stored(entry.seq), body, entry.hash],
        )
        .map_err(|e| failure(&e))?;
    }
    db.execute(
        "INSERT INTO audit VALUES (?1, ?2, ?3, ?4, 0, '')",
        params![tenant.as_str(), stored(last.seq), last.hash, stored(first.seq - 1)],
    )
    .map_err(|e| failure(&e))?;
    files.iter().try_for_each(|file| close(db, tenant, file))
}

/// Anchors the end of an archived log as it is found.
pub(super) fn import_archive(
    db: &Connection,
    tenant: &TenantId,
    entries: &[LoggedEvent],
) -> Result<(), Error> {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
    db.execute(
        "INSERT OR REPLACE INTO audit_archive VALUES (?1, ?2, ?3, ?4)",
        params![tenant.as_str(), stored(first.seq), stored(last.seq), last.hash],
    )
    .map(drop)
    .map_err(|e| failure(&e))
}

/// The anchored ends of destroyed tenants' logs, of one name or all.
pub(super) fn archived(db: &Connection, tenant: Option<&TenantId>) -> Result<Vec<Archived>, Error> {
    let read = || -> rusqlite::Result<Vec<(String, u64, u64, String)>> {
        let mut statement = db.prepare(
            "SELECT tenant, first_seq, last_seq, last_hash FROM audit_archive
             WHERE ?1 IS NULL OR tenant = ?1 ORDER BY tenant, last_hash",
        )?;
        let rows = statement.query_map([tenant.map(TenantId::as_str)], |row| {
            Ok((row.get(0)?, column(row, 1)?, column(row, 2)?, row.get(3)?))
        })?;
        rows.collect()
    };
    let rows = read().map_err(|e| failure(&e))?;
    let read = rows.into_iter().filter_map(|(tenant, first_seq, last_seq, last_hash)| {
        Some(Archived { tenant: tenant.parse().ok()?, first_seq, last_seq, last_hash })
    });
    Ok(read.collect())
}
