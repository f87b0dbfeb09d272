//! The durable store: one SQLite database in WAL mode, `synchronous=FULL`.
//!
//! A commit is one fsync of the log. Opening reads one pragma when the schema is current: commands
//! on the wake path open the store each time. It refuses to know what records mean, and never
//! reads an exported file.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mvm_core::{
    audit::{AuditReport, LogEnd},
    error::{Error, ErrorKind},
    event::{Event, LoggedEvent},
    id::TenantId,
    port::{Homes, Store, Table, Transaction},
};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, TransactionBehavior, config::DbConfig,
    ffi::ErrorCode, params,
};

use super::{
    below, chain, claimed_number,
    export::{Exporter, Owner, Rotation, Touched},
    ledger::{self, Anchor, Archived, Closed},
    recover::FoundLog,
    segments, table_name, verify,
};

/// How long a transaction waits for those of other processes.
const BUSY: Duration = Duration::from_secs(10);

/// The schema, one step per version; a released step is never edited.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE record (
        tbl TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (tbl, key)
    ) WITHOUT ROWID;
    CREATE TABLE claim (name TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX claim_owner ON claim (owner);
    CREATE TABLE event (
        tenant TEXT NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL, hash TEXT NOT NULL,
        PRIMARY KEY (tenant, seq)
    ) WITHOUT ROWID;
",
    ledger::MIGRATION,
];

/// The store in a database file.
pub struct SqliteStore {
    connection: Mutex<Connection>,
    pub(super) exporter: Option<Exporter>,
}

impl SqliteStore {
    /// Opens the database at `file` and brings its schema up to date; makes it if it is absent. The
    /// documented files are written below `export` when that is given.
    ///
    /// # Errors
    /// `Failed` when the file cannot be opened, `Conflict` when a newer `mvm` made it, `Integrity`
    /// when it is damaged.
    pub fn open(file: &Path, export: Option<PathBuf>) -> Result<Self, Error> {
        let cannot =
            |e: rusqlite::Error| failure(&e).context(format!("cannot open {}", file.display()));
        let failed = |e: std::io::Error| {
            Error::new(ErrorKind::Failed, format!("cannot open {}", file.display())).because(&e)
        };
        // Before it is looked where the file is: that changes once, when an agent takes it over.
        let turn = turn(file).map_err(failed)?;
        let kept = super::kept(file).map_err(failed)?;
        let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let mut connection = Connection::open_with_flags(&kept, flags).map_err(cannot)?;
        connection.busy_timeout(BUSY).map_err(cannot)?;
        // Closing must not cost a checkpoint: every command is a process of its own.
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(cannot)?;
        if version(&connection).map_err(cannot)? != MIGRATIONS.len() {
            migrate(&mut connection)
                .map_err(|e| e.context(format!("cannot open {}", file.display())))?;
        }
        drop(turn);
        let owner = Owner::of(&kept);
        let exporter = export.map(|data| Exporter::new(data, Rotation::default(), owner));
        Ok(Self { connection: Mutex::new(connection), exporter })
    }

    /// This store, with another rule of when audit logs are rotated.
    #[must_use]
    pub fn rotating(mut self, rotation: Rotation) -> Self {
        self.exporter = self.exporter.map(|exporter| exporter.rotating(rotation));
        self
    }

    /// This store, whose documented files lie in directories that somebody else makes.
    #[must_use]
    pub fn with_homes(mut self, homes: std::sync::Arc<dyn Homes>) -> Self {
        self.exporter = self.exporter.map(|exporter| exporter.with_homes(homes));
        self
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One record as it is now, outside of any transaction.
    ///
    /// # Errors
    /// Why the store failed.
    pub(super) fn read(&self, table: Table, key: &str) -> Result<Option<String>, Error> {
        get(&self.connection(), table, key)
    }

    /// The last `limit` entries of a log after a place that are in the database.
    pub(super) fn stored_events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        let mut newest_first = self.selected(
            "SELECT body FROM event WHERE tenant = ?1 AND seq > ?2 ORDER BY seq DESC LIMIT ?3",
            (tenant, after_seq, limit),
        )?;
        newest_first.reverse();
        Ok(newest_first)
    }

