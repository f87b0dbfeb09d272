//! What a caller asks for, and what it sends afterwards.
//!
//! This module refuses to know answers; `super::reply` has them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ready::Ready;
use super::reply::WorkerState;
use crate::config::{GuestConfig, Integration, NetworkIdentity};
use crate::routes::Routes;

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Are you there? → [`super::Reply::Pong`].
    Ping {},
    /// What does the workload do? → [`super::Reply::Status`].
    Status {},
    /// Get the workload ready to sleep → [`super::Reply::Ack`]. No success means a refusal.
    SleepPrep {
        /// How long the drain may take, in seconds.
        drain_timeout_secs: u32,
    },
    /// The guest was restored or cloned: take on the present → [`super::Reply::Ack`].
    Wake(Wake),
    /// Write the checkpoints of these integrations → [`super::Reply::Integrations`].
    Checkpoint {
        /// The integrations; those without a command succeed at once.
        integrations: Vec<Integration>,
        /// How long all of them together may take, in seconds.
        timeout_secs: u32,
    },
    /// Run the restore commands of these integrations → [`super::Reply::Integrations`].
    Restore {
        /// The integrations; those without a command succeed at once.
        integrations: Vec<Integration>,
        /// How long all of them together may take, in seconds.
        timeout_secs: u32,
    },
    /// What is stored of each integration? → [`super::Reply::IntegrationStatus`].
    IntegrationStatus {},
    /// Run a program → [`super::Reply::Started`], data, [`super::Reply::Exit`].
    Exec(Exec),
    /// Unpack the tar stream that follows below `path` → [`super::Reply::Copied`].
    CopyIn {
        /// The directory inside the guest, absolute; made when missing.
        path: String,
    },
    /// Send `path` as a tar stream → data, [`super::Reply::Copied`].
    CopyOut {
        /// The file or directory inside the guest, absolute.
        path: String,
    },
    /// Become this instance: identity, network, drives; then the workload starts → [`super::Reply::Ack`].
    Configure(Box<Configure>),
    /// Find a drive by label and mount it → [`super::Reply::Ack`]. Mounting what is mounted succeeds.
    AttachDrive(AttachDrive),
    /// Sync and unmount the drive with this label → [`super::Reply::Ack`]. Absent is a success.
    DetachDrive {
        /// The file system label.
        label: String,
    },
    /// Read the secrets drive again and replace the files in place → [`super::Reply::Ack`].
    SecretsRefresh {
        /// The epoch of the secrets on the drive.
        epoch: u64,
    },
    /// Lead traffic by these routes from now on → [`super::Reply::Ack`]. What is older than what the
    /// gateway has is dropped, which is a success.
    Routes(Box<Routes>),
    /// Does the workload serve? → [`super::Reply::Ack`]. No success says what is missing.
    Ready(Ready),
    /// Sync, and freeze what is asked, until [`Request::Thaw`] → [`super::Reply::Ack`].
    Quiesce {
        /// Freeze every process of the workload.
        workload: bool,
        /// Freeze the data file system, so that a copy of its disk is consistent.
        filesystems: bool,
        /// How long to wait for the freeze, in milliseconds; then nothing is frozen.
        timeout_ms: u32,
    },
    /// Undo [`Request::Quiesce`] → [`super::Reply::Ack`]. Succeeds when nothing is frozen.
    Thaw {},
    /// Try to reach addresses from the guest's own address → [`super::Reply::Probe`].
    Probe {
        /// What to try, at most [`PROBE_MAX`].
        targets: Vec<ProbeTarget>,
        /// How long each target may take, in milliseconds.
        timeout_ms: u32,
    },
    /// Grow the file system with this label to its drive's size → [`super::Reply::Ack`].
    Resize {
        /// The file system label.
        label: String,
    },
    /// Stop the workload and the VM → [`super::Reply::Ack`] before the VM goes.
    Shutdown {
        /// How long the workload may take after TERM before it is killed, in seconds.
        grace_secs: u32,
    },
    /// Counters of the guest → [`super::Reply::Metrics`].
    Metrics {},
    /// Guest → host only: the workload's state changed → [`super::Reply::Ack`].
    Notify {
        /// The state that a worker hook announced.
        worker: WorkerState,
    },
}

impl Request {
    /// The name of the request, as on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ping { .. } => "ping",
            Self::Status { .. } => "status",
            Self::SleepPrep { .. } => "sleep_prep",
            Self::Wake(_) => "wake",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Restore { .. } => "restore",
            Self::IntegrationStatus { .. } => "integration_status",
            Self::Exec(_) => "exec",
            Self::CopyIn { .. } => "copy_in",
            Self::CopyOut { .. } => "copy_out",
            Self::Configure(_) => "configure",
            Self::AttachDrive(_) => "attach_drive",
            Self::DetachDrive { .. } => "detach_drive",
            Self::SecretsRefresh { .. } => "secrets_refresh",
            Self::Routes(_) => "routes",
            Self::Ready(_) => "ready",
            Self::Quiesce { .. } => "quiesce",
            Self::Thaw { .. } => "thaw",
            Self::Probe { .. } => "probe",
            Self::Resize { .. } => "resize",
            Self::Shutdown { .. } => "shutdown",
            Self::Metrics { .. } => "metrics",
            Self::Notify { .. } => "notify",
        }
    }
}

