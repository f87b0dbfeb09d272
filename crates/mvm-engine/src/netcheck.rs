//! `net verify`: what the network of each tenant is, what is wrong with it, and, when asked deeply,
//! what packets of running guests say.
//!
//! The records say what shall be, the host compares. A deep look asks agents in guests to try what
//! must work (the gateway's resolver, a neighbour) and what must not (the host, the metadata
//! address, guests of other tenants); a port that refuses was reached as much as one that answers.
//! It repairs nothing, but finishes tables that a command was cut off at; a wall that a packet passed is told to the audit logs of both sides.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use mvm_core::{
    error::Error,
    event::{Actor, EventKind},
    id::{InstanceRef, TenantId},
    instance::Instance,
    layout,
    net::{NetId, Subnet},
    observed::{Dns, ObservedNode},
    port::{Finding, ProbeOutcome, ProbeTarget},
    publish::Protocol,
    state::State,
    tenant::Tenant,
    units::Uid,
};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Engine, Telling},
    firewall,
    query::Filter,
    run,
    store::records,
};

/// How many guests of a tenant probe, and how many of them are probed by others.
const GUESTS: usize = 2;
/// How many guests probe at most.
const PROBERS: usize = 32;
/// How many other tenants a guest probes at most.
const OTHERS: usize = 16;
/// How long one probe may take; a guest tries all of its targets at once.
const PATIENCE: Duration = Duration::from_secs(3);
/// The port of resolvers.
const DOMAIN: u16 = 53;
/// A port of the host that many hosts have open.
const SSH: u16 = 22;
/// A port that a guest rarely has open; that it refuses is answer enough.
const DISCARD: u16 = 9;
/// Where clouds hand out a machine's credentials.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// How closely is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// At the host's devices, routes and rules.
    Host,
    /// Besides, by packets of running guests.
    Packets,
}

/// What `net verify` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetReport {
    /// Each tenant's network.
    pub tenants: Vec<TenantNet>,
    /// Where guests' name queries go.
    pub dns: Dns,
    /// What guests tried; empty unless asked deeply.
    pub probes: Vec<Probe>,
    /// Everything that is wrong, of tenants and of the host.
    pub findings: Vec<Finding>,
}

/// The network of one tenant as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantNet {
    /// Whose.
    pub tenant: TenantId,
    /// Its number.
    pub tenant_net_id: NetId,
    /// The name of its bridge; none when there is no such bridge.
    pub bridge: Option<String>,
    /// Whether the bridge is up, with its gateway and its MTU.
    pub up: bool,
    /// The gateway, as recorded.
    pub gateway: Ipv4Addr,
    /// The subnet, as recorded.
    pub subnet: Subnet,
    /// Whether guests leave under the host's address.
    pub masquerade: bool,
    /// Whether the rules stand that let guests out and answers back.
    pub forward_rules: bool,
    /// Whether both walls stand: the tables and the policy routes.
    pub isolation_rules: bool,
    /// Its taps with their owners.
    pub taps: Vec<TapOwner>,
    /// Whether a guest's packet would reach another tenant.
    pub cross_tenant_probe: CrossTenant,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

/// A tap, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapOwner {
    /// Its name.
    pub tap: String,
    /// Its instance; none when no instance has that place.
    pub instance: Option<InstanceRef>,
    /// The user that alone may open it, as recorded.
    pub uid: Option<Uid>,
}

/// Whether a guest's packet reaches another tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossTenant {
    /// The kernel says that it would send such a packet nowhere.
    ClosedByRoutes,
    /// Guests tried, and nothing came back.
    ClosedByPackets,
    /// Neither is so.
    Open,
}

/// What a guest tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Which guest.
    pub from: InstanceRef,
    /// What it tried, for people.
    pub what: String,
    /// The target.
    pub target: ProbeTarget,
    /// What shall come of it.
    pub expected: Expected,
    /// What came of it.
    pub outcome: ProbeOutcome,
    /// The tenant that the target belongs to; none for the host and addresses of nobody.
    pub of: Option<TenantId>,
}

/// What shall come of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// It gets there.
    Open,
    /// It does not.
    Closed,
}

impl Probe {
    /// Whether what must be kept from the guest was reached.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        self.expected == Expected::Closed && self.outcome.got_there()
    }

    fn problem(&self) -> Option<String> {
        let Self { from, what, target, outcome, .. } = self;
        let (address, port, protocol) = (target.address, target.port, target.protocol);
        match self.expected {
            Expected::Closed if outcome.got_there() => {
                Some(format!("{from} reached {what} ({address}:{port}/{protocol}: {outcome})"))
            }
            Expected::Open if !outcome.got_there() => Some(format!(
                "{from} does not reach {what} ({address}:{port}/{protocol}: {outcome})"
            )),
            Expected::Open | Expected::Closed => None,
        }
    }
}

