//! What the agent knows and holds while it runs, shared by all sessions.
//!
//! This module refuses to know how any of it is used; it keeps the locks small.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mvm_proto::{Exit, GuestConfig, NetworkIdentity};

use crate::failure::Outcome;
use crate::hooks::Hooks;
use crate::net;

/// Where the agent finds and puts things; tests bring places of their own.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Worker hooks and the generation file.
    pub(crate) run: PathBuf,
    /// The workload's cgroup.
    pub(crate) workload: PathBuf,
    /// The data drive.
    pub(crate) data: PathBuf,
    /// The secrets.
    pub(crate) secrets: PathBuf,
    /// `config.json` and `routes.json`.
    pub(crate) config: PathBuf,
    /// The image's own settings: `start` or `workload.json`, `drain`, `ssh_authorized_keys`.
    pub(crate) image: PathBuf,
}

impl Places {
    /// The places of SPEC §5 and §6.
    pub(crate) fn of_a_guest() -> Self {
        Self {
            run: "/run/mvm".into(),
            workload: "/sys/fs/cgroup/workload".into(),
            data: "/data".into(),
            secrets: "/run/secrets".into(),
            config: "/etc/mvm-config".into(),
            image: "/etc/mvm".into(),
        }
    }
}

/// The service `/etc/mvm/start`, or those of `/etc/mvm/workload.json` together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Held at the start gate: the guest does not know yet who it is.
    Held,
    /// The image has none.
    Absent,
    /// It runs.
    Running,
    /// It ended.
    Ended(Exit),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) places: Places,
    pub(crate) is_init: bool,
    pub(crate) hooks: Hooks,
    /// Held by whoever changes identity, drives or the frozen state: one at a time.
    pub(crate) changing: Mutex<()>,
    config: Mutex<Option<GuestConfig>>,
    network: Mutex<Option<NetworkIdentity>>,
    service: Mutex<Service>,
    is_frozen: AtomicBool,
    is_data_frozen: AtomicBool,
    is_ending: AtomicBool,
    /// Counts freezes and thaws.
    quiet: AtomicU64,
    generation: AtomicU64,
    secrets_epoch: AtomicU64,
    routes: AtomicU64,
}

impl Agent {
    /// An agent that knows nothing yet.
    pub(crate) fn new(places: Places, is_init: bool) -> Self {
        Self {
            hooks: Hooks::new(places.run.clone()),
            places,
            is_init,
            changing: Mutex::new(()),
            config: Mutex::new(None),
            network: Mutex::new(None),
            service: Mutex::new(Service::Held),
            is_frozen: AtomicBool::new(false),
            is_data_frozen: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            quiet: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            secrets_epoch: AtomicU64::new(0),
            routes: AtomicU64::new(0),
        }
    }

    /// Lets one change at a time happen.
    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        lock(&self.changing)
    }

    /// Who the guest is, once it knows.
    pub(crate) fn config(&self) -> Option<GuestConfig> {
        lock(&self.config).clone()
    }

    /// Remembers who the guest is.
    pub(crate) fn set_config(&self, config: GuestConfig) {
        *lock(&self.config) = Some(config);
    }

    /// Takes on a network, unless the guest has taken on that very one before: a guest that wakes as
    /// who it was touches nothing, and its neighbours know it.
    pub(crate) fn take_on(&self, network: &NetworkIdentity) -> Outcome<()> {
        let mut known = lock(&self.network);
        if known.as_ref() == Some(network) {
            return Ok(());
        }
        *known = None;
        net::apply(network)?;
        *known = Some(network.clone());
        Ok(())
    }

    /// Which boot this is, once the guest knows who it is: the kernel draws it when it is first read, and
    /// what is drawn before is drawn alike by all clones.
    pub(crate) fn boot_id(&self) -> String {
        let known = lock(&self.config).is_some();
        let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let id = known.then(read).flatten().unwrap_or_default();
        id.trim().to_owned()
    }

    /// The instance's id, once known.
    pub(crate) fn instance_id(&self) -> Option<String> {
        lock(&self.config).as_ref().map(|config| config.instance_id.clone())
    }

    pub(crate) fn service(&self) -> Service {
        *lock(&self.service)
    }

    pub(crate) fn set_service(&self, service: Service) {
        *lock(&self.service) = service;
    }

    /// Opens the gate once: true for the one caller that has to start the service.
    pub(crate) fn take_start_gate(&self) -> bool {
        let mut service = lock(&self.service);
        let is_held = *service == Service::Held;
        if is_held {
            *service = Service::Absent;
        }
        is_held
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.is_frozen.load(Ordering::SeqCst)
    }

    pub(crate) fn set_frozen(&self, is_frozen: bool) {
        self.is_frozen.store(is_frozen, Ordering::SeqCst);
    }

    pub(crate) fn is_data_frozen(&self) -> bool {
        self.is_data_frozen.load(Ordering::SeqCst)
    }

    pub(crate) fn set_data_frozen(&self, is_frozen: bool) {
        self.is_data_frozen.store(is_frozen, Ordering::SeqCst);
    }

    /// Whether the machine goes down, so that nothing is to be started again.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }

    /// The machine goes down from here on.
    pub(crate) fn set_ending(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
    }

    /// Which freeze or thaw was the last.
    pub(crate) fn quiet(&self) -> u64 {
        self.quiet.load(Ordering::SeqCst)
    }

    /// Begins another freeze or thaw.
    pub(crate) fn next_quiet(&self) -> u64 {
        self.quiet.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Raises the generation to at least `generation` and gives the result.
    pub(crate) fn raise_generation(&self, generation: u64) -> u64 {
        self.generation.fetch_max(generation, Ordering::SeqCst).max(generation)
    }

    /// Notes the number of new routes; false when there are newer ones.
    pub(crate) fn raise_routes(&self, generation: u64) -> bool {
        self.routes.fetch_max(generation, Ordering::SeqCst) <= generation
    }

    pub(crate) fn secrets_epoch(&self) -> u64 {
        self.secrets_epoch.load(Ordering::SeqCst)
    }

    pub(crate) fn set_secrets_epoch(&self, epoch: u64) {
        self.secrets_epoch.store(epoch, Ordering::SeqCst);
    }

    /// The way into the workload's cgroup, `None` in a guest without cgroups.
    pub(crate) fn workload_cgroup(&self) -> Option<OwnedFd> {
        open_procs(&self.places.workload)
    }
}

/// Opens a cgroup's list of processes for writing.
pub(crate) fn open_procs(cgroup: &Path) -> Option<OwnedFd> {
    fs::File::options().write(true).open(cgroup.join("cgroup.procs")).ok().map(OwnedFd::from)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
