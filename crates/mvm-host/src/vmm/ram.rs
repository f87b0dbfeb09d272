//! The one tmpfs of this host that guests' plain memory may touch, `<run>/ram`.
//!
//! It is mounted with the first private directory and unmounted with the last, under a lock on the
//! runtime directory, since several instances are worked on at once.

use std::{ffi::CString, fs, path::Path};

use mvm_core::{Error, ErrorKind, layout::run, units::Mib};
use rustix::{
    fs::{FlockOperation, flock},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::{
    facts,
    fault::{Act, absent},
    mounts,
    place::{Place, ensure_dir, give},
};
use crate::roots::Roots;

/// How much of the host's memory the tmpfs may hold, in percent. It bounds all guests that are
/// being put to sleep or were woken from plain memory; the rest stays for the host.
pub const SHARE: u64 = 75;

/// What must be left besides a guest's memory: device state, and pages of the tmpfs itself.
const SLACK: u64 = 32 << 20;

/// Mounts the tmpfs unless it is, and makes an instance's private directory in it.
///
/// # Errors
/// When the kernel refuses.
pub fn ensure(roots: &Roots, place: &Place, uid: u32) -> Result<(), Error> {
    let base = roots.run.join(run::RAM);
    ensure_dir(&base, 0o700)?;
    let _lock = lock(roots)?;
    if !mounts::below(&base)?.contains(&base) {
        mount_at(&base)?;
    }
    ensure_dir(&place.ram, 0o700)?;
    give(&place.ram, uid)
}

/// Removes an instance's private directory, and unmounts the tmpfs when it was the last.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(roots: &Roots, place: &Place) -> Result<(), Error> {
    let base = roots.run.join(run::RAM);
    if absent(fs::symlink_metadata(&base))
        .act(format_args!("look at {}", base.display()))?
        .is_none()
    {
        return Ok(());
    }
    let _lock = lock(roots)?;
    super::place::remove_dir(&place.ram)?;
    let what = format_args!("list {}", base.display());
    let is_last = fs::read_dir(&base).act(what)?.next().is_none();
    if is_last && mounts::below(&base)?.contains(&base) {
        match unmount(&base, UnmountFlags::NOFOLLOW) {
            // Somebody looks into it right now; the next last one tries again.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(error).act(format_args!("unmount {}", base.display())),
        }
    }
    Ok(())
}

/// Checks that a guest's memory fits on the tmpfs and into the host's memory.
///
/// # Errors
/// `Refused` with the figures.
pub fn admit(roots: &Roots, memory: Mib) -> Result<(), Error> {
    let base = roots.run.join(run::RAM);
    let needed = memory.bytes() + SLACK;
    let stat = rustix::fs::statvfs(&base).act(format_args!("look at {}", base.display()))?;
    let free = (stat.f_bavail * stat.f_frsize).min(facts::memory()?.available_mib << 20);
    if free >= needed {
        return Ok(());
    }
    let message = format!(
        "the guest's memory does not fit: {} MiB are needed in memory and {} MiB are free",
        needed >> 20,
        free >> 20
    );
    Err(Error::new(ErrorKind::Refused, message)
        .hint("sleep or stop another instance first, or wait until one that sleeps is written"))
}

fn lock(roots: &Roots) -> Result<fs::File, Error> {
    let what = format_args!("lock {}", roots.run.display());
    let file = fs::File::open(&roots.run).act(what)?;
    flock(&file, FlockOperation::LockExclusive).act(what)?;
    Ok(file)
}

fn mount_at(base: &Path) -> Result<(), Error> {
    let size = (facts::memory()?.total_mib << 20) / 100 * SHARE;
    let what = format_args!("mount a tmpfs of {size} bytes at {}", base.display());
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    let attempt = |extra: &str| {
        let options = CString::new(format!("size={size},mode=0700{extra}")).unwrap_or_default();
        mount("mvm", base, "tmpfs", flags, options.as_c_str())
    };
    match attempt(",noswap") {
        // Kernels before 6.4 do not know the option; there swap has to be off or encrypted.
        Err(rustix::io::Errno::INVAL) => attempt("").act(what),
        done => done.act(what),
    }
}
