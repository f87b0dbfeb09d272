//! Messages: what the payload of a json frame says.
//!
//! The side that made the connection (the *caller*) opens a stream with a [`Request`]; the other
//! (the *callee*) answers with [`Reply`] messages or one [`Failure`], and ends the stream:
//!
//! | request | raw data caller → callee | answer |
//! |---|---|---|
//! | `exec` | channel byte 0, stdin | `started`, data with channel byte 1 or 2, `exit` |
//! | `copy_in` | a tar stream, then `input_closed` | `copied` |
//! | `copy_out` | — | a tar stream, then `copied` |
//! | all others | — | one reply |
//!
//! Every variant is a JSON object, also the empty ones, so that any of them can grow a field.
//! This module refuses to know frames, streams and what a guest does on a request.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::{GuestConfig, Integration, NetworkIdentity};
use crate::generation::Generations;

/// The payload of a json frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The first message of either side, on stream 0.
    Hello(Hello),
    /// Opens a stream; from the caller only.
    Request(Request),
    /// More from the caller on an open stream.
    Input(Input),
    /// An answer; from the callee only.
    Reply(Reply),
    /// The request failed; from the callee only, the last message before the end.
    Error(Failure),
    /// The receiver of data took `bytes` and the sender may send that many more.
    Credit {
        /// Payload bytes of data frames, channel bytes included.
        bytes: u32,
    },
}

/// What a side says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol generations it speaks.
    pub generations: Generations,
    /// The version of its program, for people.
    pub version: String,
    /// The kernel's boot id of its machine: another one means another boot, not a wake.
    #[serde(default)]
    pub boot_id: String,
    /// The instance it is or calls about, where it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Are you there? → [`Reply::Pong`].
    Ping {},
    /// What does the workload do? → [`Reply::Status`].
    Status {},
    /// Get the workload ready to sleep → [`Reply::Ack`]. No success means a refusal.
    SleepPrep {
        /// How long the drain may take, in seconds.
        drain_timeout_secs: u32,
    },
    /// The guest was restored or cloned: take on the present → [`Reply::Ack`].
    Wake(Wake),
    /// Write the checkpoints of these integrations → [`Reply::Integrations`].
    Checkpoint {
        /// The integrations; those without a command succeed at once.
        integrations: Vec<Integration>,
        /// How long all of them together may take, in seconds.
        timeout_secs: u32,
    },
    /// Run the restore commands of these integrations → [`Reply::Integrations`].
    Restore {
        /// The integrations; those without a command succeed at once.
        integrations: Vec<Integration>,
        /// How long all of them together may take, in seconds.
        timeout_secs: u32,
    },
    /// What is stored of each integration? → [`Reply::IntegrationStatus`].
    IntegrationStatus {},
    /// Run a program → [`Reply::Started`], data, [`Reply::Exit`].
    Exec(Exec),
    /// Unpack the tar stream that follows below `path` → [`Reply::Copied`].
    CopyIn {
        /// The directory inside the guest, absolute; made when missing.
        path: String,
    },
    /// Send `path` as a tar stream → data, [`Reply::Copied`].
    CopyOut {
        /// The file or directory inside the guest, absolute.
        path: String,
    },
    /// Become this instance: identity, network, drives; then the workload starts → [`Reply::Ack`].
    Configure(Box<Configure>),
    /// Find a drive by label and mount it → [`Reply::Ack`]. Mounting what is mounted succeeds.
    AttachDrive(AttachDrive),
    /// Sync and unmount the drive with this label → [`Reply::Ack`]. Absent is a success.
    DetachDrive {
        /// The file system label.
        label: String,
    },
    /// Read the secrets drive again and replace the files in place → [`Reply::Ack`].
    SecretsRefresh {
        /// The epoch of the secrets on the drive.
        epoch: u64,
    },
    /// Sync, and freeze what is asked, until [`Request::Thaw`] → [`Reply::Ack`].
    Quiesce {
        /// Freeze every process of the workload.
        workload: bool,
        /// Freeze the data file system, so that a copy of its disk is consistent.
        filesystems: bool,
        /// How long to wait for the freeze, in milliseconds; then nothing is frozen.
        timeout_ms: u32,
    },
    /// Undo [`Request::Quiesce`] → [`Reply::Ack`]. Succeeds when nothing is frozen.
    Thaw {},
    /// Try to reach addresses from the guest's own address → [`Reply::Probe`].
    Probe {
        /// What to try, at most [`PROBE_MAX`].
        targets: Vec<ProbeTarget>,
        /// How long each target may take, in milliseconds.
        timeout_ms: u32,
    },
    /// Grow the file system with this label to its drive's size → [`Reply::Ack`].
    Resize {
        /// The file system label.
        label: String,
    },
    /// Stop the workload and the VM → [`Reply::Ack`] before the VM goes.
    Shutdown {
        /// How long the workload may take after TERM before it is killed, in seconds.
        grace_secs: u32,
    },
    /// Counters of the guest → [`Reply::Metrics`].
    Metrics {},
    /// Guest → host only: the workload's state changed → [`Reply::Ack`].
    Notify {
        /// The state that a worker hook announced.
        worker: WorkerState,
    },
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

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// The target answered.
    Reachable,
    /// The target refused: its host was reached.
    Refused,
    /// Somebody on the way, or the guest's own routes, said no.
    Unreachable,
    /// Silence until the timeout.
    Silent,
    /// The guest cannot try this.
    Unsupported,
    /// A newer guest's word for something else.
    #[serde(other)]
    Unknown,
}

