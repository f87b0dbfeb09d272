//! What results look like: the documents of `--json`, and the same facts as text.

use std::collections::BTreeMap;

use mvm::{
    Counts, Finding, LoggedEvent, Logs, Made, Outcome, PoolView, Preview, Quotas, Resources, State,
    TenantView, Usage,
    units::{Timestamp, Uid},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::render::table::{facts, table};

/// A tenant, as `tenant list` and `tenant info` show it.
#[derive(Debug, Serialize)]
pub(crate) struct Tenant {
    tenant_id: String,
    network: mvm::Network,
    gateway: String,
    quotas: Quotas,
    usage: Usage,
    pools: usize,
    instances: usize,
    keyed: bool,
    destroying: bool,
    created_at: Timestamp,
}

impl Tenant {
    pub(crate) fn of(view: &TenantView) -> Self {
        let record = &view.record;
        Self {
            tenant_id: record.tenant_id.to_string(),
            network: record.network.clone(),
            gateway: record.network.subnet.gateway().to_string(),
            quotas: record.quotas,
            usage: view.usage,
            pools: view.pools,
            instances: view.instances,
            keyed: record.keyed,
            destroying: record.destroying,
            created_at: record.created_at,
        }
    }
}

pub(crate) fn tenants(all: &[Tenant]) -> String {
    let row = |one: &Tenant| {
        [
            one.tenant_id.clone(),
            one.network.net.to_string(),
            one.network.subnet.to_string(),
            one.pools.to_string(),
            one.instances.to_string(),
            format!("{}/{}", one.usage.running, one.quotas.max_running),
            format!("{}/{} MiB", one.usage.mem_mib, one.quotas.max_mem_mib.0),
        ]
    };
    table(
        ["TENANT", "NET", "SUBNET", "POOLS", "INSTANCES", "RUNNING", "MEMORY"],
        all.iter().map(row).collect(),
    )
}

pub(crate) fn tenant(one: &Tenant) -> String {
    let (used, most) = (&one.usage, &one.quotas);
    facts(vec![
        ("Tenant", one.tenant_id.clone()),
        (
            "Network",
            format!("{} (net-id {}), gateway {}", one.network.subnet, one.network.net, one.gateway),
        ),
        ("vCPUs", format!("{} of {}", used.vcpus, most.max_vcpus)),
        ("Memory", format!("{} of {}", used.mem_mib, most.max_mem_mib)),
        ("Running", format!("{} of {}", used.running, most.max_running)),
        ("Warm", format!("{} of {}", used.warm, most.max_warm)),
        ("Pools", format!("{} of {}", one.pools, most.max_pools)),
        (
            "Instances",
            format!("{} (at most {} per pool)", one.instances, most.max_instances_per_pool),
        ),
        ("Disk", format!("{} MiB of {}", used.disk_mib, most.max_disk_gib)),
        (
            "Key",
            if one.keyed { "yes" } else { "none: snapshots are stored in the clear" }.to_owned(),
        ),
    ])
}

/// A pool, as `pool list` and `pool info` show it.
#[derive(Debug, Serialize)]
pub(crate) struct Pool {
    pool: String,
    source: mvm::Source,
    profile: String,
    role: String,
    instance_resources: Resources,
    desired_counts: Counts,
    current: Option<String>,
    revisions: usize,
    states: BTreeMap<State, usize>,
    created_at: Timestamp,
}

impl Pool {
    pub(crate) fn of(view: &PoolView) -> Self {
        let record = &view.record;
        Self {
            pool: record.pool.to_string(),
            source: record.source.clone(),
            profile: record.profile.clone(),
            role: record.role.to_string(),
            instance_resources: record.instance_resources,
            desired_counts: record.desired_counts,
            current: record.current().map(ToString::to_string),
            revisions: record.revisions.len(),
            states: view.states.clone(),
            created_at: record.created_at,
        }
    }

    fn size(&self) -> String {
        let size = self.instance_resources;
        format!("{} vCPU, {}", size.vcpus, size.mem_mib)
    }

    fn build(&self) -> String {
        let short = |hash: &String| hash.chars().take(12).collect();
        self.current.as_ref().map_or_else(|| "none".to_owned(), short)
    }

    fn instances(&self) -> String {
        let all: Vec<_> =
            self.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }
}

fn counts(counts: Counts) -> String {
    format!("{} running, {} warm, {} sleeping", counts.running, counts.warm, counts.sleeping)
}

pub(crate) fn pools(all: &[Pool]) -> String {
    let row = |one: &Pool| {
        [
            one.pool.clone(),
            one.role.clone(),
            one.size(),
            one.build(),
            counts(one.desired_counts),
            one.instances(),
        ]
    };
    table(["POOL", "ROLE", "SIZE", "BUILD", "DESIRED", "INSTANCES"], all.iter().map(row).collect())
}

pub(crate) fn pool(one: &Pool) -> String {
    facts(vec![
        ("Pool", one.pool.clone()),
        ("Role", one.role.clone()),
        ("Source", one.source.to_string()),
        ("Build", format!("{} (of {})", one.build(), one.revisions)),
        ("Size", format!("{}, data disk {}", one.size(), one.instance_resources.data_disk_mib)),
        ("Desired", counts(one.desired_counts)),
        ("Instances", one.instances()),
    ])
}

/// An instance, as `instance list` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Instance {
    instance: String,
    state: State,
    in_flight: bool,
    address: Option<String>,
    mac: String,
    uid: Uid,
    role: String,
    resources: Resources,
    image: Option<String>,
    pid: Option<u32>,
    resident_kib: Option<u64>,
    shim: bool,
    parked_by: Option<mvm::ParkedBy>,
    last_failure: Option<mvm::Failure>,
    manual_override_until: Option<Timestamp>,
    created_at: Timestamp,
    state_since: Timestamp,
}

