//! Compares the kernel's truth with an intent, in depth, and says in words what is wrong.
//!
//! It repairs nothing, and does not know which guests run: a tap that is absent is no finding. Nor is a
//! network of which nothing at all is there, as after a reboot: it comes whole with its first guest.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    net::Ipv4Addr,
    path::Path,
};

use mvm_core::{
    Error,
    effect::Firewall,
    id::TenantId,
    layout,
    net::{NetId, Network},
    port::Finding,
};

use super::{
    Mtu, address, foreign,
    link::{self, Kind, Link, Tap},
    netlink::{Netlink, NetlinkError},
    nft, route, sysctl,
};
use crate::{roots::Roots, tool};

pub(super) fn verify(roots: &Roots, mtu: Mtu, intent: &Firewall) -> Result<Vec<Finding>, Error> {
    let refused = |error: NetlinkError| error.during("cannot look at the host's network");
    let mut netlink = Netlink::route().map_err(refused)?;
    let links = link::list(&mut netlink).map_err(refused)?;
    let wanted = mtu.wanted(&mut netlink).map_err(refused)?;
    let mut findings = Vec::new();
    let at_work = at_work(&mut netlink, &links, intent).map_err(refused)?;
    for network in &at_work.networks {
        let mut problems = bridge(&mut netlink, &links, network).map_err(refused)?;
        problems.extend(sizes(&links, network.net, wanted));
        let is_published = intent.published.iter().any(|one| one.net == network.net);
        problems.extend(sysctl::wrong_route_localnet(&layout::bridge(network.net), is_published));
        findings.extend(problems.into_iter().map(|problem| of(network, "bridge", problem)));
    }
    findings.extend(routes(&mut netlink, &links, &at_work).map_err(refused)?);
    findings.extend(taps(&links, intent));
    // After a boot nothing is there yet, and an uplink is prepared with the first bridge.
    if !at_work.networks.is_empty() {
        findings.extend(egress(&mut netlink).map_err(refused)?);
    }
    if !at_work.networks.is_empty() || nft::has_tables()? {
        findings.extend(table(roots, intent)?);
    }
    findings.extend(foreign_rules()?);
    Ok(findings)
}

/// The intent without the networks of which nothing is there.
fn at_work(
    netlink: &mut Netlink,
    links: &[Link],
    intent: &Firewall,
) -> Result<Firewall, NetlinkError> {
    let mut present: BTreeSet<NetId> =
        route::list(netlink)?.rules.iter().map(|rule| rule.net).collect();
    present.extend(links.iter().filter_map(Link::as_bridge));
    present.extend(links.iter().filter_map(|link| Some(link.as_tap()?.0)));
    let mut at_work = intent.clone();
    at_work.networks.retain(|network| present.contains(&network.net));
    Ok(at_work)
}

fn bridge(
    netlink: &mut Netlink,
    links: &[Link],
    network: &Network,
) -> Result<Vec<String>, NetlinkError> {
    let name = layout::bridge(network.net);
    let Some(link) = links.iter().find(|link| link.as_bridge() == Some(network.net)) else {
        return Ok(vec![format!("bridge {name} is missing")]);
    };
    let mut problems = Vec::new();
    if !link.is_up {
        problems.push(format!("bridge {name} is down"));
    }
    let mac = link::bridge_mac(network.net);
    if link.mac != Some(mac) {
        problems.push(format!("bridge {name} does not have the address {mac}"));
    }
    if !address::has_gateway(netlink, link.index, network.subnet)? {
        let (gateway, prefix) = (network.subnet.gateway(), network.subnet.prefix());
        problems.push(format!("bridge {name} lacks the gateway {gateway}/{prefix}"));
    }
    problems.extend(sysctl::wrong_on_bridge(&name));
    Ok(problems)
}

/// Devices of a network that carry larger or smaller packets than they shall.
fn sizes(links: &[Link], net: NetId, wanted: u16) -> Vec<String> {
    let ours = links.iter().filter(|link| {
        link.as_bridge() == Some(net) || link.as_tap().is_some_and(|(of, _)| of == net)
    });
    ours.filter(|link| link.mtu != wanted)
        .map(|link| format!("{} has the MTU {} and not {wanted}", link.name, link.mtu))
        .collect()
}

fn routes(
    netlink: &mut Netlink,
    links: &[Link],
    intent: &Firewall,
) -> Result<Vec<Finding>, NetlinkError> {
    let listing = route::list(netlink)?;
    let mut present: BTreeSet<NetId> = listing.rules.iter().map(|rule| rule.net).collect();
    let mut findings = Vec::new();
    for network in &intent.networks {
        present.remove(&network.net);
        let missing = listing.missing(network);
        if missing > 0 {
            let all = route::intended(network).len();
            let problem =
                format!("{missing} of the {all} policy routes are missing, or too late to matter");
            findings.push(of(network, "routes", problem));
            continue;
        }
        let bridge = links.iter().find(|link| link.as_bridge() == Some(network.net));
        if let Some(bridge) = bridge
            && !route::in_force(netlink, bridge.index, network)?
        {
            let problem = "a rule with a lower number stands before the policy routes: \
                           see `ip rule`";
            findings.push(of(network, "routes", problem.to_owned()));
        }
    }
    findings.extend(present.into_iter().map(|net| {
        let problem = format!("policy routes of network {net} belong to no tenant");
        of_host("routes", problem)
    }));
    Ok(findings)
}

