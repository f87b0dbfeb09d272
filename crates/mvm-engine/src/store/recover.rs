//! Reading the exported files back, when the store is lost: the one exception to "never read back".
//!
//! What cannot be read is named and left out; nothing here is made up. It refuses to know what the
//! machine shows and what a record means.
#![expect(
    clippy::disallowed_methods,
    reason = "R3: the exported files are read and the store's file is replaced here"
)]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use mvm_core::{
    error::{Error, ErrorKind},
    event::LoggedEvent,
    id::TenantId,
    instance::Instance,
    layout::data,
    pool::Pool,
    template::Template,
    tenant::Tenant,
    volume::Volume,
};
use rusqlite::{Connection, OpenFlags};
use serde::de::DeserializeOwned;

use super::{chain, ledger::Closed, segments};

/// How a store's file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It is not there.
    Missing,
    /// It cannot be read; why.
    Damaged(String),
    /// It holds no tenant.
    Empty,
    /// It can be read and holds tenants.
    Healthy,
}

/// Looks at a store's file without changing it.
#[must_use]
pub fn health(file: &Path) -> Health {
    if !file.exists() {
        return Health::Missing;
    }
    let look = || -> rusqlite::Result<(String, i64)> {
        let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let check = db.query_row("PRAGMA quick_check", [], |row| row.get(0))?;
        let tenants = "SELECT COUNT(*) FROM record WHERE tbl = 'tenants'";
        Ok((check, db.query_row(tenants, [], |row| row.get(0))?))
    };
    match look() {
        Err(error) => Health::Damaged(error.to_string()),
        Ok((check, _)) if check != "ok" => Health::Damaged(check),
        Ok((_, 0)) => Health::Empty,
        Ok((_, _)) => Health::Healthy,
    }
}

/// One tenant's exported audit log.
#[derive(Debug, Default)]
pub struct FoundLog {
    pub(super) entries: Vec<LoggedEvent>,
    pub(super) closed: Vec<Closed>,
}

impl FoundLog {
    /// How many entries were found.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none were found.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What the exported files hold.
#[derive(Debug, Default)]
pub struct Exported {
    /// Tenants.
    pub tenants: Vec<Tenant>,
    /// Pools.
    pub pools: Vec<Pool>,
    /// Instances.
    pub instances: Vec<Instance>,
    /// Kept volumes.
    pub volumes: Vec<Volume>,
    /// Templates.
    pub templates: Vec<Template>,
    /// The node's id.
    pub node_id: Option<String>,
    /// Audit logs of tenants.
    pub logs: BTreeMap<TenantId, FoundLog>,
    /// Archived audit logs, by tenant, in the order of their numbers.
    pub archives: Vec<(TenantId, Vec<LoggedEvent>)>,
    /// What could not be read, and why.
    pub lost: Vec<String>,
}

/// Whether there are exported files of any tenant.
#[must_use]
pub fn is_there(directory: &Path) -> bool {
    let tenants = names(&directory.join(data::TENANTS)).unwrap_or_default();
    tenants.iter().any(|name| directory.join(data::TENANTS).join(name).join("tenant.json").exists())
}

/// Reads all exported files below a data directory.
///
/// # Errors
/// When the directories cannot be listed.
pub fn read(directory: &Path) -> Result<Exported, Error> {
    let cannot = |e: io::Error| {
        let message = format!("cannot read the exported files in {}", directory.display());
        Error::new(ErrorKind::Failed, message).because(&e)
    };
    let mut found = Exported::default();
    let tenants = directory.join(data::TENANTS);
    for name in names(&tenants).map_err(cannot)? {
        found.tenant(&tenants.join(&name), &name).map_err(cannot)?;
    }
    found.read_archives(&directory.join(data::ARCHIVE)).map_err(cannot)?;
    found.node(directory).map_err(cannot)?;
    Ok(found)
}

impl Exported {
    /// What is no tenant's.
    fn node(&mut self, directory: &Path) -> io::Result<()> {
        let shelf = directory.join(data::VOLUMES);
        for name in names(&shelf)?.iter().filter(|name| name.ends_with(".json")) {
            let Some(volume) = self.record::<Volume>(&shelf.join(name)) else { continue };
            if *name == format!("{}.json", volume.volume) {
                self.volumes.push(volume);
            } else {
                self.lost.push(format!("{name}: it is of volume {}", volume.volume));
            }
        }
        let shelf = directory.join(data::TEMPLATES);
        for name in names(&shelf)? {
            let file = shelf.join(&name).join("template.json");
            let Some(template) = self.record::<Template>(&file) else { continue };
            if name == template.template_id.as_str() {
                self.templates.push(template);
            } else {
                self.lost.push(format!("{name}: it is of template {}", template.template_id));
            }
        }
        let id = match fs::read_to_string(directory.join(data::NODE_ID)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        self.node_id = Some(id.trim().to_owned()).filter(|id| !id.is_empty());
        Ok(())
    }

    fn tenant(&mut self, home: &Path, name: &str) -> io::Result<()> {
        // The logs of the built-in ones are there without a record.
        if let Ok(built_in) = name.parse::<TenantId>()
            && built_in.is_built_in()
            && !home.join("tenant.json").exists()
        {
            return self.log(home, &built_in);
        }
        let Some(tenant) = self.record::<Tenant>(&home.join("tenant.json")) else { return Ok(()) };
        if tenant.tenant_id.as_str() != name {
            self.lost.push(format!("{}: it is of tenant {}", home.display(), tenant.tenant_id));
            return Ok(());
        }
        self.log(home, &tenant.tenant_id)?;
        for pool in names(&home.join("pools"))? {
            let home = home.join("pools").join(pool);
            let Some(pool) = self.record::<Pool>(&home.join("pool.json")) else { continue };
            for instance in names(&home.join("instances"))? {
                let home = home.join("instances").join(instance);
                // A crash may leave the directory of one that is destroyed.
                if names(&home)?.is_empty() {
                    continue;
                }
                let instance = self.record::<Instance>(&home.join("instance.json"));
                self.instances.extend(instance);
            }
            self.pools.push(pool);
        }
        self.tenants.push(tenant);
        Ok(())
    }

    fn record<T: DeserializeOwned>(&mut self, file: &Path) -> Option<T> {
        let read = fs::read(file).map_err(|error| error.to_string());
        match read.and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string())) {
            Ok(record) => Some(record),
            Err(why) => {
                self.lost.push(format!("{}: {why}", file.display()));
                None
            }
        }
    }

