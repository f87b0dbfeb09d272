//! The manifest of a deployment (SPEC §5): one tenant and its pools, in the few words of a person.
//!
//! ```text
//! value ─▶ Manifest::read (forms, all findings) ─┐
//! template ─▶ Manifest::of_template ─────────────┴▶ sized (what images say) ─▶ onto (what there is) ─▶ DesiredTenant
//! ```
//!
//! What a manifest has no word for stays as it is with the tenant, and is as by default where there is
//! nothing yet. This module refuses to know files and formats.

mod template;

use std::collections::BTreeMap;

use serde_json::{Map, Value};
pub use template::TEMPLATES;

use super::{
    DesiredPool, DesiredTenant, check,
    read::{object, source},
};
use crate::{
    document::{Findings, element, present},
    error::{Error, ErrorKind},
    id::{PoolId, TenantId},
    pool::{Counts, PoolDefaults, PoolPolicy, Resources, Role, RuntimePolicy, Source},
    quota::Quotas,
    secrets::{self, ValueSource},
    units::{Mib, Vcpus},
};

const MANIFEST: &[&str] = &["tenant", "pools", "secrets"];
const TENANT: &[&str] = &["id"];
const POOL: &[&str] = &[
    "id",
    "role",
    "profile",
    "flake",
    "template",
    "image",
    "vcpus",
    "mem_mib",
    "data_disk_mib",
    "desired_running",
    "desired_warm",
    "desired_sleeping",
];

/// A tenant and its pools, as a manifest has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Whose.
    pub tenant: TenantId,
    /// Where its secrets are; nothing is changed about them when this is empty.
    pub secrets: BTreeMap<String, ValueSource>,
    /// The quotas of a tenant that is not there yet.
    pub quotas: Quotas,
    pools: Vec<Written>,
}

/// A pool as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    pool: DesiredPool,
    /// Which of its sizes a person wrote; the others are those of its source, if that says some.
    said: Said,
}

/// Which sizes are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    vcpus: bool,
    mem_mib: bool,
    data_disk_mib: bool,
}

