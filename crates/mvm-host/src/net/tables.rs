//! What the kernel holds of our two nftables tables, read without a helper process.
//!
//! - [`ruleset_id`]: a number that every committed nftables transaction of this network namespace
//!   raises by one, whoever's it is.
//! - [`count`]: how many of the two tables exist.
//! - [`digest`]: a hash over everything in them as the kernel reports it, handles included. It
//!   means nothing by itself; equal digests mean that nobody touched them in between.
//!
//! It refuses to understand rules: they are bytes to be compared. Next: [`super::nft`].

use sha2::{Digest, Sha256};

use super::{
    message::{Attributes, Message, Reader, Request},
    netlink::{Netlink, NetlinkError, absent},
    ruleset::{ASKING, TABLE, WANTED},
};

const NFTABLES: u16 = 10 << 8;
const GET_TABLE: u16 = NFTABLES | 1;
const GET_CHAIN: u16 = NFTABLES | 4;
const GET_RULE: u16 = NFTABLES | 7;
const GET_SET: u16 = NFTABLES | 10;
const GET_ELEMENTS: u16 = NFTABLES | 13;
const GET_GENERATION: u16 = NFTABLES | 16;
/// `struct nfgenmsg`; its last half is the low half of the ruleset id, so it is never hashed.
const FIXED: usize = 4;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`,
/// `NFTA_SET_ELEM_LIST_TABLE`: all number 1.
const OF_TABLE: u16 = 1;
/// `NFTA_SET_NAME` and `NFTA_SET_ELEM_LIST_SET`.
const OF_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const GENERATION_ID: u16 = 1;
/// `NFTA_SET_ELEM_KEY`.
const ELEMENT_KEY: u16 = 1;
/// `NFTA_DATA_VALUE`.
const DATA_VALUE: u16 = 1;
/// `NFPROTO_BRIDGE`.
pub(super) const BRIDGE: u8 = 7;
/// `NFPROTO_INET`, `NFPROTO_BRIDGE`.
const FAMILIES: [u8; 2] = [1, BRIDGE];
/// Sets whose elements come and go with packets.
const FILLED_BY_PACKETS: [&str; 2] = [WANTED, ASKING];

/// The id of the ruleset in force.
pub(super) fn ruleset_id(netlink: &mut Netlink) -> Result<u32, NetlinkError> {
    let answer = netlink.ask(&request(GET_GENERATION, 0, Attributes::default()))?;
    let id = answer.first().and_then(|message| {
        let bytes = message.attributes(FIXED).value(GENERATION_ID)?;
        bytes.try_into().ok().map(u32::from_be_bytes)
    });
    id.ok_or(NetlinkError::Malformed)
}

/// How many of the two tables are there.
pub(super) fn count(netlink: &mut Netlink) -> Result<usize, NetlinkError> {
    let of = Attributes::default().text(OF_TABLE, TABLE);
    let questions = FAMILIES.map(|family| request(GET_TABLE, family, of.clone()));
    let mut found = 0;
    for answer in netlink.ask_all(&questions)? {
        found += usize::from(absent(answer)?.is_some());
    }
    Ok(found)
}

/// A hash over both tables: their flags, chains, rules in order, sets and elements in any order.
///
/// The parts are read one after another; the caller makes sure by [`ruleset_id`] that nothing was
/// committed in between.
pub(super) fn digest(netlink: &mut Netlink) -> Result<String, NetlinkError> {
    let mut hash = Sha256::new();
    let of = Attributes::default().text(OF_TABLE, TABLE);
    for family in FAMILIES {
        for kind in [GET_TABLE, GET_CHAIN, GET_RULE] {
            let ours = of_table(netlink.dump(&request(kind, family, filter(kind, &of)))?, family);
            absorb(&mut hash, ours.iter().map(|message| message.body.get(FIXED..)));
        }
        let sets = of_table(netlink.dump(&request(GET_SET, family, of.clone()))?, family);
        absorb(&mut hash, sets.iter().map(|message| message.body.get(FIXED..)));
        for set in &sets {
            let Some(name) = set.attributes(FIXED).text(OF_SET) else { continue };
            if FILLED_BY_PACKETS.contains(&name) {
                continue;
            }
            let which = of.clone().text(OF_SET, name);
            let listed = netlink.dump(&request(GET_ELEMENTS, family, which))?;
            let mut elements: Vec<&[u8]> = listed
                .iter()
                .filter_map(|message| message.attributes(FIXED).nested(LIST_ELEMENTS))
                .flat_map(|list| list.map(|(_, element)| element))
                .collect();
            elements.sort_unstable();
            absorb(&mut hash, elements.into_iter().map(Some));
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// The keys of a set's elements; an error of the kind that [`super::netlink::absent`] knows when there is no
/// such set.
pub(super) fn elements(
    netlink: &mut Netlink,
    family: u8,
    set: &str,
) -> Result<Vec<Vec<u8>>, NetlinkError> {
    let which = Attributes::default().text(OF_TABLE, TABLE).text(OF_SET, set);
    let listed = netlink.dump(&request(GET_ELEMENTS, family, which))?;
    let lists = listed.iter().filter_map(|message| message.attributes(FIXED).nested(LIST_ELEMENTS));
    let keys = lists.flatten().filter_map(|(_, element)| {
        Reader(element).nested(ELEMENT_KEY)?.value(DATA_VALUE).map(<[u8]>::to_vec)
    });
    Ok(keys.collect())
}

/// Tables and chains cannot be filtered by table in the kernel.
fn filter(kind: u16, of: &Attributes) -> Attributes {
    if kind == GET_RULE { of.clone() } else { Attributes::default() }
}

fn of_table(messages: Vec<Message>, family: u8) -> Vec<Message> {
    let ours = |message: &Message| {
        message.body.first() == Some(&family)
            && message.attributes(FIXED).text(OF_TABLE) == Some(TABLE)
    };
    messages.into_iter().filter(ours).collect()
}

/// Hashes parts so that no two different lists of parts look the same.
fn absorb<'a>(hash: &mut Sha256, parts: impl Iterator<Item = Option<&'a [u8]>>) {
    let mut count = 0u64;
    for part in parts {
        let part = part.unwrap_or_default();
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part);
        count += 1;
    }
    hash.update(u64::MAX.to_le_bytes());
    hash.update(count.to_le_bytes());
}

fn request(kind: u16, family: u8, attributes: Attributes) -> Request {
    Request { kind, flags: 0, fixed: vec![family, 0, 0, 0], attributes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_boundary_between_parts_changes_the_hash() {
        let hash = |parts: &[&[u8]]| {
            let mut hash = Sha256::new();
            absorb(&mut hash, parts.iter().map(|part| Some(*part)));
            hash.finalize()
        };
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_ne!(hash(&[b"ab"]), hash(&[b"ab", b""]));
    }

    #[test]
    fn a_message_of_another_table_or_family_is_not_ours() {
        let message = |family: u8, table: &[u8]| {
            let mut body =
                vec![family, 0, 0, 0, u8::try_from(4 + table.len()).unwrap_or(0), 0, 1, 0];
            body.extend(table);
            body.resize(body.len().next_multiple_of(4), 0);
            Message { kind: 0, body }
        };
        let all = vec![message(1, b"mvm\0"), message(1, b"mvmx\0"), message(7, b"mvm\0")];
        assert_eq!(of_table(all, 1).len(), 1);
    }
}
