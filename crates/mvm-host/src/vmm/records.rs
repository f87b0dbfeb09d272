//! What is written down about a VM while it runs, below `<run>/vm/<i>`.
//!
//! | file | says | written |
//! |---|---|---|
//! | `spec.json` | what the shim was told; its `flock` is held while the shim lives | before the shim |
//! | `shim.json`, `vmm.json` | pid and start time | by the shim, as root |
//! | `origin` | how the VMM came to its guest | before the load |
//! | `started` | a guest was or is about to be started | before it is |
//! | `paused_for` | what the vCPUs are paused for | before the pause; removed before the resume |
//! | `memory_max` | the limit to go back to | before it is raised for a snapshot |
//! | `diff_spent` | the VMM may have forgotten which pages were touched | before it writes them |
//! | `out/exit.json`, `out/worker` | how it ended, what the guest's worker does | by the shim, as the instance's user |
//!
//! All is of this boot of the host (see [`crate::boot_id`]): after a reboot nothing is left, which is
//! the truth.

use std::{fs, path::Path};

use mvm_core::{
    Error,
    observed::{ExitRecord, Origin, PausedFor},
};
use mvm_shim::{
    ProcessId,
    record::{self, EXIT, OUT, SHIM, SPEC, VMM},
};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    fault::{Act, absent},
    place::{Place, remove_file},
};

const ORIGIN: &str = "origin";
const STARTED: &str = "started";
const PAUSED_FOR: &str = "paused_for";
const MEMORY_MAX: &str = "memory_max";
const DIFF_SPENT: &str = "diff_spent";

/// The records of one instance.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    directory: &'a Path,
}

impl<'a> Records<'a> {
    /// The records at a place.
    #[must_use]
    pub fn at(place: &'a Place) -> Self {
        Self { directory: &place.records }
    }

    /// The VMM, alive or not; `None` while it was never known.
    ///
    /// # Errors
    /// Damaged records.
    pub fn vmm(self) -> Result<Option<ProcessId>, Error> {
        self.read(VMM)
    }

    /// The shim, alive or not; `None` while it was never known.
    ///
    /// # Errors
    /// Damaged records.
    pub fn shim(self) -> Result<Option<ProcessId>, Error> {
        self.read(SHIM)
    }

    /// How the VMM ended; `None` while it runs or nobody saw.
    ///
    /// # Errors
    /// Damaged records: the writer is the instance's own user.
    pub fn exit(self) -> Result<Option<ExitRecord>, Error> {
        self.read(&format!("{OUT}/{EXIT}"))
    }

    /// How the VMM came to its guest.
    ///
    /// # Errors
    /// Damaged records.
    pub fn origin(self) -> Result<Origin, Error> {
        Ok(self.read(ORIGIN)?.unwrap_or(Origin::Boot))
    }

