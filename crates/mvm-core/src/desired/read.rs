//! From a JSON value to the types: forms, ranges and defaults.
//!
//! The keys of each object are listed once, here; the published schema is tested against them.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value};

use super::{
    ANY_NODE, Addressee, DesiredNetwork, DesiredPool, DesiredState, DesiredTenant, SCHEMA_VERSION,
    check,
};
use crate::{
    document::{Findings, below, element, present},
    id::{PoolId, TenantId},
    integration,
    net::{MAX_TENANT_NET, NetId},
    pool::{Counts, PoolPolicy, Readiness, Resources, Role, RuntimePolicy, SleepPolicy, Source},
    quota::Quotas,
    secrets::Scope,
    tenant::{Egress, EgressPolicy, TenantPolicy},
    units::{Gib, Mib, Seconds, Vcpus},
};

pub(super) const STATE: &[&str] =
    &["schema_version", "node_id", "tenants", "prune_unknown_tenants", "prune_unknown_pools"];
pub(super) const TENANT: &[&str] =
    &["tenant_id", "network", "quotas", "pools", "secrets_hash", "pinned", "egress"];
pub(super) const NETWORK: &[&str] = &["tenant_net_id", "ipv4_subnet"];
pub(super) const QUOTAS: &[&str] = &[
    "max_vcpus",
    "max_mem_mib",
    "max_running",
    "max_warm",
    "max_pools",
    "max_instances_per_pool",
    "max_disk_gib",
];
pub(super) const EGRESS: &[&str] = &["policy", "destinations", "enforce_sni"];
pub(super) const POOL: &[&str] = &[
    "pool_id",
    "flake_ref",
    "template",
    "image",
    "profile",
    "role",
    "instance_resources",
    "desired_counts",
    "runtime_policy",
    "sleep_policy",
    "seccomp_policy",
    "snapshot_compression",
    "routing_table",
    "secret_scopes",
    "integrations",
    "metadata",
    "readiness",
    "on_node_loss",
    "pinned",
    "critical",
];
pub(super) const RESOURCES: &[&str] =
    &["vcpus", "mem_mib", "data_disk_mib", "disk_iops", "disk_mbps", "net_mbps"];
pub(super) const COUNTS: &[&str] = &["running", "warm", "sleeping"];
pub(super) const RUNTIME_POLICY: &[&str] = &[
    "min_running_seconds",
    "min_warm_seconds",
    "drain_timeout_seconds",
    "graceful_shutdown_seconds",
];
pub(super) const SLEEP_POLICY: &[&str] =
    &["warm_after_seconds", "sleep_after_seconds", "cpu_percent", "net_bytes"];
pub(super) const READINESS: &[&str] = &["kind", "port", "path"];

/// The longest waiting time: a day.
const DAY: u32 = 24 * 3600;
const METADATA_MAX: usize = 64;

/// One object of the document, read field by field.
pub(super) struct Object<'v, 'f> {
    map: &'v Map<String, Value>,
    path: String,
    pub(super) findings: &'f mut Findings,
}

