//! An instance's cgroup: `<cgroup>/mvm/<i>/{vmm,shim}`, its limits, its end.
//!
//! The limits are the leaf's of the VMM, so that its OOM kill takes all of the VM and nothing of
//! the shim, which has to tell of it. Everything written is read back: a limit that the kernel
//! did not take is an error, never a hope.

use std::{fs, io, os::fd::AsFd, path::Path, time::Duration};

use mvm_core::{Error, ErrorKind, effect::Limits, id::InstanceId, layout};
use rustix::event::PollFlags;

use super::{
    fault::{Act, absent},
    place::Place,
    socket::Deadline,
};
use crate::roots::Roots;

/// Controllers without which there are no limits; `io` is used where the kernel has it.
pub const NEEDED: [&str; 3] = ["memory", "cpu", "pids"];
/// The leaf of the VMM, where the limits are.
pub const VMM_LEAF: &str = "vmm";
/// The leaf of the shim.
pub const SHIM_LEAF: &str = "shim";

/// The period of `cpu.max`, in µs; the kernel's default.
const CPU_PERIOD: u32 = 100_000;
/// How long the kernel may take to empty a cgroup whose processes are dead.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(10);
/// Another instance's removal may take the parent away in between; then all is made once more.
const ATTEMPTS: usize = 3;

/// Makes the cgroup with its leaves, sets the limits and reads them back.
///
/// # Errors
/// `Unavailable` with a hint on a host without cgroup v2, `Failed` when a limit does not hold.
pub fn ensure(roots: &Roots, instance: &InstanceId, limits: Limits) -> Result<(), Error> {
    let place = Place::of(roots, instance);
    let mut last = Ok(());
    for _ in 0..ATTEMPTS {
        last = make(roots, &place.cgroup);
        if last.is_ok() {
            break;
        }
    }
    last?;
    let leaf = place.cgroup.join(VMM_LEAF);
    set(&leaf, "memory.max", &limits.memory.bytes().to_string())?;
    // A kernel without swap has no such file, and needs none.
    if leaf.join("memory.swap.max").exists() {
        set(&leaf, "memory.swap.max", "0")?;
    }
    set(&leaf, "memory.oom.group", "1")?;
    set(&leaf, "cpu.max", &format!("{} {CPU_PERIOD}", limits.cpus * CPU_PERIOD))?;
    set(&leaf, "pids.max", &limits.pids.to_string())
}

fn make(roots: &Roots, cgroup: &Path) -> Result<(), Error> {
    let wanted = controllers(&roots.cgroup)?;
    let parent = roots.cgroup.join(layout::CGROUP);
    for directory in [&roots.cgroup, &parent, &cgroup.to_path_buf()] {
        make_dir(directory)?;
        let file = directory.join("cgroup.subtree_control");
        fs::write(&file, &wanted).act(format_args!("write {wanted:?} to {}", file.display()))?;
    }
    make_dir(&cgroup.join(VMM_LEAF))?;
    make_dir(&cgroup.join(SHIM_LEAF))
}

fn controllers(root: &Path) -> Result<String, Error> {
    let path = root.join("cgroup.controllers");
    let text = absent(fs::read_to_string(&path)).act(format_args!("read {}", path.display()))?;
    let have = text.unwrap_or_default();
    let have: Vec<&str> = have.split_ascii_whitespace().collect();
    let missing: Vec<&str> =
        NEEDED.iter().copied().filter(|controller| !have.contains(controller)).collect();
    if !missing.is_empty() {
        let message =
            format!("the host has no cgroup v2 with {} at {}", missing.join(", "), root.display());
        return Err(Error::new(ErrorKind::Unavailable, message)
            .hint("boot the host with systemd.unified_cgroup_hierarchy=1"));
    }
    let io = have.contains(&"io").then_some("io");
    let wanted: Vec<String> =
        NEEDED.iter().copied().chain(io).map(|controller| format!("+{controller}")).collect();
    Ok(wanted.join(" "))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.act(format_args!("make the cgroup {}", path.display())),
    }
}

fn set(leaf: &Path, name: &str, value: &str) -> Result<(), Error> {
    let path = leaf.join(name);
    fs::write(&path, value).act(format_args!("write {value} to {}", path.display()))?;
    let read = fs::read_to_string(&path).act(format_args!("read {}", path.display()))?;
    if read.trim() == value {
        return Ok(());
    }
    let message = format!("{} is {} after writing {value}", path.display(), read.trim());
    Err(Error::new(ErrorKind::Failed, message))
}

/// The VMM's memory limit, in bytes; `None` when there is none.
///
/// # Errors
/// I/O errors.
pub fn memory_max(place: &Place) -> Result<Option<u64>, Error> {
    let path = place.cgroup.join(VMM_LEAF).join("memory.max");
    let text = fs::read_to_string(&path).act(format_args!("read {}", path.display()))?;
    Ok(text.trim().parse().ok())
}

/// Sets the VMM's memory limit, in bytes.
///
/// # Errors
/// As [`ensure`].
pub fn set_memory_max(place: &Place, bytes: u64) -> Result<(), Error> {
    set(&place.cgroup.join(VMM_LEAF), "memory.max", &bytes.to_string())
}

