//! From a spec to a running jailer: cgroup leaves, terminal, FIFO, listener; then the way down to
//! the instance's user.
//!
//! The jailer is started from inside the VMM's cgroup leaf and without cgroup arguments, so there
//! is no moment at which a process of the VM is outside of its limits.
//!
//! A shim that comes after another one finds a VMM that may be hostile by now and owns the jail's
//! `run`: what it makes and opens there, it does as the instance's user.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mvm_proto::HOST_PORT;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, inotify, openat},
    process::{Gid, Uid, set_child_subreaper},
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use thiserror::Error;

use crate::{
    console,
    identity::ProcessId,
    journal::Journal,
    record::{self, CONSOLE_LOG, LOG_FIFO, SHIM_LOG, Spec, VMM_LOG, VSOCK_SOCKET},
    ring::RingLog,
    socket,
};

/// The most files a VMM may have open: drives, tap, vsock connections, API and log.
const OPEN_FILES_MAX: u32 = 2048;

/// Why a VMM could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// A file or directory of the instance.
    #[error("cannot {act} {path}")]
    File {
        /// What was tried.
        act: &'static str,
        /// With what.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Something of this process itself.
    #[error("cannot {act}")]
    Own {
        /// What was tried.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The jailer ended without leaving a VMM.
    #[error("the jailer failed ({status}): {output}")]
    Jailer {
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// The VMM ended before its API accepted a connection.
    #[error("the VMM ended before it was ready: {0}")]
    Ended(String),
    /// The VMM to watch ended meanwhile.
    #[error("the VMM ended before it could be watched")]
    Gone,
    /// The API did not accept a connection in time.
    #[error("the VMM's API did not answer within {0} s")]
    Silent(u64),
}

/// What a shim reads from and writes to, whichever VMM it watches.
#[derive(Debug)]
pub struct Ground {
    /// The shim itself.
    pub id: ProcessId,
    /// The console's log.
    pub console_log: RingLog,
    /// The VMM's log.
    pub vmm_log: RingLog,
    /// The shim's own log.
    pub journal: Journal,
    /// The jail's `run`.
    pub run: OwnedFd,
    /// Where the exit record goes.
    pub out: OwnedFd,
    /// `memory.events` of the VMM's cgroup leaf.
    pub memory_events: File,
}

/// A jailer at work.
#[derive(Debug)]
pub struct Launched {
    /// The jailer.
    pub jailer: Child,
    /// The outer end of the console.
    pub console: OwnedFd,
    /// The reading end of the VMM's log FIFO.
    pub fifo: OwnedFd,
    /// Where the guest calls.
    pub listener: UnixListener,
    /// Tells when something appears in the jail's `run`.
    pub inotify: OwnedFd,
}

/// Writes down who this is, and opens what only root may.
///
/// # Errors
/// [`StartError`].
pub fn prepare(spec: &Spec) -> Result<Ground, StartError> {
    let own = |act| move |source| StartError::Own { act, source };
    let id = ProcessId::own().map_err(own("find out its own start time"))?;
    let at = spec.records.join(record::SHIM);
    record::write(&at, &id).map_err(file("write", &at))?;
    let at = spec.cgroup.join("vmm/memory.events");
    let memory_events = File::open(&at).map_err(file("open", &at))?;
    let ground = Ground {
        id,
        console_log: RingLog::open(directory(&spec.logs)?, CONSOLE_LOG),
        vmm_log: RingLog::open(directory(&spec.logs)?, VMM_LOG),
        journal: Journal::open(directory(&spec.logs)?, &spec.instance, spec.operation.as_deref()),
        run: directory(&spec.jail.join("run"))?,
        out: directory(&spec.records.join(record::OUT))?,
        memory_events,
    };
    for log in [CONSOLE_LOG, VMM_LOG, SHIM_LOG] {
        let at = spec.logs.join(log);
        std::os::unix::fs::lchown(&at, Some(spec.uid), Some(spec.uid))
            .map_err(file("chown", &at))?;
    }
    Ok(ground)
}

/// Starts the jailer.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub fn launch(spec: &Spec, run: &OwnedFd) -> Result<Launched, StartError> {
    let own = |act| move |source| StartError::Own { act, source };
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| own("become a reaper")(errno.into()))?;
    let fifo = open_fifo(run)?;
    let listener = listen(run)?;
    let socket = beside(run, &listener_name());
    std::os::unix::fs::lchown(&socket, Some(spec.uid), Some(spec.uid))
        .map_err(file("chown", &socket))?;
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .and_then(|fd| {
            let path = format!("/proc/self/fd/{}", run.as_raw_fd());
            inotify::add_watch(&fd, path, inotify::WatchFlags::CREATE)?;
            Ok(fd)
        })
        .map_err(|errno| own("watch the jail")(errno.into()))?;

    let console = console::open().map_err(own("make a terminal"))?;
    enter(spec, "vmm")?;
    let jailer = command(spec, &console.inner).and_then(|mut command| command.spawn());
    enter(spec, "shim")?;
    let jailer = jailer.map_err(file("execute", &spec.jailer))?;
    let console = console.outer;
    Ok(Launched { jailer, console, fifo, listener, inotify })
}