impl Instance {
    pub(crate) fn of(view: &mvm::InstanceView) -> Self {
        let record = &view.record;
        let vmm = view.observed.vmm;
        Self {
            instance: record.instance.to_string(),
            state: record.state,
            in_flight: view.in_flight,
            address: record.address().map(|address| address.to_string()),
            mac: record.mac().to_string(),
            uid: record.uid,
            role: record.role.to_string(),
            resources: record.resources,
            image: record.image.as_ref().map(ToString::to_string),
            pid: vmm.map(|vmm| vmm.pid),
            resident_kib: vmm.map(|vmm| vmm.resident_kib),
            shim: view.observed.shim,
            parked_by: record.parked_by,
            last_failure: record.last_failure.clone(),
            manual_override_until: record.manual_override_until,
            created_at: record.created_at,
            state_since: record.state_since,
        }
    }

    fn note(&self) -> String {
        if let Some(failure) = &self.last_failure {
            return failure.reason.clone();
        }
        match (self.in_flight, self.pid, self.shim) {
            (true, _, _) => "in flight".to_owned(),
            (false, Some(_), false) => "its shim is gone".to_owned(),
            (false, _, _) => String::new(),
        }
    }
}

pub(crate) fn instances(all: &[Instance]) -> String {
    let row = |one: &Instance| {
        [
            one.instance.clone(),
            one.state.to_string(),
            one.address.clone().unwrap_or_default(),
            one.resident_kib.map_or_else(String::new, |kib| format!("{} MiB", kib / 1024)),
            one.note(),
        ]
    };
    table(["INSTANCE", "STATE", "ADDRESS", "RESIDENT", "NOTE"], all.iter().map(row).collect())
}

pub(crate) fn logs(logs: &Logs) -> String {
    let mut text = logs.console.join("\n");
    if !logs.vmm.is_empty() {
        text.push_str("\n--- VMM ---\n");
        text.push_str(&logs.vmm.join("\n"));
    }
    text
}

pub(crate) fn events(all: &[LoggedEvent]) -> String {
    let row = |logged: &LoggedEvent| {
        let event = &logged.event;
        let subject = [
            Some(event.tenant.to_string()),
            event.pool.as_ref().map(ToString::to_string),
            event.instance.as_ref().map(ToString::to_string),
        ];
        [
            logged.seq.to_string(),
            time(event.time),
            event.event.to_string(),
            subject.into_iter().flatten().collect::<Vec<_>>().join("/"),
            event.actor.to_string(),
            event.reason.clone(),
        ]
    };
    table(["SEQ", "TIME", "EVENT", "SUBJECT", "BY", "REASON"], all.iter().map(row).collect())
}

