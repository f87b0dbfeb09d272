//! A Debian machine in Lima: for macOS, and for whoever has Lima elsewhere.
//!
//! ```text
//! <data>/host/lima.yaml    what the machine was made from      (template)
//!            /lima.json    that it has what microVMs need
//! <run>/host/published     the ports that are carried into it
//! ```
//! Lima makes, starts and stops the machine, and its shell carries the connection to the `mvm` inside
//! (`limactl`). Programs go over the wire as into every other machine; what else microVMs need is made by
//! the `mvm` inside at the first start. Lima's machines belong to a person, so there is one, by name.

mod limactl;
mod template;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mvm_core::{
    error::{Error, ErrorKind},
    port::{ExecStreams, Progress, ProgressStep},
    publish::Protocol,
};
use mvm_host::{tool, vmm::facts};

use self::{
    limactl::{Limactl, Listed},
    template::Driver,
};
use super::{
    HostKind, MachineState, Packages, Provider,
    files::{self, fault},
    programs, published,
    qemu::Seed,
    spawn,
};
use crate::{
    config::Config,
    forward::{self, Act, Link, Published, Request, SUBCOMMAND},
};

/// How long it may take to put its microVMs to rest and switch itself off.
const POWER_OFF: Duration = Duration::from_secs(300);
/// How long Homebrew may take to install Lima.
const INSTALL: Duration = Duration::from_secs(1800);
/// What unpacks programs there.
const UNPACK: [&str; 7] = [
    "tar",
    "--extract",
    "--file=-",
    "--directory=/",
    "--no-same-owner",
    "--preserve-permissions",
    "--keep-directory-symlink",
];
/// The programs that the machine shall have, by name.
type Programs = BTreeMap<&'static str, PathBuf>;

/// The machine in Lima of whoever runs this.
pub struct Lima {
    config: Config,
    limactl: Option<Limactl>,
    programs: fn(&Config) -> Result<Programs, Error>,
}

