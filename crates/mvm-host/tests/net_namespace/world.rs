//! A host in a network namespace of its own, with guests that are open taps.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    panic::resume_unwind,
    process::Command,
    time::{Duration, Instant},
};

use mvm_core::{
    effect::{Firewall, Port, Published},
    layout,
    net::{NetId, Network, Offset, Subnet},
    units::{Generation, Uid},
};
use mvm_host::{
    net::{self, Mtu},
    roots::Roots,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::wire::{self, Mac};

/// How long something that must arrive may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Firecracker's virtio-net header before every frame.
const VNET_HEADER: usize = 10;
const TABLES: &str = "inet mvm";

/// Runs a test in a fresh network namespace, on a thread of its own.
pub(crate) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let outcome = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: the new namespace is this thread's alone; no memory is shared by it.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "run this as root");
                run(["ip", "link", "set", "lo", "up"]);
                test()
            })
            .join()
    });
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a program of the host, which must succeed, and returns what it printed.
pub(crate) fn run<const N: usize>(command: [&str; N]) -> String {
    run_all(&command)
}

/// Runs a program given as one line of words.
pub(crate) fn line(words: &str) -> String {
    run_all(&words.split_whitespace().collect::<Vec<_>>())
}

fn run_all(command: &[&str]) -> String {
    let (program, arguments) = command.split_first().unwrap();
    let output = Command::new(program).args(arguments.iter().map(OsStr::new)).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Two tenants: `acme` with three guests, `beta` with two; bridges, routes, taps and firewall as
/// the product makes them.
pub(crate) struct World {
    pub(crate) roots: Roots,
    pub(crate) acme: Network,
    pub(crate) beta: Network,
    pub(crate) intent: Firewall,
    _run: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().to_owned();
        let roots = Roots {
            data: path.clone(),
            run: path.clone(),
            cgroup: path.clone(),
            firecracker: mvm_core::id::VmmVersion::built_in(),
            shim: path.clone(),
            pager: path.clone(),
            resolv_conf: path.join("resolv.conf"),
            given: std::sync::Arc::default(),
            reserve_percent: 10,
        };
        let network = |tenant: &str, net: u16, subnet: &str| Network {
            tenant: tenant.parse().unwrap(),
            net: NetId(net),
            subnet: subnet.parse::<Subnet>().unwrap(),
        };
        let acme = network("acme", 3, "10.240.3.0/24");
        let beta = network("beta", 4, "10.240.4.0/24");
        let mut ports: Vec<Port> = (3..=5).map(|offset| port(&acme, offset)).collect();
        ports.extend((3..=4).map(|offset| port(&beta, offset)));
        let networks = vec![acme.clone(), beta.clone()];
        let intent = Firewall { generation: Generation(7), networks, ports, ..Firewall::default() };
        Self { roots, acme, beta, intent, _run: run }
    }

    /// Everything up, as the engine would do it.
    pub(crate) fn up() -> Self {
        let world = Self::new();
        world.ensure();
        world
    }

    pub(crate) fn ensure(&self) {
        for network in [&self.acme, &self.beta] {
            net::ensure_bridge(&self.roots, Mtu::OfUplinks, network).unwrap();
            net::ensure_routes(network).unwrap();
        }
        net::replace_firewall(&self.roots, &self.intent).unwrap();
        for port in &self.intent.ports {
            net::ensure_tap(port.net, port.offset, uid(port)).unwrap();
        }
    }

    /// Everything up, with name queries and published ports.
    pub(crate) fn serving(resolvers: &[Ipv4Addr], published: &[(&Network, u16, &str)]) -> Self {
        let mut world = Self::new();
        world.resolve_by(resolvers);
        world.intent.resolvers = resolvers.to_vec();
        world.intent.published = published
            .iter()
            .map(|(network, offset, publish)| Published {
                net: network.net,
                to: network.subnet.address(Offset(*offset)).unwrap(),
                publish: publish.parse().unwrap(),
            })
            .collect();
        world.ensure();
        world
    }

    /// The host's own configuration names these resolvers.
    pub(crate) fn resolve_by(&self, resolvers: &[Ipv4Addr]) {
        let lines: String = resolvers.iter().map(|one| format!("nameserver {one}\n")).collect();
        std::fs::write(&self.roots.resolv_conf, lines).unwrap();
    }

    /// Takes both walls down, so that a test can show that its packets are good ones.
    pub(crate) fn without_walls(&self) {
        run(["nft", "flush", "ruleset"]);
        net::remove_routes(self.acme.net).unwrap();
        net::remove_routes(self.beta.net).unwrap();
    }

    pub(crate) fn guest(&self, network: &Network, offset: u16) -> Guest {
        Guest::plug(port(network, offset))
    }

    pub(crate) fn tables(&self) -> String {
        run(["nft", "list", "tables"])
    }

    pub(crate) fn has_tables(&self) -> bool {
        self.tables().contains(TABLES)
    }
}

