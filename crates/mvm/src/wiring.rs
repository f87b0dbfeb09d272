//! From a configuration to an engine over this machine.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use mvm_core::{
    error::{Error, ErrorKind},
    layout::data,
    units::Mib,
};
use mvm_engine::{Engine, Ports, store::sqlite::SqliteStore};
use mvm_host::{
    clock::SystemClock, guest::VsockGuest, local::LocalHost, lock::FileLocks, roots::Roots,
    secrets::LocalVault,
};

use crate::{builder::LocalBuilder, config::Config};

/// Where the programs that belong to this one are looked for, after its own directory.
const PROGRAMS: &str = "/usr/local/bin";

/// `mvm` on this machine. Opening it starts nothing; any number may be open at once.
pub struct Mvm {
    pub(crate) engine: Engine,
    pub(crate) roots: Roots,
    pub(crate) firecracker: String,
}

impl Mvm {
    /// Opens the store and wires the engine to this machine.
    ///
    /// # Errors
    /// `Permission` without root, `Failed` when the data directory or the store cannot be used.
    pub fn open(config: &Config) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(ErrorKind::Permission, "mvm needs root on this machine")
                .hint("run it with sudo"));
        }
        make_directories(config)?;
        let roots = Roots { given: Arc::new(config.given_keys()?), ..roots(config) };
        mvm_host::boot_id::begin(&roots)?;
        let state = config.data_dir.join(data::STATE);
        let ports = Ports {
            host: Arc::new(LocalHost::new(roots.clone()).with_mtu(config.mtu)),
            guest: Arc::new(VsockGuest::new(roots.clone())),
            store: Arc::new(SqliteStore::open(&state, Some(config.data_dir.clone()))?),
            builder: Arc::new(builder(config)),
            vault: Arc::new(LocalVault::new(roots.clone(), crate::config::variable)),
            clock: Arc::new(SystemClock),
            locks: Arc::new(FileLocks::new(config.run_dir.clone())),
        };
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let processors = u32::try_from(processors).unwrap_or(u32::MAX);
        let settings = mvm_engine::Config {
            guest_memory: guest_memory(),
            guest_vcpus: Some(processors.saturating_mul(config.vcpu_overcommit)),
            production: config.production,
            keep_builds: config.keep_builds,
            lock_wait: config.lock_wait,
            ..mvm_engine::Config::default()
        };
        let firecracker = config.firecracker.clone();
        Ok(Self { engine: Engine::new(ports, settings), roots, firecracker })
    }
}

/// Where this configuration keeps things.
pub(crate) fn roots(config: &Config) -> Roots {
    Roots {
        data: config.data_dir.clone(),
        run: config.run_dir.clone(),
        cgroup: PathBuf::from("/sys/fs/cgroup"),
        reserve_percent: config.disk_reserve_percent,
        shim: program("mvm-shim"),
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

/// Nine tenths of the machine's memory: the rest is the host's.
fn guest_memory() -> Option<Mib> {
    let info = rustix::system::sysinfo();
    let bytes = info.totalram.checked_mul(u64::from(info.mem_unit))?;
    u32::try_from(bytes / (1024 * 1024) / 10 * 9).ok().map(Mib)
}
