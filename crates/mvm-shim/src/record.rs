//! What launcher and shim tell each other, and the names of the files between them.
//!
//! The directory of an instance's runtime records is root's; only [`OUT`] below it belongs to the
//! instance's user, so nothing that decides whom to signal can be changed by a shim or a VMM.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::identity::ProcessId;

/// The spec, which is also the file whose `flock` says that a shim lives.
pub const SPEC: &str = "spec.json";
/// The shim's [`ProcessId`].
pub const SHIM: &str = "shim.json";
/// The VMM's [`ProcessId`].
pub const VMM: &str = "vmm.json";
/// The directory that the shim can still write to after it dropped its privileges.
pub const OUT: &str = "out";
/// In [`OUT`]: how the VMM ended, a [`mvm_core::observed::ExitRecord`].
pub const EXIT: &str = "exit.json";
/// In [`OUT`]: the last worker state that the guest told, one lower-case word.
pub const WORKER: &str = "worker";

/// In [`OUT`]: the socket of the console. The first byte that a client gets says what comes of it.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// In [`OUT`]: the socket on which a page server is asked for.
pub const PAGER_SOCKET: &str = "pager.sock";
/// In [`OUT`]: the page server's [`ProcessId`].
pub const PAGER: &str = "pager.json";
/// In [`OUT`]: why the page server ended, in its own words.
pub const PAGER_WORDS: &str = "pager.log";

/// The client is attached: the last lines follow, then what the guest prints.
pub const CONSOLE_ATTACHED: u8 = 0x06;
/// Another client is attached.
pub const CONSOLE_BUSY: u8 = 0x15;
/// There is no console any more.
pub const CONSOLE_ABSENT: u8 = 0x18;

/// In the logs directory: what the guest wrote to its console.
pub const CONSOLE_LOG: &str = "console.log";
/// In the logs directory: what the shim itself has to say.
pub const SHIM_LOG: &str = "shim.log";
/// In the logs directory: what the VMM logged.
pub const VMM_LOG: &str = "firecracker.log";

/// The VMM's API socket, relative to the jail's root.
pub const API_SOCKET: &str = "run/fc.sock";
/// The VMM's vsock socket, relative to the jail's root.
pub const VSOCK_SOCKET: &str = "run/v.sock";
/// The FIFO of the VMM's log, relative to the jail's root.
pub const LOG_FIFO: &str = "run/fc.log";

/// The greatest size of any record, in bytes; what is larger was not written by us.
pub const RECORD_MAX: u64 = 256 * 1024;

/// What a shim is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The instance's id.
    pub instance: String,
    /// The user and group of VMM and shim.
    pub uid: u32,
    /// The page server's program.
    pub pager: PathBuf,
    /// The jailer's program.
    pub jailer: PathBuf,
    /// Firecracker's program; the jailer names the jail after it.
    pub firecracker: PathBuf,
    /// The jailer's chroot base.
    pub chroot_base: PathBuf,
    /// The root of the jail, with `run/` and the log FIFO in it.
    pub jail: PathBuf,
    /// The directory of the runtime records.
    pub records: PathBuf,
    /// The directory of the logs, which belongs to the instance's user.
    pub logs: PathBuf,
    /// The instance's cgroup with its leaves `vmm` and `shim`.
    pub cgroup: PathBuf,
    /// The VMM to watch in place of a shim that died; none to start one.
    #[serde(default)]
    pub watch: Option<ProcessId>,
    /// The page server of that VMM; none if it never had one.
    #[serde(default)]
    pub paged_by: Option<ProcessId>,
    /// The id of the operation that starts the shim, for its log.
    #[serde(default)]
    pub operation: Option<String>,
}

/// The one line that a shim writes to its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The VMM's API accepts connections.
    Ready {
        /// The shim.
        shim: ProcessId,
        /// The VMM.
        vmm: ProcessId,
    },
    /// No VMM is left, and why.
    Failed(String),
}

/// Reads a JSON record; `None` when it is not there.
///
/// # Errors
/// I/O errors; `InvalidData` for what is too large or is not such a record.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match rustix::fs::open(
        path,
        rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::NOFOLLOW
            | rustix::fs::OFlags::NONBLOCK
            | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    ) {
        Ok(fd) => fs::File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, RECORD_MAX), &mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(io::Error::from)
}

/// Writes a JSON record in one piece: a reader sees the old one or the new one. Not synced, since
/// runtime records do not outlive a boot.
///
/// # Errors
/// I/O errors.
pub fn write<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    let partial = path.with_extension("partial");
    fs::write(&partial, text)?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn a_record_survives_writing_and_an_absent_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(VMM);
        assert_eq!(read::<ProcessId>(&path).unwrap(), None);
        let id = ProcessId { pid: 7, start: 9 };
        write(&path, &id).unwrap();
        assert_eq!(read(&path).unwrap(), Some(id));
    }

    #[test]
    fn a_link_in_place_of_a_record_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(EXIT);
        std::os::unix::fs::symlink("/proc/self/stat", &path).unwrap();
        assert!(read::<ProcessId>(&path).is_err());
    }

    #[test]
    fn a_fifo_in_place_of_a_record_does_not_block_its_reader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(EXIT);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600))
            .unwrap();
        assert!(read::<ProcessId>(&path).is_err());
    }
}
