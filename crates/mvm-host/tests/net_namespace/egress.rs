//! The way out: masqueraded, answered, and closed to whoever was not asked.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::mpsc,
};

use mvm_host::net::{self, Mtu};

use crate::{
    wire::{self, udp},
    world::{PATIENCE, World, gateway_mac, in_namespace, line},
};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// A host on the other side of a veth pair, in a namespace of its own. It answers each question
/// that reaches it, reports who asked, and can send to whom it likes.
fn outside(
    ready: mpsc::Sender<i32>,
    asked: mpsc::Sender<(SocketAddr, Vec<u8>)>,
    go: mpsc::Receiver<()>,
) {
    in_namespace(move || {
        ready.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        go.recv().unwrap();
        line("ip addr add 192.0.2.2/24 dev outside");
        line("ip addr add 169.254.169.254/32 dev lo");
        line("ip link set outside up");
        line("ip route add 10.240.0.0/12 via 192.0.2.1");
        let socket = UdpSocket::bind("0.0.0.0:7").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        ready.send(0).unwrap();
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let question = buffer[..length].to_vec();
            let unasked: SocketAddr = "10.240.3.3:9".parse().unwrap();
            let stranger = UdpSocket::bind("0.0.0.0:8").unwrap();
            stranger.send_to(b"unasked", unasked).unwrap();
            socket.send_to(b"answer", from).unwrap();
            asked.send((from, question.clone())).unwrap();
            if question == b"last" {
                return;
            }
        }
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn guests_reach_the_outside_under_the_hosts_address_and_only_answers_come_back() {
    in_namespace(|| {
        let (ready, is_ready) = mpsc::channel();
        let (asked, who_asked) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || outside(ready, asked, may_go));
            let peer = is_ready.recv().unwrap();
            line("ip link add inside type veth peer name outside");
            line(&format!("ip link set outside netns {peer}"));
            line("ip addr add 192.0.2.1/24 dev inside");
            line("ip link set inside up");
            go.send(()).unwrap();
            is_ready.recv().unwrap();
            line("ip route add default via 192.0.2.2");
            std::fs::write("/proc/sys/net/ipv4/conf/inside/forwarding", "0").unwrap();
            let world = World::up();
            let a = world.guest(&world.acme, 3);
            a.announce(&world.acme);
            let host = gateway_mac(&world.acme);
            a.send_ipv4(host, &udp((a.address, 9), (METADATA, 7), b"credentials"));
            a.send_ipv4(host, &udp((Ipv4Addr::new(10, 240, 9, 9), 9), (OUTSIDE, 7), b"spoofed"));
            a.send_ipv4(host, &udp((a.address, 9), (OUTSIDE, 7), b"last"));
            let (from, question) = who_asked.recv_timeout(PATIENCE).unwrap();
            assert_eq!(question, b"last", "what was sent before it must not arrive");
            assert_eq!(from.ip(), Ipv4Addr::new(192, 0, 2, 1));
            let before = a.received_until(b"answer");
            assert!(!before.iter().any(|frame| wire::holds(frame, b"unasked")), "{before:02x?}");
            assert_eq!(net::verify(&world.roots, Mtu::OfUplinks, &world.intent).unwrap(), []);
        });
    });
}
