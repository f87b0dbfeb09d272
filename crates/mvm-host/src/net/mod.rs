//! The network of a host: a bridge per tenant, a tap per guest, policy routes, two nftables tables.
//!
//! Every function takes what it needs, opens its own netlink socket, is idempotent and decides
//! nothing. No helper process runs but `nft`, and that only when the intent changed.
//!
//! - [`ensure_bridge`] … [`remove_tap`] act by netlink; the tap is the one on the wake path.
//! - [`replace_firewall`] and [`firewall()`] replace the tables and tell whether they
//!   still stand.
//! - [`list`] and [`verify()`] show what bears our names, and what is wrong with it.
//!
//! It refuses to know instances, states and policies. Everything acts on the network namespace of
//! the calling thread.
//!
//! | layer | between tenants | made by |
//! |---|---|---|
//! | 2 | separate bridges; a port sends its own MAC, IP and ARP only | `link`, `tap`, `ruleset` |
//! | 3, first wall | tables `inet mvm`, `bridge mvm` | `ruleset`, `nft` |
//! | 3, second wall | policy routes, reverse path filter on the bridge | `route`, `sysctl` |

mod address;
mod demand;
mod dns;
mod foreign;
mod link;
mod message;
mod netlink;
mod nft;
mod route;
mod ruleset;
mod sysctl;
mod tables;
mod tap;
mod verify;

use std::{collections::BTreeSet, io};

use mvm_core::{
    Error, ErrorKind,
    effect::Firewall,
    layout,
    net::{NetId, Network, Offset},
    observed::Dns,
    port::{Finding, Wanted},
    units::Uid,
};
use mvm_proto::config::DEFAULT_MTU;

pub use self::{dns::listening, nft::FirewallState};

use self::{
    link::{Kind, Link, Tap},
    netlink::{Netlink, NetlinkError},
    tap::NewTap,
};
use crate::roots::Roots;

/// Everything in this network namespace that bears one of our names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetListing {
    /// Bridges by net-id, ascending.
    pub bridges: Vec<NetId>,
    /// Networks with at least one policy route, ascending.
    pub routes: Vec<NetId>,
    /// Taps, ascending.
    pub taps: Vec<(NetId, Offset)>,
}

/// The largest packet that tenants' bridges carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mtu {
    /// That of the interface by which traffic leaves this host, the smallest if there are several.
    #[default]
    OfUplinks,
    /// This, in bytes.
    Fixed(u16),
}

impl Mtu {
    /// The least that is taken from an uplink: what every IPv4 host must take in (RFC 791).
    const LEAST: u16 = 576;
    /// The most that is taken from an uplink: Ethernet's jumbo frames.
    const MOST: u16 = 9216;

    fn wanted(self, netlink: &mut Netlink) -> Result<u16, NetlinkError> {
        match self {
            Self::Fixed(mtu) => Ok(mtu),
            Self::OfUplinks => {
                let smallest = uplinks(netlink)?.iter().map(|link| link.mtu).min();
                Ok(smallest.unwrap_or(DEFAULT_MTU).clamp(Self::LEAST, Self::MOST))
            }
        }
    }
}

/// Makes the network's bridge: no STP, fixed MAC, the gateway as its only address, IPv6 off, up;
/// and lets this host forward between it and the interfaces of its default routes and gateways.
///
/// # Errors
/// `Conflict` when something else has the bridge's name; `Permission` without `CAP_NET_ADMIN`.
pub fn ensure_bridge(roots: &Roots, mtu: Mtu, network: &Network) -> Result<(), Error> {
    let name = layout::bridge(network.net);
    let act = format!("cannot make bridge {name}");
    let refused = |error: NetlinkError| error.during(act.clone());
    let not_set = |error: io::Error| system(&error, act.clone());
    let mut netlink = Netlink::route().map_err(refused)?;
    if find_bridge(&mut netlink, network.net)?.is_none() {
        link::create_bridge(&mut netlink, network.net).map_err(refused)?;
    }
    let bridge = find_bridge(&mut netlink, network.net)?.ok_or_else(|| vanished(&name))?;
    let (index, wanted) = (bridge.index, mtu.wanted(&mut netlink).map_err(refused)?);
    sysctl::disable_ipv6(&name).map_err(not_set)?;
    sysctl::set_bridge(&name).map_err(not_set)?;
    let is_published = nft::is_published(roots, network.net);
    sysctl::set_route_localnet(&name, is_published).map_err(not_set)?;
    address::ensure_gateway(&mut netlink, index, network.subnet).map_err(refused)?;
    link::set_bridge(&mut netlink, index, network.net, wanted).map_err(refused)?;
    if bridge.mtu != wanted {
        let links = link::list(&mut netlink).map_err(refused)?;
        for tap in links.iter().filter(|link| link.master == Some(index) && link.mtu != wanted) {
            link::set_mtu(&mut netlink, tap.index, wanted).map_err(refused)?;
        }
    }
    for egress in egress_names(&mut netlink).map_err(refused)? {
        sysctl::allow_forwarding(&egress).map_err(not_set)?;
    }
    Ok(())
}

