//! The directories of tenants, pools and instances, when an agent without root keeps the store.
//!
//! ```text
//! <data>            root:mvm 0750   state.db, node_id: links into store
//!   store           mvm 0700        state.db*, node_id
//!   tenants         root:mvm 0750
//!     <t>           root:mvm 1770   tenant.json, audit.log*: the agent's; secrets.json: root's
//!       pools       root:mvm 0750
//!         <p>       root:mvm 1770   pool.json, build_history.json: the agent's
//!           artifacts   root 0700
//!           instances   root:mvm 0750
//!             <i>       root:mvm 1770   instance.json: the agent's
//!               volumes, snapshots, logs   root 0700
//!   everything else     root 0700
//! ```
//! Whoever may write into a directory with the sticky bit may add files of his own, and neither remove
//! nor replace those of another. So each directory that root walks through is root's, with everything
//! that root will want below it made before anybody else may write there: no link can be planted. On a
//! host without that agent (the data directory has root's group) all of this is root's, 0700.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

use mvm_core::{
    Error, ErrorKind,
    alloc::{FIRST_UID, UIDS},
    id::{InstanceRef, PoolRef, Subject, TenantId},
    layout::{self, data, run},
};

use crate::{
    disk::{durable, listing},
    roots::Roots,
    vmm::fault::Act,
};

/// Directories below the data directory that are root's alone.
const PRIVATE: [&str; 10] = [
    data::LEDGER,
    data::IMAGES,
    data::KERNELS,
    data::BINARIES,
    data::KEYS,
    data::JAILS,
    data::ARCHIVE,
    data::DOWNLOADS,
    data::VOLUMES,
    data::TEMPLATES,
];
/// Directories of root, in a shared one, that others may pass through.
const PASSAGE: u32 = 0o750;
const PRIVATELY: u32 = 0o700;
/// A directory that the agent may add files to.
const SHARED: u32 = 0o1770;

/// The user that keeps the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeper {
    /// Its uid.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Keeper {
    /// The user of this name in `/etc/passwd`.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn named(name: &str) -> Result<Self, Error> {
        let text = fs::read_to_string("/etc/passwd").act("read /etc/passwd")?;
        let found = text.lines().find_map(|line| {
            let mut words = line.split(':');
            let is_it = words.next() == Some(name);
            let (_, uid, gid) = (words.next()?, words.next()?, words.next()?);
            is_it.then_some((uid.parse().ok()?, gid.parse().ok()?))
        });
        let (uid, gid) = found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no user {name:?}")).hint(format!(
                "make it: useradd --system --no-create-home --shell /usr/sbin/nologin {name}"
            ))
        })?;
        Ok(Self { uid, gid })
    }
}

/// Makes the documented directory of a subject; the firewall has none.
///
/// # Errors
/// I/O errors; `Integrity` when something else than a directory of root has its name.
pub fn ensure(roots: &Roots, subject: &Subject) -> Result<(), Error> {
    let group = fs::metadata(&roots.data).act(format_args!("look at {}", roots.data.display()))?;
    let group = group.gid();
    let tenants = roots.data.join(data::TENANTS);
    match subject {
        Subject::Firewall => Ok(()),
        Subject::Tenant(tenant) => {
            directory(&tenants, PASSAGE, group)?;
            // The node's own log has a directory, and no pools.
            let inside: &[_] =
                if *tenant == TenantId::node() { &[] } else { &[("pools", PASSAGE)] };
            shared(&roots.data.join(data::tenant(tenant)), inside, group)
        }
        Subject::Pool(pool) => {
            ensure(roots, &Subject::Tenant(pool.tenant.clone()))?;
            let inside = [("artifacts", PRIVATELY), ("instances", PASSAGE)];
            shared(&roots.data.join(data::pool(pool)), &inside, group)
        }
        Subject::Instance(instance) => {
            ensure(roots, &Subject::Pool(instance.pool_ref()))?;
            let inside = ["volumes", "snapshots", "logs"].map(|name| (name, PRIVATELY));
            shared(&roots.data.join(data::instance(instance)), &inside, group)
        }
    }
}

/// Hands the store and the documented files to their keeper, with whatever is there already, and takes
/// everything else for root.
///
/// # Errors
/// As [`ensure`].
pub fn adopt(roots: &Roots, keeper: Keeper) -> Result<(), Error> {
    let gid = keeper.gid;
    directory(&roots.data, PASSAGE, gid)?;
    for name in PRIVATE {
        directory(&roots.data.join(name), PRIVATELY, 0)?;
    }
    directory(&roots.run, PASSAGE, gid)?;
    for name in [run::VM, run::RAM] {
        directory(&roots.run.join(name), PRIVATELY, 0)?;
    }
    // Locks are taken by root and by the agent, and removed by whoever ends their subject.
    let locks = roots.run.join(run::LOCKS);
    directory(&locks, 0o2770, gid)?;
    for name in durable::names(&locks)? {
        give(&locks.join(name), keeper, Missing::Leave)?;
    }
    give(&roots.run.join(run::AGENT), keeper, Missing::Make)?;
    store(roots, keeper)?;
    certificates(&roots.data.join(data::CERTS), keeper)?;
    directory(&roots.data.join(data::TENANTS), PASSAGE, gid)?;
    for tenant in listing::tenants(roots)? {
        adopt_tenant(roots, &tenant, keeper)?;
    }
    Ok(())
}

