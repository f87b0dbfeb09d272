//! The documented files (SPEC §5), written after each commit for people and backup tools.
//!
//! They are never read back but to check an audit log, to show entries that left the store, and when
//! the store is lost (`node rebuild`). A failure here never fails the commit, which is durable: the
//! next commit of the subject writes what is missing. An exclusive lock on the tenant's audit log
//! orders the exports of several processes, and what is written is read from the store under that
//! lock, so that an older record never replaces a newer.
//!
//! # Rotation
//!
//! ```text
//! audit.log synced ─▶ recorded as audit.log.<n> ─▶ renamed ─▶ older entries leave the store,
//!                                                             the oldest files go
//! ```
//! A crash after the record is noticed by the next export, which renames. Entries leave the store only
//! when the file that has them was synced, renamed and read whole.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "R3: the documented files are written by the store itself, after its commit"
)]

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use mvm_core::{
    id::{InstanceRef, PoolRef, Subject, TenantId},
    layout::data,
    pool::Pool,
    port::{Homes, Table},
};

use super::{chain, ledger::Closed, records, segments, sqlite::SqliteStore};

/// When audit logs are rotated, and what is kept of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// The size, in bytes, that `audit.log` is rotated at.
    pub bytes: u64,
    /// How many rotated files are kept, 1 or more.
    pub keep: u64,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { bytes: 10 * 1024 * 1024, keep: 10 }
    }
}

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
            Table::Tombstones | Table::Volumes | Table::Templates | Table::Meta => None,
        });
        of_records.chain(self.logs.iter().cloned()).collect()
    }
}

/// Writes the documented files below a data directory.
pub(super) struct Exporter {
    data: PathBuf,
    rotation: Rotation,
    homes: Option<Arc<dyn Homes>>,
    owner: Owner,
}

/// Whose the documented files are: the store's owner's, if root writes for somebody else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Owner(Option<(u32, u32)>);

impl Owner {
    /// The owner of a store's file.
    pub(super) fn of(file: &Path) -> Self {
        let facts = fs::metadata(file).ok().map(|facts| (facts.uid(), facts.gid()));
        Self(facts.filter(|(uid, _)| *uid != 0))
    }

    /// Gives him a file that this process made.
    pub(super) fn give(self, file: &File) -> io::Result<()> {
        let Self(Some((uid, gid))) = self else { return Ok(()) };
        if file.metadata()?.uid() == uid {
            return Ok(());
        }
        fchown(file, Some(uid), Some(gid))
    }
}

impl Exporter {
    pub(super) const fn new(data: PathBuf, rotation: Rotation, owner: Owner) -> Self {
        Self { data, rotation, homes: None, owner }
    }

    /// The same, whose directories somebody else makes.
    pub(super) fn with_homes(self, homes: Arc<dyn Homes>) -> Self {
        Self { homes: Some(homes), ..self }
    }

    fn home(&self, subject: &Subject, path: &Path) -> io::Result<()> {
        match &self.homes {
            Some(homes) => homes.ensure_home(subject).map_err(io::Error::other),
            None => make_directory(path),
        }
    }

    pub(super) fn rotating(self, rotation: Rotation) -> Self {
        Self { rotation, ..self }
    }

    pub(super) const fn owner(&self) -> Owner {
        self.owner
    }

    /// Where the exported files of a tenant are.
    pub(super) fn directory(&self, tenant: &TenantId) -> PathBuf {
        self.data.join(data::tenant(tenant))
    }

    /// Where the logs of destroyed tenants are.
    pub(super) fn archive(&self) -> PathBuf {
        self.data.join(data::ARCHIVE)
    }

    /// Writes what follows from a commit; a failure is told to the log of `mvm` only.
    pub(super) fn follow(&self, store: &SqliteStore, touched: &Touched) {
        for tenant in touched.tenants() {
            if let Err(error) = self.tenant(store, &tenant, touched) {
                tracing::warn!(%tenant, %error, "cannot write the exported files of a tenant");
            }
        }
        if let Err(error) = self.node(store, touched) {
            tracing::warn!(%error, "cannot write the exported files of the node");
        }
    }

