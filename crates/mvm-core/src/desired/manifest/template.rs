//! Deployments that have a name: what `mvm new` makes, and how a person's file changes it.
//!
//! ```text
//! template ─▶ + [overrides] ─▶ + [overrides.POOL] ─▶ + source of the command ─▶ Manifest
//! ```

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Manifest, POOL, Said, Written, pool};
use crate::{
    desired::read::object,
    document::{Findings, below},
    error::{Error, ErrorKind},
    id::TenantId,
    pool::Source,
    quota::Quotas,
    secrets,
    units::{Gib, Mib, Vcpus},
};

/// What templates there are.
pub const TEMPLATES: &[&str] = &["openclaw"];

/// What the tenant of a template may use, as the onboarding guide has it.
const QUOTAS: Quotas = Quotas {
    max_vcpus: Vcpus(32),
    max_mem_mib: Mib(65_536),
    max_running: 16,
    max_warm: 8,
    max_pools: 10,
    max_instances_per_pool: 32,
    max_disk_gib: Gib(500),
};

const SOURCES: &[&str] = &["flake", "template", "image"];

impl Manifest {
    /// A template's deployment for `tenant`, changed by what a person wrote (`[secrets]` and
    /// `[overrides]`), all of its pools from `source` if there is one.
    ///
    /// # Errors
    /// `NotFound` when there is no such template; `Invalid` with one cause for each finding.
    pub fn of_template(
        template: &str,
        tenant: TenantId,
        config: &Value,
        source: Option<&Source>,
    ) -> Result<Self, Error> {
        let Some(pools) = pools_of(template) else {
            let message = format!("there is no template {template}");
            let known = TEMPLATES.join(", ");
            return Err(Error::new(ErrorKind::NotFound, message).hint(format!("there is: {known}")));
        };
        let mut findings = Findings::new();
        if let Err(error) = TenantId::parse_new(tenant.as_str()) {
            findings.add("name", error.to_string());
        }
        let mut manifest =
            Self { tenant, quotas: QUOTAS, pools: Vec::new(), secrets: BTreeMap::default() };
        let changes = changes(config, &pools, &mut manifest, &mut findings);
        for mut value in pools {
            let id = value.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            let own = changes.get(&id).and_then(Value::as_object);
            let at = own.map_or_else(|| id.clone(), |_| below("overrides", &id));
            over(&mut value, &changes, SOURCES);
            if let Some(own) = own {
                over(&mut value, own, POOL);
                if let Some(count) = own.get("instances") {
                    value.insert("desired_running".to_owned(), count.clone());
                }
            }
            if let Some(source) = source {
                let (key, name) = match source {
                    Source::Flake(name) => ("flake", name),
                    Source::Template(name) => ("template", name),
                    Source::Image(name) => ("image", name),
                };
                over(&mut value, &Map::from_iter([(key.to_owned(), json!(name))]), SOURCES);
            }
            // What an image says of sizes stands above the template.
            let said = own.map_or_else(|| Said::of(&Map::new()), Said::of);
            let pool = pool(&Value::Object(value), &at, &mut findings);
            manifest.pools.extend(pool.map(|pool| Written { pool, said }));
        }
        findings.settle("the deployment")?;
        Ok(manifest)
    }
}

/// The table `overrides` of a person's file; secrets go into the manifest.
fn changes(
    config: &Value,
    pools: &[Map<String, Value>],
    manifest: &mut Manifest,
    findings: &mut Findings,
) -> Map<String, Value> {
    let names = pools.iter().filter_map(|pool| pool.get("id").and_then(Value::as_str));
    let names: Vec<&str> = names.chain(SOURCES.iter().copied()).collect();
    let Some(map) = findings.object(config, "", &["secrets", "overrides"]) else {
        return Map::new();
    };
    if let Some(places) = map.get("secrets") {
        manifest.secrets = secrets::places(places, "secrets", findings);
    }
    let Some(changes) = map.get("overrides") else { return Map::new() };
    let Some(changes) = findings.object(changes, "overrides", &names) else { return Map::new() };
    let legal: Vec<&str> =
        POOL.iter().copied().filter(|key| *key != "id").chain(["instances"]).collect();
    for (name, value) in changes.iter().filter(|(name, _)| !SOURCES.contains(&name.as_str())) {
        let _ = object(value, &below("overrides", name), &legal, findings);
    }
    changes.clone()
}

/// Puts what `changes` has of these keys over `value`; of sources there is one.
fn over(value: &mut Map<String, Value>, changes: &Map<String, Value>, keys: &[&str]) {
    let given: Vec<_> =
        changes.iter().filter(|(key, _)| *key != "id" && keys.contains(&key.as_str())).collect();
    if given.iter().any(|(key, _)| SOURCES.contains(&key.as_str())) {
        value.retain(|key, _| !SOURCES.contains(&key.as_str()));
    }
    value.extend(given.into_iter().map(|(key, value)| (key.clone(), value.clone())));
}

