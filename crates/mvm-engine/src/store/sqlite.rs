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
    error::{Error, ErrorKind},
    event::{Event, LoggedEvent},
    id::TenantId,
    port::{Store, Table, Transaction},
};
use rusqlite::{
    Connection, OptionalExtension, TransactionBehavior, config::DbConfig, ffi::ErrorCode, params,
};

use super::{
    below, chain, claimed_number,
    export::{Exporter, Touched},
    table_name,
};

/// How long a transaction waits for those of other processes.
const BUSY: Duration = Duration::from_secs(10);

/// The schema, one step per version; a released step is never edited.
const MIGRATIONS: [&str; 1] = ["
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
"];

/// The store in a database file.
pub struct SqliteStore {
    connection: Mutex<Connection>,
    exporter: Option<Exporter>,
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
        let mut connection = Connection::open(file).map_err(cannot)?;
        connection.busy_timeout(BUSY).map_err(cannot)?;
        // Closing must not cost a checkpoint: every command is a process of its own.
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(cannot)?;
        let turn = turn(file).map_err(|e| {
            Error::new(ErrorKind::Failed, format!("cannot open {}", file.display())).because(&e)
        })?;
        if version(&connection).map_err(cannot)? != MIGRATIONS.len() {
            migrate(&mut connection)
                .map_err(|e| e.context(format!("cannot open {}", file.display())))?;
        }
        drop(turn);
        Ok(Self { connection: Mutex::new(connection), exporter: export.map(Exporter::new) })
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
        let connection = self.connection();
        let read = || -> Result<Vec<String>, rusqlite::Error> {
            let mut statement = connection.prepare_cached(
                "SELECT body FROM event WHERE tenant = ?1 AND seq > ?2 ORDER BY seq DESC LIMIT ?3",
            )?;
            let after = i64::try_from(after_seq).unwrap_or(i64::MAX);
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            statement.query_map(params![tenant.as_str(), after, limit], |row| row.get(0))?.collect()
        };
        let bodies = read().map_err(|e| failure(&e))?;
        bodies
            .iter()
            .rev()
            .map(|body| {
                serde_json::from_str(body).map_err(|e| {
                    Error::new(
                        ErrorKind::Integrity,
                        format!("an audit entry of {tenant} is damaged"),
                    )
                    .because(&e)
                })
            })
            .collect()
    }
}

fn failure(error: &rusqlite::Error) -> Error {
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
            self.execute("DELETE FROM event WHERE tenant = ?1", &[key])?;
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
        let tenant = event.tenant.as_str();
        let last: Option<(i64, String)> = self
            .connection
            .prepare_cached(
                "SELECT seq, hash FROM event WHERE tenant = ?1 ORDER BY seq DESC LIMIT 1",
            )
            .and_then(|mut s| {
                s.query_row([tenant], |row| Ok((row.get(0)?, row.get(1)?))).optional()
            })
            .map_err(|e| failure(&e))?;
        let (seq, previous) = last.unwrap_or_else(|| (0, chain::START.to_owned()));
        let entry = chain::link(&previous, u64::try_from(seq).unwrap_or(0) + 1, event)?;
        let body = serde_json::to_string(&entry).map_err(|e| {
            Error::new(ErrorKind::Failed, "cannot write an audit entry").because(&e)
        })?;
        self.connection
            .prepare_cached("INSERT INTO event (tenant, seq, body, hash) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut s| s.execute(params![tenant, seq + 1, body, entry.hash]))
            .map_err(|e| failure(&e))?;
        self.touched.log(&event.tenant);
        Ok(())
    }
}
