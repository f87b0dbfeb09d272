//! The second wall: policy routes that need no nftables.
//!
//! Five rules per network, all bound to its bridge as input interface:
//!
//! | priority | rule |
//! |---|---|
//! | 0 | marked by the first wall: lookup local |
//! | 0 | goto 240, past the table of the host's own addresses |
//! | 240 | to its own subnet: lookup main |
//! | 241 | to 10.240.0.0/12: prohibit |
//! | 241 | to 169.254.0.0/16: prohibit |
//!
//! The priorities are constants, not a function of the net-id: the bridge's name tells the rules
//! apart. They are low so that the wall stands before the tables of VPNs and the like. Rules carry
//! the routing protocol number 109, so that a listing takes nobody else's for ours.
//!
//! # Before the host's own addresses
//!
//! The kernel's rule for the table `local` has priority 0, and a new rule goes behind all that have
//! its priority. So that ours come to stand before it, a copy of the kernel's rule is added behind
//! them, and then the first one is removed: at no moment is there none, whoever else does the same
//! at that time, because nobody removes one without having added one. A crash in between leaves
//! two, which is one. What others see is the same rule with the same priority.
//!
//! Past that table, a guest's packet for an address of the host is routed like one for a stranger,
//! and ends where that leads: in a question for an address that nobody else has.

use std::{collections::BTreeSet, net::Ipv4Addr};

use mvm_core::{
    layout,
    net::{CLUSTER_BASE, CLUSTER_PREFIX, NetId, Network, OWN_BASE, OWN_PREFIX, Offset},
};

use super::{
    message::{Attributes, CREATE, EXCLUSIVE, Message, Reader, Request},
    netlink::{Answer, Netlink, NetlinkError, absent},
    ruleset::{MARK, MARK_MASK},
};

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const RTM_GETROUTE: u16 = 26;
/// `struct fib_rule_hdr`, `struct rtmsg`.
const FIXED: usize = 12;
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_PROTOCOL: u16 = 21;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const AF_INET: u8 = 2;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;
const TO_TABLE: u8 = 1;
const GOTO: u8 = 2;
const PROHIBIT: u8 = 8;
const UNICAST: u8 = 1;
/// `RTN_LOCAL`: delivered to the host itself.
const LOCAL: u8 = 2;
/// Who made a rule (`FRA_PROTOCOL`); a number that iproute2's `rt_protos` gives to nobody.
const PROTOCOL: u8 = 109;
/// Before the host's own addresses.
const FIRST: u32 = 0;
/// The exception for a network's own subnet.
const OWN: u32 = 240;
/// What is prohibited.
const WALL: u32 = 241;
const CLUSTER: (Ipv4Addr, u8) = (CLUSTER_BASE, CLUSTER_PREFIX);
/// The networks of this host's own tenants.
const OWN_TENANTS: (Ipv4Addr, u8) = (OWN_BASE, OWN_PREFIX);
const LINK_LOCAL: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 0, 0), 16);
/// Two addresses of the cluster's range in different /16s: a subnet holds at most one of them, and
/// none of them can be a gateway, a network's or its broadcast address (those are 0, 1 or 7
/// modulo 8).
const PROBES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 240, 0, 2), Ipv4Addr::new(10, 255, 0, 2)];

/// Any unicast source: the kernel looks at policy routes before it judges the source.
const PROBE_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 6);

/// One of our rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    pub(super) net: NetId,
    kind: Kind,
}

/// What a rule does with a packet that comes in by the network's bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// To its own subnet: by the main table.
    Own((Ipv4Addr, u8)),
    /// Not to there.
    Prohibit((Ipv4Addr, u8)),
    /// To the host itself, when the first wall marked it.
    Marked,
    /// Not to the host itself.
    Past,
}

/// The policy routes of this network namespace.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    /// All rules of ours, whoever's network.
    pub(super) rules: Vec<Rule>,
    /// Networks with a rule that stands behind the host's own addresses, where it does nothing.
    late: BTreeSet<NetId>,
    /// Who made the first rule for the host's own addresses, if one has our priority.
    local: Option<u8>,
}

impl Listing {
    /// The rules of a network that are missing or stand where they do nothing.
    pub(super) fn missing(&self, network: &Network) -> usize {
        let absent = intended(network).into_iter().filter(|rule| !self.rules.contains(rule));
        absent.count() + usize::from(self.late.contains(&network.net))
    }
}

/// The rules of a network.
pub(super) fn intended(network: &Network) -> BTreeSet<Rule> {
    let own = (network.subnet.network(), network.subnet.prefix());
    let prohibited = [CLUSTER, OWN_TENANTS, LINK_LOCAL].map(Kind::Prohibit);
    let others = [Kind::Own(own), Kind::Marked, Kind::Past];
    others.into_iter().chain(prohibited).map(|kind| Rule { net: network.net, kind }).collect()
}

