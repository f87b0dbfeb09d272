//! The gateway address of a bridge.
//!
//! It refuses to know what a bridge is: an interface index, an address and a prefix.

use std::net::Ipv4Addr;

use mvm_core::net::Subnet;

use super::{
    message::{Attributes, CREATE, Message, REPLACE, Request},
    netlink::{Netlink, NetlinkError, absent},
};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
/// `struct ifaddrmsg`.
const FIXED: usize = 8;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const AF_INET: u8 = 2;

/// Gives the interface the subnet's gateway as its only IPv4 address.
pub(super) fn ensure_gateway(
    netlink: &mut Netlink,
    index: u32,
    subnet: Subnet,
) -> Result<(), NetlinkError> {
    let wanted = (subnet.gateway(), subnet.prefix());
    let present = list(netlink, index)?;
    for (address, prefix) in present.iter().filter(|found| **found != wanted) {
        absent(netlink.ask(&request(RTM_DELADDR, 0, index, *address, *prefix)))?;
    }
    if !present.contains(&wanted) {
        let mut add = request(RTM_NEWADDR, CREATE | REPLACE, index, wanted.0, wanted.1);
        let size = 1u32 << (32 - u32::from(subnet.prefix()));
        let broadcast = u32::from(subnet.network()) + (size - 1);
        add.attributes = add.attributes.bytes(IFA_BROADCAST, &broadcast.to_be_bytes());
        netlink.ask(&add)?;
    }
    Ok(())
}

/// Whether the subnet's gateway is an address of the interface.
pub(super) fn has_gateway(
    netlink: &mut Netlink,
    index: u32,
    subnet: Subnet,
) -> Result<bool, NetlinkError> {
    Ok(list(netlink, index)?.contains(&(subnet.gateway(), subnet.prefix())))
}

fn list(netlink: &mut Netlink, index: u32) -> Result<Vec<(Ipv4Addr, u8)>, NetlinkError> {
    let mut fixed = vec![AF_INET, 0, 0, 0];
    fixed.extend_from_slice(&index.to_ne_bytes());
    let dump = Request { kind: RTM_GETADDR, flags: 0, fixed, attributes: Attributes::default() };
    let messages = absent(netlink.dump(&dump))?.unwrap_or_default();
    Ok(messages.iter().filter_map(|message| parse(message, index)).collect())
}

fn parse(message: &Message, index: u32) -> Option<(Ipv4Addr, u8)> {
    let prefix = *message.body.get(1)?;
    let local: [u8; 4] = message.attributes(FIXED).value(IFA_LOCAL)?.try_into().ok()?;
    (message.kind == RTM_NEWADDR && message.u32_at(4)? == index)
        .then(|| (Ipv4Addr::from(local), prefix))
}

fn request(kind: u16, flags: u16, index: u32, address: Ipv4Addr, prefix: u8) -> Request {
    let mut fixed = vec![AF_INET, prefix, 0, 0];
    fixed.extend_from_slice(&index.to_ne_bytes());
    let attributes = Attributes::default().bytes(IFA_LOCAL, &address.octets());
    Request { kind, flags, fixed, attributes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_another_interface_is_not_ours() {
        let made = request(RTM_NEWADDR, 0, 7, Ipv4Addr::new(10, 240, 3, 1), 24);
        let mut body = made.fixed.clone();
        body.extend([8, 0, 2, 0, 10, 240, 3, 1]);
        let message = Message { kind: RTM_NEWADDR, body };
        assert_eq!(parse(&message, 7), Some((Ipv4Addr::new(10, 240, 3, 1), 24)));
        assert_eq!(parse(&message, 8), None);
    }
}