/// Removes the network's bridge; taps on it stay, on no bridge.
///
/// # Errors
/// `Conflict` when something else has the bridge's name; `Permission` without `CAP_NET_ADMIN`.
pub fn remove_bridge(net: NetId) -> Result<(), Error> {
    let name = layout::bridge(net);
    let refused = |error: NetlinkError| error.during(format!("cannot remove bridge {name}"));
    let mut netlink = Netlink::route().map_err(refused)?;
    match find_bridge(&mut netlink, net)? {
        Some(_) => link::remove(&mut netlink, &name).map_err(refused),
        None => Ok(()),
    }
}

/// Whether the bridge is there, up, and has the gateway's address. Two questions to the kernel.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn bridge_is_up(network: &Network) -> Result<bool, Error> {
    let name = layout::bridge(network.net);
    let refused = |error: NetlinkError| error.during(format!("cannot look at bridge {name}"));
    let mut netlink = Netlink::route().map_err(refused)?;
    match link::find(&mut netlink, &name).map_err(refused)? {
        Some(Link { index, is_up: true, kind: Kind::Bridge, .. }) => {
            address::has_gateway(&mut netlink, index, network.subnet).map_err(refused)
        }
        _ => Ok(false),
    }
}

/// Makes the policy routes of the network (the second wall), and removes stale ones of its bridge.
///
/// # Errors
/// `Permission` without `CAP_NET_ADMIN`; `Failed` when the kernel has no policy routing.
pub fn ensure_routes(network: &Network) -> Result<(), Error> {
    let refused = |error: NetlinkError| {
        error.during(format!("cannot make the policy routes of network {}", network.net))
    };
    let mut netlink = Netlink::route().map_err(refused)?;
    route::ensure(&mut netlink, network).map_err(refused)
}

/// Removes the network's policy routes.
///
/// # Errors
/// As [`ensure_routes`].
pub fn remove_routes(net: NetId) -> Result<(), Error> {
    let refused = |error: NetlinkError| {
        error.during(format!("cannot remove the policy routes of network {net}"))
    };
    let mut netlink = Netlink::route().map_err(refused)?;
    route::remove(&mut netlink, net).map_err(refused)
}

/// Whether the network's policy routes are there, all of them.
///
/// While the wall works, one question to the kernel tells (where would it send a guest's packet?),
/// at a cost that does not grow with the number of networks. Otherwise the rules are listed: that
/// somebody else's rule stands before ours is for [`verify()`] to say, not a reason to make them.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn routes_are_there(network: &Network) -> Result<bool, Error> {
    let net = network.net;
    let refused = |error: NetlinkError| {
        error.during(format!("cannot look at the policy routes of network {net}"))
    };
    let mut netlink = Netlink::route().map_err(refused)?;
    if let Some(bridge) = find_bridge(&mut netlink, net)?
        && route::in_force(&mut netlink, bridge.index, network).map_err(refused)?
    {
        return Ok(true);
    }
    Ok(route::list(&mut netlink).map_err(refused)?.missing(network) == 0)
}