/// Moves the store to where its keeper may make files beside it, which SQLite does, and leaves links. What is
/// open goes on: the same files have both names until everybody finds the new ones.
fn store(roots: &Roots, keeper: Keeper) -> Result<(), Error> {
    let kept = roots.data.join(data::KEPT);
    let what = format!("give {} to uid {}", roots.data.join(data::STATE).display(), keeper.uid);
    // Whoever opens the store waits for this.
    let turn = fs::File::open(&roots.data).and_then(|turn| turn.lock().map(|()| turn));
    let turn = turn.act(&what)?;
    let names = [data::STATE, "state.db-wal", "state.db-shm", data::NODE_ID];
    if !kept.exists() {
        let partial = durable::partial(&kept);
        durable::remove_dir(&partial)?;
        directory(&partial, PRIVATELY, 0)?;
        for name in names {
            let old = roots.data.join(name);
            if fs::symlink_metadata(&old).is_ok_and(|facts| facts.is_file()) {
                fs::hard_link(&old, partial.join(name)).act(&what)?;
            }
        }
        durable::sync_dir(&partial)?;
        durable::rename(&partial, &kept)?;
    }
    for name in [data::STATE, data::NODE_ID] {
        let link = roots.data.join(name);
        if fs::read_link(&link).is_err() {
            let partial = durable::partial(&link);
            durable::remove_file(&partial)?;
            symlink(Path::new(data::KEPT).join(name), &partial).act(&what)?;
            durable::rename(&partial, &link)?;
        }
    }
    for name in ["state.db-wal", "state.db-shm"] {
        durable::remove_file(&roots.data.join(name))?;
    }
    drop(turn);
    for name in names {
        give(&kept.join(name), keeper, Missing::Leave)?;
    }
    own(&kept, keeper)
}

/// Lets the keeper read the configuration, which holds no secrets, and nobody else.
///
/// # Errors
/// As [`ensure`].
pub fn open(configuration: &Path, keeper: Keeper) -> Result<(), Error> {
    let keys = configuration.join("trusted_keys");
    for path in [configuration, &keys] {
        directory(path, PASSAGE, keeper.gid)?;
    }
    let mut files = vec![configuration.join("config.toml")];
    files.extend(durable::names(&keys)?.iter().map(|name| keys.join(name)));
    for path in files {
        let what = format!("open {} to the agent", path.display());
        match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_file() && facts.uid() == 0 => {
                lchown(&path, None, Some(keeper.gid)).act(&what)?;
                let mode = facts.mode() & 0o7777 | 0o040;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).act(&what)?;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).act(&what),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

fn adopt_tenant(roots: &Roots, tenant: &TenantId, keeper: Keeper) -> Result<(), Error> {
    ensure(roots, &Subject::Tenant(tenant.clone()))?;
    let home = roots.data.join(data::tenant(tenant));
    for name in durable::names(&home)? {
        if name == "tenant.json" || name.starts_with("audit.log") {
            give(&home.join(name), keeper, Missing::Leave)?;
        }
    }
    for pool in listing::pools_of(roots, tenant)? {
        adopt_pool(roots, &pool, keeper)?;
    }
    Ok(())
}

fn adopt_pool(roots: &Roots, pool: &PoolRef, keeper: Keeper) -> Result<(), Error> {
    ensure(roots, &Subject::Pool(pool.clone()))?;
    for name in ["pool.json", "build_history.json"] {
        give(&roots.data.join(data::pool(pool)).join(name), keeper, Missing::Leave)?;
    }
    for instance in listing::instances(roots, pool)? {
        adopt_instance(roots, &instance, keeper)?;
    }
    Ok(())
}

fn adopt_instance(roots: &Roots, instance: &InstanceRef, keeper: Keeper) -> Result<(), Error> {
    ensure(roots, &Subject::Instance(instance.clone()))?;
    let record = roots.data.join(layout::data::instance(instance)).join("instance.json");
    give(&record, keeper, Missing::Leave)
}

/// The node's certificates are the agent's: it shows them to whoever calls.
fn certificates(directory: &Path, keeper: Keeper) -> Result<(), Error> {
    if !directory.exists() {
        self::directory(directory, PRIVATELY, 0)?;
    }
    for name in durable::names(directory)? {
        give(&directory.join(name), keeper, Missing::Leave)?;
    }
    own(directory, keeper)
}

/// Makes a directory, which is root's or his, the keeper's alone.
fn own(directory: &Path, keeper: Keeper) -> Result<(), Error> {
    lchown(directory, Some(keeper.uid), Some(keeper.gid))
        .act(format_args!("give {}", directory.display()))
}

/// What becomes of a file that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Leave,
    Make,
}

