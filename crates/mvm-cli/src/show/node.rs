//! What `mvm node …` shows.

use mvm::{Rebuilt, Usage};
use serde::Serialize;

use crate::render::table::facts;

/// Guests run on this machine itself; there is no VM between.
const NATIVE: &str = "native";

/// The node, as `node info` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Node {
    pub(crate) node_id: String,
    #[serde(flatten)]
    pub(crate) facts: mvm::NodeFacts,
    pub(crate) agent: bool,
    /// What does not happen because no agent serves.
    pub(crate) off: Vec<&'static str>,
    pub(crate) bridges: usize,
    pub(crate) firewall: Option<u64>,
    pub(crate) host: String,
    pub(crate) attestation: Option<String>,
    pub(crate) usage: Usage,
}

/// What needs time passing, and so the agent (SPEC §3).
const AGENTS_WORK: [&str; 5] =
    ["sleep policy", "restart of the dead", "egress names", "repair", "metrics"];

impl Node {
    pub(crate) fn of(view: mvm::NodeView) -> Self {
        Self {
            node_id: view.node_id,
            agent: view.observed.agent,
            off: if view.observed.agent { Vec::new() } else { AGENTS_WORK.to_vec() },
            bridges: view.observed.bridges.len(),
            firewall: view.observed.firewall.map(|generation| generation.0),
            facts: view.observed.facts,
            host: NATIVE.to_owned(),
            attestation: None,
            usage: view.usage,
        }
    }
}

/// Where guests' name queries go, or why nowhere.
pub(crate) fn resolvers(dns: &mvm::Dns) -> String {
    let all: Vec<String> = dns.resolvers.iter().map(ToString::to_string).collect();
    dns.problem.clone().unwrap_or_else(|| all.join(", "))
}

/// The installed versions, and which one new microVMs run.
fn versions(facts: &mvm::NodeFacts) -> String {
    let installed = facts.firecracker.join(", ");
    let installed = if installed.is_empty() { "none" } else { &installed };
    format!("{installed}; new ones run {}", facts.firecracker_new)
}

pub(crate) fn node(node: &Node) -> String {
    let facts_of = &node.facts;
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    facts(vec![
        ("Node", node.node_id.clone()),
        ("Host", format!("{} ({}, Linux {})", facts_of.hostname, facts_of.arch, facts_of.kernel)),
        ("CPUs", facts_of.vcpus.to_string()),
        ("Memory", format!("{} MiB, {} available", facts_of.mem_mib, facts_of.mem_available_mib)),
        ("Disk free", format!("{} MiB", facts_of.disk_free_mib)),
        ("KVM", format!("{}: {}", yes(facts_of.kvm), facts_of.kvm_detail)),
        ("cgroup v2", yes(facts_of.cgroup_v2)),
        ("nftables", yes(facts_of.nftables)),
        ("Firecracker", versions(facts_of)),
        ("Jailer", yes(facts_of.jailer)),
        (
            "Agent",
            if node.agent {
                "serves".to_owned()
            } else {
                format!("does not run; off without it: {}", node.off.join(", "))
            },
        ),
        ("Resolvers", resolvers(&facts_of.dns)),
        ("Host VM", format!("none ({})", node.host)),
        ("Attestation", node.attestation.clone().unwrap_or_else(|| "none".to_owned())),
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

/// What a new store holds.
pub(crate) fn rebuilt(rebuilt: &Rebuilt) -> String {
    let mut lines = vec![format!(
        "{} tenants, {} pools, {} instances, {} audit entries ({}).",
        rebuilt.tenants.len(),
        rebuilt.pools,
        rebuilt.instances.len(),
        rebuilt.events,
        rebuilt.reason
    )];
    for one in &rebuilt.instances {
        let note = one.note.iter().map(|note| format!(" ({note})"));
        lines.push(format!("{}: {}{}", one.instance, one.state, note.collect::<String>()));
    }
    lines.extend(rebuilt.volumes.iter().map(|name| format!("kept volume {name}")));
    lines.extend(rebuilt.lost.iter().map(|lost| format!("not recovered: {lost}")));
    lines.extend(rebuilt.kept.iter().map(|kept| format!("The old store is {kept}.")));
    lines.join("\n")
}