/// The pools of a template, as a manifest has them.
fn pools_of(template: &str) -> Option<Vec<Map<String, Value>>> {
    let list = match template {
        "openclaw" => json!([
            {
                "id": "gateways", "role": "gateway", "flake": "github:openclaw/nix-openclaw",
                "vcpus": 2, "mem_mib": 1024, "desired_running": 1,
            },
            {
                "id": "workers", "role": "worker", "flake": "github:openclaw/nix-openclaw",
                "vcpus": 2, "mem_mib": 1024, "data_disk_mib": 2048,
                "desired_running": 2, "desired_warm": 1,
            },
        ]),
        _ => return None,
    };
    let Value::Array(list) = list else { return None };
    Some(list.into_iter().filter_map(|pool| pool.as_object().cloned()).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;
    use crate::{
        desired::DesiredPool,
        pool::{Counts, PoolDefaults, Resources},
        secrets::ValueSource,
    };

    fn new(config: &Value, source: Option<&Source>) -> Result<Manifest, Error> {
        Manifest::of_template("openclaw", "alice".parse().unwrap(), config, source)
    }

    fn pools(manifest: &Manifest) -> Vec<&DesiredPool> {
        manifest.pools.iter().map(|written| &written.pool).collect()
    }

    #[test]
    fn what_an_image_says_of_sizes_stands_above_the_template_and_below_a_person_s_file() {
        let config = json!({ "overrides": { "workers": { "mem_mib": 4096 } } });
        let usual = |_: &Source| {
            let (vcpus, mem_mib) = (Some(Vcpus(1)), Some(Mib(512)));
            Ok(PoolDefaults { vcpus, mem_mib, data_disk_mib: None })
        };
        let manifest = new(&config, None).unwrap().sized(usual).unwrap();
        let size = |pool: &&DesiredPool| pool.instance_resources;
        let sizes: Vec<_> = pools(&manifest).iter().map(size).collect();
        let wanted = [(1, 512, 0), (1, 4096, 2048)];
        let wanted =
            wanted.map(|(cpus, mem, disk)| Resources::new(Vcpus(cpus), Mib(mem), Mib(disk)));
        assert_eq!(sizes, wanted);
    }

    #[test]
    fn a_template_makes_what_the_onboarding_guide_says() {
        let manifest = new(&json!({}), None).unwrap();
        let [gateways, workers] = pools(&manifest).try_into().unwrap();
        assert_eq!((gateways.pool_id.as_str(), gateways.role.priority()), ("gateways", 0));
        assert_eq!(gateways.desired_counts, Counts { running: 1, warm: 0, sleeping: 0 });
        assert_eq!(workers.instance_resources.data_disk_mib, Mib(2048));
        assert_eq!(workers.desired_counts, Counts { running: 2, warm: 1, sleeping: 0 });
        assert_eq!(workers.source, Source::Flake("github:openclaw/nix-openclaw".to_owned()));
    }

    #[test]
    fn a_pool_s_own_override_stands_above_the_common_one_and_the_command_above_both() {
        let config = json!({
            "secrets": { "key": { "file": "./key" }, "token": { "env": "TOKEN" } },
            "overrides": {
                "flake": "github:a/b",
                "workers": { "mem_mib": 4096, "instances": 3, "image": "small" },
            },
        });
        let manifest = new(&config, None).unwrap();
        let [gateways, workers] = pools(&manifest).try_into().unwrap();
        assert_eq!(gateways.source, Source::Flake("github:a/b".to_owned()));
        assert_eq!(workers.source, Source::Image("small".to_owned()));
        assert_eq!(workers.instance_resources.mem_mib, Mib(4096));
        assert_eq!(workers.desired_counts.running, 3);
        assert_eq!(manifest.secrets.get("token"), Some(&ValueSource::Env("TOKEN".to_owned())));
        let image = Source::Image("default".to_owned());
        let manifest = new(&config, Some(&image)).unwrap();
        assert!(pools(&manifest).iter().all(|pool| pool.source == image));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_at_its_place_and_no_value_is_quoted() {
        let config = json!({
            "secrets": { "key": "hunter2", "a b": { "env": "B" }, "both": { "env": "B", "file": "c" } },
            "overrides": { "workers": { "mem_mb": 1, "vcpus": 0 }, "worker": {} },
        });
        let error = new(&config, None).unwrap_err();
        let places = [
            "secrets.key",
            "secrets.a b",
            "secrets.both",
            "overrides.workers.mem_mb",
            "overrides.workers.vcpus",
            "overrides.worker",
        ];
        for place in places {
            let found = error.causes.iter().any(|cause| cause.starts_with(&format!("{place}:")));
            assert!(found, "{place}: {error}");
        }
        assert_eq!(error.causes.len(), places.len(), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"));
        let missing = Manifest::of_template("nothing", "alice".parse().unwrap(), &json!({}), None);
        assert_eq!(missing.unwrap_err().kind, ErrorKind::NotFound);
    }
}