impl<'v> Object<'v, '_> {
    fn at(&self, key: &str) -> String {
        below(&self.path, key)
    }

    pub(super) fn present(&self, key: &str) -> Option<&'v Value> {
        present(self.map, key)
    }

    pub(super) fn needed(&mut self, key: &str) -> Option<&'v Value> {
        self.findings.needed(self.map, &self.path, key)
    }

    pub(super) fn number(
        &mut self,
        key: &str,
        default: u32,
        range: std::ops::RangeInclusive<u32>,
    ) -> u32 {
        let at = self.at(key);
        let found = self.present(key).map(|value| self.findings.number(value, &at, range));
        found.flatten().unwrap_or(default)
    }

    /// The profile of a source.
    pub(super) fn profile(&mut self) -> Option<String> {
        let Some(value) = self.present("profile") else { return Some("minimal".to_owned()) };
        let path = self.at("profile");
        self.findings.parsed::<PoolId>(value, &path)?;
        value.as_str().map(str::to_owned)
    }

    /// The size of a data disk; none by default.
    pub(super) fn data_disk(&mut self) -> u32 {
        let disk = self.number("data_disk_mib", 0, 0..=16 << 20);
        if (1..16).contains(&disk) {
            self.findings.add(self.at("data_disk_mib"), "must be 0, or at least 16");
        }
        disk
    }

    fn limit(&mut self, key: &str) -> Option<u32> {
        let at = self.at(key);
        self.present(key).and_then(|value| self.findings.number(value, &at, 1..=1_000_000))
    }

    fn seconds(&mut self, key: &str, default: Seconds) -> Seconds {
        Seconds(self.number(key, default.0, 0..=DAY))
    }

    fn flag(&mut self, key: &str) -> bool {
        let at = self.at(key);
        self.present(key).and_then(|value| self.findings.flag(value, &at)).unwrap_or(false)
    }

    /// One of the words that a type is written as; its default when absent.
    fn word<T: serde::de::DeserializeOwned + Default>(&mut self, key: &str, words: &str) -> T {
        let Some(value) = self.present(key) else { return T::default() };
        serde_json::from_value(value.clone()).unwrap_or_else(|_| {
            self.findings.add(self.at(key), format!("must be {words}"));
            T::default()
        })
    }

    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        key: &str,
    ) -> Option<T> {
        let value = self.needed(key)?;
        let at = self.at(key);
        self.findings.parsed(value, &at)
    }
}

pub(super) fn object<'v, 'f>(
    value: &'v Value,
    path: &str,
    keys: &[&str],
    findings: &'f mut Findings,
) -> Option<Object<'v, 'f>> {
    let map = findings.object(value, path, keys)?;
    Some(Object { map, path: path.to_owned(), findings })
}

/// The object in a field, or an empty one when it is absent.
fn inner<'v, 'f>(
    outer: &'f mut Object<'v, '_>,
    key: &str,
    keys: &[&str],
) -> Option<Object<'v, 'f>> {
    static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    let path = outer.at(key);
    let value = outer.present(key).unwrap_or(&EMPTY);
    object(value, &path, keys, outer.findings)
}

pub(super) fn state(
    value: &Value,
    addressee: Addressee<'_>,
    findings: &mut Findings,
) -> Option<DesiredState> {
    let mut map = object(value, "", STATE, findings)?;
    if let Some(value) = map.needed("schema_version") {
        map.findings.number(value, "schema_version", SCHEMA_VERSION..=SCHEMA_VERSION);
    }
    let node_id = map.needed("node_id").and_then(|value| map.findings.text(value, "node_id"));
    if let (Some(node), Addressee::Node { id, production }) = (node_id, addressee)
        && node != id
        && (production || node != ANY_NODE)
    {
        map.findings.add("node_id", format!("{node:?} is not this node, which is {id:?}"));
    }
    let prune_unknown_tenants = map.flag("prune_unknown_tenants");
    let prune_unknown_pools = map.flag("prune_unknown_pools");
    let list = map.needed("tenants").and_then(|list| map.findings.list(list, "tenants"));
    let mut tenants = Vec::new();
    for (index, value) in list.unwrap_or_default().iter().enumerate() {
        let at = element("tenants", index);
        tenants.push((at.clone(), tenant(value, &at, map.findings)));
    }
    check::tenants(&tenants, map.findings);
    Some(DesiredState {
        schema_version: SCHEMA_VERSION,
        node_id: node_id?.to_owned(),
        tenants: tenants.into_iter().filter_map(|(_, tenant)| tenant).collect(),
        prune_unknown_tenants,
        prune_unknown_pools,
    })
}

