//! The routing table of a gateway: which traffic goes to which pool, and to which of its instances
//! (SPEC §5).
//!
//! A port whose routes look at paths speaks HTTP, any other passes bytes on. A route without a
//! port belongs to [`DEFAULT_PORT`]. Of the routes that match, the narrowest wins; a table in which
//! two routes could have equal right to the same request is refused, so there always is one:
//!
//! ```text
//! on one port   /api        /api/v2          narrower: /api/v2
//!               /api        10.240.3.0/24    refused: neither is narrower than the other
//!               10.0.0.0/8  10.240.3.0/24    narrower: 10.240.3.0/24
//! ```
//!
//! This module refuses to know how traffic is carried; the gateway in the guest does that.

mod cidr;
mod read;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde::{Deserialize, Serialize};

pub use self::cidr::{Cidr, InvalidCidr};
pub use self::read::read;
use crate::{
    document::{Findings, below, element},
    id::{InstanceId, PoolId},
    net::Subnet,
};

/// The port of routes that name none.
pub const DEFAULT_PORT: u16 = 8080;
/// The most routes of a table.
pub const ROUTES_MAX: usize = 64;
/// The longest path prefix, in bytes.
const PATH_MAX: usize = 255;

/// All routes of a pool's gateways.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingTable {
    /// In the order of the document; the order decides nothing.
    pub routes: Vec<Route>,
}

/// Where some of the traffic goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name, unique in the table; spelled like a pool id.
    pub name: PoolId,
    /// Which traffic.
    pub match_rule: MatchRule,
    /// Where to.
    pub target: Target,
}

/// Which traffic a route takes; what is absent matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchRule {
    /// The port that the traffic arrives at; [`DEFAULT_PORT`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The first segments of the request's path; it makes the port speak HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// The addresses that the traffic comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_cidr: Option<Cidr>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The pool, of the same tenant.
    pub pool_id: PoolId,
    /// Which of its available instances.
    #[serde(default)]
    pub instance_selector: Selector,
    /// The port there; the one that the traffic arrived at if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
}

/// Which of a pool's available instances takes a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// Each in turn.
    #[default]
    Any,
    /// The one with this address, while it is available.
    ByIp(Ipv4Addr),
    /// The one with the fewest open connections through this gateway.
    LeastConnections,
}

/// What a table is checked against.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The pool whose gateways have the table.
    pub own: PoolId,
    /// The tenant's other pools.
    pub pools: BTreeSet<PoolId>,
    /// The tenant's subnet.
    pub subnet: Subnet,
}

/// An instance that takes traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Which.
    pub instance_id: InstanceId,
    /// Its address.
    pub ip: Ipv4Addr,
}

/// What a gateway works by: the table, and who is available at the moment (`routes.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// Rises with every change; a gateway drops what is older than what it has.
    pub generation: u64,
    /// The table's routes.
    pub routes: Vec<Route>,
    /// The available instances of the pools that the routes lead to.
    pub backends: BTreeMap<PoolId, Vec<Backend>>,
}

impl Routes {
    /// A table of which nobody is known to be available.
    #[must_use]
    pub fn alone(table: &RoutingTable) -> Self {
        Self { generation: 0, routes: table.routes.clone(), backends: BTreeMap::new() }
    }
}

impl RoutingTable {
    /// The pools that its routes lead to.
    #[must_use]
    pub fn targets(&self) -> BTreeSet<PoolId> {
        self.routes.iter().map(|route| route.target.pool_id.clone()).collect()
    }

    /// Checks a table that was not read from a document.
    pub fn check(&self, path: &str, around: &Surroundings, findings: &mut Findings) {
        match serde_json::to_value(self) {
            Ok(value) => drop(read(&value, path, around, findings)),
            Err(error) => findings.add(path, error.to_string()),
        }
    }
}

