//! A routing table from a document.

use serde_json::{Map, Value};

use super::{MatchRule, ROUTES_MAX, Route, RoutingTable, Selector, Surroundings, Target, check};
use crate::document::{Findings, below, element, present};

/// Reads the table at `path` of a document and checks it against what it is made for.
pub fn read(
    value: &Value,
    path: &str,
    around: &Surroundings,
    findings: &mut Findings,
) -> RoutingTable {
    let Some(map) = findings.object(value, path, &["routes"]) else {
        return RoutingTable::default();
    };
    let at = below(path, "routes");
    let list = findings.needed(map, path, "routes").and_then(|list| findings.list(list, &at));
    let list = list.unwrap_or_default();
    if list.len() > ROUTES_MAX {
        findings.add(&at, format!("has {} routes (limit {ROUTES_MAX})", list.len()));
    }
    let mut routes = Vec::new();
    for (index, value) in list.iter().enumerate() {
        if let Some(route) = read_route(value, &element(&at, index), findings) {
            routes.push((index, route));
        }
    }
    let placed: Vec<_> = routes.iter().map(|(index, route)| (*index, route)).collect();
    check(&placed, &at, around, findings);
    RoutingTable { routes: routes.into_iter().map(|(_, route)| route).collect() }
}

fn read_route(value: &Value, at: &str, findings: &mut Findings) -> Option<Route> {
    let map = findings.object(value, at, &["name", "match_rule", "target"])?;
    let name = findings.needed(map, at, "name");
    let name = name.and_then(|value| findings.parsed(value, &below(at, "name")));
    let rule = findings.needed(map, at, "match_rule");
    let rule = rule.and_then(|value| read_rule(value, &below(at, "match_rule"), findings));
    let target = findings.needed(map, at, "target");
    let target = target.and_then(|value| read_target(value, &below(at, "target"), findings));
    Some(Route { name: name?, match_rule: rule?, target: target? })
}

/// None when a criterion cannot be read: what is left of the rule would match too much.
fn read_rule(value: &Value, at: &str, findings: &mut Findings) -> Option<MatchRule> {
    let map = findings.object(value, at, &["port", "path_prefix", "source_cidr"])?;
    let port = read_port(map, at, "port", findings);
    let path_prefix = present(map, "path_prefix").map(|value| {
        let text = findings.text(value, &below(at, "path_prefix"));
        text.map(str::to_owned)
    });
    let source_cidr =
        present(map, "source_cidr").map(|value| findings.parsed(value, &below(at, "source_cidr")));
    Some(MatchRule {
        port: port?,
        path_prefix: whole(path_prefix)?,
        source_cidr: whole(source_cidr)?,
    })
}

fn read_target(value: &Value, at: &str, findings: &mut Findings) -> Option<Target> {
    let map = findings.object(value, at, &["pool_id", "instance_selector", "target_port"])?;
    let pool_id = findings.needed(map, at, "pool_id");
    let pool_id = pool_id.and_then(|value| findings.parsed(value, &below(at, "pool_id")));
    let instance_selector = match present(map, "instance_selector") {
        None => Some(Selector::default()),
        Some(value) => read_selector(value, &below(at, "instance_selector"), findings),
    };
    let target_port = read_port(map, at, "target_port", findings);
    Some(Target {
        pool_id: pool_id?,
        instance_selector: instance_selector?,
        target_port: target_port?,
    })
}

fn read_selector(value: &Value, at: &str, findings: &mut Findings) -> Option<Selector> {
    match value {
        Value::Object(_) => {
            let map = findings.object(value, at, &["by_ip"])?;
            let ip = findings.needed(map, at, "by_ip")?;
            findings.parsed(ip, &below(at, "by_ip")).map(Selector::ByIp)
        }
        Value::String(word) if word == "any" => Some(Selector::Any),
        Value::String(word) if word == "least_connections" => Some(Selector::LeastConnections),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            let problem = r#"must be "any", "least_connections" or {"by_ip": ADDRESS}"#;
            findings.add(at, problem);
            None
        }
    }
}

fn read_port(
    map: &Map<String, Value>,
    at: &str,
    key: &str,
    findings: &mut Findings,
) -> Option<Option<u16>> {
    let port = present(map, key);
    whole(port.map(|value| findings.number(value, &below(at, key), 1..=u16::MAX)))
}

/// Tells a field that is absent from one that could not be read.
#[expect(clippy::option_option, reason = "absent, unreadable and read are three things")]
fn whole<T>(field: Option<Option<T>>) -> Option<Option<T>> {
    match field {
        None => Some(None),
        Some(read) => read.map(Some),
    }
}
