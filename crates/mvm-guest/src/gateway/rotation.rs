//! Which of a pool's instances takes a connection: whose turn it is, and who has how many.
//!
//! It outlives the tables, so that turns and counts go on when routes change. It refuses to know
//! connections; whoever carries one holds a [`Lease`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mvm_proto::InstanceSelector;

use super::table::Entry;

#[derive(Debug, Default)]
struct Seen {
    /// The next turn, by route.
    turns: BTreeMap<String, usize>,
    /// Open connections, by instance and port.
    open: BTreeMap<SocketAddrV4, usize>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    seen: Mutex<Seen>,
}

/// An open connection to an instance; it counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    rotation: Arc<Rotation>,
    pub(crate) target: SocketAddrV4,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut seen = self.rotation.lock();
        match seen.open.get_mut(&self.target) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(seen.open.remove(&self.target)),
        }
    }
}

impl Rotation {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance for one more connection by a route, of those available but not `tried`.
    pub(crate) fn lease(
        self: &Arc<Self>,
        entry: &Entry,
        available: &[Ipv4Addr],
        tried: &[SocketAddrV4],
    ) -> Option<Lease> {
        let mut seen = self.lock();
        let all = available.iter().map(|ip| SocketAddrV4::new(*ip, entry.target_port));
        let left: Vec<SocketAddrV4> = all.filter(|one| !tried.contains(one)).collect();
        let target = match entry.selector {
            InstanceSelector::ByIp(ip) => left.into_iter().find(|one| *one.ip() == ip)?,
            InstanceSelector::Any => take_turn(&mut seen.turns, &entry.name, &left)?,
            InstanceSelector::LeastConnections => {
                let count = |one: &SocketAddrV4| seen.open.get(one).copied().unwrap_or(0);
                let least = left.iter().map(count).min()?;
                let idle: Vec<_> = left.iter().filter(|one| count(one) == least).copied().collect();
                take_turn(&mut seen.turns, &entry.name, &idle)?
            }
        };
        *seen.open.entry(target).or_default() += 1;
        drop(seen);
        Some(Lease { rotation: Arc::clone(self), target })
    }
}

fn take_turn(
    turns: &mut BTreeMap<String, usize>,
    route: &str,
    among: &[SocketAddrV4],
) -> Option<SocketAddrV4> {
    let turn = turns.entry(route.to_owned()).or_default();
    let chosen = among.get(turn.checked_rem(among.len())?).copied();
    *turn = turn.wrapping_add(1);
    chosen
}
