//! `routes.json`: what a gateway works by (SPEC §5).
//!
//! The host writes it to the config drive and sends it anew whenever who is available changes. This
//! module refuses to know how traffic is matched and carried. Unknown fields are ignored.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The port of routes that name none.
pub const DEFAULT_ROUTE_PORT: u16 = 8080;

/// The routes, and who is available behind them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// Rises with every change; what is older than what a gateway has is dropped. 0 on the drive.
    #[serde(default)]
    pub generation: u64,
    /// The routes; of those that match the narrowest wins.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The available instances by pool.
    #[serde(default)]
    pub backends: BTreeMap<String, Vec<Backend>>,
}

/// Where some of the traffic goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Which traffic.
    pub match_rule: MatchRule,
    /// Where to.
    pub target: RouteTarget,
}

/// Which traffic a route takes; what is absent matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchRule {
    /// The port that the traffic arrives at; absent means [`DEFAULT_ROUTE_PORT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The first segments of the path; one such route makes its port speak HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// The addresses that the traffic comes from, as `a.b.c.d/prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_cidr: Option<String>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTarget {
    /// The pool.
    pub pool_id: String,
    /// Which of its available instances.
    #[serde(default)]
    pub instance_selector: InstanceSelector,
    /// The port there; absent means the one that the traffic arrived at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
}

/// Which of a pool's available instances takes a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceSelector {
    /// Each in turn.
    #[default]
    Any,
    /// The one with this address, while it is available.
    ByIp(Ipv4Addr),
    /// The one with the fewest open connections through this gateway.
    LeastConnections,
}

/// An instance that takes traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its id.
    pub instance_id: String,
    /// Its address.
    pub ip: Ipv4Addr,
}