impl Engine {
    /// What the network of one tenant or of all is, and what is wrong with it.
    ///
    /// # Errors
    /// `NotFound` of the tenant; why store or host failed.
    pub fn net_verify(&self, only: Option<&TenantId>, depth: Depth) -> Result<NetReport, Error> {
        self.finish_tables()?;
        let node = self.ports.host.observe_node()?;
        let dns = node.facts.dns.clone();
        let (intent, tenants, instances) = self.within(|tx| {
            let tenants = match only {
                Some(id) => vec![records::tenant(tx, id)?],
                None => records::list::<Tenant>(tx, "")?,
            };
            let instances = records::list::<Instance>(tx, "")?;
            Ok((firewall::intent(tx, &dns.resolvers)?, tenants, instances))
        })?;
        let mut findings = self.ports.host.verify_network(&intent)?;
        let probes = match depth {
            Depth::Host => Vec::new(),
            Depth::Packets => self.probe(only, &dns)?,
        };
        for probe in &probes {
            findings.extend(probe.problem().map(|problem| Finding {
                tenant: Some(probe.from.tenant.clone()),
                check: "probe".to_owned(),
                problem,
            }));
        }
        self.tell_violations(&probes)?;
        findings
            .retain(|one| only.is_none() || one.tenant.is_none() || one.tenant.as_ref() == only);
        let tables = !findings.iter().any(|finding| finding.check == "table");
        let mut report = NetReport { tenants: Vec::new(), dns, probes, findings };
        for tenant in &tenants {
            let seen = self.ports.host.observe_tenant(&tenant.network)?;
            let walls = Walls { tables: tables && seen.firewall.is_some(), routes: seen.routes };
            let net = tenant_net(tenant, &node, &instances, walls, &report);
            report.tenants.push(TenantNet { up: seen.bridge, ..net });
        }
        Ok(report)
    }

    /// Brings tables into force that a command of ours was cut off at; those that somebody altered stay.
    fn finish_tables(&self) -> Result<(), Error> {
        let tenants = self.within(|tx| records::list::<Tenant>(tx, ""))?;
        let Some(tenant) = tenants.first() else { return Ok(()) };
        let seen = self.ports.host.observe_tenant(&tenant.network)?;
        if seen.firewall_cut_off { self.sync_firewall(&tenant.network) } else { Ok(()) }
    }

    /// Lets running guests try.
    fn probe(&self, only: Option<&TenantId>, dns: &Dns) -> Result<Vec<Probe>, Error> {
        let views = self.instances(&Filter::All)?;
        let running: Vec<Instance> = views
            .into_iter()
            .filter(|view| view.record.state == State::Running && !view.in_flight)
            .map(|view| view.record)
            .collect();
        let plans = plan_probes(&running, only, !dns.resolvers.is_empty());
        let asked = run::each(self.config.parallel, &plans, |(from, probes)| {
            let targets: Vec<ProbeTarget> = probes.iter().map(|probe| probe.target).collect();
            (from.clone(), self.ports.guest.probe(from, &targets, PATIENCE))
        });
        let mut all = Vec::new();
        for ((_, probes), (from, outcomes)) in plans.into_iter().zip(asked) {
            let outcomes =
                outcomes.map_err(|error| error.context(format!("cannot probe from {from}")))?;
            all.extend(
                probes.into_iter().zip(outcomes).map(|(probe, outcome)| Probe { outcome, ..probe }),
            );
        }
        Ok(all)
    }

