//! What the host does for guests: names are resolved, ports lead to them, packets have a size.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::mpsc,
};

use mvm_core::effect::Firewall;
use mvm_host::net::{self, Mtu};

use crate::{
    END,
    wire::{self, udp},
    world::{Guest, PATIENCE, World, gateway_mac, in_namespace, line, run},
};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn socket(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A host at the other end of a link, in a namespace that lives as long as its socket.
fn outside(port: u16) -> UdpSocket {
    let (ready, is_ready) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            in_namespace(move || {
                ready.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
                may_go.recv().unwrap();
                line("ip addr add 192.0.2.2/24 dev outside");
                line("ip link set outside up");
                line("ip route add 10.240.0.0/12 via 192.0.2.1");
                socket(&format!("0.0.0.0:{port}"))
            })
        });
        let peer = is_ready.recv().unwrap();
        line("ip link add inside type veth peer name outside");
        line(&format!("ip link set outside netns {peer}"));
        line("ip addr add 192.0.2.1/24 dev inside");
        line("ip link set inside up");
        go.send(()).unwrap();
        let socket = other.join().unwrap();
        line("ip route add default via 192.0.2.2");
        socket
    })
}

fn heard(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from)
}

/// Source address, source port and target port of the first frame with these bytes.
fn arrived(guest: &Guest, data: &[u8]) -> Option<(Ipv4Addr, u16, u16)> {
    let seen = guest.received_until(END);
    let frame = seen.iter().find(|frame| wire::holds(frame, data))?;
    let address: [u8; 4] = frame[26..30].try_into().unwrap();
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    Some((address.into(), port(34), port(36)))
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn a_name_query_to_the_gateway_reaches_the_hosts_resolver_and_is_answered_by_the_gateway() {
    in_namespace(|| {
        let resolver = outside(53);
        let world = World::serving(&[OUTSIDE], &[]);
        let (a, peer) = (world.guest(&world.acme, 3), world.guest(&world.acme, 4));
        a.announce(&world.acme);
        let (host, gateway) = (gateway_mac(&world.acme), world.acme.subnet.gateway());
        let foreign = world.beta.subnet.gateway();
        a.send_ipv4(host, &udp((a.address, 9), (foreign, 53), b"by another gateway"));
        a.send_ipv4(host, &udp((a.address, 9), (gateway, 54), b"by another port"));
        a.send_ipv4(host, &udp((a.address, 9), (gateway, 53), b"a question"));
        let (question, from) = heard(&resolver);
        assert_eq!((question.as_slice(), from.ip()), (b"a question".as_slice(), HOST.into()));
        resolver.send_to(b"an answer", from).unwrap();
        let frame = a.receive_one(b"an answer");
        assert_eq!(&frame[26..30], &gateway.octets(), "the answer comes from the gateway");
        let state = || net::firewall(&world.roots).unwrap();
        assert_eq!(state().generation, Some(world.intent.generation));
        world.resolve_by(&[HOST]);
        assert_eq!((state().generation, state().is_altered), (None, false));
        let changed = Firewall { resolvers: vec![HOST], ..world.intent.clone() };
        let found = net::verify(&world.roots, Mtu::OfUplinks, &changed).unwrap();
        assert!(found[0].problem.contains("name queries go to 192.0.2.2"), "{found:?}");
        net::replace_firewall(&world.roots, &changed).unwrap();
        assert_eq!(net::verify(&world.roots, Mtu::OfUplinks, &changed).unwrap(), []);
        let own = socket("192.0.2.1:53");
        a.send_ipv4(host, &udp((a.address, 10), (gateway, 53), b"of the host itself"));
        let (question, from) = heard(&own);
        assert_eq!(
            (question.as_slice(), from.ip()),
            (b"of the host itself".as_slice(), a.address.into())
        );
        own.send_to(b"another answer", from).unwrap();
        let frame = a.receive_one(b"another answer");
        assert_eq!(&frame[26..30], &gateway.octets());
        a.send_ipv4(host, &udp((a.address, 9), (HOST, 53), b"not by the gateway"));
        peer.announce(&world.acme);
        peer.send_ipv4(host, &udp((peer.address, 9), (gateway, 53), b"last"));
        assert_eq!(heard(&own).0, b"last");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn a_published_port_leads_to_its_guest_for_everybody_but_guests() {
    in_namespace(|| {
        let client = outside(9);
        let template = World::new();
        let published =
            [(&template.acme, 3, "8080:80/udp"), (&template.acme, 3, "127.0.0.1:81:81/udp")];
        let world = World::serving(&[], &published);
        let (a, peer) = (world.guest(&world.acme, 3), world.guest(&world.acme, 4));
        let b = world.guest(&world.beta, 3);
        a.announce(&world.acme);
        let host = gateway_mac(&world.acme);
        let end = || peer.send_ipv4(a.mac, &udp((peer.address, 9), (a.address, 9), END));
        let answer = |to: (Ipv4Addr, u16)| {
            a.send_ipv4(host, &udp((a.address, 80), to, b"served"));
        };

        for port in [8080, 81, 80] {
            client.send_to(b"direct", (a.address, port)).unwrap();
        }
        client.send_to(b"for the host alone", (HOST, 81)).unwrap();
        for to in [HOST, world.beta.subnet.gateway(), world.acme.subnet.gateway(), a.address] {
            b.send_ipv4(gateway_mac(&world.beta), &udp((b.address, 9), (to, 8080), b"tenant"));
        }
        client.send_to(b"from outside", (HOST, 8080)).unwrap();
        let frame = a.receive_one(b"from outside");
        assert_eq!((&frame[26..30], &frame[36..38]), (&OUTSIDE.octets()[..], &[0, 80][..]));
        answer((OUTSIDE, 9));
        assert_eq!(heard(&client), (b"served".to_vec(), (HOST, 8080).into()));
        end();
        for unwanted in [b"direct".as_slice(), b"for the host alone", b"tenant"] {
            assert_eq!(arrived(&a, unwanted), None, "{unwanted:?}");
            end();
        }
        a.received_until(END);

        let own = socket("127.0.0.1:0");
        for (to, port) in [("127.0.0.1:8080", 80), ("127.0.0.1:81", 81), ("192.0.2.1:8080", 80)] {
            let own =
                if to.starts_with("127") { own.try_clone().unwrap() } else { socket("0.0.0.0:0") };
            own.set_read_timeout(Some(PATIENCE)).unwrap();
            own.send_to(b"from the host", to).unwrap();
            end();
            let (from, source, target) = arrived(&a, b"from the host").unwrap();
            assert_eq!(target, port, "{to}");
            a.send_ipv4(host, &udp((a.address, port), (from, source), b"served"));
            assert_eq!(heard(&own), (b"served".to_vec(), to.parse().unwrap()));
        }

        assert_eq!(net::verify(&world.roots, Mtu::OfUplinks, &world.intent).unwrap(), []);
        let without = Firewall { published: Vec::new(), ..world.intent.clone() };
        net::replace_firewall(&world.roots, &without).unwrap();
        client.send_to(b"from outside again", (HOST, 8080)).unwrap();
        assert!(
            !std::fs::read_to_string("/proc/sys/net/ipv4/conf/br-tenant-3/route_localnet")
                .unwrap()
                .starts_with('1')
        );
        end();
        assert_eq!(arrived(&a, b"from outside again"), None, "also of an old conversation");
        let open = socket("192.0.2.1:8080");
        socket("0.0.0.0:0").send_to(b"the host's", (HOST, 8080)).unwrap();
        assert_eq!(heard(&open).0, b"the host's", "the port is the host's own again");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn without_any_nft_rule_a_guest_reaches_no_address_of_the_host() {
    in_namespace(|| {
        let _client = outside(9);
        let world = World::serving(&[], &[]);
        let (a, b) = (world.guest(&world.acme, 3), world.guest(&world.beta, 3));
        line("ip addr add 198.51.100.1/32 dev lo");
        let service = socket("0.0.0.0:8080");
        let resolver = socket("0.0.0.0:53");
        let addresses = [
            world.acme.subnet.gateway(),
            world.beta.subnet.gateway(),
            HOST,
            Ipv4Addr::new(198, 51, 100, 1),
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::new(10, 240, 3, 255),
        ];
        run(["nft", "flush", "ruleset"]);
        let sent = |from: &Guest, network| {
            for (address, port) in addresses.iter().flat_map(|to| [(*to, 8080), (*to, 53)]) {
                from.send_ipv4(
                    gateway_mac(network),
                    &udp((from.address, 9), (address, port), b"x"),
                );
            }
        };
        sent(&a, &world.acme);
        net::remove_routes(world.beta.net).unwrap();
        b.send_ipv4(gateway_mac(&world.beta), &udp((b.address, 9), (HOST, 8080), b"open"));
        b.send_ipv4(gateway_mac(&world.beta), &udp((b.address, 9), (HOST, 53), b"open"));
        assert_eq!((heard(&service).0, heard(&resolver).0), (b"open".to_vec(), b"open".to_vec()));
        net::remove_routes(world.acme.net).unwrap();
        sent(&a, &world.acme);
        assert_eq!(heard(&service).0, b"x", "without walls these very packets arrive");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn the_hosts_own_addresses_keep_their_rule_while_networks_come_and_go() {
    in_namespace(|| {
        let world = World::new();
        let locals = || line("ip rule").matches("0:\tfrom all lookup local\n").count();
        assert_eq!(locals(), 1);
        world.ensure();
        world.ensure();
        assert_eq!(locals(), 1, "{}", line("ip rule"));
        let place = |words: &str| line("ip rule").find(words).expect(words);
        assert!(place("iif br-tenant-3 goto") < place("from all lookup local"));
        assert!(place("iif br-tenant-4 goto") < place("from all lookup local"));
        line("ip rule del pref 0 iif br-tenant-3 fwmark 0x6d000000/0xff000000 lookup local");
        assert!(!net::verify(&world.roots, Mtu::OfUplinks, &world.intent).unwrap().is_empty());
        net::ensure_routes(&world.acme).unwrap();
        assert!(
            place("fwmark 0x6d000000/0xff000000 iif br-tenant-3") < place("iif br-tenant-3 goto")
        );
        assert_eq!(net::verify(&world.roots, Mtu::OfUplinks, &world.intent).unwrap(), []);
        std::thread::scope(|scope| {
            // The namespace is the thread's: these race in it through their own sockets.
            let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            for network in [&world.acme, &world.beta] {
                let here = here.try_clone().unwrap();
                scope.spawn(move || {
                    rustix::thread::move_into_link_name_space(
                        std::os::fd::AsFd::as_fd(&here),
                        Some(rustix::thread::LinkNameSpaceType::Network),
                    )
                    .unwrap();
                    for _ in 0..200 {
                        net::remove_routes(network.net).unwrap();
                        net::ensure_routes(network).unwrap();
                    }
                });
            }
        });
        assert_eq!(locals(), 1, "{}", line("ip rule"));
        assert!(net::routes_are_there(&world.acme).unwrap());
        assert!(net::routes_are_there(&world.beta).unwrap());
        assert!(line("ip route get 127.0.0.1").contains("local"));
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn packets_are_as_large_as_the_smallest_uplink_carries_or_as_configured() {
    in_namespace(|| {
        let _client = outside(9);
        let world = World::up();
        let sizes = || {
            let of = |name: &str| {
                let shown = run(["ip", "-o", "link", "show", name]);
                let words: Vec<&str> = shown.split(' ').collect();
                words[words.iter().position(|word| *word == "mtu").unwrap() + 1].parse().unwrap()
            };
            let (bridge, tap): (u16, u16) = (of("br-tenant-3"), of("tn3i3"));
            (bridge, tap, net::network_mtu(world.acme.net))
        };
        assert_eq!(sizes(), (1500, 1500, 1500));
        line("ip link set inside mtu 1400");
        assert!(!net::mtu_is_right(Mtu::OfUplinks, world.acme.net).unwrap());
        let found = net::verify(&world.roots, Mtu::OfUplinks, &world.intent).unwrap();
        assert!(found[0].problem.contains("has the MTU 1500 and not 1400"), "{found:?}");
        world.ensure();
        assert_eq!(sizes(), (1400, 1400, 1400));
        assert_eq!(net::verify(&world.roots, Mtu::OfUplinks, &world.intent).unwrap(), []);
        net::ensure_bridge(&world.roots, Mtu::Fixed(1300), &world.acme).unwrap();
        assert_eq!(sizes(), (1300, 1300, 1300));
        assert!(net::mtu_is_right(Mtu::Fixed(1300), world.acme.net).unwrap());
    });
}
