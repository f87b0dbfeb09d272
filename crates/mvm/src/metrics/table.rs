//! All figures by name: what `/metrics` shows, what `docs/metrics.md` lists, and what alerts and dashboard
//! may ask for. It refuses to know their values.

use std::fmt::Write as _;

/// What kind of figure it is, as Prometheus calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only rises; from 0 when the agent starts.
    Counter,
    /// It is what it is at the moment.
    Gauge,
    /// Durations by classes, with their sum and count.
    Histogram,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One figure, with all values of its labels.
#[derive(Debug)]
pub(super) struct Family {
    /// Its name.
    pub(super) name: &'static str,
    /// Its kind.
    pub(super) kind: Kind,
    /// What it is divided by.
    pub(super) labels: &'static [&'static str],
    /// What it means.
    pub(super) help: &'static str,
}

/// Defines the figures, and the list of all of them.
macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $id: Family = Family {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*
        /// All of them, in the order of a page.
        pub(super) const ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD = Gauge "mvm_build_info" ["version"] "The version that serves; always 1.";
    EVENTS = Counter "mvm_events_total" ["tenant", "pool", "event"]
        "Entries of the audit logs since the agent began; without a pool when they are about none.";
    DEFERRALS = Counter "mvm_deferrals_total" ["tenant", "pool"]
        "Moves that counts or policy put off, as the audit logs tell.";
    REJECTS = Counter "mvm_rejects_total" ["tenant", "pool", "reason"]
        "What was refused: by a quota, or as a desired state (tenant node).";
    OPERATIONS = Histogram "mvm_operation_duration_seconds" ["tenant", "pool", "operation"]
        "How long instances took to their state: start, wake, warm, sleep, stop.";
    RECONCILE = Histogram "mvm_reconcile_duration_seconds" [] "How long passes of reconcile took.";
    RECONCILE_FAILURES = Counter "mvm_reconcile_failures_total" []
        "Passes of reconcile in which something failed.";
    RECONCILE_DEFERRED = Gauge "mvm_reconcile_deferred" []
        "Moves that the last pass of reconcile put off.";
    CONVERGED = Gauge "mvm_reconcile_last_success_timestamp_seconds" []
        "When the last pass of reconcile ended in which nothing failed; absent before the first one.";
    POLICY = Histogram "mvm_policy_duration_seconds" []
        "How long ticks of policy took, with what they put to sleep.";
    POLICY_FAILURES = Counter "mvm_policy_failures_total" []
        "Ticks of policy in which something failed.";
    INSTANCES = Gauge "mvm_instances" ["tenant", "pool", "state"] "Instances by state.";
    DESIRED = Gauge "mvm_pool_desired_instances" ["tenant", "pool", "count"]
        "How many instances are asked for: running, warm, sleeping.";
    COUNTED = Gauge "mvm_pool_counted_instances" ["tenant", "pool", "count"]
        "How many there are as the counts count them: those that policy parked count as running.";
    HELD_BACK = Gauge "mvm_pool_held_back_instances" ["tenant", "pool"]
        "Instances that the counts would move, and that a brake or a person's command holds back.";
    MEMORY = Gauge "mvm_instances_memory_bytes" ["tenant", "pool"]
        "The memory of running and warm instances, as they were given it.";
    DISK = Gauge "mvm_instances_disk_bytes" ["tenant", "pool"]
        "The data disks of instances, as they were given.";
    HOST_MEMORY = Gauge "mvm_host_memory_bytes" [] "The memory of the host.";
    HOST_AVAILABLE = Gauge "mvm_host_memory_available_bytes" []
        "What programs can get of it without swapping.";
    HOST_FLOOR = Gauge "mvm_host_memory_floor_bytes" []
        "With less available than this, policy puts the coldest instances to sleep.";
    HOST_STALLED = Gauge "mvm_host_memory_stalled_ratio" []
        "The share of the last ten seconds in which some task waited for memory; absent where the kernel does not tell.";
    HOST_STALLED_LIMIT = Gauge "mvm_host_memory_stalled_limit_ratio" []
        "With a share as large as this, policy puts the coldest instance to sleep.";
    HOST_DISK = Gauge "mvm_host_disk_bytes" [] "The disk below the data directory.";
    HOST_DISK_FREE = Gauge "mvm_host_disk_available_bytes" []
        "What is free of it, the reserve included.";
    HOST_DISK_RESERVE = Gauge "mvm_host_disk_reserve_bytes" []
        "What stays free of it: what would eat into this is refused.";
    CERTIFICATE = Gauge "mvm_certificate_expiry_timestamp_seconds" ["role"]
        "Until when a certificate of this node is valid.";
}

/// The head of `docs/metrics.md`.
const HEAD: &str = "# Figures for Prometheus\n\n\
    Written by `cargo xtask docs` from the table in the code; do not edit it.\n\n\
    `mvm agent serve --metrics-listen ADDRESS:PORT` shows these at `/metrics`, in Prometheus' text format.\n\
    Whoever reaches the port reads them and the names of tenants and pools, and can change nothing.\n\n\
    Counters and histograms begin at 0 with the agent, and count what every process did meanwhile, since they\n\
    are read from the audit logs. Those of a pool are there from the pool's beginning, so that a rate sees the\n\
    first event as well. `monitoring/alerts.yml` has rules for Prometheus, `monitoring/dashboard.json` is a\n\
    dashboard for Grafana; both expect the job to be called `mvm`:\n\n\
    ```yaml\n\
    rule_files: [alerts.yml]\n\
    scrape_configs:\n  - job_name: mvm\n    static_configs:\n      - targets: [\"127.0.0.1:9100\"]\n\
    ```\n\n";

/// The page `docs/metrics.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| figure | kind | labels | meaning |\n|---|---|---|---|\n");
    for family in ALL {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, help) = (family.name, family.kind.name(), family.help);
        let _ = writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
    }
    page
}