/// Whether the cgroup or a part of it is there.
///
/// # Errors
/// I/O errors.
pub fn is_there(place: &Place) -> Result<bool, Error> {
    let found = absent(fs::symlink_metadata(&place.cgroup));
    found.act(format_args!("look at {}", place.cgroup.display())).map(|found| found.is_some())
}

/// Whether a process is in the cgroup or below; an absent cgroup has none.
///
/// # Errors
/// I/O errors.
pub fn is_populated(cgroup: &Path) -> Result<bool, Error> {
    let path = cgroup.join("cgroup.events");
    let text = absent(fs::read_to_string(&path)).act(format_args!("read {}", path.display()))?;
    Ok(text.is_some_and(|text| text.lines().any(|line| line == "populated 1")))
}

/// Kills every process of the instance's cgroup, also those that fork meanwhile, and waits until
/// they are gone. All of them are ours: nothing else is ever put there.
///
/// # Errors
/// `Unavailable` when the kernel does not get rid of them.
pub fn kill(place: &Place) -> Result<(), Error> {
    if !is_populated(&place.cgroup)? {
        return Ok(());
    }
    let path = place.cgroup.join("cgroup.kill");
    fs::write(&path, "1").act(format_args!("write to {}", path.display()))?;
    await_empty(&place.cgroup)
}

/// Removes the cgroup; an absent one is a success. Waits for processes that are about to end and
/// kills nothing.
///
/// # Errors
/// `Conflict` when processes stay: waiting longer does not end them.
pub fn remove(roots: &Roots, instance: &InstanceId) -> Result<(), Error> {
    let place = Place::of(roots, instance);
    await_empty(&place.cgroup).map_err(|error| Error { kind: ErrorKind::Conflict, ..error })?;
    let leaves = [place.cgroup.join(VMM_LEAF), place.cgroup.join(SHIM_LEAF), place.cgroup.clone()];
    for directory in leaves {
        let what = format_args!("remove the cgroup {}", directory.display());
        absent(fs::remove_dir(&directory)).act(what)?;
    }
    // The last one takes the parent along; while others are there the kernel refuses.
    let _ = fs::remove_dir(roots.cgroup.join(layout::CGROUP));
    Ok(())
}

fn await_empty(cgroup: &Path) -> Result<(), Error> {
    let deadline = Deadline::after(EMPTY_TIMEOUT);
    let path = cgroup.join("cgroup.events");
    let what = || format!("wait until {} is empty", cgroup.display());
    let Some(file) = absent(fs::File::open(&path)).act(what())? else { return Ok(()) };
    while is_populated(cgroup)? {
        // The kernel notifies of a change with an exceptional condition, and not twice of one that
        // came before the wait; so a wait is short.
        match deadline.at_most(Duration::from_millis(50)).poll([(file.as_fd(), PollFlags::PRI)]) {
            Err(error) if error.kind() != io::ErrorKind::TimedOut => return Err(error).act(what()),
            Err(_) | Ok(_) => {}
        }
        deadline.left().act(what())?;
    }
    Ok(())
}

/// The instances that have a cgroup.
///
/// # Errors
/// I/O errors.
pub fn list(roots: &Roots) -> Result<Vec<InstanceId>, Error> {
    instances_in(&roots.cgroup.join(layout::CGROUP))
}

/// The instances after which entries of a directory are named; none when it is absent.
///
/// # Errors
/// I/O errors.
pub fn instances_in(path: &Path) -> Result<Vec<InstanceId>, Error> {
    let what = || format!("list {}", path.display());
    let Some(entries) = absent(fs::read_dir(path)).act(what())? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.act(what())?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    found.sort();
    Ok(found)
}

/// Whether the host has a cgroup v2 with everything that is used, `io` included.
#[must_use]
pub fn is_complete(root: &Path) -> bool {
    controllers(root).is_ok_and(|wanted| wanted.contains("io"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn a_host_without_the_controllers_is_named_with_what_to_do() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("cgroup.controllers"), "cpu io\n").unwrap();
        let error = controllers(base.path()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.message.contains("memory, pids"), "{error}");
        assert!(!error.hints.is_empty());
    }

    #[test]
    fn a_limit_that_does_not_read_back_is_an_error() {
        let base = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", base.path().join("memory.max")).unwrap();
        assert!(set(base.path(), "memory.max", "1").is_err());
    }

    #[test]
    fn an_absent_cgroup_is_empty_and_its_removal_a_success() {
        let base = tempfile::tempdir().unwrap();
        let roots = Roots {
            data: base.path().join("data"),
            run: base.path().join("run"),
            cgroup: base.path().to_path_buf(),
            reserve_percent: 10,
            firecracker: mvm_core::id::VmmVersion::built_in(),
            shim: base.path().join("shim"),
            pager: base.path().join("pager"),
            resolv_conf: "/etc/resolv.conf".into(),
            given: std::sync::Arc::default(),
        };
        let instance = "i-00000001".parse().unwrap();
        assert!(list(&roots).unwrap().is_empty());
        kill(&Place::of(&roots, &instance)).unwrap();
        remove(&roots, &instance).unwrap();
    }
}