    /// Tells both sides' audit logs of each wall that was passed.
    fn tell_violations(&self, probes: &[Probe]) -> Result<(), Error> {
        for probe in probes.iter().filter(|probe| probe.is_violation()) {
            let from = &probe.from;
            let sides = [Some(&from.tenant), probe.of.as_ref()];
            for tenant in sides.into_iter().flatten() {
                let mut event = self
                    .event(&Actor::Engine, tenant, EventKind::IsolationViolation)
                    .because(probe.problem().unwrap_or_default())
                    .with("from", from)
                    .with("address", probe.target.address)
                    .with("port", probe.target.port);
                if *tenant == from.tenant {
                    event = event.of_pool(&from.pool).of_instance(&from.instance);
                }
                self.within(|tx| match records::find::<Tenant>(tx, tenant.as_str())? {
                    Some(_) => tx.append(&event),
                    None => Ok(()),
                })?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
struct Walls {
    tables: bool,
    routes: bool,
}

fn tenant_net(
    tenant: &Tenant,
    node: &ObservedNode,
    instances: &[Instance],
    walls: Walls,
    report: &NetReport,
) -> TenantNet {
    let network = &tenant.network;
    let id = &tenant.tenant_id;
    let owner = |offset| {
        let mut all = instances.iter();
        all.find(|one| one.network.net == network.net && one.offset == offset)
    };
    let taps = node.taps.iter().filter(|(net, _)| *net == network.net).map(|(net, offset)| {
        let instance = owner(*offset);
        TapOwner {
            tap: layout::tap(*net, *offset),
            instance: instance.map(|one| one.instance.clone()),
            uid: instance.map(|one| one.uid),
        }
    });
    let mut tried = report
        .probes
        .iter()
        .filter(|probe| probe.from.tenant == *id && probe.of.as_ref().is_some_and(|of| of != id));
    let cross_tenant_probe = match (tried.clone().next(), tried.any(Probe::is_violation)) {
        (_, true) => CrossTenant::Open,
        (Some(_), false) => CrossTenant::ClosedByPackets,
        (None, false) if walls.routes => CrossTenant::ClosedByRoutes,
        (None, false) => CrossTenant::Open,
    };
    let bridge = node.bridges.contains(&network.net).then(|| layout::bridge(network.net));
    TenantNet {
        tenant: id.clone(),
        tenant_net_id: network.net,
        bridge,
        up: false,
        gateway: network.subnet.gateway(),
        subnet: network.subnet,
        masquerade: walls.tables,
        forward_rules: walls.tables,
        isolation_rules: walls.tables && walls.routes,
        taps: taps.collect(),
        cross_tenant_probe,
        findings: report
            .findings
            .iter()
            .filter(|finding| finding.tenant.as_ref() == Some(id))
            .cloned()
            .collect(),
    }
}

type Plan = (InstanceRef, Vec<Probe>);

/// What each of a few guests shall try.
fn plan_probes(running: &[Instance], only: Option<&TenantId>, has_resolver: bool) -> Vec<Plan> {
    let mut by_tenant: BTreeMap<&TenantId, Vec<&Instance>> = BTreeMap::new();
    for one in running {
        by_tenant.entry(&one.instance.tenant).or_default().push(one);
    }
    let probers = by_tenant
        .iter()
        .filter(|(tenant, _)| only.is_none_or(|only| only == **tenant))
        .flat_map(|(_, guests)| guests.iter().take(GUESTS));
    let plan = |guest: &&Instance| {
        let mut probes = own_targets(guest, has_resolver);
        let neighbours = by_tenant.get(&guest.instance.tenant).into_iter().flatten();
        let neighbour = neighbours.into_iter().find(|one| one.instance != guest.instance);
        probes.extend(neighbour.and_then(|one| other_guest(guest, one, Expected::Open)));
        let others = by_tenant.iter().filter(|(tenant, _)| **tenant != &guest.instance.tenant);
        for other in others.take(OTHERS).filter_map(|(_, guests)| guests.first()) {
            probes.extend(other_guest(guest, other, Expected::Closed));
            let what = format!("the gateway of {}", other.instance.tenant);
            let gateway = other.network.subnet.gateway();
            let target = ProbeTarget { address: gateway, port: SSH, protocol: Protocol::Tcp };
            probes.push(probe(guest, what, target, Expected::Closed));
        }
        (guest.instance.clone(), probes)
    };
    probers.take(PROBERS).map(plan).collect()
}

fn own_targets(guest: &Instance, has_resolver: bool) -> Vec<Probe> {
    let gateway = guest.network.subnet.gateway();
    let tcp = |address, port| ProbeTarget { address, port, protocol: Protocol::Tcp };
    let mut probes = vec![
        probe(guest, "the host".to_owned(), tcp(gateway, SSH), Expected::Closed),
        probe(guest, "the metadata address".to_owned(), tcp(METADATA, 80), Expected::Closed),
    ];
    if has_resolver {
        let target = ProbeTarget { address: gateway, port: DOMAIN, protocol: Protocol::Udp };
        probes.push(probe(guest, "its resolver".to_owned(), target, Expected::Open));
    }
    probes
}

fn other_guest(guest: &Instance, other: &Instance, expected: Expected) -> Option<Probe> {
    let target = ProbeTarget { address: other.address()?, port: DISCARD, protocol: Protocol::Tcp };
    let tried = probe(guest, other.instance.to_string(), target, expected);
    Some(Probe { of: Some(other.instance.tenant.clone()), ..tried })
}

fn probe(guest: &Instance, what: String, target: ProbeTarget, expected: Expected) -> Probe {
    let from = guest.instance.clone();
    Probe { from, what, target, expected, outcome: ProbeOutcome::Silent, of: None }
}
