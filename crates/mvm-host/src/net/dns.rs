//! Which resolvers of the host guests' name queries are handed to, and which ports are taken.
//!
//! The host's own configuration decides, `/etc/resolv.conf`. Where that names only a resolver on
//! the loopback device that forwards (systemd-resolved), the list that it forwards to is taken. A
//! resolver that a guest's packet cannot be sent to is left out: on the loopback device, with an
//! IPv6 address, in the cluster's own range or link-local, where the second wall stands.
//!
//! It refuses to ask any of them.

use std::{fs, net::Ipv4Addr, path::Path};

use mvm_core::{
    Error, ErrorKind,
    net::{CLUSTER_BASE, CLUSTER_PREFIX},
    observed::{Dns, Listening},
    publish::Protocol,
};

use crate::roots::Roots;

/// What systemd-resolved forwards to.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// The most resolvers that are used, as in glibc (`MAXNS`).
const MOST: usize = 3;
/// `TCP_LISTEN` and, for a datagram socket without a peer, `TCP_CLOSE` of the kernel.
const LISTENING: [(&str, Protocol, &str); 4] = [
    ("tcp", Protocol::Tcp, "0A"),
    ("tcp6", Protocol::Tcp, "0A"),
    ("udp", Protocol::Udp, "07"),
    ("udp6", Protocol::Udp, "07"),
];

/// How this host resolves names for guests.
pub(super) fn read(roots: &Roots) -> Dns {
    let own = fs::read_to_string(&roots.resolv_conf).unwrap_or_default();
    let dns = choose(&own, None);
    if !dns.resolvers.is_empty() {
        return dns;
    }
    fs::read_to_string(UPSTREAM).map_or(dns, |upstream| choose(&own, Some(&upstream)))
}

fn choose(own: &str, upstream: Option<&str>) -> Dns {
    let named: Vec<&str> = servers(own).chain(upstream.into_iter().flat_map(servers)).collect();
    let mut resolvers: Vec<Ipv4Addr> = Vec::new();
    for address in named.iter().filter_map(|name| name.parse().ok()).filter(is_usable) {
        if !resolvers.contains(&address) && resolvers.len() < MOST {
            resolvers.push(address);
        }
    }
    let problem = resolvers.is_empty().then(|| {
        let names = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
        format!(
            "no resolver of this host can be reached by guests (named: {names}): name one in \
             /etc/resolv.conf, or let one listen on port 53 of the gateways"
        )
    });
    Dns { resolvers, problem }
}

fn servers(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    })
}

fn is_usable(address: &Ipv4Addr) -> bool {
    let shift = 32 - u32::from(CLUSTER_PREFIX);
    let is_ours = u32::from(*address) >> shift == u32::from(CLUSTER_BASE) >> shift;
    !(is_ours
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_link_local())
}

/// The ports of this network namespace that a program listens on, each once.
///
/// # Errors
/// `Failed` when the kernel does not list them.
pub fn listening() -> Result<Vec<Listening>, Error> {
    let mut all = Vec::new();
    for (file, protocol, state) in LISTENING {
        let path = Path::new("/proc/thread-self/net").join(file);
        match fs::read_to_string(&path) {
            Ok(text) => all.extend(sockets(&text, protocol, state)),
            // A kernel without IPv6 has no such file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let act = format!("cannot read {}", path.display());
                return Err(Error::new(ErrorKind::Failed, act).because(&error));
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Reads `/proc/net/tcp` and its like: after the number, local address, peer, state.
fn sockets(text: &str, protocol: Protocol, state: &str) -> Vec<Listening> {
    let listed = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _, found) = (fields.next()?, fields.next()?, fields.next()?);
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok().filter(|port| *port > 0)?;
        let is_any = address.bytes().all(|digit| digit == b'0');
        // The address is in the machine's byte order; an IPv6 one counts as all of the host's.
        let address = (!is_any && address.len() == 8)
            .then(|| u32::from_str_radix(address, 16).ok())
            .flatten()
            .map(|bits| Ipv4Addr::from(bits.to_ne_bytes()));
        (found == state).then_some(Listening { protocol, port, address })
    });
    listed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    #[test]
    fn the_hosts_resolvers_are_taken_in_their_order() {
        let text = "# a comment\nnameserver 192.0.2.2\nsearch x\nnameserver 192.0.2.1\n\
                    nameserver 192.0.2.2\nnameserver fe80::1%eth0\noptions edns0\n";
        assert_eq!(choose(text, None).resolvers, [address(2), address(1)]);
        assert_eq!(choose(text, None).problem, None);
    }

    #[test]
    fn a_stub_on_the_loopback_device_gives_way_to_what_it_forwards_to() {
        let stub = "nameserver 127.0.0.53\n";
        assert_eq!(choose(stub, Some("nameserver 192.0.2.9\n")).resolvers, [address(9)]);
        let alone = choose(stub, None);
        assert_eq!(alone.resolvers, Vec::<Ipv4Addr>::new());
        assert!(alone.problem.is_some_and(|problem| problem.contains("127.0.0.53")));
    }

    #[test]
    fn an_address_that_no_packet_of_a_guest_may_go_to_is_no_resolver() {
        for bad in ["10.240.3.1", "169.254.169.254", "0.0.0.0", "224.0.0.251", "::1", "x", ""] {
            assert!(choose(&format!("nameserver {bad}\n"), None).resolvers.is_empty(), "{bad}");
        }
    }

    #[test]
    fn listening_sockets_are_read_with_their_address() {
        let text = "  sl  local_address rem_address   st tx_queue\n   \
                    0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n   \
                    1: 00000000:0016 00000000:0000 0A 00000000:00000000\n   \
                    2: 0100007F:C350 0100007F:1F90 01 00000000:00000000\n";
        let found = sockets(text, Protocol::Tcp, "0A");
        let loopback = cfg!(target_endian = "little").then_some(Ipv4Addr::LOCALHOST);
        assert_eq!(
            found,
            [
                Listening { protocol: Protocol::Tcp, port: 8080, address: loopback },
                Listening { protocol: Protocol::Tcp, port: 22, address: None },
            ]
        );
    }
}
