//! From intent to the text of the two nftables tables. Pure: the same intent gives the same text.
//!
//! ```text
//! table bridge mvm   prerouting  what a guest's port may send: its own MAC, IP and ARP, no more; and a
//!                                note of what it tries to reach
//! table inet mvm     arrival     guest → host: marks what may be delivered, drops the rest
//!                    rewrite     name queries → a resolver; published ports → guests
//!                    own         published ports, when the host itself asks
//!                    forward     guest → outside; answers back; never guest → guest of another
//!                    input       guest → host: answers, and name queries
//!                    postrouting guests leave under the host's address
//! ```
//!
//! The mark is what the second wall ([`super::route`]) lets through to the host's own addresses:
//! answers to what the host asked, name queries, and ARP, which the kernel answers only for an
//! address that it would deliver to. Without these tables nothing bears it.
//!
//! A published port is redirected for everybody but guests: a guest's packet to an address of the
//! host stays what it is and is dropped, whosever port it is for. A port that is published no more
//! is closed to connections that were made through it, too.
//!
//! Everything else is accepted here: our chains judge only frames of our ports and packets that
//! enter or leave by a tenant's bridge, and never carry a policy of `drop`. An `accept` here does
//! not overrule a `drop` in somebody else's table; [`super::foreign`] looks for those.
//!
//! The inet chains also drop what comes in by a tap itself instead of its bridge: the bridge hands
//! frames to link-local groups (01:80:c2:00:00:0X) to the port's own IP stack, LLDP's past every
//! bridge hook, and a UDP packet for the host in such a frame would be delivered.
//!
//! A host with `br_netfilter` shows frames between two guests of one bridge to the forward chain
//! as well, whatever their destination: they pass by the set `within`.
//!
//! All lookups are hashes or interval trees over concatenated keys, so that a frame costs the same
//! with one port and with thousands. The ports' table names no bridge (`meta ibrname` needs a
//! kernel module that not every kernel has): that a tap is on its own bridge is what
//! [`mod@super::verify`] compares.

use std::{fmt::Write, net::Ipv4Addr};

use mvm_core::{
    effect::{Firewall, Port, Published},
    layout,
    net::Network,
};

/// The name of both tables.
pub(super) const TABLE: &str = "mvm";

/// The mark of a packet that may be delivered to the host, in the bits of [`MARK_MASK`].
pub(super) const MARK: u32 = 0x6d00_0000;
/// The bits of the mark that are ours; the others stay what somebody else made them.
pub(super) const MARK_MASK: u32 = 0xff00_0000;

/// The set of what guests try to reach, see [`super::demand`].
pub(super) const WANTED: &str = "wanted";
/// The set of guests that try, with how often each may be noted.
pub(super) const ASKING: &str = "asking";

/// Notes what a guest tries to reach among tenants' addresses: the target of an ARP request, and that of a
/// connection's first packet, since whoever knows a neighbour's MAC asks for it again only after seconds.
/// It judges nothing; a full set notes nothing more.
fn notes() -> String {
    let note = format!(
        "add @{ASKING} {{ iifname limit rate 20/second burst 40 packets }} update @{WANTED}"
    );
    let within = "10.240.0.0/12";
    format!(
        "\t\tether type ip iifname . ether saddr . ip saddr @ports ip daddr {within} \
         tcp flags & (fin | syn | rst | ack) == syn {note} {{ iifname . ip daddr }}\n\
         \t\tether type arp arp htype 1 arp ptype ip arp operation request \
         iifname . arp saddr ether . arp saddr ip @ports arp daddr ip {within} {note} {{ iifname . arp daddr ip }}\n"
    )
}

/// Redirects what is for a published port.
const TO_PUBLISHED: &str = "\t\tfib daddr type local dnat ip to \
    ip daddr . meta l4proto . th dport map @published_at\n\
    \t\tfib daddr type local dnat ip to meta l4proto . th dport map @published\n";

/// Removes both tables, whether they are there or not.
pub(super) const REMOVAL: &str = "table bridge mvm\ndelete table bridge mvm\n\
                                  table inet mvm\ndelete table inet mvm\n";

/// One script, one transaction: both tables as if they had never been there before.
///
/// Ports and networks may come in any order; the text does not depend on it.
pub(super) fn script(intent: &Firewall) -> String {
    let mut networks: Vec<&Network> = intent.networks.iter().collect();
    networks.sort_by_key(|network| network.net);
    let mut ports: Vec<&Port> = intent.ports.iter().collect();
    ports.sort_by_key(|port| (port.net, port.offset));
    let mut published: Vec<&Published> = intent.published.iter().collect();
    published.sort();
    let inet = inet_table(intent, &networks, &published);
    format!("{REMOVAL}{}{inet}", bridge_table(intent, &ports))
}