/// Gives a regular file of root, which has this one name, to the keeper.
fn give(path: &Path, keeper: Keeper, missing: Missing) -> Result<(), Error> {
    let what = format!("give {} to uid {}", path.display(), keeper.uid);
    if missing == Missing::Make {
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => drop(made.act(&what)?),
        }
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).act(what),
        Ok(facts) if facts.is_file() && facts.uid() == 0 && facts.nlink() == 1 => {
            // Root's file still: nobody else could have put a link in its place.
            let mode = facts.mode() & owner_and(path);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).act(&what)?;
            lchown(path, Some(keeper.uid), Some(keeper.gid)).act(what)
        }
        Ok(_) => Ok(()),
    }
}

/// The bits that a file keeps: of a lock its group's too.
fn owner_and(path: &Path) -> u32 {
    let is_lock = path.parent().and_then(Path::file_name) == Some(run::LOCKS.as_ref());
    if is_lock { 0o660 } else { 0o600 }
}

/// A directory that the agent may add files to, complete before it may.
fn shared(path: &Path, inside: &[(&str, u32)], group: u32) -> Result<(), Error> {
    if group == 0 {
        return directory(path, PRIVATELY, 0);
    }
    let is_done = fs::symlink_metadata(path).is_ok_and(|facts| {
        facts.is_dir()
            && facts.uid() == 0
            && facts.gid() == group
            && facts.mode() & 0o7777 == SHARED
    });
    if is_done {
        return Ok(());
    }
    directory(path, PRIVATELY, 0)?;
    for (name, mode) in inside {
        let path = path.join(name);
        if *mode == PASSAGE { directory(&path, PASSAGE, group)? } else { private(&path)? }
    }
    directory(path, SHARED, group)
}

/// Makes a directory of root alone unless there is one of root or of an instance: a shim writes into its
/// own.
fn private(path: &Path) -> Result<(), Error> {
    let is_instances = fs::symlink_metadata(path)
        .is_ok_and(|facts| facts.is_dir() && (FIRST_UID..FIRST_UID + UIDS).contains(&facts.uid()));
    if is_instances { Ok(()) } else { directory(path, PRIVATELY, 0) }
}

/// Makes a directory of root with this group and mode, or makes sure that it is one. Without a group
/// of its own it is nobody else's.
fn directory(path: &Path, mode: u32, group: u32) -> Result<(), Error> {
    let what = format!("make the directory {}", path.display());
    match fs::DirBuilder::new().mode(PRIVATELY).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().map(PathBuf::from).unwrap_or_default();
            fs::DirBuilder::new().recursive(true).mode(PRIVATELY).create(&parent).act(&what)?;
            fs::DirBuilder::new().mode(PRIVATELY).create(path).act(&what)?;
        }
        made => made.act(&what)?,
    }
    let facts = fs::symlink_metadata(path).act(&what)?;
    let own = rustix::process::geteuid().as_raw();
    if !facts.is_dir() || facts.uid() != own {
        let message = format!("{} is not a directory of root", path.display());
        return Err(
            Error::new(ErrorKind::Integrity, message).hint("look at who made it, and move it away")
        );
    }
    let mode = if group == 0 { PRIVATELY } else { mode };
    if facts.gid() != group {
        lchown(path, None, Some(group)).act(&what)?;
    }
    if facts.mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).act(&what)?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn roots(base: &Path) -> Roots {
        Roots {
            data: base.join("data"),
            run: base.join("run"),
            cgroup: base.join("cgroup"),
            reserve_percent: 10,
            firecracker: mvm_core::id::VmmVersion::built_in(),
            shim: PathBuf::new(),
            pager: PathBuf::new(),
            resolv_conf: PathBuf::new(),
            given: Arc::default(),
        }
    }

    #[test]
    fn a_planted_link_in_place_of_a_directory_is_refused_and_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let roots = roots(base.path());
        let elsewhere = base.path().join("elsewhere");
        fs::create_dir_all(&elsewhere).unwrap();
        fs::create_dir_all(roots.data.join("tenants/acme/pools")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, roots.data.join("tenants/acme/pools/w")).unwrap();
        let pool = Subject::Pool("acme/w".parse().unwrap());
        assert_eq!(ensure(&roots, &pool).unwrap_err().kind, ErrorKind::Integrity);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[test]
    fn without_an_agent_every_directory_is_its_owners_alone() {
        let base = tempfile::tempdir().unwrap();
        let roots = roots(base.path());
        fs::create_dir_all(&roots.data).unwrap();
        let group = fs::metadata(&roots.data).unwrap().gid();
        if group != 0 {
            return;
        }
        let instance: InstanceRef = "acme/w/i-0000000a".parse().unwrap();
        ensure(&roots, &Subject::Instance(instance.clone())).unwrap();
        let mode = fs::metadata(roots.data.join(data::instance(&instance))).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }
}
