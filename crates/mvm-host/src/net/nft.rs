//! Replaces the two tables whole, in one transaction, and knows later whether they still stand.
//!
//! After a replacement `firewall.json` under the runtime directory holds what was applied:
//! generation, hash of the script, the kernel's ruleset id, a digest of the tables. While the id
//! is the same nobody committed anything, and one netlink question answers "is generation N in
//! force" (the wake path). When the id moved, the digest tells our change from everybody else's.
//!
//! # Whose commit was it?
//!
//! The id is read before and after `nft`, and after the digest. Ours is the only commit in the
//! window exactly when the id rose by one in all; else someone committed beside us, perhaps into
//! our tables, and the replacement is made again, up to [`ATTEMPTS`] times. A crash between commit
//! and stamp leaves a stamp that says that others were to come: the answer is then "not in force,
//! altered by nobody", and the same intent is applied once more.

use std::{
    collections::BTreeSet, ffi::OsStr, fs, io::Write, net::Ipv4Addr, path::Path, time::Duration,
};

use mvm_core::{
    Error, ErrorKind,
    effect::Firewall,
    layout,
    net::{NetId, Offset},
    units::Generation,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    dns,
    netlink::{Netlink, NetlinkError},
    ruleset, sysctl, tables,
};
use crate::{roots::Roots, tool};

/// The program; Debian, Fedora, Arch and Alpine agree on its place.
pub(super) const NFT: &str = "/usr/sbin/nft";
/// How long a transaction with thousands of ports may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// How often a replacement is made that somebody else's commit ran into.
const ATTEMPTS: usize = 8;

/// What was applied last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    generation: Generation,
    script_sha256: String,
    ruleset_id: u32,
    digest: String,
    /// Where name queries go.
    #[serde(default)]
    resolvers: Vec<Ipv4Addr>,
    /// Networks with a guest that a port of the host leads to.
    #[serde(default)]
    published: BTreeSet<NetId>,
    /// The places of guests that have a port in them, `,<net>.<offset>,…,`: one text, since it is read with
    /// every look and understood only when a tap is made.
    #[serde(default)]
    places: String,
    /// Whether others were about to take the place of these: then what is found is ours, too.
    #[serde(default)]
    is_being_replaced: bool,
}

/// A place as it stands among others.
fn place(net: NetId, offset: Offset) -> String {
    format!("{net}.{},", offset.0)
}

/// What is known of the tables without understanding them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirewallState {
    /// The generation in force; none when a table is missing, was altered or was never stamped, or
    /// when name queries go to other resolvers than the host's.
    pub generation: Option<Generation>,
    /// Whether they were applied since the host booted and somebody changed or removed them.
    pub is_altered: bool,
    /// Whether we were about to replace them, and it is not known whether we did.
    pub is_cut_off: bool,
}

/// Makes the tables those of the intent.
pub(super) fn replace(roots: &Roots, intent: &Firewall) -> Result<(), Error> {
    let path = roots.run.join(layout::run::FIREWALL);
    let stamp = read_stamp(&path);
    if let Some(stamp) = stamp.as_ref().filter(|stamp| stamp.generation > intent.generation) {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "generation {} of the firewall is in force; {} is older",
                stamp.generation, intent.generation
            ),
        ));
    }
    let mut netlink = open()?;
    if intent.networks.is_empty() {
        return remove(&mut netlink, &path);
    }
    let published: BTreeSet<NetId> = intent.published.iter().map(|one| one.net).collect();
    for network in &intent.networks {
        let name = layout::bridge(network.net);
        sysctl::set_route_localnet(&name, published.contains(&network.net)).map_err(|error| {
            let act = format!("cannot let {name} carry what the host asks of guests");
            Error::new(ErrorKind::Failed, act).because(&error)
        })?;
    }
    let script = ruleset::script(intent);
    let script_sha256 = hex::encode(Sha256::digest(&script));
    if let Some(stamp) = stamp.filter(|stamp| stamp.script_sha256 == script_sha256)
        && still_holds(&mut netlink, &stamp).map_err(|error| reading(&error))?.is_some()
    {
        return Ok(());
    }
    if let Some(stamp) = read_stamp(&path).filter(|stamp| !stamp.is_being_replaced) {
        write_stamp(&path, &Stamp { is_being_replaced: true, ..stamp })?;
    }
    for _ in 0..ATTEMPTS {
        let before = tables::ruleset_id(&mut netlink).map_err(|error| reading(&error))?;
        run_nft(&script)?;
        let digest = tables::digest(&mut netlink).map_err(|error| reading(&error))?;
        let ruleset_id = tables::ruleset_id(&mut netlink).map_err(|error| reading(&error))?;
        if ruleset_id == successor(before) {
            let (generation, resolvers) = (intent.generation, intent.resolvers.clone());
            let of = intent.ports.iter().map(|port| place(port.net, port.offset));
            let places = std::iter::once(",".to_owned()).chain(of).collect();
            let stamp = Stamp {
                generation,
                script_sha256,
                ruleset_id,
                digest,
                resolvers,
                published,
                places,
                is_being_replaced: false,
            };
            return write_stamp(&path, &stamp);
        }
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        format!("somebody else changed nftables during each of {ATTEMPTS} replacements"),
    )
    .hint("find out with `nft monitor` which program changes the rules all the time"))
}

