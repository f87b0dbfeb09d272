//! From a configuration to an engine over this machine.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use mvm_core::{
    error::{Error, ErrorKind},
    id::OperationId,
    layout::data,
    port::Clock,
    units::Mib,
};
use mvm_engine::{
    Engine, Ports,
    store::{export::Rotation, recover, sqlite::SqliteStore},
};
use mvm_host::{
    clock::SystemClock,
    guest::VsockGuest,
    ipc::{admitted::AdmittedHost, client::HostdClient, scope::Scope},
    local::LocalHost,
    lock::FileLocks,
    roots::Roots,
    secrets::LocalVault,
};

use crate::{
    builder::LocalBuilder,
    config::{Config, Storage},
    flake::LocalSources,
};

/// Where the programs that belong to this one are looked for, after its own directory.
const PROGRAMS: &str = "/usr/local/bin";

/// `mvm` on this machine. Opening it starts nothing; any number may be open at once.
pub struct Mvm {
    pub(crate) engine: Engine,
    pub(crate) roots: Roots,
    pub(crate) production: bool,
    pub(crate) storage: Storage,
    pub(crate) config_dir: PathBuf,
    /// Whether the machine is touched by `mvm-hostd`, and not by this process.
    pub(crate) is_guarded: bool,
}

impl Mvm {
    /// Opens the store and wires the engine to this machine.
    ///
    /// # Errors
    /// `Permission` without root, `Failed` when the data directory or the store cannot be used.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let daemon = daemon(config)?;
        if daemon.is_none() {
            make_directories(config)?;
        }
        if !config.data_dir.join(data::STATE).exists() && recover::is_there(&config.data_dir) {
            let message = format!("the store in {} is gone", config.data_dir.display());
            let hint = "put it back from a backup, or make it anew from the exported files: mvm node rebuild";
            return Err(Error::new(ErrorKind::Integrity, message).hint(hint));
        }
        let roots = Roots { given: Arc::new(config.given_keys()?), ..roots(config) };
        let is_guarded = daemon.is_some();
        let ports = match daemon {
            Some(daemon) => guarded(config, daemon)?,
            None => direct(config, &roots)?,
        };
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let processors = u32::try_from(processors).unwrap_or(u32::MAX);
        let settings = mvm_engine::Config {
            guest_memory: guest_memory(config.guest_memory_percent),
            guest_vcpus: Some(processors.saturating_mul(config.vcpu_overcommit)),
            production: config.production,
            keep_builds: config.keep_builds,
            cache_budget: Mib(config.cache_budget_mib),
            builder: config.builder,
            pressure: config.pressure,
            lock_wait: config.lock_wait,
            ..mvm_engine::Config::default()
        };
        Ok(Self {
            engine: Engine::new(ports, settings),
            roots,
            production: config.production,
            storage: config.storage.clone(),
            config_dir: config.config_dir.clone(),
            is_guarded,
        })
    }

    /// This `mvm` for one operation: whatever it does or is asked bears the id, in logs, events and
    /// guests.
    #[must_use]
    pub fn for_operation(&self, operation: OperationId) -> Self {
        let (engine, roots) = (self.engine.bound(operation), self.roots.clone());
        let (production, config_dir) = (self.production, self.config_dir.clone());
        let (storage, is_guarded) = (self.storage.clone(), self.is_guarded);
        Self { engine, roots, production, storage, config_dir, is_guarded }
    }
}

/// Whether this process asks a daemon for what it wants of the machine.
pub(crate) fn is_guarded(config: &Config) -> bool {
    config.through_hostd || !rustix::process::geteuid().is_root() && config.hostd_socket.exists()
}

/// The daemon that touches the machine for this process; none when this process does.
///
/// # Errors
/// `Permission` without root and without a daemon, `Unavailable` when none serves there.
fn daemon(config: &Config) -> Result<Option<HostdClient>, Error> {
    if !is_guarded(config) {
        return require_root().map(|()| None);
    }
    let daemon = HostdClient::at(config.hostd_socket.clone());
    daemon.hello()?;
    Ok(Some(daemon))
}