fn tenant(value: &Value, at: &str, findings: &mut Findings) -> Option<DesiredTenant> {
    let mut map = object(value, at, TENANT, findings)?;
    let tenant_id = map.parsed::<TenantId>("tenant_id");
    if let Some(error) = tenant_id.as_ref().and_then(|id| TenantId::parse_new(id.as_str()).err()) {
        map.findings.add(map.at("tenant_id"), error.to_string());
    }
    let network = map.needed("network").and_then(|value| {
        let path = map.at("network");
        let mut map = object(value, &path, NETWORK, map.findings)?;
        let net = map.needed("tenant_net_id").and_then(|value| {
            map.findings.number(value, &below(&path, "tenant_net_id"), 1..=MAX_TENANT_NET)
        });
        let ipv4_subnet = map.parsed("ipv4_subnet");
        Some(DesiredNetwork { tenant_net_id: NetId(net?), ipv4_subnet: ipv4_subnet? })
    });
    let quotas = inner(&mut map, "quotas", QUOTAS).map_or_else(Quotas::default, quotas);
    let secrets_hash = map.present("secrets_hash").and_then(|value| {
        let path = map.at("secrets_hash");
        let text = map.findings.text(value, &path)?;
        let is_hash = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 64 || !text.bytes().all(is_hash) {
            map.findings.add(path, "must be 64 hexadecimal digits, lower case");
        }
        Some(text.to_owned())
    });
    let policy = TenantPolicy { pinned: map.flag("pinned"), egress: egress(&mut map) };
    let path = map.at("pools");
    let list = map.present("pools").and_then(|list| map.findings.list(list, &path));
    let mut pools = Vec::new();
    let around = check::Around::of(list.unwrap_or_default(), network);
    for (index, value) in list.unwrap_or_default().iter().enumerate() {
        let at = element(&path, index);
        pools.push((at.clone(), pool(value, &at, &around, map.findings)));
    }
    check::pools(&pools, &quotas, at, map.findings);
    Some(DesiredTenant {
        tenant_id: tenant_id?,
        network: network?,
        quotas,
        pools: pools.into_iter().filter_map(|(_, pool)| pool).collect(),
        secrets_hash,
        policy,
    })
}

fn quotas(mut map: Object<'_, '_>) -> Quotas {
    let usual = Quotas::default();
    let mut number = |key, default| map.number(key, default, 0..=u32::MAX);
    Quotas {
        max_vcpus: Vcpus(number("max_vcpus", usual.max_vcpus.0)),
        max_mem_mib: Mib(number("max_mem_mib", usual.max_mem_mib.0)),
        max_running: number("max_running", usual.max_running),
        max_warm: number("max_warm", usual.max_warm),
        max_pools: number("max_pools", usual.max_pools),
        max_instances_per_pool: number("max_instances_per_pool", usual.max_instances_per_pool),
        max_disk_gib: Gib(number("max_disk_gib", usual.max_disk_gib.0)),
    }
}

fn egress(tenant: &mut Object<'_, '_>) -> Option<Egress> {
    let path = tenant.at("egress");
    let value = tenant.present("egress")?;
    let mut map = object(value, &path, EGRESS, tenant.findings)?;
    let policy: EgressPolicy = map.word("policy", "allow, deny or list");
    let at = map.at("destinations");
    let list = map.present("destinations").and_then(|list| map.findings.list(list, &at));
    let mut destinations = Vec::new();
    for (index, value) in list.unwrap_or_default().iter().enumerate() {
        destinations.extend(map.findings.parsed(value, &element(&at, index)));
    }
    if (policy == EgressPolicy::List) == destinations.is_empty() {
        map.findings.add(at, "goes with the policy list, and with no other");
    }
    Some(Egress { policy, destinations, enforce_sni: map.flag("enforce_sni") })
}