/// Most targets of one [`Request::Probe`]; the guest tries them one after the other.
pub const PROBE_MAX: usize = 256;

/// The present, for a guest that comes from a snapshot (SPEC §8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// The wall clock in nanoseconds since 1970-01-01 UTC.
    pub wall_clock_ns: u64,
    /// Fresh random bytes of the host.
    pub entropy: Entropy,
    /// The network identity; absent leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkIdentity>,
    /// The secrets' epoch; another one than the guest's means they have to be refreshed.
    #[serde(default)]
    pub secrets_epoch: u64,
    /// The number for `/run/mvm/generation`; the guest never lowers it.
    pub generation: u64,
}

/// Sixty-four random bytes, in hex on the wire, never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Entropy(pub [u8; Self::LENGTH]);

/// A text is not the hex form of 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entropy is not 128 hex digits")]
pub struct EntropyError;

impl Entropy {
    /// Its length in bytes (SPEC §8).
    pub const LENGTH: usize = 64;
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(…)")
    }
}

impl TryFrom<String> for Entropy {
    type Error = EntropyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != Self::LENGTH || !rest.is_empty() {
            return Err(EntropyError);
        }
        let mut bytes = [0u8; Self::LENGTH];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
                return Err(EntropyError);
            };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl From<Entropy> for String {
    fn from(entropy: Entropy) -> Self {
        entropy.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A program to run in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments; the first is searched in `PATH` unless it has a slash.
    pub argv: Vec<String>,
    /// Variables on top of the default `PATH`, `HOME`, `USER` and, with a terminal, `TERM`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The working directory; absent means the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// A name of `/etc/passwd` or a uid; absent means root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The terminal to make; absent means three pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
    /// Whether the caller will send stdin; without it stdin is empty.
    #[serde(default)]
    pub stdin: bool,
}

/// A terminal for an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pty {
    /// Height in lines.
    pub rows: u16,
    /// Width in columns.
    pub cols: u16,
    /// The value of `TERM`.
    #[serde(default = "default_term")]
    pub term: String,
}

fn default_term() -> String {
    "xterm-256color".to_owned()
}

/// Which of an exec's three byte streams a data frame belongs to: the frame's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Channel {
    /// Towards the program; what is typed on a terminal.
    Stdin = 0,
    /// From the program; all that a terminal shows.
    Stdout = 1,
    /// From the program; unused with a terminal.
    Stderr = 2,
}

impl Channel {
    /// Splits the payload of an exec's data frame into channel and bytes, `None` when malformed.
    #[must_use]
    pub fn split(payload: &[u8]) -> Option<(Channel, &[u8])> {
        let (first, bytes) = payload.split_first()?;
        let channel = match first {
            0 => Channel::Stdin,
            1 => Channel::Stdout,
            2 => Channel::Stderr,
            _ => return None,
        };
        Some((channel, bytes))
    }
}

/// More from the caller on an open stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// An exec's stdin is at its end, or a `copy_in`'s tar stream is.
    InputClosed {},
    /// Send this signal to an exec's process group.
    Signal {
        /// The number of the guest's Linux, 1–64.
        signal: i32,
    },
    /// An exec's terminal has a new size.
    Resize {
        /// Height in lines.
        rows: u16,
        /// Width in columns.
        cols: u16,
    },
}

/// A new identity for a clone (SPEC §8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// What `config.json` would say.
    pub config: GuestConfig,
    /// The contents of `/etc/machine-id`, 32 hex digits; absent leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// The contents of `routes.json`; gateways only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<String>,
    /// Drives to attach before the workload starts.
    #[serde(default)]
    pub drives: Vec<AttachDrive>,
}

/// A drive to mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachDrive {
    /// The file system label.
    pub label: String,
    /// Where to mount it; absent means the label's own place (`/data` for `mvm-data`), and
    /// required for labels that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether to mount it read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// Something to try to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeTarget {
    /// The address.
    pub address: IpAddr,
    /// The port; ignored for `icmp`.
    #[serde(default)]
    pub port: u16,
    /// How to try.
    #[serde(default)]
    pub protocol: ProbeProtocol,
}

/// How to try to reach a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeProtocol {
    /// Make a TCP connection.
    #[default]
    Tcp,
    /// Send one datagram and wait for an answer or an ICMP error.
    Udp,
    /// Send one echo request.
    Icmp,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn entropy_survives_hex_and_is_never_shown() {
        let bytes: Vec<u8> = (100..164).collect();
        let entropy = Entropy(bytes.try_into().unwrap());
        let hex = String::from(entropy.clone());
        assert_eq!(hex.get(..6), Some("646566"));
        assert_eq!(Entropy::try_from(hex), Ok(entropy.clone()));
        assert_eq!(format!("{entropy:?}"), "Entropy(…)");
        assert!(Entropy::try_from("é".repeat(64)).is_err());
        assert!(Entropy::try_from("0".repeat(127)).is_err());
    }
}
