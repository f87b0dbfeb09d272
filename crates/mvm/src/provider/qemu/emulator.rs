//! The emulator's process: how it is started, and who it is.
//!
//! It is detached from whoever starts it. What tells of it lies in the runtime directory, which a
//! reboot of the caller's machine empties, as it ends the emulator.

use std::{
    ffi::{OsStr, OsString},
    fs,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use mvm_core::error::{Error, ErrorKind};
use mvm_host::{boot_id, tool, vmm::facts};
use serde::{Deserialize, Serialize};

use super::monitor;
use crate::provider::{
    Machine,
    files::fault,
    spawn::{Identity, POLL},
};

/// The record's name in the directory of the running machine.
const RECORD: &str = "emulator.json";
/// Which ports lead into this emulator's machine, in the same place.
pub(super) const PUBLISHED: &str = "published.json";
/// The machine's console, in the same place.
pub(super) const CONSOLE: &str = "console.log";
/// How long the emulator may take to set itself up.
const SET_UP: Duration = Duration::from_secs(60);
/// How long a killed one may take to let go of the disk.
const DYING: Duration = Duration::from_secs(30);

const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 root=/dev/vda rw quiet mitigations=off tsc=reliable panic=1";

/// A started emulator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Running {
    /// The caller's boot: in another one the pid means nothing.
    boot: String,
    /// Its process.
    pub(super) process: Identity,
    /// The port on 127.0.0.1 that leads to the machine's secure shell.
    pub(super) port: u16,
}

impl Running {
    /// The emulator that runs, if one does.
    pub(super) fn find(run: &Path) -> Option<Self> {
        let text = fs::read(run.join(RECORD)).ok()?;
        let running: Self = serde_json::from_slice(&text).ok()?;
        let is_of_now = running.boot == boot_id::present().0;
        (is_of_now && running.process.is_alive()).then_some(running)
    }
}

/// What a start needs to know.
pub(super) struct Start<'a> {
    /// Where sockets and logs go.
    pub(super) run: &'a Path,
    /// The directory of the base.
    pub(super) base: &'a Path,
    /// The machine's own disk.
    pub(super) disk: &'a Path,
    /// The seed, at a start that needs it.
    pub(super) seed: Option<&'a Path>,
    /// How large the machine is.
    pub(super) machine: Machine,
}

impl Start<'_> {
    /// Starts the emulator; it has set itself up when this returns.
    pub(super) fn start(&self) -> Result<Running, Error> {
        let port = free_port()?;
        let pid_file = self.run.join("emulator.pid");
        for stale in [RECORD, CONSOLE, "emulator.pid", monitor::SOCKET, PUBLISHED] {
            let _may_be_missing = fs::remove_file(self.run.join(stale));
        }
        let program = tool::find("qemu-system-x86_64")?;
        let args = self.arguments(port)?;
        let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
        let deadline = Instant::now() + DYING;
        while let Err(error) = tool::run(&program, &args, b"", SET_UP) {
            // A killed emulator keeps its disk until its memory is given back.
            if !error.to_string().contains("Failed to get \"write\" lock")
                || Instant::now() > deadline
            {
                return Err(error.into());
            }
            std::thread::sleep(POLL);
        }
        let pid = fs::read_to_string(&pid_file).map_err(fault("read", &pid_file))?;
        let process = pid.trim().parse().ok().and_then(Identity::of);
        let process = process.ok_or_else(|| {
            Error::new(ErrorKind::Failed, "the emulator ended as soon as it had started")
        })?;
        let running = Running { boot: boot_id::present().0, process, port };
        let record = self.run.join(RECORD);
        let text = serde_json::to_vec(&running).unwrap_or_default();
        fs::write(&record, text).map_err(fault("write", &record))?;
        Ok(running)
    }

    fn arguments(&self, port: u16) -> Result<Vec<OsString>, Error> {
        let memory = self.machine.memory(facts::memory()?.total_mib);
        let cpus = self.machine.cpus();
        let mut args: Vec<OsString> = Vec::new();
        let mut put = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        put(&["-name", "mvm", "-nodefaults", "-no-user-config", "-display", "none"]);
        put(&["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "EPYC,+svm,+npt,check=off"]);
        put(&["-smp", &cpus.to_string(), "-m", &memory.to_string()]);
        put(&["-append", KERNEL_ARGUMENTS]);
        let path = |path: &Path| option(path);
        put(&["-kernel", &self.base.join("vmlinuz").display().to_string()]);
        put(&["-initrd", &self.base.join("initrd.img").display().to_string()]);
        // A flush of the machine is a flush of the file: what was acknowledged there is kept.
        let disk = format!("file={},if=virtio,format=qcow2,cache=writeback", path(self.disk));
        put(&["-drive", &disk]);
        if let Some(seed) = self.seed {
            put(&["-drive", &format!("file={},if=virtio,format=raw,readonly=on", path(seed))]);
        }
        let forward = format!("user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22");
        put(&["-netdev", &forward, "-device", "virtio-net-pci,netdev=n0"]);
        put(&["-device", "virtio-rng-pci"]);
        let file = |name: &str| path(&self.run.join(name));
        put(&["-qmp", &format!("unix:{},server=on,wait=off", file(monitor::SOCKET))]);
        put(&["-serial", &format!("file:{}", file(CONSOLE))]);
        put(&["-daemonize", "-pidfile", &self.run.join("emulator.pid").display().to_string()]);
        Ok(args)
    }
}

/// Commas in an emulator's option are doubled.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// A TCP port on 127.0.0.1 that nobody listens on at the moment.
fn free_port() -> Result<u16, Error> {
    let found = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    found.map(|address| address.port()).map_err(|error| {
        Error::new(ErrorKind::Failed, "there is no free port on the loopback").because(&error)
    })
}
