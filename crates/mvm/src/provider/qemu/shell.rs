//! The secure shell into a machine: one connection, kept open, shared by every later call.
//!
//! What is run there is one of two fixed command lines; data goes through standard input.

use std::{
    ffi::{OsStr, OsString},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    time::Duration,
};

use mvm_core::error::{Error, ErrorKind};
use mvm_host::tool;

use super::seed::Seed;
use crate::{
    forward::{Link, SUBCOMMAND},
    provider::{files::fault, programs, spawn},
};

/// The name under which the machine's host key is known.
const ALIAS: &str = "mvm-machine";
/// Unpacks what comes in; the same as the machine's own unit does with its second disk.
const UNPACK: &str = "tar --extract --file=- --directory=/ --no-same-owner \
                      --preserve-permissions --keep-directory-symlink && sync";

/// How to reach one running machine.
pub(super) struct Shell<'a> {
    /// The directory with the keys.
    pub(super) keys: &'a Path,
    /// Where the shared connection's socket goes.
    pub(super) run: &'a Path,
    /// The port on 127.0.0.1.
    pub(super) port: u16,
}

impl Shell<'_> {
    /// Makes the two key pairs and the file that knows the machine by its key.
    pub(super) fn ensure_keys(keys: &Path) -> Result<(), Error> {
        let keygen = tool::find("ssh-keygen")?;
        for name in ["key", "host_key"] {
            let path = keys.join(name);
            if path.with_extension("pub").exists() {
                continue;
            }
            let _half_made = std::fs::remove_file(&path);
            let words = ["-q", "-t", "ed25519", "-N", "", "-C", "mvm", "-f"].map(OsStr::new);
            let args: Vec<&OsStr> = words.into_iter().chain([path.as_os_str()]).collect();
            tool::run(&keygen, &args, b"", Duration::from_secs(60))?;
        }
        let path = keys.join("host_key.pub");
        let public = std::fs::read_to_string(&path).map_err(fault("read", &path))?;
        let known = keys.join("known_hosts");
        std::fs::write(&known, format!("{ALIAS} {public}")).map_err(fault("write", &known))
    }

    /// A link to `mvm __forwarded`; nothing was heard over it yet.
    pub(super) fn link(&self) -> Result<Link, Error> {
        let log = self.log();
        spawn::link(self.call(&format!("/{}/mvm {SUBCOMMAND}", programs::DIRECTORY))?, Some(&log))
    }

    /// Puts programs into the running machine.
    pub(super) fn push(&self, seed: &Seed) -> Result<(), Error> {
        let act = || "cannot put the programs into the machine".to_owned();
        let failed =
            |error: std::io::Error| Error::new(ErrorKind::Unavailable, act()).because(&error);
        let mut child = self.call(UNPACK)?;
        let Some(pipe) = child.stdin.take() else {
            return Err(Error::new(ErrorKind::Failed, act()));
        };
        let mut pipe = std::io::BufWriter::with_capacity(1 << 18, pipe);
        let written = seed.write(&mut pipe).and_then(|()| pipe.flush());
        drop(pipe);
        let status = child.wait().map_err(failed)?;
        if status.success() {
            return written.map_err(failed);
        }
        Err(self.refused(status).context(act()))
    }

    /// Closes the shared connection.
    pub(super) fn close(&self) {
        let mut args = self.arguments();
        args.extend(["-O", "exit", "root@127.0.0.1"].map(OsString::from));
        let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
        if let Ok(ssh) = tool::find("ssh") {
            // Without a connection there is nothing to close.
            let _ = tool::run(&ssh, &args, b"", Duration::from_secs(20));
        }
    }

    fn refused(&self, status: ExitStatus) -> Error {
        let words = std::fs::read_to_string(self.log()).unwrap_or_default();
        let words = words.trim().lines().last().unwrap_or_default().to_owned();
        Error::new(ErrorKind::Unavailable, format!("ssh ended with {status}: {words}"))
    }

    fn call(&self, line: &str) -> Result<Child, Error> {
        let mut args = self.arguments();
        args.extend(["root@127.0.0.1", line].map(OsString::from));
        let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
        let ssh = tool::find("ssh")?;
        spawn::carrier(&ssh, &args, self.run, &self.log()).map_err(fault("run", &ssh))
    }

    fn log(&self) -> PathBuf {
        self.run.join(format!("ssh-{}.log", std::process::id()))
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["-T", "-F", "none", "-i"].map(OsString::from).to_vec();
        args.push(self.keys.join("key").into());
        // The directory is the working directory: a socket's path must be short.
        args.extend(["-S".into(), format!("ssh-{}", self.port).into()]);
        args.extend(["-p".into(), self.port.to_string().into()]);
        let known = format!("UserKnownHostsFile \"{}\"", self.keys.join("known_hosts").display());
        for option in [
            known.as_str(),
            &format!("HostKeyAlias={ALIAS}"),
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "LogLevel=ERROR",
            "ControlMaster=auto",
            "ControlPersist=yes",
            "ConnectTimeout=60",
            // A machine whose kernel hung is noticed after 90 s of silence.
            "ServerAliveInterval=10",
            "ServerAliveCountMax=9",
        ] {
            args.extend(["-o".into(), OsString::from(option)]);
        }
        args
    }
}
