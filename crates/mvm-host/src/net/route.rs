//! The second wall: policy routes that need no nftables.
//!
//! Three rules per network, all bound to its bridge as input interface:
//!
//! | priority | rule |
//! |---|---|
//! | 240 | to its own subnet: lookup main |
//! | 241 | to 10.240.0.0/12: prohibit |
//! | 241 | to 169.254.0.0/16: prohibit |
//!
//! The priorities are two constants, not a function of the net-id: the bridge's name tells the
//! rules apart. They are low so that the wall stands before the tables of VPNs and the like.
//! Rules carry the routing protocol number 109, so that a listing takes nobody else's for ours.
//! The `local` table stands before all of them (priority 0): they guard the way *through* the
//! host, not the host's own addresses; that is the firewall's part.

use std::{collections::BTreeSet, net::Ipv4Addr};

use mvm_core::{
    layout,
    net::{CLUSTER_BASE, CLUSTER_PREFIX, NetId, Network},
};

use super::{
    message::{Attributes, CREATE, EXCLUSIVE, Message, Reader, Request},
    netlink::{Answer, Netlink, NetlinkError, absent},
};

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const RTM_GETROUTE: u16 = 26;
/// `struct fib_rule_hdr`, `struct rtmsg`.
const FIXED: usize = 12;
const FRA_DST: u16 = 1;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
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
const TO_TABLE: u8 = 1;
const PROHIBIT: u8 = 8;
const UNICAST: u8 = 1;
/// Who made a rule (`FRA_PROTOCOL`); a number that iproute2's `rt_protos` gives to nobody.
const PROTOCOL: u8 = 109;
/// The exception for a network's own subnet.
const OWN: u32 = 240;
/// What is prohibited.
const WALL: u32 = 241;
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
    priority: u32,
    action: u8,
    to: (Ipv4Addr, u8),
}

/// The rules of a network.
pub(super) fn intended(network: &Network) -> BTreeSet<Rule> {
    let net = network.net;
    let own = (network.subnet.network(), network.subnet.prefix());
    [
        Rule { net, priority: OWN, action: TO_TABLE, to: own },
        Rule { net, priority: WALL, action: PROHIBIT, to: (CLUSTER_BASE, CLUSTER_PREFIX) },
        Rule { net, priority: WALL, action: PROHIBIT, to: LINK_LOCAL },
    ]
    .into()
}

/// Makes the network's rules what is intended: the missing are added and the stale removed in one
/// system call, which a signal does not cut in half.
pub(super) fn ensure(netlink: &mut Netlink, network: &Network) -> Result<(), NetlinkError> {
    let wanted = intended(network);
    let present: BTreeSet<Rule> =
        list(netlink)?.into_iter().filter(|rule| rule.net == network.net).collect();
    let add = wanted.difference(&present).map(|rule| rule.request(RTM_NEWRULE, CREATE | EXCLUSIVE));
    let stale = present.difference(&wanted).map(|rule| rule.request(RTM_DELRULE, 0));
    let requests: Vec<Request> = add.chain(stale).collect();
    apply(netlink, &requests)
}

/// Removes every rule of the network.
pub(super) fn remove(netlink: &mut Netlink, net: NetId) -> Result<(), NetlinkError> {
    let requests: Vec<Request> = list(netlink)?
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

/// Whether these rules hold all that a network needs, whatever its subnet is.
pub(super) fn are_complete(rules: &[Rule], net: NetId) -> bool {
    let of =
        |priority| rules.iter().filter(move |rule| rule.net == net && rule.priority == priority);
    let prohibits = |to| of(WALL).any(|rule| rule.action == PROHIBIT && rule.to == to);
    of(OWN).next().is_some() && prohibits((CLUSTER_BASE, CLUSTER_PREFIX)) && prohibits(LINK_LOCAL)
}

/// All rules of ours, whoever's network.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Rule>, NetlinkError> {
    let mut fixed = vec![0; FIXED];
    fixed.splice(..1, [AF_INET]);
    let dump = Request { kind: RTM_GETRULE, flags: 0, fixed, attributes: Attributes::default() };
    Ok(netlink.dump(&dump)?.iter().filter_map(parse).collect())
}

