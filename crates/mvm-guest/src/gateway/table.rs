//! Which route takes a connection or a request.
//!
//! The narrowest of those that match: the longest path first, then the smallest range. In a table
//! that the host accepted one of them is always narrower than the others in both. This module
//! refuses to know instances.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use mvm_proto::{DEFAULT_ROUTE_PORT, InstanceSelector, Routes};

use super::path;
use crate::console::say;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    base: u32,
    bits: u32,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let bits = bits.parse().ok().filter(|bits| *bits <= 32)?;
        Some(Self { base: u32::from(address) & mask(bits), bits })
    }

    fn holds(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.bits) == self.base
    }
}

fn mask(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

/// One route, ready to be matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    port: u16,
    prefix: Option<String>,
    range: Option<Range>,
    pub(crate) pool: String,
    pub(crate) selector: InstanceSelector,
    pub(crate) target_port: u16,
}

impl Entry {
    fn narrowness(&self) -> (usize, u32) {
        let path = self.prefix.as_ref().map_or(0, |prefix| prefix.trim_end_matches('/').len());
        (path, self.range.map_or(0, |range| range.bits))
    }
}

/// All routes, and who is available.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    backends: BTreeMap<String, Vec<Ipv4Addr>>,
}

impl Table {
    /// The table of a document; a route with a range that cannot be read is left out and named.
    pub(crate) fn of(routes: &Routes) -> Self {
        let entries = routes.routes.iter().filter_map(|route| {
            let rule = &route.match_rule;
            let range = rule.source_cidr.as_deref().map(Range::parse);
            if range == Some(None) {
                say(&format!("gateway: route {} has a range that is none", route.name));
                return None;
            }
            let port = rule.port.unwrap_or(DEFAULT_ROUTE_PORT);
            Some(Entry {
                name: route.name.clone(),
                port,
                prefix: rule.path_prefix.clone(),
                range: range.flatten(),
                pool: route.target.pool_id.clone(),
                selector: route.target.instance_selector,
                target_port: route.target.target_port.unwrap_or(port),
            })
        });
        let pools = routes.backends.iter();
        let backends = pools
            .map(|(pool, all)| {
                let mut addresses: Vec<Ipv4Addr> = all.iter().map(|one| one.ip).collect();
                addresses.sort_unstable();
                addresses.dedup();
                (pool.clone(), addresses)
            })
            .collect();
        Self { entries: entries.collect(), backends }
    }

    /// The ports that there are routes for.
    pub(crate) fn ports(&self) -> BTreeSet<u16> {
        self.entries.iter().map(|entry| entry.port).collect()
    }

    /// Whether a route of this port looks at paths.
    pub(crate) fn is_http(&self, port: u16) -> bool {
        self.entries.iter().any(|entry| entry.port == port && entry.prefix.is_some())
    }

    /// The route of what arrives at `port`; `path` is in normal form, absent where none is spoken.
    pub(crate) fn choose(&self, port: u16, path: Option<&str>, source: Ipv4Addr) -> Option<&Entry> {
        let matching = self.entries.iter().filter(|entry| {
            let has_path = match (&entry.prefix, path) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(prefix), Some(path)) => path::matches(path, prefix),
            };
            entry.port == port && has_path && entry.range.is_none_or(|range| range.holds(source))
        });
        matching.max_by_key(|entry| entry.narrowness())
    }

    /// The addresses of a pool's available instances, ascending.
    pub(crate) fn available(&self, pool: &str) -> &[Ipv4Addr] {
        self.backends.get(pool).map(Vec::as_slice).unwrap_or_default()
    }
}
