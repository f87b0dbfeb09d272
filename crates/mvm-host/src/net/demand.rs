//! Who is asked for: addresses in tenants' networks that somebody tried to reach a moment ago.
//!
//! Guests' tries are in the set `wanted` of the bridge table, which the kernel fills itself: the target of each
//! ARP request and of each first packet of a TCP connection, for ten seconds, at most twenty a second of one
//! guest. The host's own, for published ports, are its neighbour table's unanswered questions. Both name
//! addresses that answer as well; whoever asks here knows who sleeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use mvm_core::{layout, net::NetId, port::Wanted};

use super::{
    link::{self, Link},
    message::{Attributes, Message, Request},
    netlink::{Netlink, NetlinkError, absent},
    tables,
};

const RTM_GETNEIGH: u16 = 30;
/// `struct ndmsg`.
const FIXED: usize = 12;
const AF_INET: u8 = 2;
const NDA_DST: u16 = 1;
/// `NUD_INCOMPLETE` and `NUD_PROBE`: asked, and not answered yet.
const UNANSWERED: u16 = 0x01 | 0x10;
/// The length of an interface's name in a key.
const NAME: usize = 16;

/// What guests and the host try to reach.
pub(super) fn wanted() -> Result<BTreeSet<Wanted>, NetlinkError> {
    let mut netfilter = Netlink::netfilter()?;
    let keys = absent(tables::elements(&mut netfilter, tables::BRIDGE, super::ruleset::WANTED))?;
    let mut found: BTreeSet<_> =
        keys.unwrap_or_default().iter().filter_map(|key| of_guest(key)).collect();
    let mut route = Netlink::route()?;
    let questions = route.dump(&neighbours())?;
    if questions.iter().any(is_unanswered) {
        let links = link::list(&mut route)?;
        let bridges: BTreeMap<u32, NetId> =
            links.iter().filter_map(|link| Some((link.index, Link::as_bridge(link)?))).collect();
        found.extend(questions.iter().filter(|question| is_unanswered(question)).filter_map(
            |question| {
                let address: [u8; 4] =
                    question.attributes(FIXED).value(NDA_DST)?.try_into().ok()?;
                let net = *bridges.get(&question.u32_at(4)?)?;
                Some(Wanted { net, by: None, address: Ipv4Addr::from(address) })
            },
        ));
    }
    Ok(found)
}

/// The key of an element: the asking guest's tap, filled up with zeros, and the address.
fn of_guest(key: &[u8]) -> Option<Wanted> {
    let (name, address) = key.split_at_checked(NAME)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    let (net, by) = layout::parse_tap(std::str::from_utf8(name.get(..end)?).ok()?)?;
    let address: [u8; 4] = address.try_into().ok()?;
    Some(Wanted { net, by: Some(by), address: Ipv4Addr::from(address) })
}

fn neighbours() -> Request {
    let mut fixed = vec![0; FIXED];
    if let Some(family) = fixed.first_mut() {
        *family = AF_INET;
    }
    Request { kind: RTM_GETNEIGH, flags: 0, fixed, attributes: Attributes::default() }
}

fn is_unanswered(question: &Message) -> bool {
    let state = question.body.get(8..10).and_then(|bytes| bytes.try_into().ok());
    state.map(u16::from_ne_bytes).is_some_and(|state| state & UNANSWERED != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_the_network_of_the_guest_that_asks_and_the_address_it_asks_for() {
        let mut key = b"tn259i3".to_vec();
        key.resize(NAME, 0);
        key.extend([10, 250, 8, 11]);
        let (net, by) = (NetId(259), Some(mvm_core::net::Offset(3)));
        let address = Ipv4Addr::new(10, 250, 8, 11);
        assert_eq!(of_guest(&key), Some(Wanted { net, by, address }));
        key.truncate(18);
        assert_eq!(of_guest(&key), None);
        assert_eq!(of_guest(b"eth0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\0\0\x01"), None);
    }
}
