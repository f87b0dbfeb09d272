//! The guest's network: one device, one address, names.
//!
//! This module refuses to know where an identity comes from; it makes the machine be it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use mvm_proto::{FailureKind, NetworkIdentity};

use crate::failure::{Context, Outcome, failure};
use crate::kernel;
use crate::netlink::{Address, Netlink};

/// Takes the loopback device up.
pub(crate) fn loopback_up() -> Outcome<()> {
    let index = number("lo", "ifindex")?;
    Netlink::open().and_then(|netlink| netlink.set_up(index, true)).because("cannot take lo up")
}

/// Takes the network device up, silent: it has no address of any kind yet.
pub(crate) fn prepare() -> Outcome<()> {
    // The files that names are written to lie in the layer in memory from here on.
    set_hostname("localhost", None)?;
    write("/etc/resolv.conf", "")?;
    let device = device()?;
    disable_ipv6(&device);
    ask_patiently(&device);
    let index = number(&device, "ifindex")?;
    Netlink::open()
        .and_then(|netlink| netlink.set_up(index, true))
        .because(format!("cannot take {device} up"))
}

/// Makes the network be `identity`, leaving alone what already is.
pub(crate) fn apply(identity: &NetworkIdentity) -> Outcome<()> {
    if identity.prefix > 32 {
        return failure(FailureKind::Invalid, "a prefix is at most 32");
    }
    set_hostname(&identity.hostname, Some(identity.address))?;
    write_resolvers(identity)?;
    let device = device()?;
    disable_ipv6(&device);
    ask_patiently(&device);
    configure(&device, identity).because(format!("cannot configure {device}"))?;
    let mac = current_mac(&device)?;
    // Neighbours learn of the address sooner; they find it without this, too.
    let _ = kernel::announce(number(&device, "ifindex")?, mac, identity.address);
    Ok(())
}

fn configure(device: &str, identity: &NetworkIdentity) -> std::io::Result<()> {
    let netlink = Netlink::open()?;
    let index = number(device, "ifindex").map_err(std::io::Error::other)?;
    if let Some(mac) = identity.mac {
        let current = current_mac(device).map_err(std::io::Error::other)?;
        // A virtio device takes it while it is up (IFF_LIVE_ADDR_CHANGE), others refuse.
        if mac.0 != current && netlink.set_mac(index, mac.0).is_err() {
            netlink.set_up(index, false)?;
            netlink.set_mac(index, mac.0)?;
        }
    }
    if number(device, "mtu").ok() != Some(u32::from(identity.mtu)) {
        netlink.set_mtu(index, identity.mtu)?;
    }
    netlink.set_up(index, true)?;
    let wanted = Address { address: identity.address, prefix: identity.prefix };
    let present = netlink.addresses(index)?;
    for old in present.iter().filter(|old| **old != wanted) {
        netlink.remove_address(index, *old)?;
    }
    if !present.contains(&wanted) {
        netlink.add_address(index, wanted)?;
    }
    match identity.gateway {
        Some(gateway) => netlink.set_default_route(index, gateway),
        None => Ok(()),
    }
}

/// The guest's network device: the first that is not virtual.
fn device() -> Outcome<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .because("cannot list network devices")?
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    match names.into_iter().next() {
        Some(name) => Ok(name),
        None => failure(FailureKind::NotFound, "this guest has no network device"),
    }
}

fn attribute(device: &str, name: &str) -> Outcome<String> {
    let path = format!("/sys/class/net/{device}/{name}");
    let text = fs::read_to_string(&path).because(format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

fn number(device: &str, name: &str) -> Outcome<u32> {
    let text = attribute(device, name)?;
    text.parse().or_else(|_| failure(FailureKind::Failed, format!("{device} {name} is {text}")))
}

fn current_mac(device: &str) -> Outcome<[u8; 6]> {
    let text = attribute(device, "address")?;
    let mac = text.parse::<mvm_proto::MacAddress>();
    mac.map(|mac| mac.0).or_else(|error| failure(FailureKind::Failed, error.to_string()))
}

/// Lets this guest ask long enough for a neighbour that rests and is woken by being asked for; the kernel's
/// own three seconds would end the connection that does.
fn ask_patiently(device: &str) {
    // Without it a connection is tried again by whoever wants it.
    let _ = fs::write(format!("/proc/sys/net/ipv4/neigh/{device}/mcast_solicit"), "15");
}

fn disable_ipv6(device: &str) {
    for name in ["all", "default", device] {
        // A kernel without IPv6 has no such file.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    }
}

/// Sets the host name, in the kernel and in the files that programs read.
pub(crate) fn set_hostname(name: &str, address: Option<Ipv4Addr>) -> Outcome<()> {
    if name.is_empty() {
        return Ok(());
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.len() > 64 || !name.bytes().all(is_plain) {
        return failure(FailureKind::Invalid, format!("{name:?} is no host name"));
    }
    rustix::system::sethostname(name.as_bytes()).because("cannot set the host name")?;
    write("/etc/hostname", &format!("{name}\n"))?;
    write("/etc/hosts", &hosts(name, address))
}

fn hosts(name: &str, address: Option<Ipv4Addr>) -> String {
    let own = address.unwrap_or(Ipv4Addr::new(127, 0, 1, 1));
    format!("127.0.0.1\tlocalhost\n{own}\t{name}\n")
}

fn write_resolvers(identity: &NetworkIdentity) -> Outcome<()> {
    write("/etc/resolv.conf", &resolvers(identity))
}

fn resolvers(identity: &NetworkIdentity) -> String {
    let given = identity.dns.iter();
    let fallback = identity.gateway.iter().filter(|_| identity.dns.is_empty());
    given.chain(fallback).map(|server| format!("nameserver {server}\n")).collect()
}

/// Replaces a file; a link in its place (to a resolver that is not there) goes.
fn write(path: &str, contents: &str) -> Outcome<()> {
    let act = format!("cannot write {path}");
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        fs::remove_file(path).because(&act)?;
    }
    if let Some(parent) = Path::new(path).parent() {
        fs::create_dir_all(parent).because(&act)?;
    }
    fs::write(path, contents).because(act)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_resolves_names_when_no_resolver_is_given() {
        let mut identity = NetworkIdentity {
            address: Ipv4Addr::new(10, 240, 1, 3),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 240, 1, 1)),
            mac: None,
            mtu: 1500,
            hostname: String::new(),
            dns: Vec::new(),
        };
        assert_eq!(resolvers(&identity), "nameserver 10.240.1.1\n");
        identity.dns = vec![Ipv4Addr::new(9, 9, 9, 9)];
        assert_eq!(resolvers(&identity), "nameserver 9.9.9.9\n");
        assert_eq!(hosts("web", Some(identity.address)), "127.0.0.1\tlocalhost\n10.240.1.3\tweb\n");
    }

    #[test]
    fn a_host_name_that_would_break_a_file_is_refused() {
        for name in ["a b", "a\nb", &"x".repeat(65)] {
            let error = set_hostname(name, None).map_err(|failure| failure.kind);
            assert_eq!(error, Err(FailureKind::Invalid), "{name:?}");
        }
    }
}
