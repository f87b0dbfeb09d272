//! Choosing names and numbers, deterministic from what is taken.

use std::collections::BTreeSet;

use crate::{
    net::{MAX_TENANT_NET, NetId, Offset, Subnet},
    units::Uid,
};

/// The first uid of instances. 458752–524287 lies between the ranges that `useradd` hands out as
/// subordinate ids (from 100000) and those of systemd-nspawn (from 524288).
pub const FIRST_UID: u32 = 458_752;
/// How many uids there are, and so how many instances a host can hold.
pub const UIDS: u32 = 65_536;

/// The lowest net-id from 1 that is not taken and whose automatic subnet overlaps none in use.
#[must_use]
pub fn net_id(taken: &BTreeSet<NetId>, subnets: &[Subnet]) -> Option<(NetId, Subnet)> {
    (1..=MAX_TENANT_NET).map(NetId).filter(|net| !taken.contains(net)).find_map(|net| {
        let subnet = Subnet::automatic(net)?;
        (!subnets.iter().any(|other| other.overlaps(subnet))).then_some((net, subnet))
    })
}

/// The lowest free guest offset of a subnet.
#[must_use]
pub fn offset(subnet: Subnet, taken: &BTreeSet<Offset>) -> Option<Offset> {
    subnet.guest_offsets().find(|offset| !taken.contains(offset))
}

/// The lowest free uid.
#[must_use]
pub fn uid(taken: &BTreeSet<Uid>) -> Option<Uid> {
    (FIRST_UID..FIRST_UID + UIDS).map(Uid).find(|uid| !taken.contains(uid))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_taken_the_choice_is_free(
            taken in proptest::collection::btree_set(3u16..40, 0..30),
            nets in proptest::collection::btree_set(1u16..40, 0..30),
        ) {
            let subnet: Subnet = "10.240.3.0/24".parse().unwrap();
            let taken: BTreeSet<Offset> = taken.into_iter().map(Offset).collect();
            prop_assert!(!taken.contains(&offset(subnet, &taken).unwrap()));
            let nets: BTreeSet<NetId> = nets.into_iter().map(NetId).collect();
            let subnets: Vec<Subnet> = nets.iter().filter_map(|n| Subnet::automatic(*n)).collect();
            let (net, chosen) = net_id(&nets, &subnets).unwrap();
            prop_assert!(!nets.contains(&net));
            prop_assert!(!subnets.iter().any(|s| s.overlaps(chosen)));
        }
    }

    #[test]
    fn a_net_id_whose_automatic_subnet_is_taken_is_skipped() {
        let given: Subnet = "10.240.0.0/22".parse().unwrap();
        assert_eq!(net_id(&BTreeSet::from([NetId(7)]), &[given]).unwrap().0, NetId(4));
    }

    #[test]
    fn a_full_subnet_has_no_offset() {
        let subnet: Subnet = "10.240.3.0/29".parse().unwrap();
        let all: BTreeSet<Offset> = subnet.guest_offsets().collect();
        assert_eq!(offset(subnet, &all), None);
    }
}