/// Whether the wall of a network is in force: asks the kernel where it would send a guest's packet
/// to a foreign subnet. One system call, whatever the number of networks.
pub(super) fn in_force(netlink: &mut Netlink, bridge: u32) -> Result<bool, NetlinkError> {
    let question = |to: Ipv4Addr| {
        let mut fixed = vec![0; FIXED];
        fixed.splice(..3, [AF_INET, 32, 32]);
        let attributes = Attributes::default()
            .bytes(RTA_DST, &to.octets())
            .bytes(RTA_SRC, &PROBE_SOURCE.octets())
            .u32(RTA_IIF, bridge);
        Request { kind: RTM_GETROUTE, flags: 0, fixed, attributes }
    };
    let answers = netlink.ask_all(&PROBES.map(question))?;
    let prohibited =
        |answer: &Answer| answer.as_ref().err().and_then(NetlinkError::errno) == Some(libc::EACCES);
    Ok(answers.iter().any(prohibited))
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

impl Rule {
    fn request(&self, kind: u16, flags: u16) -> Request {
        let table = if self.action == TO_TABLE { TABLE_MAIN } else { 0 };
        let fixed = vec![AF_INET, self.to.1, 0, 0, table, 0, 0, self.action, 0, 0, 0, 0];
        let mut attributes = Attributes::default()
            .bytes(FRA_DST, &self.to.0.octets())
            .text(FRA_IIFNAME, &layout::bridge(self.net))
            .u32(FRA_PRIORITY, self.priority)
            .u8(FRA_PROTOCOL, PROTOCOL);
        if self.action == TO_TABLE {
            attributes = attributes.u32(FRA_TABLE, u32::from(TABLE_MAIN));
        }
        Request { kind, flags, fixed, attributes }
    }
}

fn parse(message: &Message) -> Option<Rule> {
    let reader: Reader<'_> = message.attributes(FIXED);
    let priority = reader.u32(FRA_PRIORITY)?;
    let net = layout::parse_bridge(reader.text(FRA_IIFNAME)?)?;
    let ours = message.kind == RTM_NEWRULE
        && reader.value(FRA_PROTOCOL) == Some(&[PROTOCOL])
        && matches!(priority, OWN | WALL);
    let to: [u8; 4] = reader.value(FRA_DST)?.try_into().ok()?;
    let (prefix, action) = (*message.body.get(1)?, *message.body.get(7)?);
    ours.then(|| Rule { net, priority, action, to: (Ipv4Addr::from(to), prefix) })
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
    fn listed(rule: &Rule) -> Message {
        let request = rule.request(RTM_NEWRULE, 0);
        Message { kind: RTM_NEWRULE, body: request.body() }
    }

    #[test]
    fn a_rule_is_read_back_as_it_was_written() {
        for rule in intended(&network()) {
            assert_eq!(parse(&listed(&rule)), Some(rule));
        }
    }

    #[test]
    fn a_rule_of_another_maker_or_priority_is_not_ours() {
        let rule = intended(&network()).pop_first().unwrap();
        let mut elsewhere = rule.clone();
        elsewhere.priority = 7;
        assert_eq!(parse(&listed(&elsewhere)), None);
        let mut message = listed(&rule);
        let protocol = message.body.iter().rposition(|byte| *byte == PROTOCOL).unwrap();
        message.body.splice(protocol..=protocol, [3]);
        assert_eq!(parse(&message), None);
    }

    #[test]
    fn a_wall_with_a_hole_is_not_complete() {
        let rules: Vec<Rule> = intended(&network()).into_iter().collect();
        assert!(are_complete(&rules, NetId(3)) && !are_complete(&rules, NetId(4)));
        for hole in 0..rules.len() {
            let mut rest = rules.clone();
            rest.remove(hole);
            assert!(!are_complete(&rest, NetId(3)));
        }
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