/// Makes the network's rules what is intended: the missing are added and the stale removed in one
/// system call, which a signal does not cut in half; then they are brought before the host's own
/// addresses.
pub(super) fn ensure(netlink: &mut Netlink, network: &Network) -> Result<(), NetlinkError> {
    let wanted = intended(network);
    let listing = list(netlink)?;
    let is_whole = listing.missing(network) == 0;
    let present: BTreeSet<Rule> =
        listing.rules.into_iter().filter(|rule| rule.net == network.net).collect();
    // The two before the host's own addresses stand in their order only when made together.
    let stays = |rule: &Rule| wanted.contains(rule) && (is_whole || !rule.kind.is_first());
    let stale = present.iter().filter(|rule| !stays(rule));
    let stale = stale.map(|rule| rule.request(RTM_DELRULE, 0));
    let absent_now = wanted.iter().filter(|rule| !present.contains(rule) || !stays(rule));
    let add = absent_now.map(|rule| rule.request(RTM_NEWRULE, CREATE | EXCLUSIVE));
    let requests: Vec<Request> = stale.chain(add).collect();
    apply(netlink, &requests)?;
    let listing = list(netlink)?;
    match listing.local {
        Some(maker) if listing.late.contains(&network.net) && ![0, PROTOCOL].contains(&maker) => {
            netlink.ask(&local(RTM_NEWRULE, CREATE, maker))?;
            absent(netlink.ask(&local(RTM_DELRULE, 0, maker))).map(drop)
        }
        Some(_) | None => Ok(()),
    }
}

/// Removes every rule of the network.
pub(super) fn remove(netlink: &mut Netlink, net: NetId) -> Result<(), NetlinkError> {
    let requests: Vec<Request> = list(netlink)?
        .rules
        .into_iter()
        .filter(|rule| rule.net == net)
        .map(|rule| rule.request(RTM_DELRULE, 0))
        .collect();
    apply(netlink, &requests)
}

