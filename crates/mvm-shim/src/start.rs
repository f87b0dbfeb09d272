//! From a spec to a running jailer: cgroup leaves, terminal, FIFO, listener; then the way down to
//! the instance's user.
//!
//! The jailer is started from inside the VMM's cgroup leaf and without cgroup arguments, so there
//! is no moment at which a process of the VM is outside of its limits.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    process::{Child, Command, Stdio},
};

use mvm_proto::HOST_PORT;
use rustix::{
    fs::{CWD, Mode, OFlags, inotify, open, openat},
    process::{Gid, Uid, set_child_subreaper},
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use thiserror::Error;

use crate::{
    console,
    identity::ProcessId,
    record::{self, CONSOLE_LOG, LOG_FIFO, Spec, VMM_LOG, VSOCK_SOCKET},
    ring::RingLog,
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
    /// The API did not accept a connection in time.
    #[error("the VMM's API did not answer within {0} s")]
    Silent(u64),
}

/// A jailer at work and everything around it.
#[derive(Debug)]
pub struct Launched {
    /// The jailer.
    pub jailer: Child,
    /// The outer end of the console.
    pub console: OwnedFd,
    /// The console's log.
    pub console_log: RingLog,
    /// The reading end of the VMM's log FIFO.
    pub fifo: OwnedFd,
    /// The VMM's log.
    pub vmm_log: RingLog,
    /// Where the guest calls.
    pub listener: UnixListener,
    /// Tells when something appears in the jail's `run`.
    pub inotify: OwnedFd,
    /// The jail's `run`.
    pub run: OwnedFd,
    /// Where the exit record goes.
    pub out: OwnedFd,
    /// `memory.events` of the VMM's cgroup leaf.
    pub memory_events: File,
}

/// Starts the jailer.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub fn launch(spec: &Spec) -> Result<Launched, StartError> {
    let own = |act| move |source| StartError::Own { act, source };
    let id = ProcessId::own().map_err(own("find out its own start time"))?;
    let at = spec.records.join(record::SHIM);
    record::write(&at, &id).map_err(file("write", &at))?;
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| own("become a reaper")(errno.into()))?;

    let run = directory(&spec.jail.join("run"))?;
    let out = directory(&spec.records.join(record::OUT))?;
    let console_log = RingLog::open(directory(&spec.logs)?, CONSOLE_LOG);
    let vmm_log = RingLog::open(directory(&spec.logs)?, VMM_LOG);
    let fifo = open_fifo(spec)?;
    let listener = listen(spec, &run)?;
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .and_then(|fd| {
            let path = format!("/proc/self/fd/{}", run.as_raw_fd());
            inotify::add_watch(&fd, path, inotify::WatchFlags::CREATE)?;
            Ok(fd)
        })
        .map_err(|errno| own("watch the jail")(errno.into()))?;
    let at = spec.cgroup.join("vmm/memory.events");
    let memory_events = File::open(&at).map_err(file("open", &at))?;
    for log in [CONSOLE_LOG, VMM_LOG] {
        let at = spec.logs.join(log);
        std::os::unix::fs::lchown(&at, Some(spec.uid), Some(spec.uid))
            .map_err(file("chown", &at))?;
    }

    let console = console::open().map_err(own("make a terminal"))?;
    enter(spec, "vmm")?;
    let jailer = command(spec, &console.inner).and_then(|mut command| command.spawn());
    enter(spec, "shim")?;
    let jailer = jailer.map_err(file("execute", &spec.jailer))?;
    let console = console.outer;
    Ok(Launched {
        jailer,
        console,
        console_log,
        fifo,
        vmm_log,
        listener,
        inotify,
        run,
        out,
        memory_events,
    })
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
        .current_dir("/")
        .stdin(Stdio::from(inner.try_clone()?))
        .stdout(Stdio::from(inner.try_clone()?))
        .stderr(Stdio::from(inner.try_clone()?));
    Ok(command)
}

/// Opened for reading and writing, so that it never ends while the VMM reopens or is not there.
fn open_fifo(spec: &Spec) -> Result<OwnedFd, StartError> {
    let at = spec.jail.join(LOG_FIFO);
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(&at, flags, Mode::empty()).map_err(|errno| file("open", &at)(errno.into()))
}

fn listen(spec: &Spec, run: &OwnedFd) -> Result<UnixListener, StartError> {
    let path = spec.jail.join(format!("{VSOCK_SOCKET}_{HOST_PORT}"));
    let name = path.file_name().unwrap_or_default().to_owned();
    let short = std::path::Path::new("/proc/self/fd").join(run.as_raw_fd().to_string()).join(name);
    let bind = || -> io::Result<UnixListener> {
        match fs::remove_file(&short) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => {}
        }
        let listener = UnixListener::bind(&short)?;
        std::os::unix::fs::lchown(&short, Some(spec.uid), Some(spec.uid))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(file("listen at", &path))
}

fn directory(path: &std::path::Path) -> Result<OwnedFd, StartError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|errno| file("open", path)(errno.into()))
}

fn enter(spec: &Spec, leaf: &str) -> Result<(), StartError> {
    let at = spec.cgroup.join(leaf).join("cgroup.procs");
    fs::write(&at, "0").map_err(file("enter", &at))
}

fn file(act: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.display().to_string();
    move |source| StartError::File { act, path, source }
}
