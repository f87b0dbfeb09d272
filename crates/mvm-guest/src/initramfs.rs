//! The first stage of a boot whose kernel has its drivers as modules: load them, enter the root.
//!
//! The image's builder packs this program as `/init` beside `/modules.list`, which names one module
//! per line, as an absolute path, in the order to load. The root is the squashfs on `/dev/vda`;
//! its `/sbin/mvm-guest` takes over with a memory file system that holds nothing any more. This module
//! refuses to know what the modules are for and what the second stage does.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};
use rustix::process::{chdir, chroot};

use crate::console::{self, say};
use crate::failure::{Context, Outcome, failure};
use mvm_proto::FailureKind;

/// Its presence is how the agent knows that it is in an initramfs.
const MODULE_LIST: &str = "/modules.list";
const ROOT_DEVICE: &str = "/dev/vda";
const NEW_ROOT: &str = "/newroot";
const SECOND_STAGE: &str = "/sbin/mvm-guest";

/// How long the root's device may take to appear after its driver is loaded. The driver finds it
/// while it loads, so this is spent only where there is no such device.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for. No event tells of a new device without a netlink socket.
const INTERVAL: Duration = Duration::from_millis(2);

/// Whether process 1 was started from an initramfs that the image's builder packed.
pub(crate) fn is_here() -> bool {
    Path::new(MODULE_LIST).exists()
}

/// Loads the modules and becomes the root's own init; returns only why that failed.
pub(crate) fn enter_root() -> Outcome<Infallible> {
    mount("devtmpfs", "/dev", c"devtmpfs", MountFlags::NOSUID, None)
        .because("cannot mount /dev")?;
    console::open();
    let list = fs::read_to_string(MODULE_LIST).because(format!("cannot read {MODULE_LIST}"))?;
    for (path, error) in load_all(&list, load) {
        say(&format!("cannot load {path}: {error}"));
    }
    wait_for(Path::new(ROOT_DEVICE), PATIENCE)?;
    mount(ROOT_DEVICE, NEW_ROOT, c"squashfs", MountFlags::RDONLY, None)
        .because(format!("cannot mount {ROOT_DEVICE}"))?;
    for path in paths(&list).chain([MODULE_LIST, "/init"]) {
        // Nothing can reach these any more, and they are memory of the guest and of its snapshots.
        let _ = fs::remove_file(path);
    }
    let _ = unmount("/dev", UnmountFlags::DETACH);
    chdir(NEW_ROOT)
        .and_then(|()| mount_move(".", "/"))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .because("cannot enter the root")?;
    let error = Command::new(SECOND_STAGE).args(std::env::args_os().skip(1)).exec();
    Err(error).because(format!("cannot start {SECOND_STAGE}"))
}

fn paths(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|line| line.starts_with('/'))
}

/// Loads all modules of a list in its order; gives those that could not be. One that is there
/// already is a success, and one that finds no device is no reason to give up the boot.
fn load_all(list: &str, load: impl Fn(&Path) -> io::Result<()>) -> Vec<(&str, io::Error)> {
    paths(list)
        .filter_map(|path| match load(Path::new(path)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Some((path, error)),
            Ok(()) | Err(_) => None,
        })
        .collect()
}

fn load(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    Ok(rustix::system::finit_module(&file, c"", 0)?)
}

fn wait_for(path: &Path, patience: Duration) -> Outcome<()> {
    let deadline = Instant::now() + patience;
    while !path.exists() {
        if Instant::now() >= deadline {
            let message = format!("{} did not appear in {patience:?}", path.display());
            return failure(FailureKind::Timeout, message);
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use std::cell::RefCell;

    use super::*;

    #[test]
    fn modules_load_in_the_order_of_the_list_and_blank_lines_name_none() {
        let loaded = RefCell::new(Vec::new());
        let failed = load_all("/modules/b.ko\n\n/modules/a.ko\nmodules/c.ko\n", |path| {
            loaded.borrow_mut().push(path.to_owned());
            Ok(())
        });
        assert!(failed.is_empty());
        assert_eq!(loaded.into_inner(), [Path::new("/modules/b.ko"), Path::new("/modules/a.ko")]);
    }

    #[test]
    fn a_module_that_is_there_already_is_no_failure_and_another_one_does_not_stop_the_rest() {
        let answers = |path: &Path| {
            let code = match path.to_str() {
                Some("/there") => libc::EEXIST,
                Some("/none") => libc::ENODEV,
                _ => return Ok(()),
            };
            Err(io::Error::from_raw_os_error(code))
        };
        let tried = RefCell::new(0);
        let failed = load_all("/there\n/none\n/last\n", |path| {
            *tried.borrow_mut() += 1;
            answers(path)
        });
        let failed: Vec<&str> = failed.into_iter().map(|(path, _)| path).collect();
        assert_eq!((failed, tried.into_inner()), (vec!["/none"], 3));
    }

    #[test]
    fn a_device_that_appears_late_is_found_and_one_that_never_does_is_a_timeout() {
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("vda");
        let error = wait_for(&device, Duration::from_millis(5)).unwrap_err();
        assert_eq!(error.kind, FailureKind::Timeout);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| wait_for(&device, Duration::from_secs(60)));
            File::create(&device).unwrap();
            waiter.join().unwrap().unwrap();
        });
    }
}