fn pool(
    value: &Value,
    at: &str,
    around: &check::Around,
    findings: &mut Findings,
) -> Option<DesiredPool> {
    let mut map = object(value, at, POOL, findings)?;
    let pool_id = map.parsed::<PoolId>("pool_id");
    let source = source(&mut map, "flake_ref");
    let profile = map.profile();
    let role = match map.present("role") {
        Some(_) => map.parsed("role").unwrap_or(Role::Worker),
        None => Role::Worker,
    };
    let instance_resources = resources(&mut map);
    let desired_counts = counts(&mut map);
    let runtime_policy = runtime_policy(&mut map);
    let routing_table = map.present("routing_table").and_then(|value| {
        let path = map.at("routing_table");
        if role != Role::Gateway {
            map.findings.add(path.clone(), "only a gateway has one");
        }
        let around = around.of_pool(pool_id.as_ref()?)?;
        Some(crate::route::read(value, &path, &around, map.findings))
    });
    let secret_scopes = scopes(&mut map);
    let path = map.at("integrations");
    let integrations = map.present("integrations");
    let integrations =
        integrations.map(|list| integration::read(list, &path, map.findings)).unwrap_or_default();
    let policy = policy(&mut map);
    Some(DesiredPool {
        pool_id: pool_id?,
        source: source?,
        profile: profile?,
        role,
        instance_resources: instance_resources?,
        desired_counts,
        runtime_policy,
        routing_table,
        secret_scopes,
        integrations,
        policy,
    })
}

/// The one source of a pool; that of a flake stands in the field `flake`.
pub(super) fn source(pool: &mut Object<'_, '_>, flake: &str) -> Option<Source> {
    type Make = fn(String) -> Source;
    let kinds: [(&str, Make); 3] =
        [(flake, Source::Flake), ("template", Source::Template), ("image", Source::Image)];
    let given: Vec<_> = kinds.iter().filter(|(key, _)| pool.present(key).is_some()).collect();
    let [(key, make)] = given.as_slice() else {
        let path = pool.path.clone();
        pool.findings.add(path, format!("needs exactly one of {flake}, template and image"));
        return None;
    };
    let path = pool.at(key);
    let text = pool.present(key).and_then(|value| pool.findings.text(value, &path))?;
    let source = make(text.to_owned());
    if let Err(error) = source.validate() {
        pool.findings.add(path, error.to_string());
    }
    Some(source)
}

fn resources(pool: &mut Object<'_, '_>) -> Option<Resources> {
    let path = pool.at("instance_resources");
    let value = pool.needed("instance_resources")?;
    let mut map = object(value, &path, RESOURCES, pool.findings)?;
    let mut needed = |key: &str, range| {
        let value = map.needed(key)?;
        let at = map.at(key);
        map.findings.number(value, &at, range)
    };
    let (vcpus, mem) = (needed("vcpus", 1..=32), needed("mem_mib", 64..=1 << 20));
    let disk = map.data_disk();
    let (disk_iops, disk_mbps, net_mbps) =
        (map.limit("disk_iops"), map.limit("disk_mbps"), map.limit("net_mbps"));
    Some(Resources {
        vcpus: Vcpus(vcpus?),
        mem_mib: Mib(mem?),
        data_disk_mib: Mib(disk),
        disk_iops,
        disk_mbps,
        net_mbps,
    })
}

fn counts(pool: &mut Object<'_, '_>) -> Counts {
    let Some(mut map) = inner(pool, "desired_counts", COUNTS) else {
        return Counts::default();
    };
    let mut count = |key| map.number(key, 0, 0..=100);
    Counts { running: count("running"), warm: count("warm"), sleeping: count("sleeping") }
}

fn runtime_policy(pool: &mut Object<'_, '_>) -> RuntimePolicy {
    let usual = RuntimePolicy::default();
    let Some(mut map) = inner(pool, "runtime_policy", RUNTIME_POLICY) else {
        return usual;
    };
    let mut seconds = |key, default| map.seconds(key, default);
    RuntimePolicy {
        min_running_seconds: seconds("min_running_seconds", usual.min_running_seconds),
        min_warm_seconds: seconds("min_warm_seconds", usual.min_warm_seconds),
        drain_timeout_seconds: seconds("drain_timeout_seconds", usual.drain_timeout_seconds),
        graceful_shutdown_seconds: seconds(
            "graceful_shutdown_seconds",
            usual.graceful_shutdown_seconds,
        ),
    }
}