    /// What is no tenant's: kept volumes and templates, whose directories are locked to order the exports of several
    /// processes, and the node's id, which is drawn once.
    fn node(&self, store: &SqliteStore, touched: &Touched) -> io::Result<()> {
        let of = |wanted| touched.records.iter().filter(move |(table, _)| *table == wanted);
        for (table, key) in of(Table::Meta).filter(|(_, key)| key == records::NODE_ID) {
            if let Some(id) = store.read(*table, key).map_err(io::Error::other)? {
                self.write(&super::kept(&self.data.join(data::NODE_ID))?, id.as_bytes())?;
            }
        }
        for (wanted, place) in
            [(Table::Volumes, data::VOLUMES), (Table::Templates, data::TEMPLATES)]
        {
            let mut records = of(wanted).peekable();
            if records.peek().is_none() {
                continue;
            }
            make_directory(&self.data.join(place))?;
            let directory = File::open(self.data.join(place))?;
            directory.lock()?;
            records.try_for_each(|(table, key)| self.record(store, *table, key))?;
        }
        Ok(())
    }

    fn tenant(&self, store: &SqliteStore, tenant: &TenantId, touched: &Touched) -> io::Result<()> {
        let record = store.read(Table::Tenants, tenant.as_str()).map_err(io::Error::other)?;
        if record.is_none() && !tenant.is_built_in() {
            return Ok(());
        }
        let directory = self.directory(tenant);
        self.home(&Subject::Tenant(tenant.clone()), &directory)?;
        let mut log = segments::lock(&directory, self.owner)?;
        for (table, key) in &touched.records {
            if key.split('/').next() == Some(tenant.as_str()) {
                self.record(store, *table, key)?;
            }
        }
        let closed = store.closed(tenant).map_err(io::Error::other)?;
        if let Some(last) = closed.last()
            && finish_rotation(&directory, last)?
        {
            log = segments::lock(&directory, self.owner)?;
        }
        self.log(store, tenant, &mut log, &closed)
    }

    /// Writes the entries that the files lack, and rotates a file that is full. The log is locked.
    fn log(
        &self,
        store: &SqliteStore,
        tenant: &TenantId,
        log: &mut File,
        closed: &[Closed],
    ) -> io::Result<()> {
        let rotated = closed.last().map_or(0, |file| file.last_seq);
        let (last, length) = segments::last_seq(log)?;
        let entries = store.stored_events(tenant, last.unwrap_or(rotated).max(rotated), usize::MAX);
        let entries = entries.map_err(io::Error::other)?;
        let Some(newest) = entries.last() else { return Ok(()) };
        let mut lines = Vec::new();
        for entry in &entries {
            lines.extend(segments::line(entry)?);
            lines.push(b'\n');
        }
        log.write_all(&lines)?;
        store.exported(tenant, newest.seq).map_err(io::Error::other)?;
        if length + lines.len() as u64 >= self.rotation.bytes {
            let file = Closed {
                number: closed.last().map_or(1, |file| file.number + 1),
                first_seq: rotated + 1,
                last_seq: newest.seq,
                last_hash: newest.hash.clone(),
            };
            self.rotate(store, tenant, log, &file)?;
        }
        Ok(())
    }

    fn rotate(
        &self,
        store: &SqliteStore,
        tenant: &TenantId,
        log: &File,
        file: &Closed,
    ) -> io::Result<()> {
        let directory = self.directory(tenant);
        log.sync_all()?;
        store.close(tenant, file).map_err(io::Error::other)?;
        finish_rotation(&directory, file)?;
        let closed = store.closed(tenant).map_err(io::Error::other)?;
        let first_kept = (file.number + 1).saturating_sub(self.rotation.keep);
        for older in closed.iter().filter(|older| older.number < file.number) {
            if is_whole(&directory, older)? {
                store.leave(tenant, older, first_kept).map_err(io::Error::other)?;
            } else {
                let file = segments::name(older.number);
                tracing::warn!(%tenant, file, "a rotated audit log is not whole: the store keeps it");
                break;
            }
        }
        let kept = store.closed(tenant).map_err(io::Error::other)?;
        let oldest = kept.first().map_or(u64::MAX, |file| file.number);
        for path in segments::list(&directory)? {
            let name = path.file_name().and_then(|name| name.to_str());
            if name.and_then(segments::number).is_some_and(|number| number < oldest) {
                segments::remove(&path)?;
            }
        }
        Ok(())
    }

