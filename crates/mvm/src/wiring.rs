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
};

use crate::{builder::LocalBuilder, config::Config};

/// Where the programs that belong to this one are looked for, after its own directory.
const PROGRAMS: &str = "/usr/local/bin";

/// `mvm` on this machine. Opening it starts nothing; any number may be open at once.
pub struct Mvm {
    pub(crate) engine: Engine,
    pub(crate) production: bool,
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
        for dir in [&config.data_dir, &config.run_dir] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(
                |error| {
                    Error::new(ErrorKind::Failed, format!("cannot make {}", dir.display()))
                        .because(&error)
                },
            )?;
        }
        let roots = Roots {
            data: config.data_dir.clone(),
            run: config.run_dir.clone(),
            cgroup: PathBuf::from("/sys/fs/cgroup"),
            shim: program("mvm-shim"),
        };
        mvm_host::boot_id::begin(&roots)?;
        let state = config.data_dir.join(data::STATE);
        let ports = Ports {
            host: Arc::new(LocalHost::new(roots.clone())),
            guest: Arc::new(VsockGuest::new(roots)),
            store: Arc::new(SqliteStore::open(&state, Some(config.data_dir.clone()))?),
            builder: Arc::new(LocalBuilder::new(config.clone(), program("mvm-guest"))),
            clock: Arc::new(SystemClock),
            locks: Arc::new(FileLocks::new(config.run_dir.clone())),
        };
        let settings = mvm_engine::Config {
            guest_memory: guest_memory(),
            keep_builds: config.keep_builds,
            lock_wait: config.lock_wait,
            ..mvm_engine::Config::default()
        };
        Ok(Self { engine: Engine::new(ports, settings), production: config.production })
    }
}

/// A program of ours: beside this one, else in `/usr/local/bin`.
fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| Path::new(PROGRAMS).join(name))
}

/// Nine tenths of the machine's memory: the rest is the host's.
fn guest_memory() -> Option<Mib> {
    let info = rustix::system::sysinfo();
    let bytes = info.totalram.checked_mul(u64::from(info.mem_unit))?;
    u32::try_from(bytes / (1024 * 1024) / 10 * 9).ok().map(Mib)
}