/// Gives up everything that is not needed to hold a terminal and two files.
///
/// # Errors
/// When the kernel refuses; the process must not go on then.
pub fn drop_privileges(uid: u32) -> Result<(), StartError> {
    let down = || -> rustix::io::Result<()> {
        set_no_new_privs(true)?;
        set_thread_groups(&[])?;
        let gid = Some(Gid::from_raw(uid));
        set_thread_res_gid(gid, gid, gid)?;
        let uid = Some(Uid::from_raw(uid));
        set_thread_res_uid(uid, uid, uid)
    };
    down().map_err(|errno| StartError::Own { act: "drop its privileges", source: errno.into() })
}

#[expect(clippy::disallowed_methods, reason = "the jailer is this program's one child")]
fn command(spec: &Spec, inner: &OwnedFd) -> io::Result<Command> {
    let mut command = Command::new(&spec.jailer);
    command
        .args(["--id", &spec.instance, "--new-pid-ns"])
        .args(["--uid", &spec.uid.to_string(), "--gid", &spec.uid.to_string()])
        .arg("--exec-file")
        .arg(&spec.firecracker)
        .arg("--chroot-base-dir")
        .arg(&spec.chroot_base)
        .args(["--resource-limit", &format!("no-file={OPEN_FILES_MAX}")])
        .args(["--", "--api-sock", record::API_SOCKET])
        .args(["--log-path", LOG_FIFO, "--level", "Info"])
        .env_clear()
        .stdin(Stdio::from(inner.try_clone()?))
        .stdout(Stdio::from(inner.try_clone()?))
        .stderr(Stdio::from(inner.try_clone()?));
    Ok(command)
}

/// The reading end of the VMM's log FIFO, opened for writing too, so that it never ends while the
/// VMM reopens it or is not there.
///
/// # Errors
/// When it is not there, or something else is: a file would be ready to be read for ever.
pub fn open_fifo(run: &OwnedFd) -> Result<OwnedFd, StartError> {
    let name = last_part(LOG_FIFO);
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || -> io::Result<OwnedFd> {
        let fifo = openat(run, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&fifo)?.st_mode).is_fifo() {
            return Ok(fifo);
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no FIFO"))
    };
    open().map_err(file("open", &beside(run, name)))
}

/// Where the guest calls; a socket of an earlier shim is replaced.
///
/// # Errors
/// When the name is taken by something else.
pub fn listen(run: &OwnedFd) -> Result<UnixListener, StartError> {
    let name = listener_name();
    socket::listen(run, &name).map_err(file("listen at", &beside(run, &name)))
}

/// The name that Firecracker gives to the guest's calls to the host's port.
fn listener_name() -> String {
    format!("{}_{HOST_PORT}", last_part(VSOCK_SOCKET))
}

/// A short path to what is in the jail's `run`, whatever becomes of the long one.
fn beside(run: &OwnedFd, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(run.as_raw_fd().to_string()).join(name)
}

/// The name of a file whose path is relative to the jail's root.
#[must_use]
pub fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn directory(path: &Path) -> Result<OwnedFd, StartError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|errno| file("open", path)(errno.into()))
}

/// Moves this process to a leaf of the instance's cgroup.
///
/// # Errors
/// When the leaf is not there.
pub fn enter(spec: &Spec, leaf: &str) -> Result<(), StartError> {
    let at = spec.cgroup.join(leaf).join("cgroup.procs");
    fs::write(&at, "0").map_err(file("enter", &at))
}

fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.display().to_string();
    move |source| StartError::File { act, path, source }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use rustix::fs::mkfifoat;

    use super::*;

    #[test]
    fn only_a_fifo_is_taken_for_the_log() {
        let run = tempfile::tempdir().unwrap();
        let at = directory(run.path()).unwrap();
        let path = run.path().join(last_part(LOG_FIFO));
        fs::write(&path, "endless").unwrap();
        assert!(open_fifo(&at).is_err());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(open_fifo(&at).is_err());
        fs::remove_file(&path).unwrap();
        mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        assert!(open_fifo(&at).is_ok());
    }
}
