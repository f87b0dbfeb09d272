//! Network identity as arithmetic: subnets of 10.240.0.0/12, guest addresses and MACs.
//!
//! A tenant's network is the same on every host; everything here is a function of its net-id, its
//! subnet and a guest's offset in it (SPEC §2). `.1` is the gateway, `.2` the builder, guests
//! start at `.3`.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::TenantId;

/// First address of the cluster's range.
pub const CLUSTER_BASE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 0);
/// Prefix length of the cluster's range.
pub const CLUSTER_PREFIX: u8 = 12;
/// First address of the range that the networks of the built-in tenants lie in.
pub const OWN_BASE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
/// Prefix length of that range.
pub const OWN_PREFIX: u8 = 23;
/// The greatest net-id of a tenant.
pub const MAX_TENANT_NET: u16 = 4095;

/// Identity of a network: 0 is the built-in tenant's, 1–4095 are tenants' (cluster-unique),
/// 4096 and up are the named networks of the built-in tenant on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetId(pub u16);

impl fmt::Display for NetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a subnet is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidSubnet {
    /// Not `a.b.c.d/p`.
    #[error("{0:?} is not a subnet: write a.b.c.d/prefix")]
    Syntax(String),
    /// Prefix outside 16–29; a built-in network may have 30.
    #[error("{0:?} has a prefix outside /16 to /29")]
    Prefix(String),
    /// Address bits below the prefix are set.
    #[error("{given:?} has host bits set: the network is {network}")]
    HostBits {
        /// What was given.
        given: String,
        /// What was probably meant.
        network: Subnet,
    },
    /// Outside of 10.240.0.0/12.
    #[error("{0:?} lies outside of 10.240.0.0/12")]
    OutsideCluster(String),
}

/// An IPv4 network of the cluster, /16 to /29, or of a built-in tenant, to /30.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// The automatic subnet of a net-id, 10.(240+N/256).(N mod 256).0/24; none above 4095.
    #[must_use]
    pub fn automatic(net: NetId) -> Option<Self> {
        (net.0 <= MAX_TENANT_NET)
            .then(|| Self { base: u32::from(CLUSTER_BASE) + (u32::from(net.0) << 8), prefix: 24 })
    }

    /// Whether it lies in the cluster's range, as every tenant's but the built-in ones' does.
    #[must_use]
    pub fn is_of_cluster(self) -> bool {
        self.base & Self::mask(CLUSTER_PREFIX) == u32::from(CLUSTER_BASE)
    }

    /// The network address.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    /// The prefix length, 16–30.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The gateway, the first address.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// The address at `offset`, when it is a guest's or builder's (2 up to the broadcast, excluded).
    #[must_use]
    pub fn address(self, offset: Offset) -> Option<Ipv4Addr> {
        (offset.0 >= Offset::BUILDER.0 && u32::from(offset.0) < self.size() - 1)
            .then(|| Ipv4Addr::from(self.base + u32::from(offset.0)))
    }

    /// The offsets of guests, lowest first. The smallest network has room for one guest and no builder.
    pub fn guest_offsets(self) -> impl Iterator<Item = Offset> {
        let first = if self.prefix == MOST { Offset::BUILDER } else { Offset::FIRST_GUEST };
        (first.0..=u16::MAX).map(Offset).take_while(move |o| self.address(*o).is_some())
    }

    /// Whether the two share an address.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        let mask = Self::mask(if self.prefix < other.prefix { self.prefix } else { other.prefix });
        self.base & mask == other.base & mask
    }

    const fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    const fn mask(prefix: u8) -> u32 {
        u32::MAX << (32 - prefix)
    }
}

/// The longest prefix: a gateway and one guest.
const MOST: u8 = 30;

impl FromStr for Subnet {
    type Err = InvalidSubnet;
    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let syntax = || InvalidSubnet::Syntax(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let address: Ipv4Addr = address.parse().map_err(|_| syntax())?;
        let prefix: u8 = prefix.parse().map_err(|_| syntax())?;
        let is_own = u32::from(address) & Self::mask(OWN_PREFIX) == u32::from(OWN_BASE);
        let most = if is_own { MOST } else { MOST - 1 };
        if !(16..=most).contains(&prefix) {
            return Err(InvalidSubnet::Prefix(text.to_owned()));
        }
        let network = Self { base: u32::from(address) & Self::mask(prefix), prefix };
        if network.network() != address {
            return Err(InvalidSubnet::HostBits { given: text.to_owned(), network });
        }
        if !(network.is_of_cluster() || is_own && prefix >= OWN_PREFIX) {
            return Err(InvalidSubnet::OutsideCluster(text.to_owned()));
        }
        Ok(network)
    }
}

