//! The network on a real kernel: every test is a host in a network namespace of its own, its
//! guests are open taps, and what passes is decided by frames that arrive or do not.
//!
//! "Nothing arrived" is never a matter of waiting: the same sender or a neighbour sends an
//! innocent frame afterwards, and when that has come, everything sent before it would have.

#![expect(unsafe_code, reason = "namespaces and taps have no safe binding")]
#![expect(clippy::disallowed_methods, reason = "R4 is for what is shipped; tests run ip and nft")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

mod egress;
mod ruleset;
mod services;
mod wire;
mod world;

use std::net::{TcpListener, UdpSocket};

use mvm_host::net::{self, Mtu};

use self::{
    wire::{ARP, BROADCAST, IPV4, arp, ethernet, udp},
    world::{Guest, PATIENCE, World, gateway_mac, in_namespace, line, run},
};

const END: &[u8] = b"the end of the test";

/// Frames by which `liar` claims to be somebody else, or speaks what no guest may speak.
fn lies(
    liar: &Guest,
    victim: &Guest,
    gateway: (wire::Mac, std::net::Ipv4Addr),
) -> Vec<(&'static str, Vec<u8>)> {
    let honest = udp((liar.address, 9), (victim.address, 9), b"lie");
    let as_victim = udp((victim.address, 9), (victim.address, 9), b"lie");
    let as_gateway = udp((gateway.1, 9), (victim.address, 9), b"lie");
    let claim = |sender| arp(2, sender, (victim.mac, victim.address));
    let mut tagged = vec![0, 5];
    tagged.extend(IPV4.to_be_bytes());
    tagged.extend(&honest);
    vec![
        ("another MAC", ethernet(victim.mac, [2, 0, 0, 0, 0, 9], IPV4, &honest)),
        ("the gateway's MAC", ethernet(victim.mac, gateway.0, IPV4, &honest)),
        ("another guest's address", ethernet(victim.mac, liar.mac, IPV4, &as_victim)),
        ("the gateway's address", ethernet(victim.mac, liar.mac, IPV4, &as_gateway)),
        ("ARP for the gateway", ethernet(victim.mac, liar.mac, ARP, &claim((liar.mac, gateway.1)))),
        (
            "ARP with another MAC",
            ethernet(victim.mac, liar.mac, ARP, &claim((gateway.0, liar.address))),
        ),
        (
            "ARP from another station",
            ethernet(victim.mac, gateway.0, ARP, &claim((liar.mac, liar.address))),
        ),
        (
            "ARP to everybody for the gateway",
            ethernet(BROADCAST, liar.mac, ARP, &claim((liar.mac, gateway.1))),
        ),
        ("IPv6", ethernet(victim.mac, liar.mac, wire::IPV6, &wire::empty_ipv6())),
        ("a VLAN tag", ethernet(victim.mac, liar.mac, wire::VLAN, &tagged)),
        ("another protocol", ethernet(victim.mac, liar.mac, wire::LLDP, b"lie")),
    ]
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn guests_of_one_tenant_talk_and_no_frame_of_theirs_reaches_another_tenant() {
    in_namespace(|| {
        let world = World::up();
        let (a, peer) = (world.guest(&world.acme, 3), world.guest(&world.acme, 4));
        let (other, neighbour) = (world.guest(&world.beta, 3), world.guest(&world.beta, 4));
        let question = arp(1, (a.mac, a.address), ([0; 6], other.address));
        a.send(&ethernet(BROADCAST, a.mac, ARP, &question));
        a.send_ipv4(other.mac, &udp((a.address, 9), (other.address, 9), b"to another tenant"));
        a.send_ipv4(BROADCAST, &udp((a.address, 9), (other.address, 9), b"to everybody"));
        a.send_ipv4(peer.mac, &udp((a.address, 9), (peer.address, 9), END));
        let seen = peer.received_until(END);
        assert_eq!(seen.len(), 3, "the peer sees the floods of its own bridge");
        neighbour.send_ipv4(other.mac, &udp((neighbour.address, 9), (other.address, 9), END));
        assert_eq!(other.received_until(END), Vec::<Vec<u8>>::new());
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn either_wall_alone_keeps_packets_from_being_routed_to_another_tenant() {
    in_namespace(|| {
        let world = World::up();
        let a = world.guest(&world.acme, 3);
        let (b, neighbour) = (world.guest(&world.beta, 3), world.guest(&world.beta, 4));
        b.announce(&world.beta);
        let arrived = || {
            let packet = udp((a.address, 9), (b.address, 9), b"across");
            a.send_ipv4(gateway_mac(&world.acme), &packet);
            neighbour.send_ipv4(b.mac, &udp((neighbour.address, 9), (b.address, 9), END));
            b.received_until(END).iter().any(|frame| wire::holds(frame, b"across"))
        };
        assert!(!arrived(), "both walls stand");
        run(["nft", "flush", "ruleset"]);
        assert!(!arrived(), "the policy routes stand alone");
        assert!(net::routes_are_there(&world.acme).unwrap());
        net::replace_firewall(&world.roots, &world.intent).unwrap();
        net::remove_routes(world.acme.net).unwrap();
        assert!(!net::routes_are_there(&world.acme).unwrap());
        assert!(!arrived(), "the tables stand alone");
        world.without_walls();
        assert!(arrived(), "without walls this very packet arrives");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn no_guest_can_speak_under_anothers_mac_address_or_arp() {
    in_namespace(|| {
        let world = World::up();
        let (liar, victim) = (world.guest(&world.acme, 3), world.guest(&world.acme, 4));
        let gateway = (gateway_mac(&world.acme), world.acme.subnet.gateway());
        let told = || {
            let mut through = Vec::new();
            for (what, frame) in lies(&liar, &victim, gateway) {
                liar.send(&frame);
                liar.send_ipv4(victim.mac, &udp((liar.address, 9), (victim.address, 9), END));
                through.extend(victim.received_until(END).iter().map(|_| what));
            }
            through
        };
        assert_eq!(told(), Vec::<&str>::new());
        world.without_walls();
        assert_eq!(told().len(), 11, "without the tables every one of these frames arrives");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn the_bridge_learns_nothing_from_frames_to_link_local_groups() {
    in_namespace(|| {
        let world = World::up();
        let (liar, victim) = (world.guest(&world.acme, 3), world.guest(&world.acme, 4));
        let third = world.guest(&world.acme, 5);
        let steal = ethernet(wire::LINK_LOCAL_GROUP, victim.mac, wire::LLDP, b"learn this");
        let delivered = || {
            victim.send_ipv4(third.mac, &udp((victim.address, 9), (third.address, 9), END));
            third.received_until(END);
            liar.send(&steal);
            let table = run(["bridge", "fdb", "show", "br", "br-tenant-3"]);
            let mac = mvm_core::net::Mac(victim.mac).to_string();
            table.lines().any(|line| line.starts_with(&mac) && line.contains("dev tn3i4"))
        };
        assert!(delivered(), "the victim's station stays at the victim's port");
        world.without_walls();
        line("ip link set br-tenant-3 type bridge no_linklocal_learn 0");
        assert!(!delivered(), "with learning the frame steals it");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn a_tap_that_no_instance_owns_can_say_nothing() {
    in_namespace(|| {
        let world = World::up();
        let stranger = world::port(&world.acme, 9);
        net::ensure_tap(stranger.net, stranger.offset, world::uid(&stranger)).unwrap();
        let (stranger, peer) = (world.guest(&world.acme, 9), world.guest(&world.acme, 4));
        let a = world.guest(&world.acme, 3);
        stranger.send_ipv4(peer.mac, &udp((stranger.address, 9), (peer.address, 9), b"hello"));
        a.send_ipv4(peer.mac, &udp((a.address, 9), (peer.address, 9), END));
        assert_eq!(peer.received_until(END), Vec::<Vec<u8>>::new());
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn of_the_host_a_guest_reaches_the_resolver_and_nothing_else() {
    in_namespace(|| {
        let world = World::up();
        let (a, peer) = (world.guest(&world.acme, 3), world.guest(&world.acme, 4));
        a.announce(&world.acme);
        line("ip addr add 192.0.2.1/24 dev lo");
        let listen = |at: &str| {
            let socket = UdpSocket::bind(at).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let (resolver, service) = (listen("0.0.0.0:53"), listen("0.0.0.0:8080"));
        let _tcp = ["0.0.0.0:53", "0.0.0.0:8080"].map(|at| TcpListener::bind(at).unwrap());
        let gateway = world.acme.subnet.gateway();
        let elsewhere = [world.beta.subnet.gateway(), "192.0.2.1".parse().unwrap()];
        let host = gateway_mac(&world.acme);
        let ask = |to, port, data: &[u8]| a.send_ipv4(host, &udp((a.address, 9), (to, port), data));
        ask(gateway, 8080, b"to a service");
        for address in elsewhere {
            ask(address, 53, b"to another address");
            ask(address, 8080, b"to another address");
        }
        ask(gateway, 53, b"a question");
        let mut buffer = [0; 64];
        let (length, from) = resolver.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (b"a question".as_slice(), a.address.into()));
        service.set_nonblocking(true).unwrap();
        assert!(service.recv_from(&mut buffer).is_err(), "a guest reached a port of the host");

        a.send_ipv4(host, &wire::ping(a.address, gateway));
        a.send_ipv4(host, &wire::tcp_syn((a.address, 1000), (gateway, 8080)));
        a.send_ipv4(host, &wire::tcp_syn((a.address, 1001), (gateway, 53)));
        peer.send_ipv4(a.mac, &udp((peer.address, 9), (a.address, 9), END));
        let answers = a.received_until(END);
        let to_port = |port: u16| {
            let is_tcp_to =
                move |frame: &&Vec<u8>| frame[23] == 6 && frame[36..38] == port.to_be_bytes();
            answers.iter().filter(is_tcp_to).count()
        };
        assert_eq!((to_port(1000), to_port(1001)), (0, 1), "{answers:02x?}");
        assert_eq!(answers.len(), 1, "neither a ping nor a closed port is answered");

        service.set_nonblocking(false).unwrap();
        service.send_to(b"from the host", (a.address, 9)).unwrap();
        a.send_ipv4(host, &udp((a.address, 9), (gateway, 8080), b"an answer"));
        let (length, _) = service.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"an answer");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn no_frame_reaches_the_host_beside_the_bridge() {
    in_namespace(|| {
        let world = World::up();
        let a = world.guest(&world.acme, 3);
        let service = UdpSocket::bind("0.0.0.0:8080").unwrap();
        let resolver = UdpSocket::bind("0.0.0.0:53").unwrap();
        resolver.set_read_timeout(Some(PATIENCE)).unwrap();
        service.set_nonblocking(true).unwrap();
        let gateway = world.acme.subnet.gateway();
        let mut buffer = [0; 64];
        let mut arrived = || {
            for last in 0..16 {
                let packet = udp((a.address, 9), (gateway, 8080), b"beside");
                a.send_ipv4([0x01, 0x80, 0xc2, 0, 0, last], &packet);
            }
            a.send_ipv4(gateway_mac(&world.acme), &udp((a.address, 9), (gateway, 53), END));
            resolver.recv_from(&mut buffer).unwrap();
            std::iter::from_fn(|| service.recv_from(&mut buffer).ok()).count()
        };
        assert_eq!(arrived(), 0);
        world.without_walls();
        assert!(arrived() > 0, "without the tables such packets are delivered");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn the_host_answers_arp_for_the_gateway_only() {
    in_namespace(|| {
        let world = World::up();
        let (a, peer) = (world.guest(&world.acme, 3), world.guest(&world.acme, 4));
        let ask = |address| {
            let question = arp(1, (a.mac, a.address), ([0; 6], address));
            a.send(&ethernet(gateway_mac(&world.acme), a.mac, ARP, &question));
            peer.send_ipv4(a.mac, &udp((peer.address, 9), (a.address, 9), END));
            a.received_until(END).len()
        };
        assert_eq!(ask(world.acme.subnet.gateway()), 1);
        assert_eq!(ask(world.beta.subnet.gateway()), 0);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn ensuring_twice_is_ensuring_once_and_removing_leaves_nothing() {
    in_namespace(|| {
        let world = World::up();
        let state = || {
            let links = line("ip -o link");
            let devices =
                links.lines().map(|link| link.split(' ').take(2).map(str::to_owned).collect());
            let devices: Vec<Vec<String>> = devices.collect();
            (devices, line("ip rule"), run(["nft", "-a", "list", "ruleset"]))
        };
        let before = state();
        world.ensure();
        assert_eq!(before, state());
        let listing = net::list().unwrap();
        assert_eq!(listing.bridges, [world.acme.net, world.beta.net]);
        assert_eq!(listing.routes, [world.acme.net, world.beta.net]);
        assert_eq!(listing.taps.len(), 5);
        assert!(net::bridge_is_up(&world.acme).unwrap());
        let port = world.intent.ports[0];
        assert!(net::tap_is_there(port.net, port.offset).unwrap());
        for _ in 0..2 {
            for port in &world.intent.ports {
                net::remove_tap(port.net, port.offset).unwrap();
            }
            for network in [&world.acme, &world.beta] {
                net::remove_routes(network.net).unwrap();
                net::remove_bridge(network.net).unwrap();
            }
        }
        assert_eq!(net::list().unwrap(), net::NetListing::default());
        assert!(!net::tap_is_there(port.net, port.offset).unwrap());
        assert!(!net::bridge_is_up(&world.acme).unwrap());
        assert!(!net::routes_are_there(&world.acme).unwrap());
        assert!(!line("ip rule").contains("br-tenant"));
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn a_tap_with_another_owner_is_made_anew_and_one_off_its_bridge_is_put_back() {
    in_namespace(|| {
        let world = World::up();
        let port = world.intent.ports[0];
        let details = || run(["ip", "-d", "link", "show", "tn3i3"]);
        assert!(details().contains("user 70771 group 70771"), "{}", details());
        line("ip link set tn3i3 nomaster");
        net::ensure_tap(port.net, port.offset, world::uid(&port)).unwrap();
        assert!(details().contains("master br-tenant-3"), "{}", details());
        net::ensure_tap(port.net, port.offset, mvm_core::units::Uid(80_000)).unwrap();
        assert!(details().contains("user 80000 group 80000"), "{}", details());
        line("ip link add tn3i20 type veth peer name veth0");
        let taken = net::ensure_tap(port.net, mvm_core::net::Offset(20), world::uid(&port));
        assert_eq!(taken.unwrap_err().kind, mvm_core::ErrorKind::Conflict);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn a_tap_opens_for_its_owner_and_for_no_other_instance() {
    in_namespace(|| {
        let world = World::up();
        let (own, other) = (world::uid(&world.intent.ports[0]), world::uid(&world.intent.ports[1]));
        assert!(world::may_open(own, "tn3i3"));
        assert!(!world::may_open(other, "tn3i3"));
        assert!(!world::may_open(own, "tn3i4"));
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn a_bridge_with_a_stale_address_gets_its_gateway_back() {
    in_namespace(|| {
        let world = World::up();
        line("ip addr flush dev br-tenant-3");
        line("ip addr add 10.240.77.1/24 dev br-tenant-3");
        assert!(!net::bridge_is_up(&world.acme).unwrap());
        net::ensure_bridge(&world.roots, Mtu::OfUplinks, &world.acme).unwrap();
        assert!(net::bridge_is_up(&world.acme).unwrap());
        assert!(!line("ip addr").contains("10.240.77.1"));
        line("ip link set br-tenant-3 down");
        assert!(!net::bridge_is_up(&world.acme).unwrap());
    });
}
