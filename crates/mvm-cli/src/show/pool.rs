//! What `mvm pool …` shows.

use std::collections::BTreeMap;

use mvm::{
    Counts, Integration, PoolView, Readiness, Resources, Rolling, Route, RoutingTable,
    RuntimePolicy, Scope, State, units::Timestamp,
};
use serde::Serialize;

use crate::render::table::{facts, table};

/// A pool, as `pool list` and `pool info` show it.
#[derive(Debug, Serialize)]
pub(crate) struct Pool {
    pub(crate) pool: String,
    pub(crate) source: mvm::Source,
    pub(crate) profile: String,
    pub(crate) role: String,
    pub(crate) instance_resources: Resources,
    pub(crate) runtime_policy: RuntimePolicy,
    pub(crate) desired_counts: Counts,
    pub(crate) secret_scopes: Vec<Scope>,
    pub(crate) integrations: Vec<Integration>,
    pub(crate) routing_table: Option<RoutingTable>,
    pub(crate) current: Option<String>,
    pub(crate) revisions: Vec<mvm::Revision>,
    pub(crate) states: BTreeMap<State, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) readiness: Option<Readiness>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rolling: Option<Rolling>,
    pub(crate) created_at: Timestamp,
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
            runtime_policy: record.runtime_policy,
            secret_scopes: record.secret_scopes.clone(),
            integrations: record.integrations.clone(),
            routing_table: record.routing_table.clone(),
            current: record.current().map(ToString::to_string),
            revisions: record.revisions.clone(),
            states: view.states.clone(),
            readiness: record.policy.readiness.clone(),
            rolling: record.rolling.clone(),
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

    /// The history, newest first, with the numbers that a rollback takes.
    fn builds(&self) -> String {
        let line = |(place, one): (usize, &mvm::Revision)| {
            let is_current = self.current.as_deref() == Some(one.image.as_str());
            let mark = if is_current { " (current)" } else { "" };
            let source = one.source.as_ref().map(|source| format!(" from {source}"));
            let (image, at) = (one.image.short(), one.built_at.rfc3339());
            format!("{}: {image} of {at}{}{mark}", place + 1, source.unwrap_or_default())
        };
        let all: Vec<_> = self.revisions.iter().enumerate().map(line).collect();
        if all.is_empty() { "none".to_owned() } else { all.join("; ") }
    }

    fn instances(&self) -> String {
        let all: Vec<_> =
            self.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }
}

pub(super) fn counts(counts: Counts) -> String {
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
    let names: Vec<&str> = one.integrations.iter().map(|one| one.name.as_str()).collect();
    let routes = one.routing_table.iter().flat_map(|table| table.routes.iter().map(route));
    let mut lines = vec![
        ("Pool", one.pool.clone()),
        ("Role", one.role.clone()),
        ("Source", one.source.to_string()),
        ("Build", format!("{} (of {})", one.build(), one.revisions.len())),
        ("Size", format!("{}, data disk {}", one.size(), one.instance_resources.data_disk_mib)),
        ("Desired", counts(one.desired_counts)),
        ("Instances", one.instances()),
        ("Builds", one.builds()),
    ];
    if !names.is_empty() {
        lines.push(("Integrations", names.join(", ")));
    }
    lines.extend(one.readiness.as_ref().map(|readiness| ("Readiness", readiness.to_string())));
    lines.extend(one.rolling.as_ref().map(|rolling| ("Roll", roll(rolling))));
    lines.extend(routes.map(|route| ("Route", route)));
    facts(lines)
}

/// How far a roll is.
fn roll(rolling: &Rolling) -> String {
    let (to, from) = (rolling.to.short(), rolling.from.short());
    match &rolling.failed {
        None => format!("{} taken for {to}; go on: mvm pool roll", rolling.taken.len()),
        Some(why) => format!("back to {from}, because {why}; go on: mvm pool roll"),
    }
}

fn route(route: &Route) -> String {
    let rule = &route.match_rule;
    let from = rule.source_cidr.map_or_else(String::new, |range| format!(" from {range}"));
    let port = route.target.target_port.unwrap_or(rule.effective_port());
    format!(
        "{}: port {}{}{from} to {}:{port}",
        route.name,
        rule.effective_port(),
        rule.path_prefix.as_deref().unwrap_or(""),
        route.target.pool_id
    )
}
