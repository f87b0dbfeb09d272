//! What this host is and can do.

use std::{
    fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use mvm_core::{Error, meter::Pressure, observed::NodeFacts};
use rustix::fs::{Mode, OFlags};

use super::{cgroup, fault::Act, version};
use crate::{net, roots::Roots};

/// The API version that every Linux with KVM has spoken since 2.6.22.
const KVM_API_VERSION: i32 = 12;
/// `KVM_GET_API_VERSION` of `linux/kvm.h`: `_IO(0xAE, 0x00)`.
const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;

/// The host's memory, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total_mib: u64,
    /// What programs can get without swapping.
    pub available_mib: u64,
}

/// The host's memory now.
///
/// # Errors
/// When `/proc/meminfo` cannot be read.
pub fn memory() -> Result<Memory, Error> {
    let text = fs::read_to_string("/proc/meminfo").act("read /proc/meminfo")?;
    let field = |name: &str| -> u64 {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let kib = lines.next().and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
        kib.unwrap_or(0u64) >> 10
    };
    Ok(Memory { total_mib: field("MemTotal:"), available_mib: field("MemAvailable:") })
}

/// The host's memory now, and how much tasks wait for it.
///
/// # Errors
/// As [`memory`].
pub fn pressure() -> Result<Pressure, Error> {
    let Memory { total_mib, available_mib } = memory()?;
    // Documentation/accounting/psi.rst; absent without CONFIG_PSI.
    let stalled = fs::read_to_string("/proc/pressure/memory").ok();
    let stalled_percent = stalled.as_deref().and_then(some_avg10);
    Ok(Pressure { total_mib, available_mib, stalled_percent })
}

/// The whole percents of `some avg10=…`.
fn some_avg10(text: &str) -> Option<u32> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let share = some.split_ascii_whitespace().find_map(|field| field.strip_prefix("avg10="))?;
    share.split('.').next()?.parse().ok()
}

/// Everything about the host; what cannot be found out is absent, not an error.
///
/// # Errors
/// When `/proc/meminfo` cannot be read.
pub fn node(roots: &Roots) -> Result<NodeFacts, Error> {
    let name = rustix::system::uname();
    let memory = memory()?;
    let (kvm, kvm_detail) = match crate::kvm::known(roots) {
        Some(verdict) => (verdict.kvm == crate::kvm::Kvm::Usable, verdict.detail),
        None => kvm(Path::new("/dev/kvm")),
    };
    let installed = version::installed(roots)?;
    Ok(NodeFacts {
        hostname: name.nodename().to_string_lossy().into_owned(),
        arch: name.machine().to_string_lossy().into_owned(),
        kernel: name.release().to_string_lossy().into_owned(),
        boot: crate::boot_id::present(),
        vcpus: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        mem_mib: memory.total_mib,
        mem_available_mib: memory.available_mib,
        disk_free_mib: rustix::fs::statvfs(&roots.data)
            .map_or(0, |stat| (stat.f_bavail * stat.f_frsize) >> 20),
        kvm,
        kvm_detail,
        cgroup_v2: cgroup::is_complete(&roots.cgroup),
        nftables: nft(),
        jailer: !installed.is_empty()
            && installed.iter().all(|name| version::jailer(roots, name).exists()),
        firecracker_new: roots.firecracker.clone(),
        firecracker: installed.iter().map(ToString::to_string).collect(),
        dns: net::resolvers(roots),
    })
}

/// Whether KVM opens and speaks the known API. That a guest really boots is another question,
/// which only a boot answers.
#[must_use]
pub fn kvm(device: &Path) -> (bool, String) {
    let name = device.display();
    let fd = match rustix::fs::open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(error) => return (false, format!("{name} does not open: {error}")),
    };
    match kvm_version(fd.as_raw_fd()) {
        KVM_API_VERSION => (
            true,
            format!(
                "{name} opens and speaks API version {KVM_API_VERSION}; no guest was booted to try it"
            ),
        ),
        other => (false, format!("{name} opens, but is not KVM (API version {other})")),
    }
}

#[expect(unsafe_code, reason = "this ioctl has no safe form")]
fn kvm_version(fd: libc::c_int) -> i32 {
    // SAFETY: the request takes no argument and touches no memory, whatever the descriptor is.
    unsafe { libc::ioctl(fd, KVM_GET_API_VERSION as _, 0) }
}

/// Whether the kernel has nf_tables and the program is installed.
fn nft() -> bool {
    let program = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
    program.iter().any(|path| PathBuf::from(path).exists())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn a_device_that_is_no_kvm_is_told_apart_from_none() {
        let (usable, detail) = kvm(Path::new("/dev/null"));
        assert!(!usable && detail.contains("is not KVM"), "{detail}");
        let (usable, detail) = kvm(Path::new("/dev/no-such-device"));
        assert!(!usable && detail.contains("does not open"), "{detail}");
    }

    #[test]
    fn the_share_of_waiting_is_read_from_what_the_kernel_writes() {
        let text = "some avg10=12.97 avg60=3.00 avg300=0.00 total=1\nfull avg10=1.00 avg60=0.00";
        assert_eq!(some_avg10(text), Some(12));
        assert_eq!(some_avg10("full avg10=1.00"), None);
    }

    #[test]
    fn the_hosts_memory_is_read() {
        let memory = memory().unwrap();
        assert!(memory.total_mib >= memory.available_mib && memory.available_mib > 0);
    }
}
