//! The policy of `deny.toml` over the resolved graph: licences, bans with wrappers (R15), sources,
//! duplicates.
//!
//! Duplicates are reported, not failed: they are mostly other people's to solve.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::policy::{Licenses, Policy};
use crate::workspace::{Metadata, Package};

/// Checks every package of the graph.
pub(super) fn check(metadata: &Metadata, policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &metadata.packages {
        findings.extend(check_license(package, &policy.licenses));
        findings.extend(check_source(package, &policy.sources.allow_registry));
    }
    findings.extend(check_bans(metadata, policy));
    findings.extend(check_duplicates(&metadata.packages));
    findings
}

fn check_license(package: &Package, licenses: &Licenses) -> Option<Finding> {
    let name = &package.name;
    let Some(expression) = &package.license else {
        return Some(Finding::error("licences", format!("{name} names no licence")));
    };
    let exception = licenses.exceptions.iter().find(|exception| exception.package == *name);
    let is_fine = |license: &str| {
        licenses.allow.contains(license)
            || exception.is_some_and(|exception| exception.allow.contains(license))
    };
    (!is_satisfied(expression, &is_fine))
        .then(|| Finding::error("licences", format!("{name} is under {expression}")))
}

/// Whether an SPDX expression can be met with licences that are fine.
///
/// `OR` needs one side, `AND` both, `X WITH Y` is one name; `AND` binds tighter than `OR`. The old
/// `/` means `OR`. An expression that cannot be parsed is not met.
fn is_satisfied(expression: &str, is_fine: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let is_met = any_of(&mut rest, is_fine);
    is_met && rest.is_empty()
}

fn any_of(words: &mut &[&str], is_fine: &dyn Fn(&str) -> bool) -> bool {
    let mut is_met = all_of(words, is_fine);
    while let Some((&"OR", rest)) = words.split_first() {
        *words = rest;
        is_met |= all_of(words, is_fine);
    }
    is_met
}

fn all_of(words: &mut &[&str], is_fine: &dyn Fn(&str) -> bool) -> bool {
    let mut is_met = one(words, is_fine);
    while let Some((&"AND", rest)) = words.split_first() {
        *words = rest;
        is_met &= one(words, is_fine);
    }
    is_met
}

fn one(words: &mut &[&str], is_fine: &dyn Fn(&str) -> bool) -> bool {
    let Some((&first, rest)) = words.split_first() else { return false };
    *words = rest;
    if first == "(" {
        let is_met = any_of(words, is_fine);
        let Some((&")", rest)) = words.split_first() else { return false };
        *words = rest;
        return is_met;
    }
    if let [with, exception, rest @ ..] = *words
        && *with == "WITH"
    {
        *words = rest;
        return is_fine(&format!("{first} WITH {exception}"));
    }
    is_fine(first)
}

/// A member has no source; everything else comes from a listed registry, or from cargo's own when
/// none is listed (another one would need a configuration that a reviewer sees).
fn check_source(package: &Package, registries: &BTreeSet<String>) -> Option<Finding> {
    let source = package.source.as_deref()?;
    let is_allowed = source
        .strip_prefix("registry+")
        .is_some_and(|registry| registries.is_empty() || registries.contains(registry));
    (!is_allowed).then(|| Finding::error("sources", format!("{} is from {source}", package.name)))
}

/// A banned package may be used by its wrappers and in tests.
fn check_bans(metadata: &Metadata, policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in &metadata.resolve.nodes {
        let user = metadata.name_of(&node.id).unwrap_or_default();
        for edge in &node.deps {
            let used = metadata.name_of(&edge.pkg).unwrap_or_default();
            let is_shipped = edge.dep_kinds.iter().any(|role| role.kind.as_deref() != Some("dev"));
            let ban = policy.bans.deny.iter().find(|ban| ban.package == used);
            if let Some(ban) = ban.filter(|ban| is_shipped && !ban.wrappers.contains(user)) {
                let text = format!("{user} must not use {used}: {}", ban.reason);
                findings.push(Finding::error("R15", text));
            }
        }
    }
    findings
}

fn check_duplicates(packages: &[Package]) -> Vec<Finding> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    versions
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| {
            let list = versions.into_iter().collect::<Vec<_>>().join(", ");
            Finding::warning("duplicates", format!("{name} {list}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_met(expression: &str) -> bool {
        is_satisfied(expression, &|name| {
            ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].contains(&name)
        })
    }

    #[test]
    fn an_expression_is_met_as_spdx_reads_it() {
        assert!(is_met("MIT OR GPL-3.0") && is_met("GPL-3.0/MIT"));
        assert!(is_met("Apache-2.0 WITH LLVM-exception"));
        assert!(is_met("(GPL-3.0 OR MIT) AND Apache-2.0"));
        assert!(is_met("GPL-3.0 AND Zlib OR MIT"));
    }

    #[test]
    fn an_expression_is_not_met_by_half_of_an_and_or_by_a_typing_error() {
        assert!(!is_met("MIT AND GPL-3.0") && !is_met("GPL-3.0"));
        assert!(!is_met("Zlib WITH LLVM-exception"));
        assert!(!is_met("(MIT") && !is_met("MIT)") && !is_met("") && !is_met("MIT MIT"));
    }

    #[test]
    fn only_listed_registries_are_sources() {
        let registries = BTreeSet::from(["https://one".to_owned()]);
        let mut package = Package {
            id: "a".into(),
            name: "a".into(),
            version: "1.0.0".into(),
            license: None,
            source: Some("registry+https://one".into()),
            manifest_path: "Cargo.toml".into(),
            dependencies: Vec::new(),
            targets: Vec::new(),
        };
        assert_eq!(check_source(&package, &registries), None);
        assert_eq!(check_source(&package, &BTreeSet::new()), None);
        package.source = Some("registry+https://two".into());
        assert!(check_source(&package, &registries).is_some());
        package.source = Some("git+https://one".into());
        assert!(check_source(&package, &registries).is_some());
        assert!(check_source(&package, &BTreeSet::new()).is_some());
    }
}