fn scopes(pool: &mut Object<'_, '_>) -> Vec<Scope> {
    let path = pool.at("secret_scopes");
    let list = pool.present("secret_scopes").and_then(|list| pool.findings.list(list, &path));
    let mut scopes: Vec<Scope> = Vec::new();
    for (index, value) in list.unwrap_or_default().iter().enumerate() {
        scopes.extend(pool.findings.parsed::<Scope>(value, &element(&path, index)));
    }
    if let Err(error) = Scope::validate(&scopes) {
        pool.findings.add(path, error.to_string());
    }
    scopes
}

fn policy(pool: &mut Object<'_, '_>) -> PoolPolicy {
    let usual = SleepPolicy::default();
    let sleep_policy = inner(pool, "sleep_policy", SLEEP_POLICY).map_or(usual, |mut map| {
        let net = map.at("net_bytes");
        let net_bytes = map.present("net_bytes");
        let net_bytes = net_bytes.map(|value| map.findings.number(value, &net, 0..=u64::MAX));
        SleepPolicy {
            warm_after_seconds: map.seconds("warm_after_seconds", usual.warm_after_seconds),
            sleep_after_seconds: map.seconds("sleep_after_seconds", usual.sleep_after_seconds),
            cpu_percent: map.number("cpu_percent", usual.cpu_percent, 0..=100),
            net_bytes: net_bytes.flatten().unwrap_or(usual.net_bytes),
        }
    });
    PoolPolicy {
        sleep_policy,
        seccomp_policy: pool.word("seccomp_policy", "baseline or strict"),
        snapshot_compression: pool.word("snapshot_compression", "none, lz4 or zstd"),
        metadata: metadata(pool),
        readiness: readiness(pool),
        on_node_loss: pool.word("on_node_loss", "keep or replace"),
        pinned: pool.flag("pinned"),
        critical: pool.flag("critical"),
    }
}

fn metadata(pool: &mut Object<'_, '_>) -> BTreeMap<String, String> {
    let path = pool.at("metadata");
    let Some(value) = pool.present("metadata") else { return BTreeMap::new() };
    let Value::Object(map) = value else {
        pool.findings.add(path, "must be an object of texts");
        return BTreeMap::new();
    };
    if map.len() > METADATA_MAX {
        pool.findings.add(&path, format!("has {} entries (limit {METADATA_MAX})", map.len()));
    }
    let mut texts = BTreeMap::new();
    for (key, value) in map {
        let at = below(&path, key);
        let Some(text) = pool.findings.text(value, &at) else { continue };
        if key.is_empty() || key.len() > 128 || text.len() > 1024 {
            pool.findings.add(at, "is longer than 128 bytes for a key or 1024 for a text");
        }
        texts.insert(key.clone(), text.to_owned());
    }
    texts
}

fn readiness(pool: &mut Object<'_, '_>) -> Option<Readiness> {
    let path = pool.at("readiness");
    let value = pool.present("readiness")?;
    let mut map = object(value, &path, READINESS, pool.findings)?;
    let at = map.at("port");
    let port = map.present("port").and_then(|value| map.findings.number(value, &at, 1..=u16::MAX));
    let place = map.at("path");
    let http = map.present("path").and_then(|value| map.findings.text(value, &place));
    let kind = map.needed("kind").and_then(|value| map.findings.text(value, &below(&path, "kind")));
    match (kind?, port, http) {
        ("worker_ready", None, None) => Some(Readiness::WorkerReady),
        ("tcp", Some(port), None) => Some(Readiness::Tcp { port }),
        ("http", Some(port), Some(path)) if path.starts_with('/') => {
            Some(Readiness::Http { port, path: path.to_owned() })
        }
        (_, _, _) => {
            let problem =
                "must be of kind worker_ready; tcp with a port; or http with a port and a path";
            map.findings.add(path, problem);
            None
        }
    }
}
