//! One running test host, for the tasks that need one: the end-to-end runner, benchmarks, people.
//!
//! ```text
//! HostFiles::ensure ─► TestHost::start ─► finish ─► ssh, put … ─► drop: gone
//! ```
//! Starting is split in two so that several hosts resume side by side.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::image::Image;
use super::machine::{Lifetime, Machine, Peers};
use super::monitor::{Monitor, ensure_alive};
use super::payload::Payload;
use super::rundir::RunDir;
use super::session::{Session, Terminal};
use super::settle::{self, Place};
use crate::cache::Cache;
use crate::error::{Act, Error, Result};
use crate::tool;

/// How long a machine may take from its reset to its answer.
const BOOT: Duration = Duration::from_secs(240);

/// What every host of a task shares.
pub(crate) struct HostFiles {
    cache: Cache,
    image: Image,
}

impl HostFiles {
    /// Makes what is missing.
    pub(crate) fn ensure(cache: &Cache) -> Result<Self> {
        super::sweep(cache)?;
        Ok(Self { cache: cache.clone(), image: Image::ensure(cache)? })
    }

    /// The private key that every host accepts.
    pub(crate) fn key(&self) -> PathBuf {
        self.image.key()
    }
}

/// A pristine host, answering to ssh. It ends when dropped, unless it was released.
pub(crate) struct TestHost {
    run: RunDir,
    session: Session,
    children: Vec<Child>,
}

/// A host that is on its way.
pub(crate) struct Starting {
    run: RunDir,
    emulator: Child,
    session: Session,
    place: Place,
}

impl TestHost {
    /// Resumes one host with this payload; it lives as long as the task at most.
    pub(crate) fn resume(files: &HostFiles, payload: &Payload) -> Result<Self> {
        Self::start(files, payload, Place::ALONE, Peers::None, Lifetime::Task)?.finish()
    }

    /// Resumes one host that may outlive the task.
    pub(crate) fn resume_for(
        files: &HostFiles,
        payload: &Payload,
        lifetime: Lifetime,
    ) -> Result<Self> {
        Self::start(files, payload, Place::ALONE, Peers::None, lifetime)?.finish()
    }

    /// Begins to resume one host.
    pub(crate) fn start(
        files: &HostFiles,
        payload: &Payload,
        place: Place,
        peers: Peers,
        lifetime: Lifetime,
    ) -> Result<Starting> {
        let run = RunDir::create(&files.cache)?;
        let disk = run.path().join("run.qcow2");
        let mut overlay =
            tool::command(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2"]);
        tool::silent(overlay.arg("-b").arg(files.image.disk()).arg(&disk))?;
        let mut prefix = match &peers {
            Peers::None => Vec::new(),
            Peers::Tap { namespace, .. } => {
                ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec()
            }
        };
        if lifetime == Lifetime::Task {
            prefix.extend(["setpriv", "--pdeathsig", "KILL"].map(str::to_owned));
        }
        let port = free_port()?;
        let machine = Machine {
            dir: run.path(),
            boot: files.image.boot(),
            disk,
            payload: payload.disk(),
            port,
            peers,
            resume: Some(files.image.state()),
            lifetime,
        };
        let emulator = machine.start()?;
        run.record("emulator", emulator.id())?;
        let session = Session::new(run.path(), &files.image.key(), port, prefix);
        Ok(Starting { run, emulator, session, place })
    }

    /// Writes everything to the disk, the payload above all: a reset loses what was not written.
    pub(crate) fn flush(&self) -> Result<()> {
        self.feed(&["sync"], "")
    }

    /// Resets the machine, as when its power goes and comes back: whatever runs in it ends, what its
    /// kernel has not written to the disk is lost. It comes back by an ordinary boot.
    pub(crate) fn reset(&mut self) -> Result<()> {
        let dir = self.run.path().to_path_buf();
        let [master, emulator] = self.children.as_mut_slice() else {
            return Err(Error::refused("a host of another task is not reset"));
        };
        Monitor::connect(&dir, emulator)?.ask("system_reset", &json!({}))?;
        let _gone_already = master.kill();
        let _status = master.wait();
        self.session.forget();
        *master = self.session.connect(BOOT, || ensure_alive(&dir, emulator))?;
        self.run.record("ssh", master.id())?;
        self.feed(&["bash", "-s"], &settle::clock())
    }

    /// A host that another task released.
    pub(crate) fn adopt(dir: PathBuf, key: &Path, port: u16) -> Self {
        let session = Session::new(&dir, key, port, Vec::new());
        Self { run: RunDir::adopt(dir), session, children: Vec::new() }
    }

    /// A command in the host; standard streams and exit status are the caller's to arrange.
    pub(crate) fn ssh(&self, argv: &[String]) -> Command {
        self.session.command(argv, Terminal::No)
    }

    /// A command in the host with a terminal, for a person.
    pub(crate) fn ssh_terminal(&self, argv: &[String]) -> Command {
        self.session.command(argv, Terminal::Yes)
    }

    /// The host's directory here, with its logs.
    pub(crate) fn dir(&self) -> &Path {
        self.run.path()
    }

    /// The port on 127.0.0.1 that leads to its secure shell.
    pub(crate) fn port(&self) -> u16 {
        self.session.port()
    }

    /// Lets the host live on after this task.
    pub(crate) fn release(&mut self) -> Result<()> {
        self.children.clear();
        self.run.release()
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _gone_already = child.kill();
            let _status = child.wait();
        }
    }
}

impl Starting {
    /// Waits until the host answers and tells it who it is.
    pub(crate) fn finish(self) -> Result<TestHost> {
        let Self { run, mut emulator, session, place } = self;
        let mut monitor = Monitor::connect(run.path(), &mut emulator)?;
        monitor.await_status("query-status", "paused", Duration::from_secs(60))?;
        monitor.ask("cont", &json!({}))?;
        let master =
            session.connect(Duration::from_secs(90), || ensure_alive(run.path(), &mut emulator))?;
        run.record("ssh", master.id())?;
        let host = TestHost { run, session, children: vec![master, emulator] };
        host.feed(&["bash", "-s"], &settle::script(place)?)?;
        Ok(host)
    }
}

impl TestHost {
    /// Runs a command with this text on its standard input; its output is shown only on failure.
    pub(crate) fn feed(&self, argv: &[&str], input: &str) -> Result<()> {
        use std::io::Write;
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let mut command = self.ssh(&argv);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().act(|| "start ssh".into())?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).act(|| "talk to the test host".into())?;
        }
        let output = child.wait_with_output().act(|| "hear from the test host".into())?;
        if output.status.success() {
            return Ok(());
        }
        let words = [output.stdout, output.stderr].concat();
        Err(Error::Tool {
            command: format!("{} (in the test host)", argv.join(" ")),
            status: output.status.to_string(),
            output: format!("\n{}", String::from_utf8_lossy(&words).trim_end()),
        })
    }
}

/// A TCP port on 127.0.0.1 that nobody listens on at the moment.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).act(|| "find a free port".into())?;
    Ok(listener.local_addr().act(|| "learn the free port".into())?.port())
}