/// Every tap of ours, and every port of a tenant's bridge.
fn taps(links: &[Link], intent: &Firewall) -> Vec<Finding> {
    let by_index: BTreeMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for link in links {
        let bridge = link.master.and_then(|index| by_index.get(&index)).copied();
        let on = bridge.and_then(Link::as_bridge);
        let (Some((net, offset)), Kind::Tap(tap)) = (link.as_tap(), &link.kind) else {
            if let Some(net) = on {
                let problem = format!("{} is a port of {}", link.name, layout::bridge(net));
                findings.push(found(intent, net, problem));
            }
            continue;
        };
        let mut problems = Vec::new();
        if !intent.ports.iter().any(|port| (port.net, port.offset) == (net, offset)) {
            problems.push(format!("tap {} belongs to no instance", link.name));
        }
        if on != Some(net) {
            let place = bridge.map_or("no bridge", |bridge| bridge.name.as_str());
            problems.push(format!("tap {} is on {place}", link.name));
        }
        if !sysctl::ipv6_is_off(&link.name) {
            problems.push(format!("tap {} has IPv6", link.name));
        }
        problems.extend(ownership(link, tap, &mut owners));
        findings.extend(problems.into_iter().map(|problem| found(intent, net, problem)));
    }
    findings
}

/// A tap is for one user alone, who is not root.
fn ownership<'a>(link: &'a Link, tap: &Tap, owners: &mut BTreeMap<u32, &'a str>) -> Option<String> {
    let name = &link.name;
    match tap.owner {
        None | Some(0) => Some(format!("tap {name} has no owner of its own")),
        Some(owner) if tap.group != Some(owner) => {
            Some(format!("tap {name} belongs to user {owner} and to another group"))
        }
        Some(owner) => owners
            .insert(owner, name)
            .map(|other| format!("taps {other} and {name} both belong to user {owner}")),
    }
}

fn egress(netlink: &mut Netlink) -> Result<Vec<Finding>, NetlinkError> {
    let names = super::egress_names(netlink)?;
    let closed = names.into_iter().filter(|name| !sysctl::is_forwarding(name));
    Ok(closed
        .map(|name| {
            let problem = format!(
                "answers that come in by {name} do not reach guests: \
                 set net.ipv4.conf.{name}.forwarding=1"
            );
            of_host("egress", problem)
        })
        .collect())
}

fn table(roots: &Roots, intent: &Firewall) -> Result<Option<Finding>, Error> {
    let problem = if intent.networks.is_empty() {
        nft::has_tables()?.then(|| "the tables are there and no tenant is".to_owned())
    } else if nft::is_in_force(roots, intent)? {
        None
    } else {
        let generation = intent.generation;
        let state = nft::state(roots)?;
        let resolvers = nft::resolvers(roots)?.filter(|there| *there != intent.resolvers);
        Some(match (state.generation, resolvers) {
            (_, Some(others)) => {
                format!(
                    "name queries go to {} and not to {}",
                    list(&others),
                    list(&intent.resolvers)
                )
            }
            (Some(other), None) => {
                format!("the tables are of generation {other} and not {generation}")
            }
            (None, None) if nft::has_tables()? => {
                "the tables were altered by somebody else".to_owned()
            }
            (None, None) => "the tables are missing".to_owned(),
        })
    };
    Ok(problem.map(|problem| of_host("table", problem)))
}

fn list(resolvers: &[Ipv4Addr]) -> String {
    let all: Vec<String> = resolvers.iter().map(ToString::to_string).collect();
    if all.is_empty() { "the host's own port 53".to_owned() } else { all.join(", ") }
}

pub(super) fn foreign_rules() -> Result<Vec<Finding>, Error> {
    let arguments = ["-j", "list", "ruleset"].map(OsStr::new);
    let listed = tool::run(Path::new(nft::NFT), &arguments, &[], nft::DEADLINE);
    let problem = match listed.map(|output| serde_json::from_slice(&output.stdout)) {
        Ok(Ok(ruleset)) => return Ok(foreign::findings(&ruleset)),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Ok(vec![of_host("foreign_rule", format!("other rules cannot be listed: {problem}"))])
}

fn found(intent: &Firewall, net: NetId, problem: String) -> Finding {
    let network = intent.networks.iter().find(|network| network.net == net);
    finding(network.map(|network| network.tenant.clone()), "tap", problem)
}

fn of(network: &Network, check: &str, problem: String) -> Finding {
    finding(Some(network.tenant.clone()), check, problem)
}

fn of_host(check: &str, problem: String) -> Finding {
    finding(None, check, problem)
}

fn finding(tenant: Option<TenantId>, check: &str, problem: String) -> Finding {
    Finding { tenant, check: check.to_owned(), problem }
}