/// Makes the guest's tap: persistent, for this user and group alone, with the virtio-net header,
/// IPv6 off, on its network's bridge, up. A tap of the name with another owner is made anew.
///
/// # Errors
/// `Conflict` when the bridge is missing, or something that is no tap has the name; `Permission`
/// without `CAP_NET_ADMIN`.
pub fn ensure_tap(net: NetId, offset: Offset, uid: Uid) -> Result<(), Error> {
    let name = layout::tap(net, offset);
    let act = format!("cannot make tap {name}");
    let refused = |error: NetlinkError| error.during(act.clone());
    let failed = |error: io::Error| system(&error, act.clone());
    let mut netlink = Netlink::route().map_err(refused)?;
    let bridge = find_bridge(&mut netlink, net)?.ok_or_else(|| {
        Error::new(
            ErrorKind::Conflict,
            format!("{act}: there is no bridge {}", layout::bridge(net)),
        )
    })?;
    let wanted =
        Tap { owner: Some(uid.0), group: Some(uid.0), has_vnet_header: true, is_persistent: true };
    match link::find(&mut netlink, &name).map_err(refused)? {
        None => {}
        Some(Link { kind: Kind::Tap(tap), master, mtu, is_up, .. }) if tap == wanted => {
            let is_placed = master == Some(bridge.index) && mtu == bridge.mtu;
            if is_placed && is_up && sysctl::ipv6_is_off(&name) {
                return Ok(());
            }
            sysctl::disable_ipv6(&name).map_err(failed)?;
            return link::attach(&mut netlink, &name, &bridge).map_err(refused);
        }
        Some(Link { kind: Kind::Tap(_), .. }) => {
            link::remove(&mut netlink, &name).map_err(refused)?;
        }
        Some(_) => return Err(taken(&name, "tap")),
    }
    let tap = NewTap::create(&name, uid).map_err(failed)?;
    sysctl::disable_ipv6(&name).map_err(failed)?;
    link::attach(&mut netlink, &name, &bridge).map_err(refused)?;
    tap.persist().map_err(failed)
}

/// Removes the guest's tap, also while a process has it open.
///
/// # Errors
/// `Conflict` when something that is no tap has the name; `Permission` without `CAP_NET_ADMIN`.
pub fn remove_tap(net: NetId, offset: Offset) -> Result<(), Error> {
    let name = layout::tap(net, offset);
    let refused = |error: NetlinkError| error.during(format!("cannot remove tap {name}"));
    let mut netlink = Netlink::route().map_err(refused)?;
    match link::find(&mut netlink, &name).map_err(refused)? {
        None => Ok(()),
        Some(Link { kind: Kind::Tap(_), .. }) => link::remove(&mut netlink, &name).map_err(refused),
        Some(_) => Err(taken(&name, "tap")),
    }
}

/// Whether the guest's tap is there. One that is there was complete when it was made
/// ([`ensure_tap`]); whether it still is, [`verify()`] tells.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn tap_is_there(net: NetId, offset: Offset) -> Result<bool, Error> {
    let name = layout::tap(net, offset);
    let refused = |error: NetlinkError| error.during(format!("cannot look at tap {name}"));
    let mut netlink = Netlink::route().map_err(refused)?;
    let found = link::find(&mut netlink, &name).map_err(refused)?;
    Ok(found.is_some_and(|link| link.as_tap().is_some()))
}

/// Replaces both nftables tables by the intent's in one transaction and stamps the result; does
/// nothing when they are in force already. An intent without networks removes tables and stamp.
///
/// # Errors
/// `Conflict` when a later generation is in force; `Unavailable` when somebody else keeps changing
/// nftables in between; `Failed` when the kernel refuses the tables, which then stay as they were.
pub fn replace_firewall(roots: &Roots, intent: &Firewall) -> Result<(), Error> {
    nft::replace(roots, intent)
}

/// Which generation of the firewall is in force, and whether somebody altered it.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn firewall(roots: &Roots) -> Result<FirewallState, Error> {
    nft::state(roots)
}

/// How this host resolves names for guests.
#[must_use]
pub fn resolvers(roots: &Roots) -> Dns {
    dns::read(roots)
}

/// What somebody in a tenant's network, or the host itself, tried to reach within the last seconds.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn wanted() -> Result<Vec<Wanted>, Error> {
    let wanted = demand::wanted().map_err(|error| error.during("cannot see who is asked for"))?;
    Ok(wanted.into_iter().collect())
}