pub(crate) fn port(network: &Network, offset: u16) -> Port {
    let offset = Offset(offset);
    let address = network.subnet.address(offset).unwrap();
    Port { net: network.net, offset, mac: mvm_core::net::Mac::of(network.net, offset), address }
}

pub(crate) fn uid(port: &Port) -> Uid {
    Uid(70_000 + u32::from(port.net.0) * 256 + u32::from(port.offset.0))
}

/// The MAC of a network's gateway, as documented.
pub(crate) fn gateway_mac(network: &Network) -> Mac {
    let [hi, lo] = network.net.0.to_be_bytes();
    [0x02, 0xfd, hi, lo, 0, 1]
}

/// A guest: the other end of a tap.
pub(crate) struct Guest {
    tap: File,
    pub(crate) mac: Mac,
    pub(crate) address: Ipv4Addr,
}

impl Guest {
    fn plug(port: Port) -> Self {
        let name = layout::tap(port.net, port.offset);
        let tap = open_tap(&name);
        // The bridge learns of the carrier in the background; frames before that are lost.
        let deadline = Instant::now() + PATIENCE;
        while !run(["bridge", "link", "show", "dev", &name]).contains("state forwarding") {
            assert!(Instant::now() < deadline, "{name} does not forward");
        }
        Self { tap, mac: port.mac.0, address: port.address }
    }

    /// Sends one frame, whatever it is.
    pub(crate) fn send(&self, frame: &[u8]) {
        let bytes = [&[0; VNET_HEADER], frame].concat();
        assert_eq!((&self.tap).write(&bytes).unwrap(), bytes.len());
    }

    /// Sends an IPv4 packet to a station.
    pub(crate) fn send_ipv4(&self, to: Mac, packet: &[u8]) {
        self.send(&wire::ethernet(to, self.mac, wire::IPV4, packet));
    }

    /// Tells the host where this guest's address is, so that routed packets are not lost to an
    /// ARP question that nobody answers.
    pub(crate) fn announce(&self, network: &Network) {
        let [a, b, c, d, e, f] = self.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let bridge = layout::bridge(network.net);
        let address = self.address;
        line(&format!("ip neigh replace {address} lladdr {mac} dev {bridge} nud permanent"));
    }

    /// The frames that arrived before one that holds `sentinel`; it must come.
    pub(crate) fn received_until(&self, sentinel: &[u8]) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let mut frames = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self.receive(left).expect("the sentinel did not arrive");
            if wire::holds(&frame, sentinel) {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// The next frame that holds these bytes; it must come.
    pub(crate) fn receive_one(&self, data: &[u8]) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self.receive(left).expect("the frame did not arrive");
            if wire::holds(&frame, data) {
                return frame;
            }
        }
    }

    fn receive(&self, wait: Duration) -> Option<Vec<u8>> {
        let mut ready = [PollFd::from_borrowed_fd(self.tap.as_fd(), PollFlags::IN)];
        let wait = Timespec::try_from(wait).unwrap();
        if poll(&mut ready, Some(&wait)).unwrap() == 0 {
            return None;
        }
        let mut buffer = vec![0; 4096];
        let length = (&self.tap).read(&mut buffer).unwrap();
        Some(buffer[VNET_HEADER..length].to_vec())
    }
}

/// Whether a process of this user and group, without capabilities, may open the tap.
pub(crate) fn may_open(uid: Uid, name: &str) -> bool {
    let tun = open_tun();
    std::thread::scope(|scope| {
        let attempt = scope.spawn(|| {
            let id = uid.0;
            // SAFETY: as bare system calls these change the credentials of this thread only, which
            // ends right after; they take numbers and touch no memory.
            let dropped = unsafe {
                libc::syscall(libc::SYS_setgroups, 0, 0) == 0
                    && libc::syscall(libc::SYS_setresgid, id, id, id) == 0
                    && libc::syscall(libc::SYS_setresuid, id, id, id) == 0
            };
            assert!(dropped, "run this as root");
            match attach(&tun, name) {
                Ok(()) => true,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => false,
                Err(error) => unreachable!("cannot open {name}: {error}"),
            }
        });
        attempt.join().unwrap()
    })
}

fn open_tap(name: &str) -> File {
    let tun = open_tun();
    attach(&tun, name).unwrap();
    tun
}

fn open_tun() -> File {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap()
}

/// What Firecracker does with the name of a tap.
fn attach(tun: &File, name: &str) -> std::io::Result<()> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags.try_into().unwrap() };
    let mut request = libc::ifreq { ifr_name, ifr_ifru };
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `request` is.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