fn bridge_table(intent: &Firewall, ports: &[&Port]) -> String {
    let tap = |port: &Port| layout::tap(port.net, port.offset);
    let taps = set("taps", "ifname", "", ports, |port| format!("{:?}", tap(port)));
    let macs = set("macs", "ifname . ether_addr", "", ports, |port| {
        format!("{:?} . {}", tap(port), port.mac)
    });
    let addresses = set("ports", "ifname . ether_addr . ipv4_addr", "", ports, |port| {
        format!("{:?} . {} . {}", tap(port), port.mac, port.address)
    });
    let (unknown, notes) = (drop_taps(), notes());
    format!(
        "table bridge {TABLE} {{
\tcomment \"mvm generation {generation}\"
{taps}{macs}{addresses}\tset {WANTED} {{ type ifname . ipv4_addr; size 65535; flags dynamic,timeout; timeout 10s; }}
\tset {ASKING} {{ type ifname; size 65535; flags dynamic,timeout; timeout 10s; }}
\tchain guest {{
\t\tether type != {{ ip, arp }} drop
\t\tiifname . ether saddr != @macs drop
{notes}\t\tether type ip iifname . ether saddr . ip saddr @ports accept
\t\tether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 iifname . arp saddr ether . arp saddr ip @ports meta mark set meta mark & 0x{rest:08x} | 0x{MARK:08x} accept
\t\tdrop
\t}}
\tchain prerouting {{
\t\ttype filter hook prerouting priority dstnat; policy accept;
\t\tiifname @taps goto guest
{unknown}\t}}
}}
",
        generation = intent.generation,
        rest = !MARK_MASK,
    )
}

fn inet_table(intent: &Firewall, networks: &[&Network], published: &[&Published]) -> String {
    let bridge = |network: &Network| layout::bridge(network.net);
    let interval = "flags interval; ";
    let subnets = set("subnets", "ifname . ipv4_addr", interval, networks, |network| {
        format!("{:?} . {}", bridge(network), network.subnet)
    });
    let gateways = set("gateways", "ifname . ipv4_addr", "", networks, |network| {
        format!("{:?} . {}", bridge(network), network.subnet.gateway())
    });
    let within = set("within", "ifname . ifname", "", networks, |network| {
        format!("{0:?} . {0:?}", bridge(network))
    });
    let beside = drop_taps();
    let ports = published_sets(published);
    let arrival = arrival(&intent.resolvers);
    format!(
        "table inet {TABLE} {{
\tcomment \"mvm generation {generation}\"
{subnets}{gateways}{within}{ports}{arrival}\tchain from_guest {{
\t\tmeta nfproto != ipv4 drop
\t\tiifname . ip saddr != @subnets drop
\t\tiifname . oifname @within accept
\t\toifname \"br-tenant-*\" drop
\t\tip daddr {{ 10.240.0.0/12, 169.254.0.0/16, 224.0.0.0/4 }} drop
\t\taccept
\t}}
\tchain to_host {{
\t\tmeta nfproto != ipv4 drop
\t\tiifname . ip saddr != @subnets drop
\t\tct state established,related accept
\t\tiifname . ip daddr @gateways meta l4proto {{ tcp, udp }} th dport 53 accept
\t\tct status dnat meta l4proto {{ tcp, udp }} th dport 53 accept
\t\tdrop
\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter; policy accept;
\t\tiifname \"br-tenant-*\" goto from_guest
{beside}\t\toifname \"br-tenant-*\" ct status dnat ct direction original ip daddr . meta l4proto . th dport != @open drop
\t\toifname \"br-tenant-*\" ct state established,related accept
\t\toifname \"br-tenant-*\" ct status dnat ip daddr . meta l4proto . th dport @open accept
\t\toifname \"br-tenant-*\" drop
\t}}
\tchain input {{
\t\ttype filter hook input priority filter; policy accept;
\t\tiifname \"br-tenant-*\" goto to_host
{beside}\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tiifname . ip saddr @subnets oifname != \"br-tenant-*\" masquerade
\t\toifname \"br-tenant-*\" ip saddr 127.0.0.0/8 masquerade
\t}}
}}
",
        generation = intent.generation,
    )
}

/// The chains that a packet passes before it is known whether it is for the host.
fn arrival(resolvers: &[Ipv4Addr]) -> String {
    let queries = queries(resolvers);
    format!(
        "\tchain arriving {{
\t\tct state established,related meta mark set meta mark & 0x{rest:08x} | 0x{MARK:08x} return
\t\tiifname . ip daddr @gateways meta l4proto {{ tcp, udp }} th dport 53 meta mark set meta mark & 0x{rest:08x} | 0x{MARK:08x} return
\t\tfib daddr type {{ local, broadcast, multicast }} drop
\t}}
\tchain arrival {{
\t\ttype filter hook prerouting priority mangle; policy accept;
\t\tiifname \"br-tenant-*\" goto arriving
\t}}
\tchain rewrite {{
\t\ttype nat hook prerouting priority dstnat; policy accept;
{queries}\t\tiifname \"br-tenant-*\" accept
{to_published}\t}}
\tchain own {{
\t\ttype nat hook output priority -100; policy accept;
{to_published}\t}}
",
        rest = !MARK_MASK,
        to_published = TO_PUBLISHED,
    )
}