impl Lima {
    /// The machine, by the Lima that is installed.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, limactl: Limactl::installed(), programs: |_| programs::ours() }
    }

    fn host(&self) -> PathBuf {
        self.config.data_dir.join("host")
    }

    fn run(&self) -> PathBuf {
        self.config.run_dir.join("host")
    }

    fn record(&self) -> PathBuf {
        self.host().join("lima.json")
    }

    fn published(&self) -> PathBuf {
        self.run().join("published")
    }

    fn limactl(&self) -> Result<&Limactl, Error> {
        self.limactl.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "Lima is not installed")
                .hint("install it (brew install lima), or set MVM_HOST to auto, native or qemu")
        })
    }

    fn listed(&self) -> Result<Option<Listed>, Error> {
        self.limactl.as_ref().map_or(Ok(None), Limactl::list)
    }

    /// Whether it is ready for microVMs, as it was recorded.
    fn is_ready(&self) -> bool {
        self.record().exists()
    }

    /// A link to the machine whose programs are the caller's.
    fn link(&self) -> Result<Link, Error> {
        let ours = (self.programs)(&self.config)?;
        let stamps = programs::stamps(&ours)?;
        let known = self.call().and_then(|mut link| Ok((forward::hello(&mut link)?, link)));
        if let Ok((hello, link)) = known
            && hello.programs == stamps
        {
            return Ok(link);
        }
        self.push(&Seed { programs: ours, first: None })?;
        let mut link = self.call()?;
        if forward::hello(&mut link)?.programs == stamps {
            return Ok(link);
        }
        Err(Error::new(
            ErrorKind::Failed,
            "the machine does not have this program's build, and does not take it",
        ))
    }

    /// A link to whatever `mvm` the machine has; nothing was heard over it yet.
    fn call(&self) -> Result<Link, Error> {
        files::make(&self.run())?;
        let log = self.run().join(format!("lima-{}.log", std::process::id()));
        let program = format!("/{}/mvm", programs::DIRECTORY);
        spawn::link(self.limactl()?.shell(&[&program, SUBCOMMAND], &log)?, Some(&log))
    }

    /// Puts programs into the running machine.
    fn push(&self, seed: &Seed) -> Result<(), Error> {
        files::make(&self.run())?;
        let act = || "cannot put the programs into the machine".to_owned();
        let log = self.run().join(format!("lima-{}.log", std::process::id()));
        let mut child = self.limactl()?.shell(&UNPACK, &log)?;
        let failed = |error: io::Error| Error::new(ErrorKind::Unavailable, act()).because(&error);
        let pipe = child.stdin.take();
        let pipe = pipe.ok_or_else(|| Error::new(ErrorKind::Failed, act()))?;
        let mut pipe = io::BufWriter::with_capacity(1 << 18, pipe);
        let written = seed.write(&mut pipe).and_then(|()| pipe.flush());
        drop(pipe);
        let status = child.wait().map_err(failed)?;
        if status.success() {
            return written.map_err(failed);
        }
        let words = fs::read_to_string(&log).unwrap_or_default();
        let mut error = Error::new(ErrorKind::Unavailable, act());
        error.causes.extend(words.trim().lines().last().map(str::to_owned));
        Err(error)
    }

    /// Does an act of the far side to its end; what it said on standard error is in the refusal.
    fn ask(&self, act: Act, link: Link) -> Result<(), Error> {
        let errors = Kept::default();
        let (_sender, control) = std::sync::mpsc::channel();
        let streams = ExecStreams {
            stdin: Box::new(io::empty()),
            stdout: Box::new(io::sink()),
            stderr: Box::new(errors.clone()),
            control,
        };
        let mut env = self.config.travelling();
        env.insert("MVM_HOST".to_owned(), "native".to_owned());
        let request = Request { act, env, ..Request::plain() };
        let code = forward::run(link, &request, streams)?.code;
        if code == 0 {
            return Ok(());
        }
        let message = format!("the machine is not ready for microVMs: code {code}");
        let mut error = Error::new(ErrorKind::Unavailable, message);
        error.causes.extend(errors.text().lines().map(str::to_owned));
        Err(error.hint("`mvm shell` opens it; repeating goes on from there"))
    }

    fn stop(&self, progress: &dyn Progress) -> Result<(), Error> {
        let running = |one: &Listed| one.status == "Running";
        if !self.listed()?.as_ref().is_some_and(running) {
            return files::remove(&self.published());
        }
        progress.report(&step("stopping"));
        // It puts its microVMs to rest and switches itself off; Lima's own order is for one that does not.
        let asked = self.link().and_then(|link| self.ask(Act::PowerOff, link));
        let deadline = Instant::now() + POWER_OFF;
        let limactl = self.limactl()?;
        while asked.is_ok() && Instant::now() < deadline {
            if !self.listed()?.as_ref().is_some_and(running) {
                break;
            }
            std::thread::sleep(spawn::POLL);
        }
        if self.listed()?.as_ref().is_some_and(running) && limactl.stop().is_err() {
            limactl.end()?;
        }
        files::remove(&self.published())
    }
}

impl Provider for Lima {
    fn kind(&self) -> HostKind {
        HostKind::Lima
    }

    fn look(&self) -> Result<MachineState, Error> {
        let Some(listed) = self.listed()? else { return Ok(MachineState::Absent) };
        match listed.status.as_str() {
            "Running" => Ok(MachineState::Running),
            "Stopped" => Ok(MachineState::Stopped),
            other => {
                let message = format!("Lima says of its machine {}: {other}", limactl::NAME);
                Err(Error::new(ErrorKind::Unavailable, message)
                    .hint("see `limactl list`, or make it anew: mvm destroy, mvm bootstrap"))
            }
        }
    }

