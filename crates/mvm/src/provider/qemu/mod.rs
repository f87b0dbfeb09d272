//! A Debian machine with a software processor, for Linux without usable KVM.
//!
//! ```text
//! <data>/host/base-KEY/    Debian, read-only, one per recipe     (base)
//!            /machine/     disk.qcow2 over a base, keys, what it was made with
//!            /assets/      the default image for new machines
//! <run>/host/              the emulator's record, sockets, console; gone after a reboot
//! ```
//! It boots in the ordinary way when a command needs it and stays until `mvm stop`. The processor's
//! virtualisation is emulated completely, so unmodified microVMs run in it, slowly.
//!
//! Read next: `base` (what is in it), `seed` (what it gets from its caller), `emulator`.

mod base;
mod emulator;
mod monitor;
mod seed;
mod shell;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    path::PathBuf,
    time::{Duration, Instant},
};

use mvm_build::Arch;
use mvm_core::{
    error::{Error, ErrorKind},
    layout::data,
    port::{Progress, ProgressStep},
};
use mvm_host::tool;
use serde::{Deserialize, Serialize};

pub(super) use base::DISK_GIB;
pub use base::base_key;
pub(super) use seed::Seed;

use self::{
    emulator::{Running, Start},
    monitor::Monitor,
    seed::First,
    shell::Shell,
};
use super::{
    HostKind, MachineState, Packages, Provider,
    files::{self, fault, write_whole},
    programs, published, spawn,
};
use crate::{
    config::Config,
    forward::{self, Act, Link, Published, Request},
    wiring,
};

/// Programs that this provider needs, and the packages that bring them.
const NEEDS: &[spawn::Need] = &[
    spawn::Need { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    spawn::Need { program: "qemu-img", package: "qemu-utils" },
    spawn::Need { program: "mmdebstrap", package: "mmdebstrap" },
    spawn::Need { program: "mke2fs", package: "e2fsprogs" },
    spawn::Need { program: "ssh", package: "openssh-client" },
    spawn::Need { program: "setpriv", package: "util-linux" },
];

/// How long a machine may take to come up.
const BOOT: Duration = Duration::from_secs(420);
/// How long it may take to put its microVMs to rest and switch itself off.
const POWER_OFF: Duration = Duration::from_secs(300);

/// The machine of one data directory.
pub struct Qemu {
    config: Config,
}

/// What a machine was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    schema: u32,
    base: String,
}