/// Hands name queries to the resolvers in turn.
fn queries(resolvers: &[Ipv4Addr]) -> String {
    let to = match resolvers {
        [] => return String::new(),
        [one] => one.to_string(),
        all => {
            let mut map = format!("numgen inc mod {} map {{ ", all.len());
            for (place, resolver) in all.iter().enumerate() {
                let _ = write!(map, "{place} : {resolver}, ");
            }
            format!("{}}}", map.replace(", }", " }"))
        }
    };
    format!(
        "\t\tiifname . ip daddr @gateways meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {to}\n"
    )
}

/// Where the host's ports lead, at all its addresses or at one, and what may so reach guests.
fn published_sets(published: &[&Published]) -> String {
    let everywhere: Vec<&Published> =
        published.iter().copied().filter(|one| one.publish.address.is_none()).collect();
    let at = published.iter().filter_map(|one| Some((one.publish.address?, *one)));
    let at: Vec<(Ipv4Addr, &Published)> = at.collect();
    let target = |one: &Published| format!("{} . {}", one.to, one.publish.guest);
    let key = |one: &Published| format!("{} . {}", one.publish.protocol, one.publish.host);
    let mut text = map(
        "published",
        "inet_proto . inet_service",
        &everywhere.iter().collect::<Vec<_>>(),
        |one| format!("{} : {}", key(one), target(one)),
    );
    text.push_str(&map(
        "published_at",
        "ipv4_addr . inet_proto . inet_service",
        &at.iter().collect::<Vec<_>>(),
        |(address, one)| format!("{address} . {} : {}", key(one), target(one)),
    ));
    let mut open: Vec<String> = published
        .iter()
        .map(|one| format!("{} . {} . {}", one.to, one.publish.protocol, one.publish.guest))
        .collect();
    open.sort();
    open.dedup();
    let kind = "ipv4_addr . inet_proto . inet_service";
    text.push_str(&set("open", kind, "", &open.iter().collect::<Vec<_>>(), |one| one.clone()));
    text
}

fn map<T>(name: &str, key: &str, members: &[&T], element: impl Fn(&T) -> String) -> String {
    let kind = format!("{key} : ipv4_addr . inet_service");
    set(name, &kind, "", members, element).replacen("\tset ", "\tmap ", 1)
}

/// Drops what any tap of our naming sends, known or not.
fn drop_taps() -> String {
    (0..=9).fold(String::new(), |mut text, digit| {
        let _ = writeln!(text, "\t\tiifname \"tn{digit}*\" drop");
        text
    })
}

/// A named set; nft has no notation for one without elements other than leaving them out.
fn set<T>(
    name: &str,
    kind: &str,
    flags: &str,
    members: &[&T],
    element: impl Fn(&T) -> String,
) -> String {
    let mut text = format!("\tset {name} {{ type {kind}; {flags}");
    if !members.is_empty() {
        text.push_str("elements = {");
        for member in members {
            let _ = write!(text, "\n\t\t{},", element(member));
        }
        text.push_str("\n\t} ");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use mvm_core::{
        net::{Mac, NetId, Offset, Subnet},
        units::Generation,
    };

    use super::*;

    fn network(tenant: &str, net: u16, subnet: &str) -> Network {
        let subnet: Subnet = subnet.parse().unwrap();
        Network { tenant: tenant.parse().unwrap(), net: NetId(net), subnet }
    }

    fn port(network: &Network, offset: u16) -> Port {
        let offset = Offset(offset);
        let address = network.subnet.address(offset).unwrap();
        Port { net: network.net, offset, mac: Mac::of(network.net, offset), address }
    }

    fn intent() -> Firewall {
        let acme = network("acme", 3, "10.240.3.0/24");
        let beta = network("beta", 259, "10.250.8.8/29");
        let ports = vec![port(&acme, 3), port(&acme, 44), port(&beta, 3)];
        let publish = |net, to: &str, publish: &str| Published {
            net: NetId(net),
            to: to.parse().unwrap(),
            publish: publish.parse().unwrap(),
        };
        let published = vec![
            publish(3, "10.240.3.3", "8080:80"),
            publish(3, "10.240.3.3", "127.0.0.1:5353:53/udp"),
            publish(259, "10.250.8.11", "443:443"),
        ];
        let resolvers = vec![Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)];
        let networks = vec![acme, beta];
        Firewall { generation: Generation(7), networks, ports, resolvers, published }
    }

    #[test]
    fn the_tables_of_two_tenants_read_as_recorded() {
        let recorded = include_str!("snapshots/two_tenants.nft");
        let text = script(&intent());
        assert_eq!(text, recorded, "the tables changed; if that is meant, record this:\n{text}");
    }

    #[test]
    fn the_text_does_not_depend_on_the_order_of_the_intent() {
        let mut turned = intent();
        turned.networks.reverse();
        turned.ports.reverse();
        assert_eq!(script(&turned), script(&intent()));
    }

    #[test]
    fn a_network_without_ports_has_sets_without_elements() {
        let mut bare = intent();
        bare.ports.clear();
        let text = script(&bare);
        assert!(text.contains("set taps { type ifname; }"), "{text}");
        assert!(!text.contains("elements = {}"), "{text}");
    }

    #[test]
    fn no_chain_of_ours_drops_by_policy() {
        assert!(!script(&intent()).contains("policy drop"));
    }
}