    /// The entries of a log that a statement finds, by tenant, place and limit.
    fn selected(
        &self,
        statement: &str,
        (tenant, after_seq, limit): (&TenantId, u64, usize),
    ) -> Result<Vec<LoggedEvent>, Error> {
        let connection = self.connection();
        let read = || -> Result<Vec<String>, rusqlite::Error> {
            let mut statement = connection.prepare_cached(statement)?;
            let after = i64::try_from(after_seq).unwrap_or(i64::MAX);
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            statement.query_map(params![tenant.as_str(), after, limit], |row| row.get(0))?.collect()
        };
        let bodies = read().map_err(|e| failure(&e))?;
        let entry = |body: &String| {
            serde_json::from_str(body).map_err(|e| {
                let message = format!("an audit entry of {tenant} is damaged");
                Error::new(ErrorKind::Integrity, message).because(&e)
            })
        };
        bodies.iter().map(entry).collect()
    }

    /// The entries of a log as they stand in the database, with their places and hashes.
    pub(super) fn raw_events(
        &self,
        tenant: &TenantId,
    ) -> Result<Vec<(u64, String, String)>, Error> {
        let connection = self.connection();
        let read = || -> Result<Vec<(u64, String, String)>, rusqlite::Error> {
            let mut statement = connection
                .prepare("SELECT seq, body, hash FROM event WHERE tenant = ?1 ORDER BY seq")?;
            let rows = statement.query_map([tenant.as_str()], |row| {
                let seq: i64 = row.get(0)?;
                Ok((u64::try_from(seq).unwrap_or(0), row.get(1)?, row.get(2)?))
            })?;
            rows.collect()
        };
        read().map_err(|e| failure(&e))
    }

    pub(super) fn anchor(&self, tenant: &TenantId) -> Result<Option<Anchor>, Error> {
        ledger::anchor(&self.connection(), tenant)
    }

    pub(super) fn closed(&self, tenant: &TenantId) -> Result<Vec<Closed>, Error> {
        ledger::closed(&self.connection(), tenant)
    }

    pub(super) fn close(&self, tenant: &TenantId, file: &Closed) -> Result<(), Error> {
        ledger::close(&self.connection(), tenant, file)
    }

    pub(super) fn exported(&self, tenant: &TenantId, seq: u64) -> Result<(), Error> {
        ledger::exported(&self.connection(), tenant, seq, &segments::boot())
    }

    /// Lets the entries of a rotated file leave the database, and forgets files below `first_kept`
    /// up to this one, in one transaction.
    pub(super) fn leave(
        &self,
        tenant: &TenantId,
        file: &Closed,
        first_kept: u64,
    ) -> Result<(), Error> {
        let mut connection = self.connection();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|e| failure(&e))?;
        ledger::leave(&transaction, tenant, file.last_seq)?;
        ledger::forget(&transaction, tenant, first_kept.min(file.number + 1))?;
        transaction.commit().map_err(|e| failure(&e))
    }

    /// Puts a tenant's exported audit log back.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn import(&self, tenant: &TenantId, log: &FoundLog) -> Result<(), Error> {
        let mut connection = self.connection();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|e| failure(&e))?;
        ledger::import(&transaction, tenant, &log.entries, &log.closed)?;
        transaction.commit().map_err(|e| failure(&e))
    }

    /// Anchors the archived log of a destroyed tenant.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn import_archive(&self, tenant: &TenantId, log: &[LoggedEvent]) -> Result<(), Error> {
        ledger::import_archive(&self.connection(), tenant, log)
    }

    /// Puts everything into the one file, so that it can be moved.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn settle(self) -> Result<(), Error> {
        let settled = self
            .connection()
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        match settled {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::new(ErrorKind::Unavailable, "the new store is in use")),
            Err(error) => Err(failure(&error)),
        }
    }

    pub(super) fn archived(&self, tenant: Option<&TenantId>) -> Result<Vec<Archived>, Error> {
        ledger::archived(&self.connection(), tenant)
    }
}

/// One opener at a time: who finds another one turning a new database to WAL mode is told "locked" by
/// SQLite at once, whatever the busy timeout.
#[expect(
    clippy::disallowed_types,
    reason = "R3: the lock is on the store's own directory, for its opening"
)]
fn turn(file: &Path) -> std::io::Result<std::fs::File> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let turn = std::fs::File::open(directory.unwrap_or_else(|| Path::new(".")))?;
    turn.lock()?;
    Ok(turn)
}