impl TryFrom<String> for Subnet {
    type Error = InvalidSubnet;
    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

/// A guest's place in its subnet: address = network + offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u16);

impl Offset {
    /// The offset of the tenant's builder.
    pub const BUILDER: Self = Self(2);
    /// The first offset of an instance.
    pub const FIRST_GUEST: Self = Self(3);
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of a guest, 02:fc:hi:lo:oh:ol of net-id and offset.
    #[must_use]
    pub const fn of(net: NetId, offset: Offset) -> Self {
        let [hi, lo] = net.0.to_be_bytes();
        let [oh, ol] = offset.0.to_be_bytes();
        Self([0x02, 0xfc, hi, lo, oh, ol])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A tenant's network: who, which id, which addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The owner.
    pub tenant: TenantId,
    /// The network's identity.
    #[serde(rename = "tenant_net_id")]
    pub net: NetId,
    /// Its addresses.
    #[serde(rename = "ipv4_subnet")]
    pub subnet: Subnet,
}

impl Network {
    /// The network of a built-in tenant, the same on every host: 172.16.0.0/30 of `local`, whose one guest is
    /// the dev VM; 172.16.1.0/24 of the VMs of `mvm run`.
    #[must_use]
    pub fn built_in(tenant: &TenantId) -> Option<Self> {
        let of = |net, place, prefix| {
            let subnet = Subnet { base: u32::from(OWN_BASE) + place, prefix };
            Some(Self { tenant: tenant.clone(), net: NetId(net), subnet })
        };
        match tenant.as_str() {
            TenantId::LOCAL => of(0, 0, MOST),
            TenantId::RUNS => of(MAX_TENANT_NET + 1, 256, 24),
            _ => None,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn automatic_subnets_never_overlap_and_lie_in_the_cluster(a in 0u16..=4095, b in 0u16..=4095) {
            let one = Subnet::automatic(NetId(a)).unwrap();
            let two = Subnet::automatic(NetId(b)).unwrap();
            prop_assert_eq!(one.overlaps(two), a == b);
            prop_assert_eq!(one.to_string().parse::<Subnet>().unwrap(), one);
        }

        #[test]
        fn overlap_is_exactly_a_shared_address(p in 16u8..=29, q in 16u8..=29, a in 0u32..1 << 20, b in 0u32..1 << 20) {
            let make = |bits: u32, prefix: u8| Subnet {
                base: (u32::from(CLUSTER_BASE) + bits) & Subnet::mask(prefix), prefix };
            let (one, two) = (make(a, p), make(b, q));
            let last = |s: Subnet| s.base + (s.size() - 1);
            let shared = one.base <= last(two) && two.base <= last(one);
            prop_assert_eq!(one.overlaps(two), shared);
        }

        #[test]
        fn macs_of_different_guests_differ(n in 0u16.., m in 0u16.., o in 0u16.., p in 0u16..) {
            let same = Mac::of(NetId(n), Offset(o)) == Mac::of(NetId(m), Offset(p));
            prop_assert_eq!(same, n == m && o == p);
        }
    }

    #[test]
    fn a_small_subnet_ends_before_its_broadcast() {
        let subnet: Subnet = "10.240.9.8/29".parse().unwrap();
        let last = subnet.guest_offsets().last().unwrap();
        assert_eq!(subnet.address(last).unwrap(), Ipv4Addr::new(10, 240, 9, 14));
        assert_eq!(subnet.guest_offsets().count(), 4);
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 240, 9, 9));
    }

    #[test]
    fn the_dev_vm_is_the_one_guest_of_its_network() {
        let network = Network::built_in(&TenantId::local()).unwrap();
        assert_eq!(network.subnet.to_string(), "172.16.0.0/30");
        assert_eq!(network.subnet.gateway(), Ipv4Addr::new(172, 16, 0, 1));
        let guests = network.subnet.guest_offsets().filter_map(|at| network.subnet.address(at));
        assert_eq!(guests.collect::<Vec<_>>(), [Ipv4Addr::new(172, 16, 0, 2)]);
    }

    #[test]
    fn built_in_networks_read_back_and_lie_apart_from_all_others() {
        let networks =
            [TenantId::local(), TenantId::runs()].map(|id| Network::built_in(&id).unwrap());
        for network in &networks {
            assert_eq!(network.subnet.to_string().parse(), Ok(network.subnet));
            assert!(!network.subnet.is_of_cluster());
        }
        let [one, other] = networks;
        assert!(!one.subnet.overlaps(other.subnet) && one.net != other.net);
        assert!(Network::built_in(&"acme".parse().unwrap()).is_none());
    }

    #[test]
    fn wrong_subnets_say_what_is_wrong() {
        for bad in [
            "10.240.3.0",
            "10.240.3.0/15",
            "10.240.3.0/30",
            "10.240.3.1/24",
            "10.0.0.0/24",
            "11.240.0.0/16",
            "172.16.0.0/16",
            "172.16.2.0/24",
            "172.16.0.0/31",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad} was accepted");
        }
        assert_eq!(Subnet::automatic(NetId(259)).unwrap().to_string(), "10.241.3.0/24");
    }
}