/// Whether walls are in force around a place.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn has_walls(roots: &Roots, net: NetId, offset: Offset) -> Result<bool, Error> {
    nft::has_walls(roots, net, offset)
}

/// Whether the network's bridge carries packets as large as it shall, and no larger.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn mtu_is_right(mtu: Mtu, net: NetId) -> Result<bool, Error> {
    let name = layout::bridge(net);
    let refused = |error: NetlinkError| error.during(format!("cannot look at bridge {name}"));
    let mut netlink = Netlink::route().map_err(refused)?;
    let wanted = mtu.wanted(&mut netlink).map_err(refused)?;
    Ok(link::find(&mut netlink, &name).map_err(refused)?.is_none_or(|link| link.mtu == wanted))
}

/// The largest packet of a network, as its guests are told; that of Ethernet while it has no
/// bridge.
#[must_use]
pub fn network_mtu(net: NetId) -> u16 {
    let find = || link::find(&mut Netlink::route()?, &layout::bridge(net));
    find().ok().flatten().map_or(DEFAULT_MTU, |link| link.mtu)
}

/// Everything in this network namespace that bears one of our names, whoever it belongs to.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list() -> Result<NetListing, Error> {
    let refused = |error: NetlinkError| error.during("cannot list the host's network");
    let mut netlink = Netlink::route().map_err(refused)?;
    let links = link::list(&mut netlink).map_err(refused)?;
    let rules = route::list(&mut netlink).map_err(refused)?;
    let sorted = |nets: BTreeSet<NetId>| nets.into_iter().collect();
    let taps: BTreeSet<(NetId, Offset)> = links.iter().filter_map(Link::as_tap).collect();
    Ok(NetListing {
        bridges: sorted(links.iter().filter_map(Link::as_bridge).collect()),
        routes: sorted(rules.rules.iter().map(|rule| rule.net).collect()),
        taps: taps.into_iter().collect(),
    })
}

/// Other people's rules that drop our traffic, each with the line that lets it pass.
///
/// # Errors
/// When the ruleset cannot be listed.
pub fn foreign_rules() -> Result<Vec<Finding>, Error> {
    verify::foreign_rules()
}

/// Compares bridges, taps, policy routes and tables with the intent, in depth, and names foreign
/// rules that drop our traffic. Empty when all is well.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn verify(roots: &Roots, mtu: Mtu, intent: &Firewall) -> Result<Vec<Finding>, Error> {
    verify::verify(roots, mtu, intent)
}

/// A network's bridge; an error when something else has its name.
fn find_bridge(netlink: &mut Netlink, net: NetId) -> Result<Option<Link>, Error> {
    let name = layout::bridge(net);
    let found = link::find(netlink, &name)
        .map_err(|error| error.during(format!("cannot look at bridge {name}")))?;
    match found {
        None => Ok(None),
        Some(link) if link.kind == Kind::Bridge => Ok(Some(link)),
        Some(_) => Err(taken(&name, "bridge")),
    }
}

/// The names of the interfaces by which traffic leaves this host.
fn egress_names(netlink: &mut Netlink) -> Result<Vec<String>, NetlinkError> {
    Ok(uplinks(netlink)?.into_iter().map(|link| link.name).collect())
}

/// The interfaces by which traffic leaves this host.
fn uplinks(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let indices = route::egress_interfaces(netlink)?;
    if indices.is_empty() {
        return Ok(Vec::new());
    }
    let links = link::list(netlink)?;
    let leaves = |link: &Link| indices.contains(&link.index) && link.as_bridge().is_none();
    Ok(links.into_iter().filter(leaves).collect())
}

fn taken(name: &str, kind: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("an interface {name} is there and is no {kind}"))
        .hint(format!("see what it is with `ip -d link show {name}`, then rename or remove it"))
}

fn vanished(name: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("bridge {name} vanished while it was made"))
}

fn system(error: &io::Error, act: String) -> Error {
    let kind = if error.kind() == io::ErrorKind::PermissionDenied {
        ErrorKind::Permission
    } else {
        ErrorKind::Failed
    };
    Error::new(kind, act).because(error)
}