fn version(connection: &Connection) -> Result<usize, rusqlite::Error> {
    connection
        .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
        .map(|v| usize::try_from(v).unwrap_or(usize::MAX))
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    connection.pragma_update(None, "journal_mode", "wal").map_err(|e| failure(&e))?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|e| failure(&e))?;
    let at = version(&transaction).map_err(|e| failure(&e))?;
    let Some(missing) = MIGRATIONS.get(at..) else {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("the store has schema {at}, this mvm knows up to {}", MIGRATIONS.len()),
        )
        .hint("use the newer mvm that made it"));
    };
    for step in missing {
        transaction.execute_batch(step).map_err(|e| failure(&e))?;
    }
    transaction
        .pragma_update(None, "user_version", MIGRATIONS.len() as i64)
        .map_err(|e| failure(&e))?;
    transaction.commit().map_err(|e| failure(&e))
}

impl Store for SqliteStore {
    fn transact(
        &self,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let touched = {
            let mut connection = self.connection();
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(|e| failure(&e))?;
            let mut open = Open { connection: &transaction, touched: Touched::default() };
            work(&mut open)?;
            let touched = open.touched;
            transaction.commit().map_err(|e| failure(&e))?;
            touched
        };
        if let Some(exporter) = &self.exporter {
            exporter.follow(self, &touched);
        }
        Ok(())
    }

    fn events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        let mut entries = self.stored_events(tenant, after_seq, limit)?;
        let missing = limit.saturating_sub(entries.len());
        if missing > 0
            && let Some(exporter) = &self.exporter
        {
            let first = entries.first().map(|entry| entry.seq);
            if self.anchor(tenant)?.is_some_and(|at| at.left_seq > after_seq) {
                let range = (after_seq, first.unwrap_or(u64::MAX));
                let mut older = verify::older(self, exporter, tenant, range, missing)?;
                older.append(&mut entries);
                return Ok(older);
            }
        }
        Ok(entries)
    }

    fn first_events(
        &self,
        tenant: &TenantId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<LoggedEvent>, Error> {
        let left = self.anchor(tenant)?.map_or(0, |anchor| anchor.left_seq);
        let mut found = match &self.exporter {
            Some(exporter) if left > after_seq => {
                verify::first_of(self, exporter, tenant, (after_seq, left), limit)?
            }
            Some(_) | None => Vec::new(),
        };
        let after = found.last().map_or(after_seq, |entry| entry.seq);
        let rest = limit.saturating_sub(found.len());
        let mut stored = self.selected(
            "SELECT body FROM event WHERE tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            (tenant, after, rest),
        )?;
        found.append(&mut stored);
        Ok(found)
    }

    fn audit(&self, tenant: &TenantId) -> Result<AuditReport, Error> {
        verify::living(self, tenant)
    }

    fn audit_archives(&self, tenant: Option<&TenantId>) -> Result<Vec<AuditReport>, Error> {
        verify::archives(self, tenant)
    }

    fn archived_ends(&self) -> Result<Vec<LogEnd>, Error> {
        let ends = self.archived(None)?.into_iter();
        let end =
            |one: Archived| LogEnd { tenant: one.tenant, seq: one.last_seq, hash: one.last_hash };
        Ok(ends.map(end).collect())
    }

    fn archived_events(&self, tenant: &TenantId) -> Result<Vec<LoggedEvent>, Error> {
        verify::archived_events(self, tenant)
    }
}

pub(super) fn failure(error: &rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Unavailable,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Integrity,
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => ErrorKind::Permission,
        Some(ErrorCode::DiskFull) => ErrorKind::Refused,
        _ => ErrorKind::Failed,
    };
    let failed = Error::new(kind, "the store failed").because(error);
    if kind == ErrorKind::Refused {
        return failed.hint("free some disk, for example: mvm node gc");
    }
    failed
}

fn get(connection: &Connection, table: Table, key: &str) -> Result<Option<String>, Error> {
    connection
        .prepare_cached("SELECT value FROM record WHERE tbl = ?1 AND key = ?2")
        .and_then(|mut s| s.query_row([table_name(table), key], |row| row.get(0)).optional())
        .map_err(|e| failure(&e))
}

