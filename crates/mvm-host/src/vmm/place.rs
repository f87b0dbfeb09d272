//! Where everything of one instance is on this host.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use mvm_core::{
    Error,
    id::InstanceId,
    layout::{self, data, run},
};
use rustix::fs::{Mode, OFlags};

use super::fault::Act;
use crate::roots::Roots;

/// The directories of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Whose they are.
    pub instance: InstanceId,
    /// Records of VMM and shim, `<run>/vm/<i>`.
    pub records: PathBuf,
    /// The private directory on the tmpfs, `<run>/ram/<i>`.
    pub ram: PathBuf,
    /// The jail, `<data>/jails/firecracker/<i>`.
    pub jail: PathBuf,
    /// What the VMM sees as `/`.
    pub root: PathBuf,
    /// The cgroup, with its leaves `vmm` and `shim`.
    pub cgroup: PathBuf,
}

impl Place {
    /// The place of `instance`.
    #[must_use]
    pub fn of(roots: &Roots, instance: &InstanceId) -> Self {
        let jail = roots.data.join(data::jail(instance));
        Self {
            instance: instance.clone(),
            records: roots.run.join(run::instance(instance)),
            ram: roots.run.join(run::ram(instance)),
            root: jail.join("root"),
            jail,
            cgroup: roots.cgroup.join(layout::cgroup(instance)),
        }
    }

    /// Where the tmpfs directory is mounted in the jail.
    #[must_use]
    pub fn mount(&self) -> PathBuf {
        self.root.join("ram")
    }

    /// The base that the guest stands on, if there is one; root's own, beside the jail's root.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.jail.join("base")
    }

    /// The directory of the jail's sockets, opened, so that a socket is reached by a short path.
    ///
    /// # Errors
    /// When it is not there.
    pub fn sockets(&self) -> Result<OwnedFd, Error> {
        let path = self.root.join("run");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).act(format_args!("open {}", path.display()))
    }
}

/// Makes a directory with this mode, and its parents with 0700, unless it is there.
///
/// # Errors
/// I/O errors.
pub fn ensure_dir(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let what = format_args!("make the directory {}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).act(what)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).act(what)
}

/// Gives a file or directory to an instance's user.
///
/// # Errors
/// I/O errors.
pub fn give(path: &Path, uid: u32) -> Result<(), Error> {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid))
        .act(format_args!("give {} to uid {uid}", path.display()))
}

/// Removes a file; an absent one is a success.
///
/// # Errors
/// I/O errors.
pub fn remove_file(path: &Path) -> Result<(), Error> {
    super::fault::absent(fs::remove_file(path))
        .act(format_args!("remove {}", path.display()))
        .map(drop)
}

/// Removes a directory with all in it; an absent one is a success.
///
/// # Errors
/// I/O errors.
pub fn remove_dir(path: &Path) -> Result<(), Error> {
    super::fault::absent(fs::remove_dir_all(path))
        .act(format_args!("remove {}", path.display()))
        .map(drop)
}
