//! The few rtnetlink messages the agent needs (rtnetlink(7)): links, addresses, routes.
//!
//! Requests are built byte by byte and acknowledged by the kernel. This module refuses to know
//! which addresses a guest has.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const HEADER: usize = 16;

/// A conversation with the kernel's routing.
pub(crate) struct Netlink {
    socket: OwnedFd,
}

/// An IPv4 address on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// A message in the making.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0, 0, 0, 0];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(4);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(0).to_ne_bytes();
        self.bytes.splice(..4, length);
        self.bytes
    }
}

fn link_body(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&change.to_ne_bytes());
    body
}

fn address_body(index: u32, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    body
}

impl Netlink {
    /// Opens a conversation.
    pub(crate) fn open() -> io::Result<Self> {
        // No protocol is NETLINK_ROUTE.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        Ok(Self { socket })
    }

    /// Takes a device up or down.
    pub(crate) fn set_up(&self, index: u32, is_up: bool) -> io::Result<()> {
        let flags = if is_up { IFF_UP } else { 0 };
        self.ask(Request::new(RTM_NEWLINK, ACK, &link_body(index, flags, IFF_UP)))
    }

    /// Sets a device's MTU in bytes.
    pub(crate) fn set_mtu(&self, index: u32, mtu: u16) -> io::Result<()> {
        let request = Request::new(RTM_NEWLINK, ACK, &link_body(index, 0, 0));
        self.ask(request.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes()))
    }

    /// Sets a device's MAC address.
    pub(crate) fn set_mac(&self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        let request = Request::new(RTM_NEWLINK, ACK, &link_body(index, 0, 0));
        self.ask(request.attribute(IFLA_ADDRESS, &mac))
    }

    /// Gives a device an address; one that is there already is a success.
    pub(crate) fn add_address(&self, index: u32, new: Address) -> io::Result<()> {
        let flags = ACK | CREATE | REPLACE;
        let request = Request::new(RTM_NEWADDR, flags, &address_body(index, new.prefix));
        let octets = new.address.octets();
        self.ask(request.attribute(IFA_LOCAL, &octets).attribute(IFA_ADDRESS, &octets))
    }

    /// Takes an address away.
    pub(crate) fn remove_address(&self, index: u32, old: Address) -> io::Result<()> {
        let request = Request::new(RTM_DELADDR, ACK, &address_body(index, old.prefix));
        self.ask(request.attribute(IFA_LOCAL, &old.address.octets()))
    }

    /// Sets the default route.
    pub(crate) fn set_default_route(&self, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
        // family, dst and src prefix 0, tos, table main, protocol boot, scope universe, unicast.
        let body = [AF_INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        let request = Request::new(RTM_NEWROUTE, ACK | CREATE | REPLACE, &body);
        let request = request.attribute(RTA_GATEWAY, &gateway.octets());
        self.ask(request.attribute(RTA_OIF, &index.to_ne_bytes()))
    }

    /// The IPv4 addresses of a device.
    pub(crate) fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let request = Request::new(RTM_GETADDR, DUMP, &address_body(0, 0)).finish();
        send(&self.socket, &request, SendFlags::empty())?;
        let mut found = Vec::new();
        loop {
            let mut buffer = vec![0u8; 32 * 1024];
            let (length, _) = recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            for (kind, body) in messages(buffer.get(..length).unwrap_or_default()) {
                match kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => check(body)?,
                    RTM_NEWADDR => found.extend(parse_address(body, index)),
                    _ => {}
                }
            }
        }
    }

    fn ask(&self, request: Request) -> io::Result<()> {
        send(&self.socket, &request.finish(), SendFlags::empty())?;
        let mut buffer = vec![0u8; 8 * 1024];
        let (length, _) = recv(&self.socket, &mut buffer, RecvFlags::empty())?;
        match messages(buffer.get(..length).unwrap_or_default()).first() {
            Some((NLMSG_ERROR, body)) => check(body),
            _ => Err(io::Error::other("the kernel gave no acknowledgement")),
        }
    }
}

/// Cuts a datagram into (kind, body).
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (number(bytes, 0), bytes.get(4..6)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(HEADER..length) else { break };
        let kind = u16::from_ne_bytes(kind.try_into().unwrap_or_default());
        found.push((kind, body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The result that an acknowledgement holds: zero, or a negative error number.
fn check(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk::<4>().map_or(-libc::EIO, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.saturating_neg())) }
}

fn parse_address(body: &[u8], index: u32) -> Option<Address> {
    let (family, prefix) = (*body.first()?, *body.get(1)?);
    if family != AF_INET || number(body, 4)? != index {
        return None;
    }
    let mut rest = body.get(8..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        if kind == IFA_LOCAL {
            let octets: [u8; 4] = value.try_into().ok()?;
            return Some(Address { address: octets.into(), prefix });
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn the_loopback_address_is_found_by_asking_the_kernel() {
        let index = std::fs::read_to_string("/sys/class/net/lo/ifindex").unwrap();
        let found = Netlink::open().unwrap().addresses(index.trim().parse().unwrap()).unwrap();
        assert!(found.contains(&Address { address: Ipv4Addr::LOCALHOST, prefix: 8 }), "{found:?}");
    }

    #[test]
    fn a_refusal_of_the_kernel_is_an_error() {
        let error = Netlink::open().unwrap().set_mtu(0x7fff_ffff, 1500).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
    }

    #[test]
    fn hostile_datagrams_are_cut_without_harm() {
        for bytes in [&[][..], &[1], &[0; 16], &[255; 40], &[16, 0, 0, 0, 2, 0, 0, 0]] {
            for (_, body) in messages(bytes) {
                let _ = check(body);
                let _ = parse_address(body, 1);
            }
        }
        assert_eq!(parse_address(&[AF_INET, 24, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0], 1), None);
    }
}