/// With root: this process does what it decides.
fn direct(config: &Config, roots: &Roots) -> Result<Ports, Error> {
    mvm_host::boot_id::begin(roots)?;
    let host = LocalHost::new(roots.clone()).with_mtu(config.mtu);
    let host = Arc::new(AdmittedHost::new(host, Scope::Root));
    Ok(Ports {
        host: host.clone(),
        guest: Arc::new(VsockGuest::new(roots.clone())),
        store: Arc::new(store(config)?.with_homes(host)),
        builder: Arc::new(builder(config)),
        sources: Arc::new(LocalSources::new(config.data_dir.clone())),
        vault: Arc::new(LocalVault::new(roots.clone(), crate::config::variable)),
        clock: Arc::new(SystemClock),
        locks: Arc::new(FileLocks::new(config.run_dir.clone())),
    })
}

/// Without root: this process decides, and the daemon does what it admits.
fn guarded(config: &Config, daemon: HostdClient) -> Result<Ports, Error> {
    let daemon = Arc::new(daemon);
    Ok(Ports {
        host: daemon.clone(),
        guest: Arc::new(VsockGuest::through((*daemon).clone())),
        store: Arc::new(store(config)?.with_homes(daemon.clone())),
        builder: daemon.clone(),
        sources: Arc::new(LocalSources::new(config.data_dir.clone())),
        vault: daemon,
        clock: Arc::new(SystemClock),
        locks: Arc::new(FileLocks::new(config.run_dir.clone())),
    })
}

/// # Errors
/// `Permission` for anybody else.
pub(crate) fn require_root() -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Permission, "mvm needs root on this machine")
        .hint("run it with sudo"))
}

/// Opens the store; a new one if there is none.
pub(crate) fn store(config: &Config) -> Result<SqliteStore, Error> {
    let state = config.data_dir.join(data::STATE);
    let store = SqliteStore::open(&state, Some(config.data_dir.clone()))?;
    let rotation = Rotation { bytes: config.audit_rotate_bytes, keep: config.audit_keep_files };
    Ok(store.rotating(rotation))
}

/// A fresh id for what is about to be asked.
#[must_use]
pub fn new_operation() -> OperationId {
    OperationId::from_random(SystemClock.draw())
}

/// Where this configuration keeps things.
pub(crate) fn roots(config: &Config) -> Roots {
    Roots {
        data: config.data_dir.clone(),
        run: config.run_dir.clone(),
        cgroup: PathBuf::from("/sys/fs/cgroup"),
        reserve_percent: config.disk_reserve_percent,
        firecracker: config.firecracker.clone(),
        shim: program("mvm-shim"),
        pager: program("mvm-pager"),
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
        given: Arc::default(),
    }
}

/// What makes images under this configuration.
pub(crate) fn builder(config: &Config) -> LocalBuilder {
    LocalBuilder::new(config.clone(), program("mvm-guest"))
}

/// Makes the data and the runtime directory.
pub(crate) fn make_directories(config: &Config) -> Result<(), Error> {
    for dir in [&config.data_dir, &config.run_dir] {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
            Error::new(ErrorKind::Failed, format!("cannot make {}", dir.display())).because(&error)
        })?;
    }
    Ok(())
}

/// A program of ours: beside this one, else in `/usr/local/bin`.
pub(crate) fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| Path::new(PROGRAMS).join(name))
}

/// What guests may have of the machine's memory: the rest is the host's.
fn guest_memory(percent: u32) -> Option<Mib> {
    let info = rustix::system::sysinfo();
    let bytes = info.totalram.checked_mul(u64::from(info.mem_unit))?;
    u32::try_from(bytes / (1024 * 1024) * u64::from(percent) / 100).ok().map(Mib)
}
