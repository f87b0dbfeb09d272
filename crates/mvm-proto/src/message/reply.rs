//! What a callee answers.
//!
//! Words that may grow (states, kinds) have an `Unknown` for those of a newer peer. This module
//! refuses to know which request an answer belongs to; `super::request` says it.

use serde::{Deserialize, Serialize};

use super::request::ProbeTarget;

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
    /// To [`super::Request::Ping`].
    Pong {},
    /// Done, or refused for a reason.
    Ack {
        /// Whether it was done.
        success: bool,
        /// What was done, or why not; for people.
        #[serde(default)]
        detail: String,
    },
    /// To [`super::Request::Status`].
    Status(Status),
    /// To [`super::Request::Checkpoint`] and [`super::Request::Restore`].
    Integrations {
        /// Whether all of them succeeded.
        success: bool,
        /// Those that did not.
        #[serde(default)]
        failed: Vec<IntegrationFailure>,
    },
    /// To [`super::Request::IntegrationStatus`].
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
    /// To [`super::Request::Probe`], in the order asked.
    Probe {
        /// One for each target.
        results: Vec<ProbeResult>,
    },
    /// To [`super::Request::Metrics`].
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
    /// Whether the guest knows who it is (config drive or [`super::Request::Configure`]).
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
