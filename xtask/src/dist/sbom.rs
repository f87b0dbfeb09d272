//! The bill of materials: which crates are linked into the programs, as CycloneDX 1.5.
//!
//! <https://cyclonedx.org/docs/1.5/json/>. No time and no serial number, so that the same lock file gives
//! the same bytes. What only builds or tests is not in it.

use std::collections::{BTreeMap, BTreeSet};

use mvm_build::release::Version;
use serde_json::{Value, json};

use crate::binaries::{self, Audience};
use crate::error::{Error, Result};
use crate::workspace::{Metadata, Package};

/// The document for the programs of a release.
pub(super) fn document(metadata: &Metadata, lock: &str, version: &Version) -> Result<Vec<u8>> {
    let sums = checksums(lock)?;
    let linked = linked(metadata);
    let mut packages: Vec<&Package> =
        metadata.packages.iter().filter(|package| linked.contains(package.id.as_str())).collect();
    packages.sort_by(|one, two| (&one.name, &one.version).cmp(&(&two.name, &two.version)));
    let components: Vec<Value> = packages.iter().map(|package| component(package, &sums)).collect();
    let dependencies: Vec<Value> = packages
        .iter()
        .map(|package| json!({ "ref": url(package), "dependsOn": uses(metadata, package) }))
        .collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "name": "mvm", "version": version.to_string(),
            "licenses": [{ "expression": "Apache-2.0" }],
        } },
        "components": components,
        "dependencies": dependencies,
    });
    let text = serde_json::to_string_pretty(&document)
        .map_err(|source| Error::Json { what: "the bill of materials".into(), source })?;
    Ok((text + "\n").into_bytes())
}

/// The ids of everything that the programs are linked from.
fn linked(metadata: &Metadata) -> BTreeSet<&str> {
    let mut waiting: Vec<&str> = binaries::packages(Audience::Users)
        .filter_map(|name| metadata.member(name).map(|member| member.id.as_str()))
        .collect();
    let mut found = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if found.insert(id) {
            waiting.extend(edges(metadata, id));
        }
    }
    found
}

/// What a package is linked with.
fn edges<'a>(metadata: &'a Metadata, id: &str) -> impl Iterator<Item = &'a str> {
    let node = metadata.resolve.nodes.iter().find(|node| node.id == id);
    let edges = node.into_iter().flat_map(|node| &node.deps);
    edges
        .filter(|edge| edge.dep_kinds.iter().any(|role| role.kind.is_none()))
        .map(|edge| edge.pkg.as_str())
}

fn uses(metadata: &Metadata, package: &Package) -> Vec<String> {
    let used = edges(metadata, &package.id);
    let used = used.filter_map(|id| metadata.packages.iter().find(|other| other.id == id));
    let all: BTreeSet<String> = used.map(url).collect();
    all.into_iter().collect()
}

fn component(package: &Package, sums: &BTreeMap<(String, String), String>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": url(package),
        "name": package.name,
        "version": package.version,
    });
    let mut set = |key: &str, value: Value| {
        if let Some(fields) = component.as_object_mut() {
            fields.insert(key.to_owned(), value);
        }
    };
    if let Some(license) = &package.license {
        set("licenses", json!([{ "expression": license.replace('/', " OR ") }]));
    }
    // A package of the workspace has neither a sum nor a place of its own.
    if package.source.is_some() {
        set("purl", url(package).into());
    }
    if let Some(sum) = sums.get(&(package.name.clone(), package.version.clone())) {
        set("hashes", json!([{ "alg": "SHA-256", "content": sum }]));
    }
    component
}

fn url(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// The hashes of `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    let lock: toml::Table =
        lock.parse().map_err(|error| Error::refused(format!("Cargo.lock: {error}")))?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let text = |package: &toml::Value, key: &str| {
        package.get(key).and_then(toml::Value::as_str).map(str::to_owned)
    };
    Ok(packages
        .into_iter()
        .flatten()
        .filter_map(|package| {
            let name = (text(package, "name")?, text(package, "version")?);
            Some((name, text(package, "checksum")?))
        })
        .collect())
}