    fn ensure_made(&self, packages: Packages, progress: &dyn Progress) -> Result<(), Error> {
        if self.limactl.is_none() && packages == Packages::Install {
            let brew = limactl::find("brew");
            let brew = brew.ok_or_else(|| self.limactl().err().unwrap_or_else(no_lima))?;
            progress.report(&step("installing Lima"));
            tool::run(&brew, &["install", "lima"].map(OsStr::new), b"", INSTALL)?;
            return Self::new(self.config.clone()).ensure_made(Packages::Expect, progress);
        }
        let limactl = self.limactl()?;
        let _lock = files::lock(&self.config)?;
        if limactl.list()?.is_some() {
            return Ok(());
        }
        (self.programs)(&self.config)?;
        files::make(&self.host())?;
        files::remove(&self.record())?;
        let file = self.host().join("lima.yaml");
        let total = facts::memory()?.total_mib;
        let text = template::fill(Driver::native(), self.config.machine, total);
        fs::write(&file, text).map_err(fault("write", &file))?;
        progress.report(&step("making it (its image is fetched once)"));
        limactl.create(&file)
    }

    fn ensure_started(&self, progress: &dyn Progress) -> Result<(), Error> {
        if self.is_ready() && self.look()? == MachineState::Running {
            return Ok(());
        }
        let _lock = files::lock(&self.config)?;
        match self.look()? {
            MachineState::Absent => {
                return Err(Error::new(ErrorKind::NotFound, "the machine was not made yet")
                    .hint("run `mvm bootstrap`"));
            }
            MachineState::Stopped => {
                progress.report(&step("starting"));
                files::remove(&self.published())?;
                self.limactl()?.start()?;
            }
            MachineState::Running => {}
        }
        let link = self.link()?;
        if !self.is_ready() {
            progress.report(&step("getting it ready for microVMs (some minutes, once)"));
            let words = ["--quiet", "bootstrap"].map(str::to_owned).to_vec();
            self.ask(Act::Run(words), link)?;
            files::write_whole(&self.record(), &BTreeMap::from([("schema", 1)]))?;
        }
        progress.report(&step("running"));
        Ok(())
    }

    fn ensure_stopped(&self, progress: &dyn Progress) -> Result<(), Error> {
        let _lock = files::lock(&self.config)?;
        self.stop(progress)
    }

    fn ensure_removed(&self, progress: &dyn Progress) -> Result<(), Error> {
        let lock = files::lock(&self.config)?;
        if self.listed()?.is_some() {
            self.stop(progress)?;
            self.limactl()?.delete()?;
        }
        let host = self.host();
        for path in [self.record(), host.join("lima.yaml"), self.run()] {
            files::remove(&path)?;
        }
        files::remove(&self.config.data_dir.join("host.lock"))?;
        drop(lock);
        Ok(())
    }

    fn connect(&self) -> Result<Link, Error> {
        if self.look()? != MachineState::Running {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the machine for microVMs does not run",
            )
            .hint("any command that needs it starts it; `mvm status` shows it"));
        }
        self.link()
    }

    fn ensure_published(&self, ports: &[Published]) -> Result<(), Error> {
        let connect = || {
            let Some(listed) = self.listed()? else { return Ok(None) };
            files::make(&self.run())?;
            Ok(Some((self.limactl()?, listed)))
        };
        let carry = |(limactl, listed): &mut (&Limactl, Listed), new: Published| match new.protocol
        {
            Protocol::Tcp => limactl.carry(listed, "forward", new.port),
            Protocol::Udp => Err(Error::new(ErrorKind::Unavailable, "Lima carries TCP only")),
        };
        let cancel = |(limactl, listed): &mut (&Limactl, Listed), gone: Published| {
            limactl.carry(listed, "cancel", gone.port)
        };
        published::ensure(&self.published(), ports, connect, carry, cancel)
    }
}

fn no_lima() -> Error {
    Error::new(ErrorKind::Unavailable, "Lima is not installed")
}

fn step(activity: &str) -> ProgressStep {
    let (subject, activity) = ("machine".to_owned(), activity.to_owned());
    ProgressStep { subject, activity, done: 0, total: 0 }
}

/// What a far command says on standard error, for its refusal: the last of it.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    /// How much is kept, in bytes.
    const MOST: usize = 2048;

    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        let surplus = kept.len().saturating_sub(Self::MOST);
        kept.drain(..surplus);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
