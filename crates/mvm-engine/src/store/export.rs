//! The documented files (SPEC §5), written after each commit for people and backup tools.
//!
//! They are never read back, but for the place of the last line of an audit log. A failure here
//! never fails the commit, which is durable: the next commit of the subject writes what is missing.
//! An exclusive lock on the tenant's audit log orders the exports of several processes, and what is
//! written is read from the store under that lock, so that an older record never replaces a newer.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "R3: the documented files are written by the store itself, after its commit"
)]

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use mvm_core::{
    id::{InstanceRef, PoolRef, TenantId},
    layout::data,
    pool::Pool,
    port::{Store, Table},
};

use super::sqlite::SqliteStore;

/// How much of a log's end is looked at for its last line; an entry is far smaller.
const TAIL: u64 = 1 << 20;

/// What a transaction changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    records: BTreeSet<(Table, String)>,
    logs: BTreeSet<TenantId>,
}

impl Touched {
    pub(super) fn record(&mut self, table: Table, key: &str) {
        self.records.insert((table, key.to_owned()));
    }

    pub(super) fn log(&mut self, tenant: &TenantId) {
        self.logs.insert(tenant.clone());
    }

    fn tenants(&self) -> BTreeSet<TenantId> {
        let of_records = self.records.iter().filter_map(|(table, key)| match table {
            Table::Tenants | Table::Pools | Table::Instances => key.split('/').next()?.parse().ok(),
            Table::Tombstones | Table::Volumes | Table::Meta => None,
        });
        of_records.chain(self.logs.iter().cloned()).collect()
    }
}

/// Writes the documented files below a data directory.
#[derive(Debug)]
pub(super) struct Exporter {
    data: PathBuf,
}

impl Exporter {
    pub(super) const fn new(data: PathBuf) -> Self {
        Self { data }
    }

    /// Writes what follows from a commit; a failure is told to the log of `mvm` only.
    pub(super) fn follow(&self, store: &SqliteStore, touched: &Touched) {
        for tenant in touched.tenants() {
            if let Err(error) = self.tenant(store, &tenant, touched) {
                tracing::warn!(%tenant, %error, "cannot write the exported files of a tenant");
            }
        }
    }

    fn tenant(&self, store: &SqliteStore, tenant: &TenantId, touched: &Touched) -> io::Result<()> {
        if store.read(Table::Tenants, tenant.as_str()).map_err(io::Error::other)?.is_none() {
            return Ok(());
        }
        let directory = self.data.join(data::tenant(tenant));
        make_directory(&directory)?;
        let mut log = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(directory.join("audit.log"))?;
        log.lock()?;
        for (table, key) in &touched.records {
            if key.split('/').next() == Some(tenant.as_str()) {
                self.record(store, *table, key)?;
            }
        }
        let last = last_seq(&mut log)?;
        let entries = store.events(tenant, last, usize::MAX).map_err(io::Error::other)?;
        let mut lines = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut lines, &entry)?;
            lines.push(b'\n');
        }
        log.write_all(&lines)
    }

    fn record(&self, store: &SqliteStore, table: Table, key: &str) -> io::Result<()> {
        let Some(file) = record_file(table, key) else { return Ok(()) };
        let file = self.data.join(file);
        let history = (table == Table::Pools).then(|| file.with_file_name("build_history.json"));
        let Some(value) = store.read(table, key).map_err(io::Error::other)? else {
            for gone in history.iter().chain([&file]) {
                remove(gone)?;
            }
            return Ok(());
        };
        let value: serde_json::Value = serde_json::from_str(&value)?;
        if let Some(parent) = file.parent() {
            make_directory(parent)?;
        }
        if let Some(history) = history {
            let pool: Pool = serde_json::from_value(value.clone())?;
            write(&history, &serde_json::to_vec_pretty(&pool.revisions)?)?;
        }
        write(&file, &serde_json::to_vec_pretty(&value)?)
    }
}

fn record_file(table: Table, key: &str) -> Option<PathBuf> {
    Some(match table {
        Table::Tenants => data::tenant(&key.parse().ok()?).join("tenant.json"),
        Table::Pools => data::pool(&key.parse::<PoolRef>().ok()?).join("pool.json"),
        Table::Instances => data::instance(&key.parse::<InstanceRef>().ok()?).join("instance.json"),
        Table::Tombstones | Table::Volumes | Table::Meta => return None,
    })
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = file.with_extension("json.partial");
    let mut out =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&partial)?;
    out.write_all(bytes)?;
    out.write_all(b"\n")?;
    fs::rename(&partial, file)
}

/// The number of the last whole line; a line that a crash cut off is removed.
fn last_seq(log: &mut File) -> io::Result<u64> {
    #[derive(serde::Deserialize)]
    struct Line {
        seq: u64,
    }
    let length = log.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(TAIL);
    log.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    log.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
    if whole < tail.len() {
        log.set_len(start + whole as u64)?;
    }
    let lines = tail.get(..whole).unwrap_or_default();
    let Some(last) = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()) else {
        return Ok(0);
    };
    Ok(serde_json::from_slice::<Line>(last)?.seq)
}
