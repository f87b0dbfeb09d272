//! From what Firecracker says when it refuses or dies to what a person can do about it.
//!
//! The words are those of Firecracker 1.12 and of the errno texts in them; a sentence that is not known is passed
//! on as it is. Pure but for the log, of which the last lines are read when a VMM ended without an answer.

use mvm_core::{Error, ErrorKind, id::InstanceRef};
use mvm_shim::record::VMM_LOG;

use super::logs;
use crate::roots::Roots;

/// How much of a VMM's log may say why it ended, in lines.
const LAST: usize = 20;

/// All of these words, and what to do when they are said.
const KNOWN: &[(&[&str], &str)] = &[
    (
        &["KVM", "Permission denied"],
        "the user of the VM may not use /dev/kvm: see what mvm doctor says of kvm",
    ),
    (&["KVM object"], "KVM cannot be used on this machine: see what mvm doctor says of kvm"),
    (
        &["cannot execute", "Permission denied"],
        "Firecracker may not be executed where it lies: mount the file system of the data directory without noexec",
    ),
    (
        &["/dev/net/tun", "Permission denied"],
        "no device file opens in the VM's jail: mount the file system of the data directory without nodev",
    ),
    (
        &["invalid kernel image"],
        "the image's kernel is none that Firecracker boots: build the image again with --force, or take another one",
    ),
    (
        &["Cannot allocate memory"],
        "this machine has not enough free memory: give the VM less, or stop others (mvm node stats)",
    ),
    (
        &["mmap region"],
        "this machine has not enough free memory: give the VM less, or stop others (mvm node stats)",
    ),
    (
        &["backing file", "No such file"],
        "a file of the VM's disks is gone: build its image again with --force, or destroy the VM and make it anew",
    ),
    (
        &["vsock", "in use"],
        "the socket of a former VMM was left behind: stop the VM and start it again",
    ),
    (
        &["tap", "busy"],
        "its network device is in use by another program: stop that, then start the VM again",
    ),
];

/// What to do about it, if that is known.
fn hint(words: &str) -> Option<&'static str> {
    let says = |known: &&(&[&str], &str)| known.0.iter().all(|word| words.contains(word));
    KNOWN.iter().find(says).map(|(_, hint)| *hint)
}

/// The error with what the VMM's log says of it and with what can be done about it.
pub(super) fn explained(roots: &Roots, instance: &InstanceRef, mut error: Error) -> Error {
    if error.kind == ErrorKind::Unavailable {
        let log = logs::read(roots, instance, VMM_LOG, LAST).ok().flatten();
        error.causes.extend(last_words(&log.unwrap_or_default()));
    }
    let said = std::iter::once(&error.message).chain(&error.causes);
    match said.into_iter().find_map(|words| hint(words)) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The last line of a log that is an error, without the time in front of it.
fn last_words(log: &[String]) -> Option<String> {
    let is_error =
        |line: &&String| ["ERROR", " error: ", "panicked"].iter().any(|word| line.contains(word));
    let line = log.iter().rev().find(is_error)?;
    let text = line.split_once("] ").map_or(line.as_str(), |(_, text)| text);
    Some(format!("Firecracker's log: {}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_firecracker_says_becomes_what_can_be_done() {
        for (words, wanted) in [
            (
                "Internal error while starting microVM: Kvm error: Error creating KVM object: Permission denied (os error 13)",
                "/dev/kvm",
            ),
            (
                "Kvm error: Error creating KVM object: No such file or directory (os error 2)",
                "doctor",
            ),
            (
                "cannot start a VMM for i-00000001: cannot execute /srv/jailer: Permission denied (os error 13)",
                "noexec",
            ),
            (
                "Network config error: Could not create the network device: Open tap device failed: Couldn't open /dev/net/tun: Permission denied (os error 13)",
                "nodev",
            ),
            (
                "Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image",
                "kernel",
            ),
            (
                "Cannot create guest memory: Cannot create mmap region: Cannot allocate memory (os error 12)",
                "memory",
            ),
            (
                "Unable to create the block device: Error manipulating the backing file: No such file or directory (os error 2) data.img",
                "disks",
            ),
            (
                "Vsock device error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: Address in use (os error 98)",
                "former VMM",
            ),
            (
                "Network config: Open tap device failed: Error while creating ifreq structure: Device or resource busy (os error 16). tap busy",
                "network device",
            ),
        ] {
            assert!(
                hint(words).is_some_and(|hint| hint.contains(wanted)),
                "{words}: {:?}",
                hint(words)
            );
        }
        assert_eq!(hint("Invalid vcpu count"), None);
    }

    #[test]
    fn of_a_log_the_last_error_is_taken_without_its_time() {
        let log = [
            "2026-01-01T00:00:00.000000000 [i-00000001:main] Running Firecracker v1.12.1",
            "2026-01-01T00:00:01.000000000 [i-00000001:main] RunWithApiError error: out of luck",
            "2026-01-01T00:00:02.000000000 [i-00000001:main] Firecracker exiting with error. exit_code=1",
        ];
        let log = log.map(str::to_owned);
        let words = last_words(&log);
        assert_eq!(words.as_deref(), Some("Firecracker's log: RunWithApiError error: out of luck"));
        assert_eq!(last_words(&[]), None);
    }
}