impl Qemu {
    /// The machine of this configuration's data directory.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config }
    }

    fn host(&self) -> PathBuf {
        self.config.data_dir.join("host")
    }

    fn machine(&self) -> PathBuf {
        self.host().join("machine")
    }

    fn run(&self) -> PathBuf {
        self.config.run_dir.join("host")
    }

    fn made(&self) -> Result<Option<Made>, Error> {
        let path = self.machine().join("machine.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault("read", &path)(error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::new(ErrorKind::Integrity, format!("{} makes no sense", path.display()))
                .because(&error)
        })
    }

    fn assets(&self) -> Config {
        Config { data_dir: self.host().join("assets"), ..self.config.clone() }
    }

    fn running(&self) -> Result<Running, Error> {
        Running::find(&self.run()).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "the machine for microVMs does not run")
                .hint("any command that needs it starts it; `mvm status` shows it")
        })
    }

    /// The stamps that the machine is known to have.
    fn acknowledged(&self) -> Option<BTreeMap<String, String>> {
        let text = fs::read(self.machine().join("programs.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn acknowledge(&self, stamps: &BTreeMap<String, String>) -> Result<(), Error> {
        write_whole(&self.machine().join("programs.json"), stamps)
    }

    /// What the machine needs from here at its next start, if anything.
    fn seed(&self) -> Result<Option<Seed>, Error> {
        let programs = programs::ours()?;
        let known = self.acknowledged();
        if known.as_ref() == Some(&programs::stamps(&programs)?) {
            return Ok(None);
        }
        let first = match known {
            Some(_) => None,
            None => {
                let store = self.assets().data_dir.join(data::IMAGES);
                Some(First {
                    keys: self.machine(),
                    firecracker: (self.assets().data_dir, data::vmm(&self.config.firecracker)),
                    image: (store.clone(), seed::default_image(&store)?),
                })
            }
        };
        Ok(Some(Seed { programs, first }))
    }

    fn shell<'a>(&self, keys: &'a PathBuf, run: &'a PathBuf, port: u16) -> Shell<'a> {
        Shell { keys, run, port }
    }

    /// A link to the machine whose programs are the caller's.
    fn link(&self, running: &Running) -> Result<Link, Error> {
        let (keys, run) = (self.machine(), self.run());
        let shell = self.shell(&keys, &run, running.port);
        let ours = programs::ours()?;
        let stamps = programs::stamps(&ours)?;
        let mut link = shell.link()?;
        if forward::hello(&mut link)?.programs != stamps {
            drop(link);
            shell.push(&Seed { programs: ours, first: None })?;
            link = shell.link()?;
            if forward::hello(&mut link)?.programs != stamps {
                return Err(Error::new(
                    ErrorKind::Failed,
                    "the machine does not have this program's build, and does not take it",
                ));
            }
        }
        if self.acknowledged().as_ref() != Some(&stamps) {
            self.acknowledge(&stamps)?;
        }
        Ok(link)
    }

    fn await_ready(&self, running: &Running, progress: &dyn Progress) -> Result<(), Error> {
        let console = self.run().join(emulator::CONSOLE);
        let began = Instant::now();
        progress.report(&step("starting (about a minute)", 0, 0));
        loop {
            let said = fs::read(&console).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            if said.contains(base::READY) {
                return Ok(());
            }
            let is_late = began.elapsed() > BOOT;
            if is_late || !running.process.is_alive() {
                let what = if is_late { "does not come up" } else { "ended while it started" };
                let mut error = Error::new(ErrorKind::Unavailable, format!("the machine {what}"));
                error.causes.extend(said.lines().last().map(str::to_owned));
                running.process.end();
                return Err(error.hint(format!("its console is in {}", console.display())));
            }
            std::thread::sleep(spawn::POLL);
        }
    }

    /// Asks the machine to put its microVMs to rest and to switch itself off.
    fn ask_to_power_off(&self, running: &Running) -> Result<(), Error> {
        let (_sender, control) = std::sync::mpsc::channel();
        let streams = mvm_core::port::ExecStreams {
            stdin: Box::new(std::io::empty()),
            stdout: Box::new(std::io::sink()),
            stderr: Box::new(std::io::sink()),
            control,
        };
        let request = Request { act: Act::PowerOff, ..forward::Request::plain() };
        forward::run(self.link(running)?, &request, streams).map(drop)
    }

    fn stop(&self, progress: &dyn Progress) -> Result<(), Error> {
        let Some(running) = Running::find(&self.run()) else { return Ok(()) };
        progress.report(&step("stopping", 0, 0));
        let asked = self.ask_to_power_off(&running);
        if asked.is_err() {
            // A machine that does not listen still has a power button.
            let _ = Monitor::connect(&self.run())
                .and_then(|mut monitor| monitor.ask("system_powerdown", &serde_json::json!({})));
        }
        let (keys, run) = (self.machine(), self.run());
        let is_off = running.process.await_end(POWER_OFF);
        self.shell(&keys, &run, running.port).close();
        if is_off {
            return Ok(());
        }
        running.process.end();
        let error = Error::new(
            ErrorKind::Unavailable,
            "the machine did not switch itself off and was ended",
        );
        Err(match asked {
            Ok(()) => error,
            Err(why) => error.because(&why),
        })
    }
}

impl Provider for Qemu {
    fn kind(&self) -> HostKind {
        HostKind::Qemu
    }

    fn look(&self) -> Result<MachineState, Error> {
        Ok(match (self.made()?, Running::find(&self.run())) {
            (None, _) => MachineState::Absent,
            (Some(_), None) => MachineState::Stopped,
            (Some(_), Some(_)) => MachineState::Running,
        })
    }

    fn ensure_made(&self, packages: Packages, progress: &dyn Progress) -> Result<(), Error> {
        if Arch::native() != Some(Arch::X86_64) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the QEMU machine is there for x86_64 only",
            ));
        }
        spawn::ensure_packages(NEEDS, packages, progress)?;
        let _lock = files::lock(&self.config)?;
        let machine = self.machine();
        for dir in [self.host(), machine.clone(), self.assets().data_dir] {
            files::make(&dir)?;
        }
        if self.made()?.is_some() {
            return Ok(());
        }
        programs::ours()?;
        wiring::builder(&self.assets()).ensure_default(progress)?;
        let base = base::ensure(&self.host(), progress)?;
        Shell::ensure_keys(&machine)?;
        let disk = machine.join("disk.qcow2");
        let _half_made = fs::remove_file(&disk);
        let under = base::directory(&self.host(), &base).join("root.qcow2");
        let size = format!("{}G", self.config.machine.disk());
        let mut args =
            ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"].map(OsStr::new).to_vec();
        args.extend([under.as_os_str(), disk.as_os_str(), size.as_ref()]);
        tool::run(&tool::find("qemu-img")?, &args, b"", Duration::from_secs(60))?;
        File::open(&disk).and_then(|file| file.sync_all()).map_err(fault("sync", &disk))?;
        // With this record the machine is made; everything before is done again.
        write_whole(&machine.join("machine.json"), &Made { schema: 1, base })
    }

    fn ensure_started(&self, progress: &dyn Progress) -> Result<(), Error> {
        if Running::find(&self.run()).is_some() && self.is_up() {
            return Ok(());
        }
        let _lock = files::lock(&self.config)?;
        let Some(made) = self.made()? else {
            return Err(Error::new(ErrorKind::NotFound, "the machine was not made yet")
                .hint("run `mvm bootstrap`"));
        };
        let run = self.run();
        files::make(&run)?;
        let running = match Running::find(&run) {
            Some(running) => running,
            None => {
                let seed = self.seed()?;
                let disk = self.machine().join("seed.img");
                if let Some(seed) = &seed {
                    seed.write_disk(&disk)?;
                }
                let started = Start {
                    run: &run,
                    base: &base::directory(&self.host(), &made.base),
                    disk: &self.machine().join("disk.qcow2"),
                    seed: seed.as_ref().map(|_| disk.as_path()),
                    machine: self.config.machine,
                };
                started.start()?
            }
        };
        self.await_ready(&running, progress)?;
        self.link(&running)?;
        let _not_needed_any_more = fs::remove_file(self.machine().join("seed.img"));
        progress.report(&step("running", 1, 1));
        write_whole(&run.join("up"), &running)
    }

    fn ensure_stopped(&self, progress: &dyn Progress) -> Result<(), Error> {
        let _lock = files::lock(&self.config)?;
        self.stop(progress)
    }

    fn ensure_removed(&self, progress: &dyn Progress) -> Result<(), Error> {
        let lock = files::lock(&self.config)?;
        if let Err(error) = self.stop(progress)
            && Running::find(&self.run()).is_some()
        {
            return Err(error);
        }
        // The record goes first: what an interrupted removal leaves is no machine.
        let record = self.machine().join("machine.json");
        for path in [record, self.run(), self.host(), self.config.data_dir.join("host.lock")] {
            files::remove(&path)?;
        }
        drop(lock);
        Ok(())
    }

    fn connect(&self) -> Result<Link, Error> {
        self.link(&self.running()?)
    }

    fn ensure_published(&self, ports: &[Published]) -> Result<(), Error> {
        let carry = |monitor: &mut Monitor, Published { port, protocol }: Published| {
            monitor.order(&format!("hostfwd_add n0 {protocol}:127.0.0.1:{port}-:{port}"))
        };
        let cancel = |monitor: &mut Monitor, Published { port, protocol }: Published| {
            monitor.order(&format!("hostfwd_remove n0 {protocol}:127.0.0.1:{port}"))
        };
        let connect = || Monitor::connect(&self.run()).map(Some);
        published::ensure(&self.run().join(emulator::PUBLISHED), ports, connect, carry, cancel)
    }
}

impl Qemu {
    /// Whether the emulator that runs is the one that answered once.
    fn is_up(&self) -> bool {
        let answered = fs::read(self.run().join("up")).ok();
        let answered = answered.and_then(|text| serde_json::from_slice::<Running>(&text).ok());
        answered.is_some() && answered == Running::find(&self.run())
    }
}

fn step(activity: &str, done: u64, total: u64) -> ProgressStep {
    ProgressStep { subject: "machine".to_owned(), activity: activity.to_owned(), done, total }
}
