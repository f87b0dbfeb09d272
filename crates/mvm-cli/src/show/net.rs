//! What `mvm net …` shows.

use mvm::{CrossTenant, Finding, NetReport, TenantNet};

use super::node::resolvers;
use crate::render::table::table;

pub(crate) fn verified(report: &NetReport) -> String {
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let row = |net: &TenantNet| {
        [
            net.tenant.to_string(),
            net.bridge.clone().unwrap_or_else(|| "none".to_owned()),
            yes(net.up),
            net.subnet.to_string(),
            yes(net.masquerade && net.forward_rules),
            yes(net.isolation_rules),
            net.taps.len().to_string(),
            crossing(net.cross_tenant_probe).to_owned(),
        ]
    };
    let header = ["TENANT", "BRIDGE", "UP", "SUBNET", "EGRESS", "WALLS", "TAPS", "CROSSING"];
    let mut parts = vec![
        table(header, report.tenants.iter().map(row).collect()),
        format!("Name queries go to: {}", resolvers(&report.dns)),
    ];
    if !report.probes.is_empty() {
        parts.push(format!("Guests tried {} targets.", report.probes.len()));
    }
    parts.push(findings(&report.findings));
    parts.join("\n")
}

const fn crossing(of: CrossTenant) -> &'static str {
    match of {
        CrossTenant::ClosedByRoutes => "closed (routes)",
        CrossTenant::ClosedByPackets => "closed (packets)",
        CrossTenant::Open => "OPEN",
    }
}

fn findings(all: &[Finding]) -> String {
    if all.is_empty() {
        return "The network is as it shall be.".to_owned();
    }
    let row = |finding: &Finding| {
        let tenant = finding.tenant.as_ref().map_or_else(|| "host".to_owned(), ToString::to_string);
        [tenant, finding.check.clone(), finding.problem.clone()]
    };
    table(["WHERE", "CHECK", "PROBLEM"], all.iter().map(row).collect())
}
