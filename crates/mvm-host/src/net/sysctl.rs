//! Per-interface switches under `/proc/sys/net`, and which of them a tenant's bridge needs.
//!
//! Only single interfaces are touched, never `all` or `default`: a packet is forwarded by the
//! setting of the interface that it *came in* by, so guests need it on their bridge and their
//! answers need it on the egress interfaces, and `net.ipv4.ip_forward` stays as it is.

use std::{fs, io, path::Path};

/// What a tenant's bridge is set to.
///
/// - `forwarding`: guests reach the outside through this host.
/// - `rp_filter` strict: a packet whose source does not lie behind the bridge is dropped, by the
///   routing code, whatever became of nftables (the greater of this and `all` counts).
/// - `arp_ignore` 1: ARP is answered for the gateway only, not for the host's other addresses.
/// - `arp_announce` 2: the host asks in the name of the gateway only.
/// - `send_redirects`, `accept_redirects`: guests neither get nor give advice on routes.
const BRIDGE: [(&str, &str); 6] = [
    ("forwarding", "1"),
    ("rp_filter", "1"),
    ("arp_ignore", "1"),
    ("arp_announce", "2"),
    ("send_redirects", "0"),
    ("accept_redirects", "0"),
];

/// How often, a second apart, the host asks for a guest's MAC before it gives up on a connection: as long as a
/// guest that rests may take to wake, where the kernel's own three would end what brings it back.
const ASKS: &str = "15";

/// Sets a tenant's bridge.
pub(super) fn set_bridge(name: &str) -> io::Result<()> {
    write(&format!("/proc/sys/net/ipv4/neigh/{name}/mcast_solicit"), ASKS)?;
    BRIDGE.iter().try_for_each(|(key, value)| write(&ipv4(name, key), value))
}

/// Which of the bridge's switches are not as they should be.
pub(super) fn wrong_on_bridge(name: &str) -> Vec<String> {
    let mut wrong: Vec<String> = BRIDGE
        .iter()
        .filter(|(key, value)| !is_set(&ipv4(name, key), value))
        .map(|(key, value)| format!("net.ipv4.conf.{name}.{key} is not {value}"))
        .collect();
    if !ipv6_is_off(name) {
        wrong.push(format!("net.ipv6.conf.{name}.disable_ipv6 is not 1"));
    }
    wrong
}

/// Lets the host's own connections from the loopback device reach guests of this bridge, and their
/// answers come back; a bridge that is not there yet gets it when it is made. What a guest itself
/// sends to 127.0.0.0/8 both walls keep from the host.
pub(super) fn set_route_localnet(name: &str, is_on: bool) -> io::Result<()> {
    let path = ipv4(name, "route_localnet");
    let value = if is_on { "1" } else { "0" };
    if is_set(&path, value) {
        return Ok(());
    }
    match write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What is wrong with the bridge's `route_localnet`.
pub(super) fn wrong_route_localnet(name: &str, is_on: bool) -> Option<String> {
    let value = if is_on { "1" } else { "0" };
    let path = ipv4(name, "route_localnet");
    let is_wrong = Path::new(&path).exists() && !is_set(&path, value);
    is_wrong.then(|| format!("net.ipv4.conf.{name}.route_localnet is not {value}"))
}

/// Lets packets that come in by this interface be forwarded; written only when it is off, because
/// the kernel flushes its route cache at each write.
pub(super) fn allow_forwarding(name: &str) -> io::Result<()> {
    if is_forwarding(name) { Ok(()) } else { write(&ipv4(name, "forwarding"), "1") }
}

/// Whether packets that come in by this interface are forwarded.
pub(super) fn is_forwarding(name: &str) -> bool {
    is_set(&ipv4(name, "forwarding"), "1")
}

/// Switches IPv6 off on an interface; a kernel without IPv6 has it off everywhere.
pub(super) fn disable_ipv6(name: &str) -> io::Result<()> {
    match write(&disable_ipv6_of(name), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether an interface has no IPv6.
pub(super) fn ipv6_is_off(name: &str) -> bool {
    match fs::read_to_string(disable_ipv6_of(name)) {
        Ok(value) => value.trim() == "1",
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn ipv4(name: &str, key: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{name}/{key}")
}

fn disable_ipv6_of(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
}

fn is_set(path: &str, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|found| found.trim() == value)
}

fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}