/// A moment as RFC 3339, UTC, whole seconds. The days of the civil calendar follow Howard
/// Hinnant's `civil_from_days`.
fn time(at: Timestamp) -> String {
    let seconds = at.0 / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The node, as `node info` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Node {
    node_id: String,
    #[serde(flatten)]
    facts: mvm::NodeFacts,
    bridges: usize,
    firewall: Option<u64>,
    usage: Usage,
}

impl Node {
    pub(crate) fn of(view: mvm::NodeView) -> Self {
        Self {
            node_id: view.node_id,
            bridges: view.observed.bridges.len(),
            firewall: view.observed.firewall.map(|generation| generation.0),
            facts: view.observed.facts,
            usage: view.usage,
        }
    }
}

pub(crate) fn node(node: &Node) -> String {
    let facts_of = &node.facts;
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let versions = &facts_of.firecracker;
    facts(vec![
        ("Node", node.node_id.clone()),
        ("Host", format!("{} ({}, Linux {})", facts_of.hostname, facts_of.arch, facts_of.kernel)),
        ("CPUs", facts_of.vcpus.to_string()),
        ("Memory", format!("{} MiB, {} available", facts_of.mem_mib, facts_of.mem_available_mib)),
        ("Disk free", format!("{} MiB", facts_of.disk_free_mib)),
        ("KVM", format!("{}: {}", yes(facts_of.kvm), facts_of.kvm_detail)),
        ("cgroup v2", yes(facts_of.cgroup_v2)),
        ("nftables", yes(facts_of.nftables)),
        ("Firecracker", if versions.is_empty() { "none".to_owned() } else { versions.join(", ") }),
        ("Jailer", yes(facts_of.jailer)),
        ("Bridges", node.bridges.to_string()),
        (
            "Guests",
            format!(
                "{} running, {} warm, {} MiB",
                node.usage.running, node.usage.warm, node.usage.mem_mib
            ),
        ),
    ])
}

/// What `net verify` shows.
#[derive(Debug, Serialize)]
pub(crate) struct Verified {
    pub(crate) findings: Vec<Finding>,
}

pub(crate) fn verified(report: &Verified) -> String {
    if report.findings.is_empty() {
        return "The network is as it shall be.".to_owned();
    }
    let row = |finding: &Finding| {
        let tenant = finding.tenant.as_ref().map_or_else(|| "host".to_owned(), ToString::to_string);
        [tenant, finding.check.clone(), finding.problem.clone()]
    };
    table(["WHERE", "CHECK", "PROBLEM"], report.findings.iter().map(row).collect())
}

/// The document of a change: the address of what was made first, then everything else.
pub(crate) fn outcome_json(outcome: &Outcome) -> Value {
    let mut document = json!(outcome);
    let address = match &outcome.made {
        Some(Made::Tenant(tenant)) => Some(("tenant", tenant.tenant_id.to_string())),
        Some(Made::Pool(pool)) => Some(("pool", pool.pool.to_string())),
        Some(Made::Image(image)) => Some(("image", image.to_string())),
        Some(Made::Instance(one)) => Some(("instance", one.instance.to_string())),
        Some(Made::Removed(address)) => Some(("removed", address.clone())),
        None => None,
    };
    if let (Some((key, address)), Some(fields)) = (address, document.as_object_mut()) {
        fields.insert(key.to_owned(), Value::String(address));
    }
    document
}

/// What a change did, in sentences.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    match &outcome.made {
        Some(Made::Tenant(tenant)) => lines.push(format!(
            "Tenant {} has network {} (net-id {}).",
            tenant.tenant_id, tenant.network.subnet, tenant.network.net
        )),
        Some(Made::Pool(pool)) => {
            lines.push(format!("Pool {}: {}.", pool.pool, counts(pool.desired_counts)));
        }
        Some(Made::Image(image)) => lines.push(format!("The current image is {}.", image.short())),
        Some(Made::Instance(one)) => {
            let address = one.address().map(|address| format!(" at {address}")).unwrap_or_default();
            lines.push(format!("{} is {}{address}.", one.instance, one.state));
        }
        Some(Made::Removed(address)) => lines.push(format!("{address} is gone.")),
        None => {}
    }
    for change in &outcome.changes {
        let from = change.from.map(|from| format!("{from} → ")).unwrap_or_default();
        lines.push(format!("{}: {from}{} ({} ms)", change.instance, change.to, change.duration_ms));
    }
    for deferral in &outcome.deferrals {
        lines.push(format!("{}: left alone: {}", deferral.instance, deferral.reason));
    }
    if lines.is_empty() {
        lines.push("Nothing to do.".to_owned());
    }
    lines.join("\n")
}

/// What a change would do.
pub(crate) fn preview(preview: &Preview) -> String {
    let mut lines = Vec::new();
    if let Some(made) = &preview.made {
        lines.push(format!("would make: {}", json!(made)));
    }
    lines.extend(preview.steps.iter().map(|step| format!("would do: {}", json!(step))));
    lines.extend(preview.assignments.iter().map(|one| format!("would assign: {}", json!(one))));
    lines.extend(preview.destroyed.iter().map(|one| format!("would destroy: {one}")));
    if lines.is_empty() { "Nothing to do.".to_owned() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339() {
        assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(time(Timestamp(951_782_400_000)), "2000-02-29T00:00:00Z");
        assert_eq!(time(Timestamp(1_763_769_599_000)), "2025-11-21T23:59:59Z");
    }
}