impl MatchRule {
    /// The port that the traffic arrives at.
    #[must_use]
    pub fn effective_port(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// Whether all that the other takes is taken by this one too; ports are not looked at.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let path = match (self.path(), other.path()) {
            ("", _) => true,
            (own, theirs) => is_below(theirs, own),
        };
        let source = match (self.source_cidr, other.source_cidr) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(theirs)) => own.covers(theirs),
        };
        path && source
    }

    /// Whether some traffic is taken by both.
    fn meets(&self, other: &Self) -> bool {
        let (own, theirs) = (self.path(), other.path());
        let paths = is_below(theirs, own) || is_below(own, theirs);
        let sources = match (self.source_cidr, other.source_cidr) {
            (Some(own), Some(theirs)) => own.covers(theirs) || theirs.covers(own),
            (None, _) | (_, None) => true,
        };
        self.effective_port() == other.effective_port() && paths && sources
    }

    /// The prefix without its last slash: empty when every path matches.
    fn path(&self) -> &str {
        self.path_prefix.as_deref().map_or("", |path| path.trim_end_matches('/'))
    }
}

/// Whether `path` begins with the segments of `prefix`, which has no slash at its end.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check(placed: &[(usize, &Route)], path: &str, around: &Surroundings, findings: &mut Findings) {
    for (place, (index, route)) in placed.iter().enumerate() {
        let at = element(path, *index);
        let rule = &route.match_rule;
        let before = placed.get(..place).unwrap_or_default();
        if before.iter().any(|(_, other)| other.name == route.name) {
            findings.add(below(&at, "name"), format!("{} is there twice", route.name));
        }
        if rule.port.is_none() && rule.path_prefix.is_none() && rule.source_cidr.is_none() {
            findings.add(below(&at, "match_rule"), "names no port, path_prefix or source_cidr");
        }
        if let Some(problem) = rule.path_prefix.as_deref().and_then(wrong_path) {
            findings.add(below(&at, "match_rule.path_prefix"), problem);
        }
        let rival = before.iter().find(|(_, other)| {
            let other = &other.match_rule;
            let is_told_apart = rule.covers(other) != other.covers(rule);
            rule.meets(other) && !is_told_apart
        });
        if let Some((_, rival)) = rival {
            let problem = format!(
                "overlaps with route {} on port {}: neither is narrower",
                rival.name,
                rule.effective_port()
            );
            findings.add(below(&at, "match_rule"), problem);
        }
        check_target(&route.target, &below(&at, "target"), around, findings);
    }
}

fn check_target(target: &Target, at: &str, around: &Surroundings, findings: &mut Findings) {
    if target.pool_id == around.own {
        findings.add(below(at, "pool_id"), "leads back to the gateway's own pool");
    } else if !around.pools.contains(&target.pool_id) {
        findings.add(below(at, "pool_id"), format!("there is no pool {}", target.pool_id));
    }
    if let Selector::ByIp(ip) = target.instance_selector
        && !around.subnet.guest_offsets().any(|offset| around.subnet.address(offset) == Some(ip))
    {
        let problem = format!("{ip} is no guest's address in {}", around.subnet);
        findings.add(below(at, "instance_selector.by_ip"), problem);
    }
}

/// What is wrong with a path prefix.
fn wrong_path(path: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte);
    let Some(rest) = path.strip_prefix('/') else {
        return Some("must begin with a slash".to_owned());
    };
    if path.len() > PATH_MAX {
        return Some(format!("is longer than {PATH_MAX} bytes"));
    }
    if !path.bytes().all(is_plain) {
        return Some("holds something that is not written plainly in a path".to_owned());
    }
    let mut segments = rest.strip_suffix('/').unwrap_or(rest).split('/');
    let is_wrong = |segment: &str| matches!(segment, "" | "." | "..");
    (!rest.is_empty() && segments.any(is_wrong))
        .then(|| "has an empty segment, or one of dots".to_owned())
}

#[cfg(test)]
mod tests;