fn apply(netlink: &mut Netlink, requests: &[Request]) -> Result<(), NetlinkError> {
    if requests.is_empty() {
        return Ok(());
    }
    for answer in netlink.ask_all(requests)? {
        match absent(answer) {
            Err(error) if error.errno() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// All rules of ours, and whether they stand where they must.
pub(super) fn list(netlink: &mut Netlink) -> Result<Listing, NetlinkError> {
    let mut fixed = vec![0; FIXED];
    fixed.splice(..1, [AF_INET]);
    let dump = Request { kind: RTM_GETRULE, flags: 0, fixed, attributes: Attributes::default() };
    Ok(read(&netlink.dump(&dump)?))
}

fn read(messages: &[Message]) -> Listing {
    let mut listing = Listing::default();
    let mut past = BTreeSet::new();
    for message in messages {
        if let Some(rule) = parse(message) {
            let is_behind = rule.kind == Kind::Marked && past.contains(&rule.net);
            if rule.kind.is_first() && (listing.local.is_some() || is_behind) {
                listing.late.insert(rule.net);
            }
            if rule.kind == Kind::Past {
                past.insert(rule.net);
            }
            listing.rules.push(rule);
        } else if let Some(maker) = parse_local(message) {
            listing.local.get_or_insert(maker);
        }
    }
    listing
}

/// Whether the wall of a network is in force: asks the kernel where it would send a guest's packet
/// to a foreign subnet, and to the host. One system call, whatever the number of networks.
pub(super) fn in_force(
    netlink: &mut Netlink,
    bridge: u32,
    network: &Network,
) -> Result<bool, NetlinkError> {
    let question = |to: Ipv4Addr, from: Ipv4Addr| {
        let mut fixed = vec![0; FIXED];
        fixed.splice(..3, [AF_INET, 32, 32]);
        let attributes = Attributes::default()
            .bytes(RTA_DST, &to.octets())
            .bytes(RTA_SRC, &from.octets())
            .u32(RTA_IIF, bridge);
        Request { kind: RTM_GETROUTE, flags: 0, fixed, attributes }
    };
    let guest = network.subnet.address(Offset::BUILDER).unwrap_or(PROBE_SOURCE);
    let host = network.subnet.gateway();
    let [one, two] = PROBES.map(|address| question(address, PROBE_SOURCE));
    let answers = netlink.ask_all(&[one, two, question(host, guest)])?;
    let prohibited =
        |answer: &Answer| answer.as_ref().err().and_then(NetlinkError::errno) == Some(libc::EACCES);
    let delivered = |answer: &Answer| {
        let messages = answer.as_deref().unwrap_or_default();
        messages.iter().any(|message| message.body.get(7) == Some(&LOCAL))
    };
    let is_open_to_host = answers.get(2).is_none_or(delivered);
    Ok(answers.iter().take(2).any(prohibited) && !is_open_to_host)
}

/// The interfaces by which traffic leaves the host: those of the main table's default routes and
/// of its routes with a gateway.
pub(super) fn egress_interfaces(netlink: &mut Netlink) -> Result<BTreeSet<u32>, NetlinkError> {
    let mut fixed = vec![0; FIXED];
    fixed.splice(..1, [AF_INET]);
    let attributes = Attributes::default().u32(RTA_TABLE, u32::from(TABLE_MAIN));
    let dump = Request { kind: RTM_GETROUTE, flags: 0, fixed, attributes };
    let messages = absent(netlink.dump(&dump))?.unwrap_or_default();
    Ok(messages.iter().flat_map(parse_egress).collect())
}

fn parse_egress(message: &Message) -> BTreeSet<u32> {
    let reader = message.attributes(FIXED);
    let (Some(prefix), Some(kind)) = (message.body.get(1), message.body.get(7)) else {
        return BTreeSet::new();
    };
    let leaves = *prefix == 0
        || reader.value(RTA_GATEWAY).is_some()
        || reader.value(RTA_MULTIPATH).is_some();
    if *kind != UNICAST || !leaves {
        return BTreeSet::new();
    }
    let mut found: BTreeSet<u32> = reader.u32(RTA_OIF).into_iter().collect();
    let mut hops = reader.value(RTA_MULTIPATH).unwrap_or_default();
    // `struct rtnexthop`: length, flags, hops, interface.
    while let Some((length, index)) = hops.get(..8).and_then(|hop| {
        let length = usize::from(u16::from_ne_bytes(hop.get(..2)?.try_into().ok()?));
        Some((length.max(8), u32::from_ne_bytes(hop.get(4..8)?.try_into().ok()?)))
    }) {
        found.insert(index);
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

impl Kind {
    const fn priority(self) -> u32 {
        match self {
            Self::Marked | Self::Past => FIRST,
            Self::Own(_) => OWN,
            Self::Prohibit(_) => WALL,
        }
    }

    /// Whether it must stand before the host's own addresses.
    const fn is_first(self) -> bool {
        self.priority() == FIRST
    }
}

impl Rule {
    fn request(&self, kind: u16, flags: u16) -> Request {
        let (action, table, to) = match self.kind {
            Kind::Own(to) => (TO_TABLE, TABLE_MAIN, Some(to)),
            Kind::Prohibit(to) => (PROHIBIT, 0, Some(to)),
            Kind::Marked => (TO_TABLE, TABLE_LOCAL, None),
            Kind::Past => (GOTO, 0, None),
        };
        let prefix = to.map_or(0, |(_, prefix)| prefix);
        let fixed = vec![AF_INET, prefix, 0, 0, table, 0, 0, action, 0, 0, 0, 0];
        let mut attributes = Attributes::default()
            .text(FRA_IIFNAME, &layout::bridge(self.net))
            .u32(FRA_PRIORITY, self.kind.priority())
            .u8(FRA_PROTOCOL, PROTOCOL);
        if let Some((address, _)) = to {
            attributes = attributes.bytes(FRA_DST, &address.octets());
        }
        attributes = match self.kind {
            Kind::Own(_) => attributes.u32(FRA_TABLE, u32::from(TABLE_MAIN)),
            Kind::Prohibit(_) => attributes,
            Kind::Marked => attributes
                .u32(FRA_TABLE, u32::from(TABLE_LOCAL))
                .u32(FRA_FWMARK, MARK)
                .u32(FRA_FWMASK, MARK_MASK),
            Kind::Past => attributes.u32(FRA_GOTO, OWN),
        };
        Request { kind, flags, fixed, attributes }
    }
}

/// The rule for the host's own addresses, as its `maker` would make it.
fn local(kind: u16, flags: u16, maker: u8) -> Request {
    let fixed = vec![AF_INET, 0, 0, 0, TABLE_LOCAL, 0, 0, TO_TABLE, 0, 0, 0, 0];
    let attributes = Attributes::default()
        .u32(FRA_PRIORITY, FIRST)
        .u8(FRA_PROTOCOL, maker)
        .u32(FRA_TABLE, u32::from(TABLE_LOCAL));
    Request { kind, flags, fixed, attributes }
}

fn parse(message: &Message) -> Option<Rule> {
    let reader: Reader<'_> = message.attributes(FIXED);
    let net = layout::parse_bridge(reader.text(FRA_IIFNAME)?)?;
    if message.kind != RTM_NEWRULE || reader.value(FRA_PROTOCOL) != Some(&[PROTOCOL]) {
        return None;
    }
    let to = || -> Option<(Ipv4Addr, u8)> {
        let address: [u8; 4] = reader.value(FRA_DST)?.try_into().ok()?;
        Some((Ipv4Addr::from(address), *message.body.get(1)?))
    };
    // The kernel leaves a priority of 0 out.
    let kind = match (reader.u32(FRA_PRIORITY).unwrap_or(FIRST), *message.body.get(7)?) {
        (OWN, TO_TABLE) => Kind::Own(to()?),
        (WALL, PROHIBIT) => Kind::Prohibit(to()?),
        (FIRST, TO_TABLE)
            if reader.u32(FRA_FWMARK) == Some(MARK)
                && reader.u32(FRA_FWMASK) == Some(MARK_MASK) =>
        {
            Kind::Marked
        }
        (FIRST, GOTO) if reader.u32(FRA_GOTO) == Some(OWN) => Kind::Past,
        _ => return None,
    };
    Some(Rule { net, kind })
}

/// Who made this rule, if it sends everything to the host's own addresses, and first.
fn parse_local(message: &Message) -> Option<u8> {
    let reader: Reader<'_> = message.attributes(FIXED);
    let is_bound = [FRA_IIFNAME, FRA_OIFNAME, FRA_SRC, FRA_DST, FRA_FWMARK]
        .iter()
        .any(|attribute| reader.value(*attribute).is_some());
    let is_local = message.kind == RTM_NEWRULE
        && !is_bound
        && message.body.get(7) == Some(&TO_TABLE)
        && reader.u32(FRA_TABLE) == Some(u32::from(TABLE_LOCAL))
        && reader.u32(FRA_PRIORITY).unwrap_or(FIRST) == FIRST;
    is_local.then(|| reader.value(FRA_PROTOCOL)?.first().copied()).flatten()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    fn network() -> Network {
        let subnet = "10.240.3.0/24".parse().unwrap();
        Network { tenant: "acme".parse().unwrap(), net: NetId(3), subnet }
    }

    /// A request as the kernel would list it.
    fn listed(request: &Request) -> Message {
        Message { kind: RTM_NEWRULE, body: request.body() }
    }

    fn messages(rules: &[Rule]) -> Vec<Message> {
        rules.iter().map(|rule| listed(&rule.request(RTM_NEWRULE, 0))).collect()
    }

    #[test]
    fn a_rule_is_read_back_as_it_was_written() {
        for rule in intended(&network()) {
            assert_eq!(parse(&listed(&rule.request(RTM_NEWRULE, 0))), Some(rule));
        }
    }

    #[test]
    fn a_rule_of_another_maker_is_not_ours() {
        let rule = intended(&network()).pop_first().unwrap();
        let mut message = listed(&rule.request(RTM_NEWRULE, 0));
        let protocol = message.body.iter().position(|byte| *byte == PROTOCOL).unwrap();
        message.body.splice(protocol..=protocol, [3]);
        assert_eq!(parse(&message), None);
    }

    #[test]
    fn a_wall_with_a_hole_is_not_complete() {
        let rules: Vec<Rule> = intended(&network()).into_iter().collect();
        assert_eq!(read(&messages(&rules)).missing(&network()), 0);
        for hole in 0..rules.len() {
            let mut rest = rules.clone();
            rest.remove(hole);
            assert_eq!(read(&messages(&rest)).missing(&network()), 1);
        }
    }

    #[test]
    fn rules_behind_the_hosts_own_addresses_count_as_missing() {
        let rules: Vec<Rule> = intended(&network()).into_iter().collect();
        let own = listed(&local(RTM_NEWRULE, 0, 2));
        let mut before = vec![own.clone()];
        before.extend(messages(&rules));
        let listing = read(&before);
        assert_eq!((listing.missing(&network()), listing.local), (1, Some(2)));
        let mut behind = messages(&rules);
        behind.push(own);
        assert_eq!(read(&behind).missing(&network()), 0);
    }

    #[test]
    fn egress_is_where_default_routes_and_gateways_lead() {
        let route = |prefix: u8, attributes: Attributes| {
            let mut fixed = vec![0; FIXED];
            fixed.splice(..2, [AF_INET, prefix]);
            fixed.splice(7..8, [UNICAST]);
            let body = Request { kind: 0, flags: 0, fixed, attributes }.body();
            parse_egress(&Message { kind: 24, body })
        };
        let by = |index| Attributes::default().u32(RTA_OIF, index);
        assert_eq!(route(0, by(2)), [2].into());
        assert_eq!(route(24, by(2)), [].into());
        assert_eq!(route(8, by(3).bytes(RTA_GATEWAY, &[192, 0, 2, 1])), [3].into());
        let hop = |index: u8| [8, 0, 0, 0, index, 0, 0, 0];
        let hops = [hop(4), hop(5)].concat();
        let balanced = Attributes::default().bytes(RTA_MULTIPATH, &hops);
        assert_eq!(route(0, balanced), [4, 5].into());
    }
}
