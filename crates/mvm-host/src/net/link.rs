//! Devices: a bridge per network, and what the kernel says of a tap.
//!
//! A device of ours with the wrong kind is reported, never replaced: somebody else made it. It
//! refuses to know addresses ([`super::address`]) and who may open a tap ([`super::tap`]).

use mvm_core::{
    layout,
    net::{Mac, NetId, Offset},
};

use super::{
    message::{Attributes, CREATE, EXCLUSIVE, Message, Reader, Request},
    netlink::{Netlink, NetlinkError, absent},
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg`.
const FIXED: usize = 16;
const IFF_UP: u32 = 1;
const IFF_NOARP: u32 = 0x80;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
/// `RTEXT_FILTER_SKIP_STATS` (Linux 4.4): counters of every processor are not added up for nobody.
const SKIP_STATS: u32 = 1 << 3;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_MULTI_BOOLOPT: u16 = 46;
/// `struct br_boolopt_multi` {value, mask} with `BR_BOOLOPT_NO_LL_LEARN` (Linux 5.0).
const NO_LINK_LOCAL_LEARNING: [u32; 2] = [1, 1];
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_VNET_HDR: u16 = 5;
const IFLA_TUN_PERSIST: u16 = 6;
const IFF_TAP: u8 = 2;

/// What the kernel says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) is_up: bool,
    pub(super) master: Option<u32>,
    pub(super) mtu: u16,
    pub(super) mac: Option<Mac>,
    pub(super) kind: Kind,
}

/// The kinds of device that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Bridge,
    Tap(Tap),
    Other,
}

/// The properties of a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tap {
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) has_vnet_header: bool,
    pub(super) is_persistent: bool,
}

/// The MAC of a network's bridge, 02:fd:hi:lo:00:01: the same after a reboot and on every host, so
/// that a guest's ARP entry of its gateway stays true.
pub(super) const fn bridge_mac(net: NetId) -> Mac {
    let [hi, lo] = net.0.to_be_bytes();
    Mac([0x02, 0xfd, hi, lo, 0x00, 0x01])
}

/// A device by its name.
pub(super) fn find(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    let named = Attributes::default().text(IFLA_IFNAME, name).u32(IFLA_EXT_MASK, SKIP_STATS);
    let get = request(RTM_GETLINK, 0, 0, 0, named);
    let found = absent(netlink.ask(&get))?.unwrap_or_default();
    Ok(found.iter().find_map(parse))
}

/// Every device of this network namespace.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let all = Attributes::default().u32(IFLA_EXT_MASK, SKIP_STATS);
    let dump = request(RTM_GETLINK, 0, 0, 0, all);
    Ok(netlink.dump(&dump)?.iter().filter_map(parse).collect())
}

/// Makes a network's bridge, down: no STP, no forward delay, no multicast snooping (nobody
/// queries), and nothing learnt from frames to link-local groups, which reach the bridge's table
/// past every netfilter hook (`br_handle_frame`).
pub(super) fn create_bridge(netlink: &mut Netlink, net: NetId) -> Result<(), NetlinkError> {
    let data = bridge_data();
    let info = Attributes::default().bytes(IFLA_INFO_KIND, b"bridge").nested(IFLA_INFO_DATA, &data);
    let attributes = Attributes::default()
        .text(IFLA_IFNAME, &layout::bridge(net))
        .bytes(IFLA_ADDRESS, &bridge_mac(net).0)
        .nested(IFLA_LINKINFO, &info);
    netlink.ask(&request(RTM_NEWLINK, CREATE | EXCLUSIVE, 0, 0, attributes)).map(drop)
}

/// Gives the bridge its properties again, and takes it up.
pub(super) fn set_bridge(
    netlink: &mut Netlink,
    index: u32,
    net: NetId,
    mtu: u16,
) -> Result<(), NetlinkError> {
    let info = Attributes::default()
        .bytes(IFLA_INFO_KIND, b"bridge")
        .nested(IFLA_INFO_DATA, &bridge_data());
    let attributes = Attributes::default()
        .u32(IFLA_MTU, u32::from(mtu))
        .bytes(IFLA_ADDRESS, &bridge_mac(net).0)
        .nested(IFLA_LINKINFO, &info);
    netlink.ask(&request(RTM_NEWLINK, 0, index, IFF_UP, attributes)).map(drop)
}

fn bridge_data() -> Attributes {
    Attributes::default()
        .u32(IFLA_BR_FORWARD_DELAY, 0)
        .u32(IFLA_BR_STP_STATE, 0)
        .u8(IFLA_BR_MCAST_SNOOPING, 0)
        .bytes(IFLA_BR_MULTI_BOOLOPT, &NO_LINK_LOCAL_LEARNING.map(u32::to_ne_bytes).concat())
}

/// Sets the largest packet of a device.
pub(super) fn set_mtu(netlink: &mut Netlink, index: u32, mtu: u16) -> Result<(), NetlinkError> {
    let attributes = Attributes::default().u32(IFLA_MTU, u32::from(mtu));
    netlink.ask(&request(RTM_NEWLINK, 0, index, 0, attributes)).map(drop)
}

/// Puts a tap on a bridge with the bridge's MTU and takes it up; the host itself speaks no ARP on it, so that frames to
/// link-local groups, which the bridge passes to the port's own stack, are not answered.
pub(super) fn attach(netlink: &mut Netlink, name: &str, bridge: &Link) -> Result<(), NetlinkError> {
    let attributes = Attributes::default()
        .text(IFLA_IFNAME, name)
        .u32(IFLA_MTU, u32::from(bridge.mtu))
        .u32(IFLA_MASTER, bridge.index);
    netlink.ask(&request(RTM_NEWLINK, 0, 0, IFF_UP | IFF_NOARP, attributes)).map(drop)
}

/// Removes a device; its absence is success.
pub(super) fn remove(netlink: &mut Netlink, name: &str) -> Result<(), NetlinkError> {
    let attributes = Attributes::default().text(IFLA_IFNAME, name);
    absent(netlink.ask(&request(RTM_DELLINK, 0, 0, 0, attributes))).map(drop)
}

impl Link {
    /// Which of our taps it is by its name.
    pub(super) fn as_tap(&self) -> Option<(NetId, Offset)> {
        match self.kind {
            Kind::Tap(_) => layout::parse_tap(&self.name),
            Kind::Bridge | Kind::Other => None,
        }
    }

    /// Which of our bridges it is by its name.
    pub(super) fn as_bridge(&self) -> Option<NetId> {
        match self.kind {
            Kind::Bridge => layout::parse_bridge(&self.name),
            Kind::Tap(_) | Kind::Other => None,
        }
    }
}

/// `raise` are the interface flags to be set; all others stay.
fn request(kind: u16, flags: u16, index: u32, raise: u32, attributes: Attributes) -> Request {
    let mut fixed = vec![0; 4];
    for word in [index, raise, raise] {
        fixed.extend_from_slice(&word.to_ne_bytes());
    }
    Request { kind, flags, fixed, attributes }
}

fn parse(message: &Message) -> Option<Link> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let reader = message.attributes(FIXED);
    Some(Link {
        index: message.u32_at(4)?,
        name: reader.text(IFLA_IFNAME)?.to_owned(),
        is_up: message.u32_at(8)? & IFF_UP != 0,
        master: reader.u32(IFLA_MASTER),
        mtu: reader.u32(IFLA_MTU).and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(u16::MAX),
        mac: reader.value(IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()).map(Mac),
        kind: reader.nested(IFLA_LINKINFO).map_or(Kind::Other, parse_kind),
    })
}

fn parse_kind(info: Reader<'_>) -> Kind {
    let data = info.nested(IFLA_INFO_DATA);
    match (info.text(IFLA_INFO_KIND), data) {
        (Some("bridge"), _) => Kind::Bridge,
        (Some("tun"), Some(data)) if data.value(IFLA_TUN_TYPE) == Some(&[IFF_TAP]) => {
            Kind::Tap(Tap {
                owner: data.u32(IFLA_TUN_OWNER),
                group: data.u32(IFLA_TUN_GROUP),
                has_vnet_header: data.value(IFLA_TUN_VNET_HDR) == Some(&[1]),
                is_persistent: data.value(IFLA_TUN_PERSIST) == Some(&[1]),
            })
        }
        _ => Kind::Other,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn a_tap_is_read_with_its_owner_and_bridge() {
        let data = [
            attribute(IFLA_TUN_TYPE, &[IFF_TAP]),
            attribute(IFLA_TUN_OWNER, &70_000u32.to_ne_bytes()),
            attribute(IFLA_TUN_VNET_HDR, &[1]),
            attribute(IFLA_TUN_PERSIST, &[1]),
        ]
        .concat();
        let info = [attribute(IFLA_INFO_KIND, b"tun\0"), attribute(IFLA_INFO_DATA, &data)].concat();
        let mut body = vec![0; 4];
        body.extend(9u32.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attribute(IFLA_IFNAME, b"tn3i4\0"));
        body.extend(attribute(IFLA_MASTER, &5u32.to_ne_bytes()));
        body.extend(attribute(999, &[1, 2, 3, 4, 5, 6]));
        body.extend(attribute(IFLA_LINKINFO, &info));
        let link = parse(&Message { kind: RTM_NEWLINK, body }).unwrap();
        assert_eq!((link.index, link.is_up, link.master), (9, true, Some(5)));
        assert_eq!(link.as_tap(), Some((NetId(3), Offset(4))));
        let Kind::Tap(tap) = link.kind else { unreachable!("a tap was built") };
        assert_eq!((tap.owner, tap.group), (Some(70_000), None));
        assert!(tap.has_vnet_header && tap.is_persistent);
    }

    #[test]
    fn the_mac_of_a_bridge_is_no_guests() {
        let mac = bridge_mac(NetId(259));
        assert_eq!(mac.to_string(), "02:fd:01:03:00:01");
        assert_ne!(mac, Mac::of(NetId(259), Offset(1)));
    }
}