/// What is known of the tables.
pub(super) fn state(roots: &Roots) -> Result<FirewallState, Error> {
    Ok(match in_force(roots)? {
        Some(stamp) => FirewallState {
            generation: (stamp.resolvers == dns::read(roots).resolvers).then_some(stamp.generation),
            is_altered: false,
            is_cut_off: false,
        },
        None => {
            let is_cut_off = stamp(roots).map(|stamp| stamp.is_being_replaced);
            FirewallState {
                generation: None,
                is_altered: is_cut_off == Some(false),
                is_cut_off: is_cut_off == Some(true),
            }
        }
    })
}

/// Where name queries go; none when no table is in force.
pub(super) fn resolvers(roots: &Roots) -> Result<Option<Vec<Ipv4Addr>>, Error> {
    Ok(in_force(roots)?.map(|stamp| stamp.resolvers))
}

/// Whether tables are in force that have walls around this place.
pub(super) fn has_walls(roots: &Roots, net: NetId, offset: Offset) -> Result<bool, Error> {
    let place = format!(",{}", place(net, offset));
    Ok(in_force(roots)?.is_some_and(|stamp| stamp.places.contains(&place)))
}

/// Whether a port of the host led to a guest of the network when tables were applied last.
pub(super) fn is_published(roots: &Roots, net: NetId) -> bool {
    stamp(roots).is_some_and(|stamp| stamp.published.contains(&net))
}

fn stamp(roots: &Roots) -> Option<Stamp> {
    read_stamp(&roots.run.join(layout::run::FIREWALL))
}

/// Whether the tables in force are those of this intent, to the byte.
pub(super) fn is_in_force(roots: &Roots, intent: &Firewall) -> Result<bool, Error> {
    let wanted = hex::encode(Sha256::digest(ruleset::script(intent)));
    Ok(in_force(roots)?.is_some_and(|stamp| stamp.script_sha256 == wanted))
}

/// Whether one of the tables is there.
pub(super) fn has_tables() -> Result<bool, Error> {
    Ok(tables::count(&mut open()?).map_err(|error| reading(&error))? > 0)
}

fn in_force(roots: &Roots) -> Result<Option<Stamp>, Error> {
    let path = roots.run.join(layout::run::FIREWALL);
    let Some(stamp) = read_stamp(&path) else { return Ok(None) };
    let mut netlink = open()?;
    let held = still_holds(&mut netlink, &stamp).map_err(|error| reading(&error))?;
    if let Some(moved) = held.as_ref().filter(|held| **held != stamp) {
        write_stamp(&path, moved)?;
    }
    Ok(held)
}

/// The stamp with the present ruleset id, when the tables are what they were.
fn still_holds(netlink: &mut Netlink, stamp: &Stamp) -> Result<Option<Stamp>, NetlinkError> {
    let mut id = tables::ruleset_id(netlink)?;
    if tables::count(netlink)? != 2 {
        return Ok(None);
    }
    if id == stamp.ruleset_id {
        return Ok(Some(stamp.clone()));
    }
    for _ in 0..ATTEMPTS {
        let digest = tables::digest(netlink)?;
        let after = tables::ruleset_id(netlink)?;
        if after == id {
            let same = digest == stamp.digest;
            return Ok(same.then(|| Stamp { ruleset_id: id, ..stamp.clone() }));
        }
        id = after;
    }
    Err(NetlinkError::Overtaken)
}

fn remove(netlink: &mut Netlink, stamp: &Path) -> Result<(), Error> {
    if tables::count(netlink).map_err(|error| reading(&error))? > 0 {
        run_nft(ruleset::REMOVAL)?;
    }
    match fs::remove_file(stamp) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::Failed, "cannot remove the firewall's stamp").because(&error))
        }
        _ => Ok(()),
    }
}

fn run_nft(script: &str) -> Result<(), Error> {
    let arguments = [OsStr::new("-f"), OsStr::new("-")];
    let done = tool::run(Path::new(NFT), &arguments, script.as_bytes(), DEADLINE);
    done.map(drop).map_err(|error| {
        Error::from(error)
            .context("cannot replace the nftables tables")
            .hint("see whether the kernel has nf_tables, nft_ct and nft_masq: `nft list ruleset`")
    })
}

/// The kernel leaves 0 out when the id wraps (`nf_tables_commit`).
const fn successor(id: u32) -> u32 {
    match id.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

fn open() -> Result<Netlink, Error> {
    Netlink::netfilter().map_err(|error| reading(&error))
}

fn reading(error: &NetlinkError) -> Error {
    error.during("cannot read the nftables ruleset")
}

/// A stamp that cannot be read counts as none: then the intent is applied again.
fn read_stamp(path: &Path) -> Option<Stamp> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// On a tmpfs: atomic against a crash of the process, gone after a crash of the host.
fn write_stamp(path: &Path, stamp: &Stamp) -> Result<(), Error> {
    let write = || -> std::io::Result<()> {
        let partial =
            path.with_extension(format!("json.{}", rustix::thread::gettid().as_raw_nonzero()));
        let mut file = fs::File::create(&partial)?;
        file.write_all(&serde_json::to_vec(stamp)?)?;
        fs::rename(&partial, path)
    };
    write().map_err(|error| {
        Error::new(ErrorKind::Failed, format!("cannot write {}", path.display())).because(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_after_the_last_is_one() {
        assert_eq!((successor(7), successor(u32::MAX)), (8, 1));
    }
}
