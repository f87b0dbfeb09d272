//! What is measured of an instance, on the host and inside the guest. Counters rise from the start
//! of the VMM or the guest's boot; sizes are those of now.

use serde::{Deserialize, Serialize};

/// What the host measures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Processor time of VMM and shim since the start, in microseconds.
    pub cpu_usec: u64,
    /// Memory charged to the instance's cgroup, in bytes.
    pub memory_bytes: u64,
    /// The limit of that, in bytes; 0 without a cgroup.
    pub memory_max_bytes: u64,
    /// Bytes that the guest received.
    pub net_rx_bytes: u64,
    /// Bytes that the guest sent.
    pub net_tx_bytes: u64,
    /// Packets that the guest received.
    pub net_rx_packets: u64,
    /// Packets that the guest sent.
    pub net_tx_packets: u64,
    /// Disk that the data volume takes, in bytes.
    pub volume_bytes: u64,
    /// Disk that snapshots take, in bytes.
    pub snapshot_bytes: u64,
    /// Disk that logs take, in bytes.
    pub log_bytes: u64,
    /// What the workload last told about itself, if it told anything since the start.
    pub worker: Option<WorkerState>,
    /// How its memory came to it, if it woke from a snapshot.
    #[serde(default)]
    pub paging: Option<Paging>,
}

/// What the page server of a woken instance did since the wake, in pages of 4 KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paging {
    /// Faults that the guest waited for.
    pub faults: u64,
    /// Pages of its snapshot that are not those of the base.
    pub snapshot_pages: u64,
    /// Pages of those that were brought.
    pub brought_pages: u64,
    /// Pages of those that were brought before anybody asked, because the last run wanted them.
    pub prefetched_pages: u64,
    /// Pages that came from the base.
    pub base_pages: u64,
    /// Pages that were zero.
    pub zero_pages: u64,
    /// Pages that the guest gave back.
    pub returned_pages: u64,
}

/// What a workload says about itself through its hooks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// A newer agent's word for something else.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What the agent measures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMetrics {
    /// Time of all vCPUs together, in milliseconds.
    pub cpu_total_ms: u64,
    /// The idle part of it, in milliseconds.
    pub cpu_idle_ms: u64,
    /// Memory of the guest, in KiB.
    pub mem_total_kib: u64,
    /// Memory that programs could still get, in KiB.
    pub mem_available_kib: u64,
    /// Load averages over 1, 5 and 15 minutes, in thousandths.
    pub load_milli: [u32; 3],
    /// Time since boot, in milliseconds.
    pub uptime_ms: u64,
    /// Processes.
    pub processes: u32,
    /// What the workload says.
    pub worker: WorkerState,
    /// Whether it says anything at all.
    pub has_hooks: bool,
    /// When it was last busy, in milliseconds since 1970-01-01 UTC by the guest's clock.
    pub last_busy_at_ms: Option<u64>,
}

/// What was copied into or out of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of file contents.
    pub bytes: u64,
}

/// The memory of the host at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// All of it, in MiB.
    pub total_mib: u64,
    /// What programs can get without swapping, in MiB (`MemAvailable`).
    pub available_mib: u64,
    /// The share of the last ten seconds in which some task waited for memory, in percent (PSI, `some
    /// avg10`); none on a kernel that does not tell.
    pub stalled_percent: Option<u32>,
}