/// A probe's target and outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// What was tried.
    pub target: ProbeTarget,
    /// What came of it.
    pub outcome: ProbeOutcome,
}

/// What the workload does, by its hooks `/run/mvm/worker-{ready,idle,busy}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// No hook was touched yet.
    Starting,
    /// It serves; whether it is busy is not known.
    Ready,
    /// It has nothing to do.
    Idle,
    /// It works.
    Busy,
    /// A newer peer's word for something else.
    #[serde(other)]
    Unknown,
}

/// What a callee answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Ping`].
    Pong {},
    /// Done, or refused for a reason.
    Ack {
        /// Whether it was done.
        success: bool,
        /// What was done, or why not; for people.
        #[serde(default)]
        detail: String,
    },
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Checkpoint`] and [`Request::Restore`].
    Integrations {
        /// Whether all of them succeeded.
        success: bool,
        /// Those that did not.
        #[serde(default)]
        failed: Vec<IntegrationFailure>,
    },
    /// To [`Request::IntegrationStatus`].
    IntegrationStatus {
        /// One entry for each directory under `/data/integrations`.
        integrations: Vec<IntegrationState>,
    },
    /// An exec's program runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// An exec's program ended and all its output was sent.
    Exit(Exit),
    /// A copy is complete.
    Copied {
        /// Files, directories and links.
        entries: u64,
        /// Bytes of file contents.
        bytes: u64,
    },
    /// To [`Request::Probe`], in the order asked.
    Probe {
        /// One for each target.
        results: Vec<ProbeResult>,
    },
    /// To [`Request::Metrics`].
    Metrics(Metrics),
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this code, 0–255.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The exit code as a shell gives it: the code, or 128 + signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128i32.saturating_add(signal),
        }
    }
}

/// The workload's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What its hooks say.
    pub worker: WorkerState,
    /// When it was last busy, in milliseconds since 1970-01-01 UTC by the guest's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_busy_at: Option<u64>,
    /// Whether the workload touched any hook: without hooks, idleness shows in the metrics only.
    #[serde(default)]
    pub has_hooks: bool,
    /// Whether the worker-ready hook was touched.
    #[serde(default)]
    pub is_ready: bool,
    /// Whether the guest knows who it is (config drive or [`Request::Configure`]).
    #[serde(default)]
    pub is_configured: bool,
    /// Whether the workload is frozen.
    #[serde(default)]
    pub is_frozen: bool,
    /// The number in `/run/mvm/generation`.
    #[serde(default)]
    pub generation: u64,
    /// The epoch of the secrets in `/run/secrets`, 0 when never told.
    #[serde(default)]
    pub secrets_epoch: u64,
    /// How the service `/etc/mvm/start` ended, absent while it runs or when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_exit: Option<Exit>,
}

/// An integration whose command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationFailure {
    /// Its name.
    pub name: String,
    /// Why, for people.
    pub detail: String,
    /// Whether it is critical.
    #[serde(default)]
    pub critical: bool,
}

/// What is stored of an integration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationState {
    /// Its name.
    pub name: String,
    /// Whether it has a checkpoint.
    pub has_checkpoint: bool,
    /// When the checkpoint was written, in milliseconds since 1970-01-01 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpointed_at: Option<u64>,
}

/// Counters of the guest since its boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Time of all CPUs together, in milliseconds.
    pub cpu_total_ms: u64,
    /// The idle part of it, in milliseconds.
    pub cpu_idle_ms: u64,
    /// Memory of the guest, in KiB.
    pub mem_total_kib: u64,
    /// Memory that programs could still get, in KiB.
    pub mem_available_kib: u64,
    /// Bytes received by all devices but `lo`.
    pub net_rx_bytes: u64,
    /// Bytes sent by all devices but `lo`.
    pub net_tx_bytes: u64,
    /// Load averages over 1, 5 and 15 minutes, in thousandths.
    pub load_milli: [u32; 3],
    /// Time since boot, in milliseconds.
    pub uptime_ms: u64,
    /// Processes.
    pub processes: u32,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What a program decides by.
    pub kind: FailureKind,
    /// What a person reads.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The callee does not know or not offer this.
    Unsupported,
    /// The request makes no sense.
    Invalid,
    /// The program, file or drive is not there; an exec's exit code is 127 then.
    NotFound,
    /// The program is there and cannot be executed; an exec's exit code is 126 then.
    NotExecutable,
    /// A path or address that the callee refuses to touch.
    Denied,
    /// Too much at once, or in the way of something else.
    Busy,
    /// It took longer than it may.
    Timeout,
    /// Anything else.
    Failed,
    /// A newer callee's word for something else.
    #[serde(other)]
    Unknown,
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

    #[test]
    fn a_newer_peers_words_for_states_and_failures_are_understood_as_unknown() {
        let failure: Failure = serde_json::from_str(r#"{"kind":"melted","message":"m"}"#).unwrap();
        assert_eq!(failure.kind, FailureKind::Unknown);
        assert_eq!(
            serde_json::from_str::<WorkerState>(r#""asleep""#).unwrap(),
            WorkerState::Unknown
        );
    }

    #[test]
    fn an_exit_by_signal_has_the_code_a_shell_gives_it() {
        assert_eq!(Exit::Signal(15).shell_code(), 143);
        assert_eq!(Exit::Code(3).shell_code(), 3);
    }
}