    /// Writes down how the VMM comes to its guest, before it does.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_origin(self, origin: Origin) -> Result<(), Error> {
        self.write(ORIGIN, &origin)?;
        self.write(STARTED, &true)
    }

    /// Whether a guest was started, or was about to be.
    ///
    /// # Errors
    /// Damaged records.
    pub fn started(self) -> Result<bool, Error> {
        Ok(self.read(STARTED)?.unwrap_or(false))
    }

    /// What the vCPUs are paused for; meaningful only while they are.
    ///
    /// # Errors
    /// Damaged records.
    pub fn paused_for(self) -> Result<Option<PausedFor>, Error> {
        self.read(PAUSED_FOR)
    }

    /// Writes down or forgets what the vCPUs are paused for.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_paused_for(self, purpose: Option<PausedFor>) -> Result<(), Error> {
        self.set(PAUSED_FOR, purpose)
    }

    /// The memory limit to go back to, in bytes, when it was raised.
    ///
    /// # Errors
    /// Damaged records.
    pub fn memory_max(self) -> Result<Option<u64>, Error> {
        self.read(MEMORY_MAX)
    }

    /// Writes down or forgets the memory limit to go back to.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_memory_max(self, bytes: Option<u64>) -> Result<(), Error> {
        self.set(MEMORY_MAX, bytes)
    }

    /// Whether the VMM may have forgotten which pages its guest touched: it does when it writes them.
    ///
    /// # Errors
    /// Damaged records.
    pub fn is_diff_spent(self) -> Result<bool, Error> {
        Ok(self.read(DIFF_SPENT)?.unwrap_or(false))
    }

    /// Writes that down, before it does; or that what it wrote is what lies beneath its guest from now on.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_diff_spent(self, is_spent: bool) -> Result<(), Error> {
        self.set(DIFF_SPENT, is_spent.then_some(true))
    }

    /// Whether a shim lives: it holds the lock from before it starts until it ends.
    ///
    /// # Errors
    /// I/O errors.
    pub fn is_shim_alive(self) -> Result<bool, Error> {
        let path = self.directory.join(SPEC);
        let what = format_args!("look at {}", path.display());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Some(file) =
            absent(open(&path, flags, Mode::empty()).map_err(std::io::Error::from)).act(what)?
        else {
            return Ok(false);
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error).act(what),
        }
    }

    /// Forgets what belongs to an earlier VMM: everything but the lock itself.
    ///
    /// # Errors
    /// I/O errors.
    pub fn clear(self) -> Result<(), Error> {
        for name in [VMM, SHIM, ORIGIN, STARTED, PAUSED_FOR, MEMORY_MAX, DIFF_SPENT] {
            remove_file(&self.directory.join(name))?;
        }
        super::place::remove_dir(&self.directory.join(OUT))
    }

    /// Whether there is a directory of records.
    ///
    /// # Errors
    /// I/O errors.
    pub fn is_there(self) -> Result<bool, Error> {
        absent(fs::symlink_metadata(self.directory))
            .act(format_args!("look at {}", self.directory.display()))
            .map(|found| found.is_some())
    }

    fn read<T: DeserializeOwned>(self, name: &str) -> Result<Option<T>, Error> {
        let path = self.directory.join(name);
        record::read(&path).act(format_args!("read {}", path.display()))
    }

    fn write<T: Serialize>(self, name: &str, value: &T) -> Result<(), Error> {
        let path = self.directory.join(name);
        record::write(&path, value).act(format_args!("write {}", path.display()))
    }

    fn set<T: Serialize>(self, name: &str, value: Option<T>) -> Result<(), Error> {
        match value {
            Some(value) => self.write(name, &value),
            None => remove_file(&self.directory.join(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use mvm_core::units::Generation;

    use super::*;
    use crate::{roots::Roots, vmm::place::ensure_dir};

    fn place(base: &Path) -> Place {
        let roots = Roots {
            data: base.join("data"),
            run: base.join("run"),
            cgroup: base.join("cgroup"),
            reserve_percent: 10,
            firecracker: mvm_core::id::VmmVersion::built_in(),
            shim: base.join("shim"),
            pager: base.join("pager"),
            resolv_conf: "/etc/resolv.conf".into(),
            given: std::sync::Arc::default(),
        };
        let place = Place::of(&roots, &"i-00000001".parse().unwrap());
        ensure_dir(&place.records, 0o700).unwrap();
        place
    }

    #[test]
    fn markers_are_kept_and_forgotten() {
        let base = tempfile::tempdir().unwrap();
        let place = place(base.path());
        let records = Records::at(&place);
        assert_eq!(records.origin().unwrap(), Origin::Boot);
        assert!(!records.started().unwrap());
        records.set_origin(Origin::Snapshot(Generation(3))).unwrap();
        records.set_paused_for(Some(PausedFor::Sleep)).unwrap();
        assert_eq!(records.origin().unwrap(), Origin::Snapshot(Generation(3)));
        assert!(records.started().unwrap());
        assert_eq!(records.paused_for().unwrap(), Some(PausedFor::Sleep));
        records.set_paused_for(None).unwrap();
        records.set_paused_for(None).unwrap();
        assert_eq!(records.paused_for().unwrap(), None);
        records.clear().unwrap();
        assert!(!records.started().unwrap());
    }

    #[test]
    fn a_shim_is_alive_exactly_while_its_lock_is_held() {
        let base = tempfile::tempdir().unwrap();
        let place = place(base.path());
        let records = Records::at(&place);
        assert!(!records.is_shim_alive().unwrap());
        let file = fs::File::create(place.records.join(SPEC)).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(records.is_shim_alive().unwrap());
        drop(file);
        assert!(!records.is_shim_alive().unwrap());
    }
}
