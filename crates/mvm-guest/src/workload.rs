//! The workload: the image's service, its drain before a sleep, and the end of it all.
//!
//! This module refuses to know what the service does.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mvm_proto::FailureKind;
use rustix::mount::{UnmountFlags, unmount};
use rustix::system::{RebootCommand, reboot};

use crate::agent::{Agent, Service};
use crate::console::say;
use crate::failure::{Context, Outcome, failure};
use crate::serve::spawn;
use crate::{exec, gateway, process, quiesce, services};

/// How long the last answer may take to leave the guest.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(1);

/// The SSH server that is started where the image brings it.
const DROPBEAR: &str = "/usr/sbin/dropbear";

/// The role of instances that lead traffic.
const GATEWAY: &str = "gateway";

/// The user that owns nothing.
const NOBODY: &str = "65534";

/// How long after its end the gateway is started again.
const GATEWAY_PAUSE: Duration = Duration::from_secs(1);

/// How long killed processes may take to be gone.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// Starts the image's service and SSH server, once.
pub(crate) fn start(agent: &Arc<Agent>) {
    if !agent.take_start_gate() {
        return;
    }
    let program = agent.places.image.join("start");
    let services = services::read(agent).unwrap_or_else(|error| {
        say(&error.message);
        Vec::new()
    });
    if is_executable(&program) {
        start_service(agent, &program.display().to_string());
    } else if !services.is_empty() {
        services::start(agent, services);
    } else if agent.config().is_some_and(|config| config.role == GATEWAY) {
        let agent = Arc::clone(agent);
        spawn("gateway", move || keep_gateway(&agent));
    }
    if is_executable(Path::new(DROPBEAR)) && agent.places.image.join("ssh_authorized_keys").exists()
    {
        let started = prepare_ssh(&agent.places.image.join("ssh_authorized_keys"))
            .because("cannot prepare the SSH server")
            .and_then(|()| exec::hook_command(agent, DROPBEAR))
            .and_then(|mut command| {
                command.args(["-F", "-R", "-s"]);
                process::start(&mut command).because("cannot start the SSH server")
            });
        match started {
            Ok(started) => {
                let pid = started.pid;
                spawn("ssh", move || report_end("the SSH server", pid));
            }
            Err(error) => say(&error.message),
        }
    }
}

fn start_service(agent: &Arc<Agent>, program: &str) {
    let started = exec::hook_command(agent, program)
        .and_then(|mut command| process::start(&mut command).because("cannot start the service"));
    match started {
        Ok(started) => {
            agent.set_service(Service::Running);
            let agent = Arc::clone(agent);
            spawn("service", move || {
                if let Some(exit) = process::wait(started.pid, None) {
                    say(&format!("the service ended with code {}", exit.shell_code()));
                    agent.set_service(Service::Ended(exit));
                }
            });
        }
        Err(error) => say(&error.message),
    }
}

/// Keeps the built-in gateway running, as a user without rights; any port may be its.
fn keep_gateway(agent: &Arc<Agent>) {
    let ports = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let mut user = NOBODY;
    if let Err(error) = ports {
        say(&format!("the gateway runs as root, for it could have no port below 1024: {error}"));
        user = "0";
    }
    let own = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    loop {
        let started =
            exec::command_of(agent, &own.display().to_string(), user).and_then(|mut command| {
                command.arg(gateway::COMMAND);
                process::start(&mut command).because("cannot start the gateway")
            });
        match started {
            Ok(started) => report_end("the gateway", started.pid),
            Err(error) => say(&error.message),
        }
        if agent.is_ending() {
            return;
        }
        std::thread::sleep(GATEWAY_PAUSE);
    }
}

fn report_end(what: &str, pid: u32) {
    if let Some(exit) = process::wait(pid, None) {
        say(&format!("{what} ended with code {}", exit.shell_code()));
    }
}

/// Host keys are this VM's own: their directory is in memory.
fn prepare_ssh(keys: &Path) -> std::io::Result<()> {
    let private = |path: &str| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    private("/run/dropbear")?;
    if fs::symlink_metadata("/etc/dropbear").is_ok_and(|metadata| metadata.is_dir()) {
        fs::remove_dir_all("/etc/dropbear")?;
    }
    match std::os::unix::fs::symlink("/run/dropbear", "/etc/dropbear") {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    private("/root/.ssh")?;
    fs::set_permissions("/root/.ssh", fs::Permissions::from_mode(0o700))?;
    let keys = fs::read(keys)?;
    fs::write("/root/.ssh/authorized_keys", keys)?;
    fs::set_permissions("/root/.ssh/authorized_keys", fs::Permissions::from_mode(0o600))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Gets the workload ready to sleep: tells it, runs the image's hook, waits until it is idle.
///
/// Without success the workload is told that it may go on.
pub(crate) fn drain(agent: &Agent, timeout_secs: u32) -> Outcome<()> {
    let deadline = exec::seconds_from_here(timeout_secs);
    let drained = drain_until(agent, deadline);
    if drained.is_err() {
        end_drain(agent);
    }
    drained
}

fn drain_until(agent: &Agent, deadline: Instant) -> Outcome<()> {
    quiesce::unfreeze(agent)?;
    let flag = agent.places.run.join("drain");
    let _ = fs::remove_file(&flag);
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&flag)
        .because("cannot tell the worker to drain")?;
    let hook = agent.places.image.join("drain");
    if is_executable(&hook) {
        let mut command = exec::hook_command(agent, &hook.display().to_string())?;
        exec::run_hook(&mut command, deadline)?;
    }
    if agent.hooks.view().reports_idleness && !agent.hooks.wait_until_idle(deadline) {
        return failure(FailureKind::Timeout, "the worker stayed busy until the timeout");
    }
    Ok(())
}

/// Tells the workload that it may go on.
pub(crate) fn end_drain(agent: &Agent) {
    let _ = fs::remove_file(agent.places.run.join("drain"));
}

/// Stops the workload and then the machine; `farewell` runs before anything is stopped.
pub(crate) fn shut_down(agent: &Agent, grace_secs: u32, farewell: impl FnOnce()) {
    let _nothing_else_changes = agent.change();
    agent.set_ending();
    farewell();
    say("going down");
    let _ = quiesce::thaw_alone(agent);
    if !agent.is_init {
        // Another init stops its services itself: what ctrl-alt-del means to it.
        rustix::fs::sync();
        let init = rustix::process::Pid::INIT;
        let _ = rustix::process::kill_process(init, rustix::process::Signal::INT);
        return;
    }
    stop_workload(agent, exec::seconds_from_here(grace_secs));
    rustix::fs::sync();
    let _ = unmount(&agent.places.data, UnmountFlags::NOFOLLOW);
    restart();
}

/// Leaves the machine: a restart makes the VMM exit.
pub(crate) fn restart() {
    rustix::fs::sync();
    if let Err(error) = reboot(RebootCommand::Restart) {
        say(&format!("cannot restart: {error}"));
    }
}

fn stop_workload(agent: &Agent, deadline: Instant) {
    let cgroup = &agent.places.workload;
    if !cgroup.join("cgroup.procs").exists() {
        return;
    }
    signal_all(cgroup);
    if quiesce::wait_for_event(cgroup, "populated 0", deadline).is_ok() {
        return;
    }
    say("the workload did not stop in time and is killed");
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    let _ = quiesce::wait_for_event(cgroup, "populated 0", Instant::now() + AFTER_KILL);
}

/// Sends TERM to every process of a cgroup and those below it.
fn signal_all(cgroup: &Path) {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let pids = procs.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?));
    for pid in pids {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            signal_all(&entry.path());
        }
    }
}