impl Said {
    fn of(map: &Map<String, Value>) -> Self {
        let has = |key: &str| present(map, key).is_some();
        Self { vcpus: has("vcpus"), mem_mib: has("mem_mib"), data_disk_mib: has("data_disk_mib") }
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding.
    pub fn read(value: &Value) -> Result<Self, Error> {
        let what = "the manifest";
        let mut findings = Findings::new();
        let manifest = manifest(value, &mut findings);
        findings.settle(what)?;
        manifest.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{what} makes no sense")))
    }

    /// The same, with what the sources of its pools say of sizes that nobody wrote.
    ///
    /// # Errors
    /// Those of `usual`, which says what a pool of a source gets.
    pub fn sized(
        mut self,
        usual: impl Fn(&Source) -> Result<PoolDefaults, Error>,
    ) -> Result<Self, Error> {
        for Written { pool, said } in &mut self.pools {
            let PoolDefaults { vcpus, mem_mib, data_disk_mib } = usual(&pool.source)?;
            let size = &mut pool.instance_resources;
            size.vcpus = vcpus.filter(|_| !said.vcpus).unwrap_or(size.vcpus);
            size.mem_mib = mem_mib.filter(|_| !said.mem_mib).unwrap_or(size.mem_mib);
            size.data_disk_mib =
                data_disk_mib.filter(|_| !said.data_disk_mib).unwrap_or(size.data_disk_mib);
        }
        Ok(self)
    }

    /// The tenant `present` with the pools of the manifest, and no others.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding: what stands twice, counts beyond the quota.
    pub fn onto(self, present: DesiredTenant) -> Result<DesiredTenant, Error> {
        let over = |pool: DesiredPool| {
            let Some(is) = present.pools.iter().find(|is| is.pool_id == pool.pool_id) else {
                return pool;
            };
            let Resources { vcpus, mem_mib, data_disk_mib, .. } = pool.instance_resources;
            let size = is.instance_resources;
            DesiredPool {
                instance_resources: Resources { vcpus, mem_mib, data_disk_mib, ..size },
                runtime_policy: is.runtime_policy,
                // Of another role than a gateway nothing is led.
                routing_table: is.routing_table.clone().filter(|_| pool.role == Role::Gateway),
                secret_scopes: is.secret_scopes.clone(),
                integrations: is.integrations.clone(),
                policy: is.policy.clone(),
                ..pool
            }
        };
        let pools: Vec<DesiredPool> =
            self.pools.into_iter().map(|written| over(written.pool)).collect();
        let mut findings = Findings::new();
        let placed = pools.iter().cloned().enumerate();
        let placed: Vec<_> =
            placed.map(|(index, pool)| (element("pools", index), Some(pool))).collect();
        check::pools(&placed, &present.quotas, "", &mut findings);
        findings.settle("the manifest")?;
        Ok(DesiredTenant { pools, ..present })
    }
}

fn manifest(value: &Value, findings: &mut Findings) -> Option<Manifest> {
    let mut map = object(value, "", MANIFEST, findings)?;
    let tenant = map.needed("tenant").and_then(|value| {
        let mut tenant = object(value, "tenant", TENANT, map.findings)?;
        let id = tenant.parsed::<TenantId>("id")?;
        if let Err(error) = TenantId::parse_new(id.as_str()) {
            tenant.findings.add("tenant.id", error.to_string());
        }
        Some(id)
    });
    let list = map.needed("pools").and_then(|list| map.findings.list(list, "pools"));
    let mut pools = Vec::new();
    for (index, value) in list.unwrap_or_default().iter().enumerate() {
        let read = pool(value, &element("pools", index), map.findings);
        let said = value.as_object().map(Said::of);
        pools.extend(read.zip(said).map(|(pool, said)| Written { pool, said }));
    }
    let secrets = map.present("secrets");
    let secrets = secrets.map(|value| secrets::places(value, "secrets", map.findings));
    let secrets = secrets.unwrap_or_default();
    Some(Manifest { tenant: tenant?, secrets, quotas: Quotas::default(), pools })
}

fn pool(value: &Value, at: &str, findings: &mut Findings) -> Option<DesiredPool> {
    let mut map = object(value, at, POOL, findings)?;
    let pool_id = map.parsed::<PoolId>("id");
    let source = source(&mut map, "flake");
    let profile = map.profile();
    let role = match map.present("role") {
        Some(_) => map.parsed("role").unwrap_or(Role::Worker),
        None => Role::Worker,
    };
    let vcpus = map.number("vcpus", 2, 1..=32);
    let mem_mib = map.number("mem_mib", 1024, 64..=1 << 20);
    let data_disk_mib = map.data_disk();
    let mut count = |key, default| map.number(key, default, 0..=100);
    let desired_counts = Counts {
        running: count("desired_running", 1),
        warm: count("desired_warm", 0),
        sleeping: count("desired_sleeping", 0),
    };
    Some(DesiredPool {
        pool_id: pool_id?,
        source: source?,
        profile: profile?,
        role,
        instance_resources: Resources::new(Vcpus(vcpus), Mib(mem_mib), Mib(data_disk_mib)),
        desired_counts,
        runtime_policy: RuntimePolicy::default(),
        routing_table: None,
        secret_scopes: Vec::new(),
        integrations: Vec::new(),
        policy: PoolPolicy::default(),
    })
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{desired::DesiredNetwork, net::NetId, pool::Source, tenant::TenantPolicy};

    fn alone() -> DesiredTenant {
        DesiredTenant {
            tenant_id: "alice".parse().unwrap(),
            network: DesiredNetwork {
                tenant_net_id: NetId(3),
                ipv4_subnet: "10.240.3.0/24".parse().unwrap(),
            },
            quotas: Quotas::default(),
            pools: Vec::new(),
            secrets_hash: None,
            policy: TenantPolicy::default(),
        }
    }

    #[test]
    fn what_a_manifest_leaves_out_is_as_documented() {
        let value = json!({ "tenant": { "id": "alice" }, "pools": [
            { "id": "gates", "role": "gateway", "flake": "github:org/app" },
        ] });
        let tenant = Manifest::read(&value).unwrap().onto(alone()).unwrap();
        let pool = &tenant.pools[0];
        assert_eq!(pool.source, Source::Flake("github:org/app".to_owned()));
        assert_eq!((pool.profile.as_str(), &pool.role), ("minimal", &Role::Gateway));
        assert_eq!(pool.instance_resources, Resources::new(Vcpus(2), Mib(1024), Mib(0)));
        assert_eq!(pool.desired_counts, Counts { running: 1, warm: 0, sleeping: 0 });
    }

    #[test]
    fn what_a_manifest_has_no_word_for_stays_as_it_is() {
        let value = json!({ "tenant": { "id": "alice" }, "pools": [
            { "id": "web", "image": "default", "vcpus": 1, "mem_mib": 128 },
        ] });
        let read = || Manifest::read(&value).unwrap();
        let mut there = read().onto(alone()).unwrap();
        let web = &mut there.pools[0];
        web.policy.pinned = true;
        web.instance_resources.disk_iops = Some(7);
        web.instance_resources.mem_mib = Mib(512);
        web.desired_counts.running = 3;
        let tenant = read().onto(there).unwrap();
        let web = &tenant.pools[0];
        assert!(web.policy.pinned);
        assert_eq!(web.instance_resources.disk_iops, Some(7));
        assert_eq!((web.instance_resources.mem_mib, web.desired_counts.running), (Mib(128), 1));
    }

    #[test]
    fn sizes_that_nobody_wrote_are_those_of_the_source_if_it_says_some() {
        let value = json!({ "tenant": { "id": "alice" }, "pools": [
            { "id": "web", "image": "/srv/web", "mem_mib": 128 },
            { "id": "plain", "image": "default" },
        ] });
        let usual = |source: &Source| {
            let of_file = PoolDefaults {
                vcpus: Some(Vcpus(1)),
                mem_mib: Some(Mib(512)),
                data_disk_mib: Some(Mib(32)),
            };
            let is_web = *source == Source::Image("/srv/web".to_owned());
            Ok(if is_web { of_file } else { PoolDefaults::default() })
        };
        let sized = Manifest::read(&value).unwrap().sized(usual).unwrap();
        let tenant = sized.onto(alone()).unwrap();
        let sizes: Vec<_> = tenant.pools.iter().map(|pool| pool.instance_resources).collect();
        let wanted = [(1, 128, 32), (2, 1024, 0)];
        assert_eq!(
            sizes,
            wanted.map(|(cpus, mem, disk)| Resources::new(Vcpus(cpus), Mib(mem), Mib(disk)))
        );
        let broken = |_: &Source| Err(Error::new(ErrorKind::Invalid, "no"));
        assert!(Manifest::read(&value).unwrap().sized(broken).is_err());
    }

    #[test]
    fn everything_that_is_wrong_with_a_manifest_is_told_at_once() {
        let value = json!({ "tenant": { "id": "local" }, "pools": [
            { "id": "web", "image": "a", "flake": "b:c", "desired_runing": 1 },
            { "id": "x y", "image": "default", "mem_mib": 1 },
        ], "pool": [] });
        let error = Manifest::read(&value).unwrap_err();
        let places = [
            "pool",
            "tenant.id",
            "pools[0].desired_runing",
            "pools[0]",
            "pools[1].id",
            "pools[1].mem_mib",
        ];
        for place in places {
            let found = error.causes.iter().any(|cause| cause.starts_with(&format!("{place}:")));
            assert!(found, "{place}: {error}");
        }
        assert_eq!(error.causes.len(), places.len(), "{error}");
    }

    #[test]
    fn pools_that_stand_twice_or_ask_for_more_than_the_quota_are_found() {
        let pool = json!({ "id": "web", "image": "default", "desired_running": 9 });
        let value = json!({ "tenant": { "id": "alice" }, "pools": [pool, pool] });
        let error = Manifest::read(&value).unwrap().onto(alone()).unwrap_err();
        assert!(error.causes.iter().any(|cause| cause.starts_with("pools[1].pool_id")), "{error}");
        assert!(error.causes.iter().any(|cause| cause.contains("max_running")), "{error}");
    }

    #[test]
    fn the_places_of_secrets_are_taken_and_what_stands_in_place_of_one_is_not_quoted() {
        let of = |secrets| json!({ "tenant": { "id": "alice" }, "pools": [], "secrets": secrets });
        let manifest = Manifest::read(&of(json!({ "key": { "file": "./key" } }))).unwrap();
        assert_eq!(manifest.secrets["key"], ValueSource::File("./key".into()));
        let error = Manifest::read(&of(json!({ "key": "hunter2" }))).unwrap_err();
        assert!(error.causes.iter().any(|cause| cause.starts_with("secrets.key:")), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
