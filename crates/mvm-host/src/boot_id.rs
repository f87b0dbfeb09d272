//! Which boot of the host this is, and a runtime directory that is of this boot.
//!
//! The runtime directory is meant to be on a tmpfs, empty after a reboot. Where it is not (a setting,
//! a container's volume), what a former boot left in it is removed before anything is read: pids,
//! start times and exit records mean nothing in another boot, and might by chance name a process
//! that lives.

use std::{fs, sync::OnceLock};

use mvm_core::{Error, layout::run, observed::BootId};
use rustix::fs::{FlockOperation, flock};

use crate::{
    roots::Roots,
    vmm::{
        fault::{Act, absent},
        mounts,
        place::{remove_dir, remove_file},
    },
};

const SOURCE: &str = "/proc/sys/kernel/random/boot_id";

/// The present boot; unknown where the kernel does not tell.
#[must_use]
pub fn present() -> BootId {
    static PRESENT: OnceLock<BootId> = OnceLock::new();
    PRESENT
        .get_or_init(|| BootId(fs::read_to_string(SOURCE).unwrap_or_default().trim().to_owned()))
        .clone()
}

/// Makes sure that the runtime directory, which is there, holds nothing of a former boot.
///
/// # Errors
/// I/O errors.
pub fn begin(roots: &Roots) -> Result<(), Error> {
    sweep(roots, &present())
}

fn sweep(roots: &Roots, present: &BootId) -> Result<(), Error> {
    let stamp = roots.run.join(run::BOOT);
    let read = || {
        let text = absent(fs::read_to_string(&stamp)).act(format_args!("read {}", stamp.display()));
        text.map(|text| text.map(BootId))
    };
    if read()?.as_ref() == Some(present) {
        return Ok(());
    }
    let what = format_args!("lock {}", roots.run.display());
    let lock = fs::File::open(&roots.run).act(what)?;
    flock(&lock, FlockOperation::LockExclusive).act(what)?;
    let found = read()?;
    if found.as_ref() == Some(present) {
        return Ok(());
    }
    if let Some(former) = found {
        tracing::warn!(%former, "the runtime directory is of a former boot and is emptied");
        for name in [run::VM, run::RAM] {
            let path = roots.run.join(name);
            mounts::clear(&path)?;
            remove_dir(&path)?;
        }
        remove_file(&roots.run.join(run::FIREWALL))?;
    }
    let partial = stamp.with_extension("new");
    fs::write(&partial, &present.0)
        .and_then(|()| fs::rename(&partial, &stamp))
        .act(format_args!("write {}", stamp.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn records_of_a_former_boot_are_removed_and_those_of_this_one_stay() {
        let base = tempfile::tempdir().unwrap();
        let roots = Roots {
            data: base.path().join("data"),
            run: base.path().to_owned(),
            cgroup: base.path().join("cgroup"),
            reserve_percent: 10,
            firecracker: mvm_core::id::VmmVersion::built_in(),
            shim: base.path().join("shim"),
            pager: base.path().join("pager"),
            resolv_conf: "/etc/resolv.conf".into(),
            given: std::sync::Arc::default(),
        };
        let record = base.path().join(run::VM).join("i-00000001/vmm.json");
        let write = || {
            fs::create_dir_all(record.parent().unwrap()).unwrap();
            fs::write(&record, "{}").unwrap();
            fs::write(base.path().join(run::FIREWALL), "{}").unwrap();
        };
        write();
        let (first, second) = (BootId("first".to_owned()), BootId("second".to_owned()));
        sweep(&roots, &first).unwrap();
        sweep(&roots, &first).unwrap();
        assert!(record.exists(), "a directory without a stamp is of this boot");
        sweep(&roots, &second).unwrap();
        assert!(!record.exists() && !base.path().join(run::FIREWALL).exists());
        write();
        sweep(&roots, &second).unwrap();
        assert!(record.exists());
    }

    #[test]
    fn the_kernel_tells_its_boot() {
        assert_eq!(present().0.len(), 36);
    }
}
