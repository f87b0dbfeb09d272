//! Child processes: started in sessions of their own, reaped in one place, signalled safely.
//!
//! As process 1 the agent inherits every orphan, so one thread reaps for all. It takes a status
//! only while it holds the registry's lock, and every start holds that lock too: so nobody's
//! status is stolen, and a process id that the registry says runs is never another's.
//! This module refuses to know what the children are for.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;

use mvm_proto::Exit;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process_group,
    pidfd_open, waitid,
};

struct Registry {
    children: Mutex<BTreeMap<u32, Option<Exit>>>,
    changed: Condvar,
}

static REGISTRY: Registry =
    Registry { children: Mutex::new(BTreeMap::new()), changed: Condvar::new() };
static REAPER: Once = Once::new();

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Option<Exit>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A started child: its pipes, and a descriptor that is readable once it ended.
#[derive(Debug)]
pub(crate) struct Started {
    /// The process id; also the id of its process group and session.
    pub(crate) pid: u32,
    /// Readable once the process ended.
    pub(crate) pidfd: OwnedFd,
    /// The pipes asked for in the command.
    pub(crate) child: Child,
}

/// Starts a command. The status has to be collected with [`wait`].
pub(crate) fn start(command: &mut Command) -> io::Result<Started> {
    REAPER.call_once(|| {
        let _ = std::thread::Builder::new().name("reaper".to_owned()).spawn(reap_forever);
    });
    let mut children = REGISTRY.lock();
    let child = command.spawn()?;
    let pid = child.id();
    children.insert(pid, None);
    REGISTRY.changed.notify_all();
    let pidfd = pidfd_open(to_pid(pid)?, PidfdFlags::empty())?;
    Ok(Started { pid, pidfd, child })
}

/// Waits for a child's end, `None` when the deadline comes first. Forgets the child.
pub(crate) fn wait(pid: u32, deadline: Option<Instant>) -> Option<Exit> {
    let mut children = REGISTRY.lock();
    loop {
        match children.get(&pid) {
            None => return None,
            Some(Some(exit)) => {
                let exit = *exit;
                children.remove(&pid);
                return Some(exit);
            }
            Some(None) => {}
        }
        children = match deadline {
            None => REGISTRY.changed.wait(children).unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let left = deadline.checked_duration_since(Instant::now())?;
                let waited = REGISTRY.changed.wait_timeout(children, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}

/// Sends a signal to a child's process group while the child lives; says whether it does.
pub(crate) fn signal_group(pid: u32, signal: i32) -> io::Result<bool> {
    let Some(signal) = Signal::from_named_raw(signal) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let children = REGISTRY.lock();
    if !matches!(children.get(&pid), Some(None)) {
        return Ok(false);
    }
    kill_process_group(to_pid(pid)?, signal)?;
    Ok(true)
}

/// Runs a command to its end, with a deadline after which its process group is killed.
pub(crate) fn run(command: &mut Command, deadline: Instant) -> io::Result<Exit> {
    let started = start(command)?;
    if let Some(exit) = wait(started.pid, Some(deadline)) {
        return Ok(exit);
    }
    signal_group(started.pid, libc::SIGKILL)?;
    wait(started.pid, None);
    Err(io::Error::from(io::ErrorKind::TimedOut))
}

fn to_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

fn reap_forever() {
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::All, peek) {
            Ok(_) => reap_ended(),
            Err(rustix::io::Errno::CHILD) => wait_for_a_child(),
            Err(_) => {}
        }
    }
}

/// Collects every status there is.
fn reap_ended() {
    let mut children = REGISTRY.lock();
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
        if let Some(entry) = children.get_mut(&pid) {
            *entry = Some(exit_of(status));
        }
    }
    REGISTRY.changed.notify_all();
}

fn wait_for_a_child() {
    let children = REGISTRY.lock();
    if !children.values().any(Option::is_none) {
        let _unused = REGISTRY.changed.wait(children).unwrap_or_else(PoisonError::into_inner);
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(255),
    }
}
