//! What `mvm instance stats` and `mvm node stats` show.

use std::collections::BTreeMap;

use mvm::{GroupStats, InstanceStats, NodeStats, State, units::Timestamp};
use serde::Serialize;

use super::size;
use crate::render::table::{facts, table};

/// An instance's figures. Rates are those of the moment; counters rise from the VMM's start.
#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    pub(crate) instance: String,
    pub(crate) state: State,
    pub(crate) state_since: Timestamp,
    pub(crate) cpu_percent: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) vcpus: u32,
    pub(crate) memory: MemoryFigures,
    pub(crate) network: NetworkFigures,
    pub(crate) disk: DiskFigures,
    pub(crate) paging: Option<mvm::Paging>,
    pub(crate) idle_seconds: Option<u64>,
    pub(crate) worker: Option<mvm::WorkerState>,
    pub(crate) guest: Option<mvm::GuestMetrics>,
    pub(crate) health: HealthFigures,
}

#[derive(Debug, Serialize)]
pub(crate) struct MemoryFigures {
    pub(crate) size_bytes: u64,
    pub(crate) guest_used_bytes: Option<u64>,
    pub(crate) resident_bytes: u64,
    pub(crate) charged_bytes: u64,
    pub(crate) limit_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct NetworkFigures {
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_packets: u64,
    pub(crate) tx_packets: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct DiskFigures {
    pub(crate) volume_bytes: u64,
    pub(crate) snapshot_bytes: u64,
    pub(crate) snapshots: usize,
    pub(crate) log_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct HealthFigures {
    pub(crate) vmm: bool,
    pub(crate) shim: bool,
    pub(crate) agent: bool,
    pub(crate) last_failure: Option<mvm::Failure>,
}

impl Stats {
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^52")]
    pub(crate) fn of(stats: &InstanceStats) -> Self {
        let InstanceStats { view, meter, guest, cpu_milli, idle_ms } = stats;
        let record = &view.record;
        let used = |one: &mvm::GuestMetrics| {
            one.mem_total_kib.saturating_sub(one.mem_available_kib) * 1024
        };
        Self {
            instance: record.instance.to_string(),
            state: record.state,
            state_since: record.state_since,
            cpu_percent: *cpu_milli as f64 / 10.0,
            cpu_seconds: (meter.cpu_usec / 1000) as f64 / 1000.0,
            vcpus: record.resources.vcpus.0,
            memory: MemoryFigures {
                size_bytes: u64::from(record.resources.mem_mib.0) << 20,
                guest_used_bytes: guest.as_ref().map(used),
                resident_bytes: view.observed.vmm.map_or(0, |vmm| vmm.resident_kib * 1024),
                charged_bytes: meter.memory_bytes,
                limit_bytes: meter.memory_max_bytes,
            },
            network: NetworkFigures {
                rx_bytes: meter.net_rx_bytes,
                tx_bytes: meter.net_tx_bytes,
                rx_packets: meter.net_rx_packets,
                tx_packets: meter.net_tx_packets,
            },
            disk: DiskFigures {
                volume_bytes: meter.volume_bytes,
                snapshot_bytes: meter.snapshot_bytes,
                snapshots: view.observed.snapshots.len(),
                log_bytes: meter.log_bytes,
            },
            paging: meter.paging,
            idle_seconds: idle_ms.map(|ms| ms / 1000),
            worker: guest.as_ref().map(|one| one.worker).or(meter.worker),
            guest: guest.clone(),
            health: HealthFigures {
                vmm: view.observed.vmm.is_some(),
                shim: view.observed.shim,
                agent: guest.is_some(),
                last_failure: record.last_failure.clone(),
            },
        }
    }
}

pub(crate) fn stats(one: &Stats) -> String {
    let health = &one.health;
    let unknown = || "unknown".to_owned();
    let worker = one.worker.map_or_else(unknown, |state| format!("{state:?}").to_lowercase());
    let used = one.memory.guest_used_bytes.map_or_else(unknown, size);
    facts(vec![
        ("Instance", one.instance.clone()),
        ("State", format!("{} since {}", one.state, one.state_since.rfc3339())),
        (
            "CPU",
            format!("{:.1} % of {} vCPU, {:.1} s", one.cpu_percent, one.vcpus, one.cpu_seconds),
        ),
        (
            "Memory",
            format!(
                "{} of {} used in the guest, {} resident",
                used,
                size(one.memory.size_bytes),
                size(one.memory.resident_bytes)
            ),
        ),
        (
            "Network",
            format!(
                "{} in ({} packets), {} out ({} packets)",
                size(one.network.rx_bytes),
                one.network.rx_packets,
                size(one.network.tx_bytes),
                one.network.tx_packets
            ),
        ),
        (
            "Disk",
            format!(
                "volume {}, snapshots {} ({}), logs {}",
                size(one.disk.volume_bytes),
                size(one.disk.snapshot_bytes),
                one.disk.snapshots,
                size(one.disk.log_bytes)
            ),
        ),
        ("Pages", pages(one.paging)),
        ("Idle", one.idle_seconds.map_or_else(unknown, |seconds| format!("{seconds} s"))),
        ("Worker", worker),
        ("Health", who(health)),
        (
            "Failure",
            health.last_failure.as_ref().map_or_else(
                || "none".to_owned(),
                |failure| format!("{}: {}", failure.at.rfc3339(), failure.reason),
            ),
        ),
    ])
}

fn who(health: &HealthFigures) -> String {
    let yes = |is: bool| if is { "yes" } else { "no" };
    let (vmm, shim, agent) = (yes(health.vmm), yes(health.shim), yes(health.agent));
    format!("VMM {vmm}, shim {shim}, agent {agent}")
}

fn pages(paging: Option<mvm::Paging>) -> String {
    let Some(paging) = paging else { return "all its own".to_owned() };
    format!(
        "{} of {} of its snapshot here, {} of them prefetched, {} faults since it woke",
        paging.brought_pages, paging.snapshot_pages, paging.prefetched_pages, paging.faults
    )
}

/// The node's figures, as `node stats` shows them.
#[derive(Debug, Serialize)]
pub(crate) struct Fleet {
    pub(crate) total: GroupStats,
    pub(crate) tenants: BTreeMap<String, GroupStats>,
}

impl Fleet {
    pub(crate) fn of(stats: NodeStats) -> Self {
        let tenants = stats.tenants.into_iter().map(|(id, group)| (id.to_string(), group));
        Self { total: stats.total, tenants: tenants.collect() }
    }
}

pub(crate) fn fleet(fleet: &Fleet) -> String {
    let row = |name: &str, group: &GroupStats| {
        let count = |state| group.states.get(&state).copied().unwrap_or(0).to_string();
        [
            name.to_owned(),
            group.pools.to_string(),
            count(State::Running),
            count(State::Warm),
            count(State::Sleeping),
            count(State::Stopped),
            group.idle.to_string(),
            group.vcpus.to_string(),
            format!("{} MiB", group.mem_mib),
            size(group.resident_kib * 1024),
            size(group.volume_bytes),
            format!("{} ({})", size(group.snapshot_bytes), group.snapshots),
        ]
    };
    let mut rows: Vec<_> = fleet.tenants.iter().map(|(name, group)| row(name, group)).collect();
    rows.push(row("all", &fleet.total));
    let head = [
        "TENANT",
        "POOLS",
        "RUNNING",
        "WARM",
        "SLEEPING",
        "STOPPED",
        "IDLE",
        "VCPUS",
        "MEMORY",
        "RESIDENT",
        "VOLUMES",
        "SNAPSHOTS",
    ];
    table(head, rows)
}
