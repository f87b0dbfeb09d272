//! The calls of `limactl` that a machine needs: what Lima's reference says of `list`, `create`, `start`,
//! `stop`, `delete` and `shell`, and of the ssh configuration that it writes.
//!
//! Lima keeps its machines below a person's home and refuses to run as root; both are its own business,
//! and what it says is passed on. This module refuses to know what a machine is for.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use mvm_core::error::{Error, ErrorKind};
use mvm_host::tool;
use serde::Deserialize;

use crate::{config, provider::spawn};

/// The machine's name in Lima; `lima-mvm` is the one of its host in Lima's ssh configuration.
pub(super) const NAME: &str = "mvm";
const HOST: &str = "lima-mvm";
/// Where Lima and what it calls are looked for: where its packages and Homebrew put them, then the system.
const DIRECTORIES: [&str; 2] = ["/opt/homebrew/bin", "/usr/local/bin"];
const PATH: &str = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// What a call may take that moves nothing, and one that makes, starts or ends a machine: the image is
/// fetched when the machine is made or started first.
const QUESTION: Duration = Duration::from_secs(60);
const WORK: Duration = Duration::from_secs(1800);

/// A machine as Lima lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Listed {
    name: String,
    /// `Running`, `Stopped`, or what else Lima says of it.
    pub(super) status: String,
    #[serde(default, rename = "sshConfigFile")]
    ssh_config: PathBuf,
}

/// Lima on this machine.
#[derive(Debug, Clone)]
pub(super) struct Limactl {
    program: PathBuf,
    ssh: PathBuf,
    /// `NAME=VALUE` of what it gets to see.
    env: Vec<OsString>,
}

/// A program from Lima's directories or the system's.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let mut own = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
    own.find(|path| path.is_file()).or_else(|| tool::find(name).ok())
}

impl Limactl {
    /// The one that is installed; none when there is none.
    pub(super) fn installed() -> Option<Self> {
        let named =
            |name: &str| config::variable(name).map(|value| format!("{name}={value}").into());
        let env = ["HOME", "LIMA_HOME", "USER"].into_iter().filter_map(named).collect();
        Some(Self::at(find("limactl")?, find("ssh")?, env))
    }

    /// These very programs.
    pub(super) const fn at(program: PathBuf, ssh: PathBuf, env: Vec<OsString>) -> Self {
        Self { program, ssh, env }
    }

    /// The machine; none when there is none.
    pub(super) fn list(&self) -> Result<Option<Listed>, Error> {
        let said = self.call(&self.program, &["list", "--json"].map(OsStr::new), QUESTION)?;
        for line in String::from_utf8_lossy(&said).lines().filter(|line| !line.trim().is_empty()) {
            let listed: Listed = serde_json::from_str(line).map_err(|error| {
                Error::new(ErrorKind::Failed, "cannot understand the list of Lima").because(&error)
            })?;
            if listed.name == NAME {
                return Ok(Some(listed));
            }
        }
        Ok(None)
    }

    /// Makes the machine from a file.
    pub(super) fn create(&self, file: &Path) -> Result<(), Error> {
        let name = format!("--name={NAME}");
        self.work(&["create".as_ref(), "--tty=false".as_ref(), name.as_ref(), file.as_ref()])
    }

    /// Starts it, and waits until it answers.
    pub(super) fn start(&self) -> Result<(), Error> {
        self.work(&["start", "--tty=false", NAME].map(OsStr::new))
    }

    /// Stops it in the ordinary way.
    pub(super) fn stop(&self) -> Result<(), Error> {
        self.work(&["stop", NAME].map(OsStr::new))
    }

    /// Ends it at once.
    pub(super) fn end(&self) -> Result<(), Error> {
        self.work(&["stop", "--force", NAME].map(OsStr::new))
    }

    /// Removes it.
    pub(super) fn delete(&self) -> Result<(), Error> {
        self.work(&["delete", "--force", NAME].map(OsStr::new))
    }

    /// A command in the machine, as root, whose standard streams are ours; its errors go to a file.
    pub(super) fn shell(&self, words: &[&str], log: &Path) -> Result<Child, Error> {
        let shell = ["shell", "--workdir", "/", NAME, "sudo", "-n"];
        let words: Vec<&OsStr> = shell.iter().chain(words).map(OsStr::new).collect();
        let line = self.line(&self.program, &words);
        let line: Vec<&OsStr> = line.iter().map(OsString::as_os_str).collect();
        spawn::carrier(Path::new(ENV), &line, Path::new("/"), log).map_err(|error| {
            Error::new(ErrorKind::Failed, format!("cannot run {}", self.program.display()))
                .because(&error)
        })
    }

    /// Asks Lima's own connection to carry a port of this machine into it, or to carry it no more.
    pub(super) fn carry(&self, listed: &Listed, order: &str, port: u16) -> Result<(), Error> {
        let way = format!("127.0.0.1:{port}:127.0.0.1:{port}");
        let config = listed.ssh_config.as_os_str();
        let words = ["-F".as_ref(), config, "-O".as_ref(), order.as_ref(), "-L".as_ref()];
        let words: Vec<&OsStr> = words.into_iter().chain([way.as_ref(), HOST.as_ref()]).collect();
        self.call(&self.ssh, &words, QUESTION).map(drop)
    }

    fn work(&self, words: &[&OsStr]) -> Result<(), Error> {
        self.call(&self.program, words, WORK).map(drop)
    }

    fn call(&self, program: &Path, words: &[&OsStr], limit: Duration) -> Result<Vec<u8>, Error> {
        let line = self.line(program, words);
        let line: Vec<&OsStr> = line.iter().map(OsString::as_os_str).collect();
        Ok(tool::run(Path::new(ENV), &line, b"", limit)?.stdout)
    }

    /// The arguments of `env` that run a program with what it gets to see.
    fn line(&self, program: &Path, words: &[&OsStr]) -> Vec<OsString> {
        let path = OsString::from(format!("PATH={PATH}"));
        let env = self.env.iter().cloned().chain([path, program.as_os_str().to_owned()]);
        env.chain(words.iter().map(|word| (*word).to_owned())).collect()
    }
}

/// Gives a program an environment.
const ENV: &str = "/usr/bin/env";