    /// The log up to where its chain breaks.
    fn log(&mut self, home: &Path, tenant: &TenantId) -> io::Result<()> {
        let mut log = FoundLog::default();
        for path in segments::list(home)? {
            let segment = segments::read(&path)?.unwrap_or_default();
            let joined: Vec<LoggedEvent> =
                log.entries.last().into_iter().chain(&segment.entries).cloned().collect();
            if segment.damage.is_some() || chain::verify(&joined).is_err() {
                self.lost.push(format!(
                    "{}: the audit log's chain breaks in it; entries from {} on are left out",
                    path.display(),
                    log.entries.last().map_or(1, |last| last.seq + 1)
                ));
                break;
            }
            let number = path.file_name().and_then(|name| name.to_str()).and_then(segments::number);
            if let (Some(number), Some(first), Some(last)) =
                (number, segment.entries.first(), segment.entries.last())
            {
                let (first_seq, last_seq, last_hash) = (first.seq, last.seq, last.hash.clone());
                log.closed.push(Closed { number, first_seq, last_seq, last_hash });
            }
            log.entries.extend(segment.entries);
        }
        self.logs.insert(tenant.clone(), log);
        Ok(())
    }

    fn read_archives(&mut self, archive: &Path) -> io::Result<()> {
        for name in names(archive)? {
            let tenant = name.rsplit_once('-').and_then(|(tenant, _)| tenant.parse().ok());
            let Some(tenant) = tenant else { continue };
            let mut entries = Vec::new();
            for path in segments::list(&archive.join(&name))? {
                entries.extend(segments::read(&path)?.unwrap_or_default().entries);
            }
            if let Err(error) = chain::verify(&entries) {
                self.lost.push(format!("archive/{name}: {}", error.message));
            } else if !entries.is_empty() {
                self.archives.push((tenant, entries));
            }
        }
        Ok(())
    }
}

/// The names in a directory, in order; none when it is not there.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Where a new store is made before it takes the place of the lost one.
#[must_use]
pub fn workshop(state: &Path) -> PathBuf {
    beside(state, ".rebuild")
}

/// Removes what an earlier attempt left in the workshop.
///
/// # Errors
/// When it stays.
pub fn clear(state: &Path) -> Result<(), Error> {
    let workshop = workshop(state);
    for suffix in ["", "-wal", "-shm"] {
        segments::remove(&beside(&workshop, suffix)).map_err(|e| {
            Error::new(ErrorKind::Failed, "cannot clear away an earlier attempt").because(&e)
        })?;
    }
    Ok(())
}

/// Puts the store from the workshop into its place; the lost one is kept, under a name that is
/// returned, if there is anything of it.
///
/// # Errors
/// When a file cannot be moved; trying again goes on.
pub fn replace(state: &Path) -> Result<Option<PathBuf>, Error> {
    let swap = || -> io::Result<Option<PathBuf>> {
        let mut count = 1u32;
        while beside(state, &format!(".lost-{count}")).exists() {
            count += 1;
        }
        let kept = beside(state, &format!(".lost-{count}"));
        let mut is_kept = false;
        for suffix in ["-wal", ""] {
            let old = beside(state, suffix);
            if old.exists() {
                fs::rename(&old, beside(&kept, suffix))?;
                is_kept = true;
            }
        }
        segments::remove(&beside(state, "-shm"))?;
        fs::rename(workshop(state), state)?;
        if let Some(directory) = state.parent() {
            segments::sync(directory)?;
        }
        Ok(is_kept.then_some(kept))
    };
    swap()
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot put the new store in place").because(&e))
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
