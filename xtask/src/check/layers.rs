//! R1 and R2: who may depend on whom.
//!
//! The tables are the architecture; changing one is a decision, not a fix.

use super::Finding;
use crate::workspace::{Metadata, Package};

/// A member and the members it may depend on: normally, and in tests besides.
struct Layer {
    name: &'static str,
    normal: &'static [&'static str],
    tests: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer { name: "mvm-core", normal: &[], tests: &[] },
    Layer { name: "mvm-proto", normal: &[], tests: &[] },
    Layer { name: "mvm-archive", normal: &[], tests: &[] },
    Layer { name: "mvm-guest", normal: &["mvm-archive", "mvm-proto"], tests: &[] },
    Layer {
        name: "mvm-host",
        normal: &["mvm-core", "mvm-pager", "mvm-proto", "mvm-shim"],
        tests: &["mvm-sim"],
    },
    Layer { name: "mvm-build", normal: &["mvm-core", "mvm-proto"], tests: &[] },
    Layer { name: "mvm-engine", normal: &["mvm-core"], tests: &["mvm-sim"] },
    Layer { name: "mvm-fleet", normal: &["mvm-core", "mvm-engine"], tests: &["mvm-sim"] },
    Layer {
        name: "mvm-sim",
        normal: &["mvm-core", "mvm-proto"],
        tests: &["mvm-engine", "mvm-fleet"],
    },
    Layer {
        name: "mvm",
        normal: &["mvm-archive", "mvm-core", "mvm-engine", "mvm-host", "mvm-build", "mvm-fleet"],
        tests: &["mvm-sim"],
    },
    Layer { name: "mvm-cli", normal: &["mvm"], tests: &["mvm-sim"] },
    Layer { name: "mvm-pager", normal: &[], tests: &[] },
    Layer { name: "mvm-shim", normal: &["mvm-core", "mvm-proto"], tests: &[] },
];

/// Members that are free: never shipped.
const FREE: &[&str] = &["xtask", "mvm-bench"];

/// Members whose manifest proves that they are pure, and all they may use from outside.
const PURE: &[&str] = &["mvm-core", "mvm-proto"];
const PURE_DEPENDENCIES: &[&str] = &["serde", "serde_json", "thiserror"];

/// Checks every member against the tables.
pub(super) fn check(metadata: &Metadata) -> Vec<Finding> {
    let members: Vec<&str> = metadata.members().map(|member| member.name.as_str()).collect();
    metadata.members().flat_map(|member| check_member(member, &members)).collect()
}

fn check_member(member: &Package, members: &[&str]) -> Vec<Finding> {
    let name = member.name.as_str();
    if FREE.contains(&name) {
        return Vec::new();
    }
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        return vec![Finding::error("R1", format!("{name} has no place in the table of layers"))];
    };
    let mut findings = Vec::new();
    for dependency in &member.dependencies {
        let other = dependency.name.as_str();
        let is_test = dependency.kind.as_deref() == Some("dev");
        if members.contains(&other) {
            let is_fine =
                layer.normal.contains(&other) || (is_test && layer.tests.contains(&other));
            if !is_fine {
                findings.push(Finding::error("R1", format!("{name} must not depend on {other}")));
            }
        } else if PURE.contains(&name) && !is_test && !PURE_DEPENDENCIES.contains(&other) {
            findings.push(Finding::error("R2", format!("{name} is pure and must not use {other}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        Package {
            id: name.into(),
            name: name.into(),
            version: "0.1.0".into(),
            license: None,
            source: None,
            manifest_path: "Cargo.toml".into(),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).into(),
                    kind: kind.map(str::to_owned),
                })
                .collect(),
            targets: Vec::new(),
        }
    }

    fn rules(member: &Package) -> Vec<&'static str> {
        let members = ["mvm", "mvm-core", "mvm-engine", "mvm-sim", "mvm-cli"];
        check_member(member, &members).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn the_command_line_sees_only_the_facade() {
        assert_eq!(rules(&package("mvm-cli", &[("mvm", None), ("clap", None)])), [""; 0]);
        assert_eq!(rules(&package("mvm-cli", &[("mvm-core", None)])), ["R1"]);
    }

    #[test]
    fn the_simulation_may_be_used_by_tests_only() {
        assert_eq!(rules(&package("mvm-engine", &[("mvm-sim", Some("dev"))])), [""; 0]);
        assert_eq!(rules(&package("mvm-engine", &[("mvm-sim", None)])), ["R1"]);
    }

    #[test]
    fn the_core_may_test_with_anything_and_ship_only_what_is_pure() {
        let core = package("mvm-core", &[("serde", None), ("proptest", Some("dev"))]);
        assert_eq!(rules(&core), [""; 0]);
        assert_eq!(rules(&package("mvm-core", &[("libc", None)])), ["R2"]);
    }

    #[test]
    fn a_member_without_a_layer_is_refused() {
        assert_eq!(rules(&package("mvm-extra", &[])), ["R1"]);
    }
}
