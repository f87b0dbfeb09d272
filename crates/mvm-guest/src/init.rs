//! Process 1: the mounts a Linux system needs, a writable root, cgroups, the last resort.
//!
//! The root of a pool is read-only and shared, so a layer in memory is put over it and the
//! workload sees a writable `/`. This module refuses to know drives, networks and the protocol.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{chdir, pivot_root};

use crate::agent::Places;
use crate::console::{self, say};
use crate::failure::{Context, Outcome};
use crate::workload;

/// Where the layer over the root is prepared, before `/run` of the guest exists.
const STAGES: [&str; 3] = ["/run", "/tmp", "/mnt"];

/// Makes a system of what the kernel gives process 1. What cannot be made is said and left out.
pub(crate) fn set_up() {
    // Ctrl-alt-del, as the VMM sends it, becomes a signal to this process.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
    let _ = mount("proc", "/proc", c"proc", MountFlags::empty(), None);
    if let Err(error) = make_root_writable() {
        say(&error.message);
    }
    for (kind, place, flags, data) in SYSTEM_MOUNTS {
        let _ = fs::create_dir_all(place);
        match mount(*kind, *place, *kind, *flags, *data) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => say(&format!("cannot mount {place}: {error}")),
        }
    }
    console::open();
    link_devices();
    make_cgroups(true);
}

type SystemMount = (&'static str, &'static str, MountFlags, Option<&'static std::ffi::CStr>);

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const SYSTEM_MOUNTS: &[SystemMount] = &[
    ("proc", "/proc", SAFE.union(MountFlags::NOEXEC), None),
    ("sysfs", "/sys", SAFE.union(MountFlags::NOEXEC), None),
    ("devtmpfs", "/dev", MountFlags::NOSUID, None),
    ("devpts", "/dev/pts", MountFlags::NOSUID, Some(c"mode=0620,ptmxmode=0666")),
    ("tmpfs", "/dev/shm", SAFE, Some(c"mode=1777")),
    ("tmpfs", "/run", SAFE, Some(c"mode=0755,size=25%")),
    ("tmpfs", "/tmp", SAFE, Some(c"mode=1777,size=50%")),
    ("cgroup2", "/sys/fs/cgroup", SAFE.union(MountFlags::NOEXEC), None),
];

/// Puts a layer in memory, half of it at most, over a read-only root. A writable root stays.
fn make_root_writable() -> Outcome<()> {
    let root = rustix::fs::statvfs("/").because("cannot look at the root")?;
    if !root.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let stage = STAGES.into_iter().find(|place| Path::new(place).is_dir()).unwrap_or("/run");
    mount("tmpfs", stage, c"tmpfs", MountFlags::empty(), c"mode=0755,size=50%")
        .because(format!("cannot mount a layer at {stage}"))?;
    let within = |name: &str| format!("{stage}/{name}");
    for name in ["upper", "work", "root"] {
        fs::create_dir(within(name)).because("cannot prepare the layer")?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", within("upper"), within("work"));
    let options = std::ffi::CString::new(options).because("cannot prepare the layer")?;
    let new_root = within("root");
    mount("overlay", &new_root, c"overlay", MountFlags::empty(), options.as_c_str())
        .because("cannot put a layer over the root")?;
    chdir(&new_root)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .and_then(|()| chdir("/"))
        .because("cannot enter the new root")
}

fn link_devices() {
    for (name, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        let _ = std::os::unix::fs::symlink(target, name);
    }
}

/// Makes the two cgroups; as process 1 turns on what controllers there are and enters the agent's
/// own. Another init keeps track of its services by their cgroups, so there the agent stays.
pub(crate) fn make_cgroups(is_init: bool) {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    for name in ["agent", "workload"] {
        match fs::create_dir(root.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                say(&format!("no cgroup {name}: {error}"));
            }
            Ok(()) | Err(_) => {}
        }
    }
    if !is_init {
        return;
    }
    if let Some(own) = crate::agent::open_procs(&root.join("agent")) {
        let _ = rustix::io::write(&own, b"0");
    }
    for controller in controllers.split_ascii_whitespace() {
        let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Makes the directory of the worker hooks: everybody may touch them, nobody another's file.
pub(crate) fn make_run_directory(places: &Places) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(&places.run).because("cannot make the hooks' directory")?;
    fs::set_permissions(&places.run, fs::Permissions::from_mode(0o1777))
        .because("cannot open the hooks' directory")
}

/// After a panic nobody is left to recover: the last line, and out.
pub(crate) fn set_last_resort(is_init: bool) {
    std::panic::set_hook(Box::new(move |panic| {
        console::alarm(&format!("broken invariant: {panic}"));
        if is_init {
            workload::restart();
        }
    }));
}
