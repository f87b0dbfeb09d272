//! Processes that outlive a call or carry a connection, and packages of the caller's machine.
//!
//! Helpers that run to their end go through `mvm_host::tool`; this is for the others. A process is
//! known by pid and start time, so that a reused pid is never hit.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mvm_core::{
    error::{Error, ErrorKind},
    port::{Progress, ProgressStep},
};
use mvm_host::tool;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::Packages;
use crate::forward::{Link, SUBCOMMAND};

/// How often a process is looked at while it is waited for.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// How long packages may take to install.
const INSTALL: Duration = Duration::from_secs(1200);

/// A program and the Debian package that brings it.
#[derive(Clone, Copy)]
pub(super) struct Need {
    pub(super) program: &'static str,
    pub(super) package: &'static str,
}

/// One process for ever, even after its pid went to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: i32,
    /// Clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    started: u64,
}

impl Identity {
    /// The process that has this pid now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let (state, started) = stat(pid)?;
        (state != "Z").then_some(Self { pid, started })
    }

    /// Whether this very process runs.
    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Waits for its end; whether it came within `limit`.
    pub(super) fn await_end(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }

    /// Kills it; whether it is gone.
    pub(super) fn end(self) -> bool {
        if let (Some(pid), true) = (Pid::from_raw(self.pid), self.is_alive()) {
            // One that ends by itself in between is as gone.
            let _ = kill_process(pid, Signal::KILL);
        }
        self.await_end(Duration::from_secs(20))
    }
}

/// State and start time; the name in parentheses may hold spaces and parentheses.
fn stat(pid: i32) -> Option<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(((*fields.first()?).to_owned(), fields.get(19)?.parse().ok()?))
}

/// A process that carries a connection on its standard streams; its words go to a file.
#[expect(clippy::disallowed_methods, reason = "a carrier lives as long as its connection")]
pub(super) fn carrier(
    program: &Path,
    args: &[&OsStr],
    directory: &Path,
    log: &Path,
) -> std::io::Result<Child> {
    Command::new(program)
        .args(args)
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(log)?)
        .spawn()
}

/// The link that a carrier carries.
pub(super) fn link(mut child: Child, log: Option<&Path>) -> Result<Link, Error> {
    match (child.stdout.take(), child.stdin.take()) {
        (Some(reader), Some(writer)) => Ok(Link {
            reader: Box::new(reader),
            writer: Box::new(writer),
            carrier: Some(child),
            log: log.map(Path::to_owned),
        }),
        _ => Err(Error::new(ErrorKind::Failed, "a connection has no streams")),
    }
}

/// A link to this very program.
pub(super) fn local_link() -> Result<Link, Error> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Failed, "cannot start this program once more").because(&error)
    };
    let own = std::env::current_exe().map_err(failed)?;
    let args = [OsStr::new(SUBCOMMAND)];
    let child = carrier(&own, &args, Path::new("/"), Path::new("/dev/null")).map_err(failed)?;
    link(child, None)
}

/// Makes sure that the programs are there, by installing their packages where that is asked for.
pub(super) fn ensure_packages(
    needs: &[Need],
    packages: Packages,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let missing: Vec<&Need> =
        needs.iter().filter(|need| tool::find(need.program).is_err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // Packages of one source depend on each other's exact version, so they are asked for together.
    let emulator = |need: &Need| need.package.starts_with("qemu");
    let is_torn = missing.iter().any(|need| emulator(need));
    let mut names: Vec<&str> = needs
        .iter()
        .filter(|need| tool::find(need.program).is_err() || (is_torn && emulator(need)))
        .map(|need| need.package)
        .collect();
    names.dedup();
    let list = names.join(" ");
    if packages == Packages::Expect {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("these packages are missing: {list}"),
        )
        .hint("run `mvm bootstrap`, which installs them, or install them yourself"));
    }
    progress.report(&ProgressStep {
        subject: "packages".to_owned(),
        activity: format!("installing {list}"),
        done: 0,
        total: 0,
    });
    let apt = tool::find("apt-get").map_err(|error| {
        Error::from(error).hint(format!("install these programs' packages yourself: {list}"))
    })?;
    tool::run(&apt, &["update".as_ref(), "-q".as_ref()], b"", INSTALL)?;
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(["-o", "DPkg::Lock::Timeout=300"]);
    args.extend(names);
    let args: Vec<&OsStr> = args.into_iter().map(OsStr::new).collect();
    tool::run(&apt, &args, b"", INSTALL)?;
    Ok(())
}

/// Loads a module if there is one of that name.
pub(super) fn load_module(name: &str) {
    if let Ok(modprobe) = tool::find("modprobe") {
        // What is built in needs no loading, and what is missing `doctor` names.
        let _ = tool::run(&modprobe, &[name.as_ref()], b"", Duration::from_secs(30));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_another_start_time_is_not_the_same() {
        let me = i32::try_from(std::process::id()).ok().and_then(Identity::of);
        assert!(me.is_some_and(Identity::is_alive));
        let other = me.map(|me| Identity { started: me.started + 1, ..me });
        assert!(!other.is_some_and(Identity::is_alive));
    }

    #[test]
    fn setup_names_the_missing_package_and_installs_nothing() {
        struct Silent;
        impl Progress for Silent {
            fn report(&self, _step: &ProgressStep) {}
        }
        let need = [Need { program: "no-such-program", package: "no-such-package" }];
        let refused = ensure_packages(&need, Packages::Expect, &Silent);
        assert!(refused.is_err_and(|error| error.message.contains("no-such-package")));
    }
}