    fn record(&self, store: &SqliteStore, table: Table, key: &str) -> io::Result<()> {
        let Some(file) = record_file(table, key) else { return Ok(()) };
        let file = self.data.join(file);
        let history = (table == Table::Pools).then(|| file.with_file_name("build_history.json"));
        let Some(value) = store.read(table, key).map_err(io::Error::other)? else {
            for gone in history.iter().chain([&file]) {
                remove(gone)?;
            }
            if let (Table::Templates, Some(directory)) = (table, file.parent()) {
                return remove_directory(directory);
            }
            return Ok(());
        };
        let value: serde_json::Value = serde_json::from_str(&value)?;
        if let (Some(parent), Some(subject)) = (file.parent(), subject(table, key)) {
            self.home(&subject, parent)?;
        }
        if let (Table::Templates, Some(directory)) = (table, file.parent()) {
            make_directory(directory)?;
        }
        if let Some(history) = history {
            let pool: Pool = serde_json::from_value(value.clone())?;
            self.write(&history, &serde_json::to_vec_pretty(&pool.revisions)?)?;
        }
        self.write(&file, &serde_json::to_vec_pretty(&value)?)
    }

    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        let partial = file.with_extension("json.partial");
        // Never a file that is there: somebody else may have put it, or a link, in its place.
        remove(&partial)?;
        let mut out = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&partial)?;
        self.owner.give(&out)?;
        out.write_all(bytes)?;
        out.write_all(b"\n")?;
        fs::rename(&partial, file)
    }
}

/// Whose directory a record's file lies in.
fn subject(table: Table, key: &str) -> Option<Subject> {
    match table {
        Table::Tenants => Some(Subject::Tenant(key.parse().ok()?)),
        Table::Pools => Some(Subject::Pool(key.parse().ok()?)),
        Table::Instances => Some(Subject::Instance(key.parse().ok()?)),
        Table::Volumes | Table::Templates | Table::Tombstones | Table::Meta => None,
    }
}

fn record_file(table: Table, key: &str) -> Option<PathBuf> {
    Some(match table {
        Table::Tenants => data::tenant(&key.parse().ok()?).join("tenant.json"),
        Table::Pools => data::pool(&key.parse::<PoolRef>().ok()?).join("pool.json"),
        Table::Instances => data::instance(&key.parse::<InstanceRef>().ok()?).join("instance.json"),
        Table::Volumes => data::kept_volume_record(&key.parse().ok()?),
        Table::Templates => data::template_record(&key.parse().ok()?),
        Table::Tombstones | Table::Meta => return None,
    })
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a directory of our own with what is in it.
fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Gives a file that was recorded as rotated its name, if it has not got it yet; true if so.
fn finish_rotation(directory: &Path, file: &Closed) -> io::Result<bool> {
    let (current, rotated) =
        (directory.join(segments::CURRENT), directory.join(segments::name(file.number)));
    if rotated.exists() || segments::first_seq(&current)? != Some(file.first_seq) {
        return Ok(false);
    }
    fs::rename(&current, &rotated)?;
    segments::sync(directory)?;
    Ok(true)
}

/// Whether a rotated file is what was recorded of it.
fn is_whole(directory: &Path, file: &Closed) -> io::Result<bool> {
    let Some(segment) = segments::read(&directory.join(segments::name(file.number)))? else {
        return Ok(false);
    };
    Ok(segment.damage.is_none()
        && segment.first_seq() == file.first_seq
        && segment.entries.last().is_some_and(|last| last.hash == file.last_hash)
        && chain::verify(&segment.entries).is_ok())
}