struct Open<'a> {
    connection: &'a Connection,
    touched: Touched,
}

impl Open<'_> {
    fn execute(&self, sql: &str, values: &[&str]) -> Result<usize, Error> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(rusqlite::params_from_iter(values)))
            .map_err(|e| failure(&e))
    }

    fn rows(&self, sql: &str, values: &[&str]) -> Result<Vec<(String, String)>, Error> {
        let read = || -> Result<_, rusqlite::Error> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let pairs = statement.query_map(rusqlite::params_from_iter(values), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
            pairs.collect()
        };
        read().map_err(|e| failure(&e))
    }
}

impl Transaction for Open<'_> {
    fn get(&mut self, table: Table, key: &str) -> Result<Option<String>, Error> {
        get(self.connection, table, key)
    }

    fn list(&mut self, table: Table, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        let table = table_name(table);
        if prefix.is_empty() {
            return self
                .rows("SELECT key, value FROM record WHERE tbl = ?1 ORDER BY key", &[table]);
        }
        let (from, to) = below(prefix);
        self.rows(
            "SELECT key, value FROM record WHERE tbl = ?1 AND key = ?2
             UNION ALL
             SELECT key, value FROM record WHERE tbl = ?1 AND key >= ?3 AND key < ?4
             ORDER BY key",
            &[table, prefix, &from, &to],
        )
    }

    fn put(&mut self, table: Table, key: &str, value: &str) -> Result<(), Error> {
        self.execute(
            "INSERT INTO record (tbl, key, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (tbl, key) DO UPDATE SET value = excluded.value",
            &[table_name(table), key, value],
        )?;
        self.touched.record(table, key);
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &str) -> Result<(), Error> {
        self.execute("DELETE FROM record WHERE tbl = ?1 AND key = ?2", &[table_name(table), key])?;
        self.execute("DELETE FROM claim WHERE owner = ?1", &[key])?;
        if table == Table::Tenants {
            ledger::bury(self.connection, key)?;
        }
        self.touched.record(table, key);
        Ok(())
    }

    fn claim(&mut self, name: &str, owner: &str) -> Result<(), Error> {
        let held = self.rows("SELECT name, owner FROM claim WHERE name = ?1", &[name])?;
        match held.first() {
            Some((_, holder)) if holder == owner => Ok(()),
            Some((_, holder)) => Err(Error::new(
                ErrorKind::Conflict,
                format!("{name} is held by {holder}, {owner} cannot have it"),
            )),
            None => self
                .execute("INSERT INTO claim (name, owner) VALUES (?1, ?2)", &[name, owner])
                .map(drop),
        }
    }

    fn release(&mut self, name: &str, owner: &str) -> Result<(), Error> {
        self.execute("DELETE FROM claim WHERE name = ?1 AND owner = ?2", &[name, owner]).map(drop)
    }

    fn claimed(&mut self, prefix: &str) -> Result<Vec<u32>, Error> {
        let (from, to) = below(prefix);
        let rows = self
            .rows("SELECT name, owner FROM claim WHERE name >= ?1 AND name < ?2", &[&from, &to])?;
        let mut numbers: Vec<u32> =
            rows.iter().filter_map(|(name, _)| claimed_number(name, prefix)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn append(&mut self, event: &Event) -> Result<(), Error> {
        let (seq, previous) = ledger::end(self.connection, &event.tenant)?;
        let entry = chain::link(&previous, seq + 1, event)?;
        let body = serde_json::to_string(&entry).map_err(|e| {
            Error::new(ErrorKind::Failed, "cannot write an audit entry").because(&e)
        })?;
        self.connection
            .prepare_cached("INSERT INTO event (tenant, seq, body, hash) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut s| {
                let seq = i64::try_from(entry.seq).unwrap_or(i64::MAX);
                s.execute(params![event.tenant.as_str(), seq, body, entry.hash])
            })
            .map_err(|e| failure(&e))?;
        ledger::advance(self.connection, &event.tenant, entry.seq, &entry.hash)?;
        self.touched.log(&event.tenant);
        Ok(())
    }
}
