//! What is decided for a pool without being asked: when its instances sleep, how they are confined
//! and packed, when they count as ready, what becomes of them with their node (SPEC §5).
//!
//! All of it has a default. It refuses to know how anything of it is done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::Seconds;

/// The standing decisions of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolPolicy {
    /// When idle instances sleep.
    pub sleep_policy: SleepPolicy,
    /// How the VMM is confined.
    pub seccomp_policy: SeccompPolicy,
    /// How snapshots are packed.
    pub snapshot_compression: Compression,
    /// Names and texts for people and programs; `mvm` gives them no meaning.
    pub metadata: BTreeMap<String, String>,
    /// When an instance is ready to serve; as soon as its agent answers if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// What becomes of its instances when their node is lost.
    pub on_node_loss: OnNodeLoss,
    /// Never stopped or put to sleep by policy.
    pub pinned: bool,
    /// Never touched by policy.
    pub critical: bool,
}

/// When an idle instance is paused and put to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SleepPolicy {
    /// How long it must have been idle to become Warm.
    pub warm_after_seconds: Seconds,
    /// How long it must have been idle to go to sleep.
    pub sleep_after_seconds: Seconds,
    /// Below this load of its vCPUs it is idle.
    pub cpu_percent: u32,
    /// Below this many bytes in the interval it is idle.
    pub net_bytes: u64,
}

impl Default for SleepPolicy {
    fn default() -> Self {
        Self {
            warm_after_seconds: Seconds(300),
            sleep_after_seconds: Seconds(900),
            cpu_percent: 5,
            net_bytes: 1024,
        }
    }
}

/// Which system calls a VMM may make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompPolicy {
    /// Those of the binary's own filter.
    #[default]
    Baseline,
    /// Those of one more filter, stacked by the shim.
    Strict,
}

/// How a snapshot's chunks are packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Fast.
    Lz4,
    /// Small.
    Zstd,
}

/// What an instance must show to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Readiness {
    /// The workload touched `/run/mvm/worker-ready`.
    WorkerReady,
    /// A port takes connections.
    Tcp {
        /// Which.
        port: u16,
    },
    /// A request is answered with a status from 200 to 399.
    Http {
        /// At which port.
        port: u16,
        /// For which path.
        path: String,
    },
}

/// What becomes of instances when their node is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNodeLoss {
    /// They run on, or come back with it.
    #[default]
    Keep,
    /// Fresh ones are started elsewhere.
    Replace,
}
