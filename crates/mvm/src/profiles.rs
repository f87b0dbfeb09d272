//! `mvm-profiles.toml`: what a flake says itself of the profiles and roles that it has.
//!
//! ```toml
//! [meta]
//! version = 1
//! [profiles.minimal]
//! module = "profiles/minimal.nix"
//! [roles.worker]
//! module = "roles/worker.nix"
//! requires_config_drive = true
//! requires_secrets_drive = true
//! ```
//!
//! It lets a build be refused before a builder is made. Both drives are in every instance, so what a role
//! requires is always there. What the modules say is Nix's.

use std::path::{Component, Path};

use mvm_core::{
    document::{Findings, below, present},
    error::{Error, ErrorKind},
    pool::Role,
};
use serde_json::{Map, Value};

/// The file beside `flake.nix`.
pub(crate) const FILE: &str = "mvm-profiles.toml";
/// The version that is read here.
const VERSION: u64 = 1;

/// Checks the file, and that it has what is asked for; `has` says whether the flake has a file.
///
/// # Errors
/// `Invalid` with one cause for each finding.
pub(crate) fn check(
    bytes: &[u8],
    has: &dyn Fn(&Path) -> bool,
    profile: &str,
    role: &Role,
) -> Result<(), Error> {
    let wrong = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Invalid, format!("cannot read {FILE}: {error}"))
    };
    let text = std::str::from_utf8(bytes).map_err(|error| wrong(&error))?;
    let document: Value =
        toml::from_str(text).map_err(|error| wrong(&crate::manifest::where_in(text, &error)))?;
    let mut findings = Findings::new();
    let Some(map) = findings.object(&document, "", &["meta", "profiles", "roles"]) else {
        return findings.settle(FILE);
    };
    if let Some(meta) = findings.needed(map, "", "meta")
        && let Some(meta) = findings.object(meta, "meta", &["version"])
        && let Some(version) = findings.needed(meta, "meta", "version")
        && version.as_u64() != Some(VERSION)
    {
        findings.add("meta.version", format!("is {version}, and {VERSION} is read here"));
    }
    let profiles = findings.needed(map, "", "profiles").cloned().unwrap_or_default();
    let roles = present(map, "roles").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let drives = ["requires_config_drive", "requires_secrets_drive"];
    let named = (
        entries(&profiles, "profiles", &[], has, &mut findings),
        entries(&roles, "roles", &drives, has, &mut findings),
    );
    for role in &named.1 {
        if role.parse::<Role>().is_err() {
            findings.add(below("roles", role), "is not a role");
        }
    }
    findings.settle(FILE)?;
    let (profiles, roles) = named;
    if !profiles.iter().any(|one| one == profile) {
        return Err(missing("profile", profile, &profiles));
    }
    let role = role.to_string();
    if !roles.is_empty() && !roles.contains(&role) {
        return Err(missing("role", &role, &roles));
    }
    Ok(())
}

fn missing(what: &str, name: &str, known: &[String]) -> Error {
    let message = format!("the flake has no {what} {name}: {FILE} has {}", known.join(", "));
    Error::new(ErrorKind::Invalid, message)
        .hint(format!("choose one of them: mvm pool update <tenant>/<pool> --{what} …"))
}

/// The names of a table's entries, each with a module of the flake and some switches.
fn entries(
    table: &Value,
    at: &str,
    switches: &[&'static str],
    has: &dyn Fn(&Path) -> bool,
    findings: &mut Findings,
) -> Vec<String> {
    let Value::Object(table) = table else {
        findings.add(at, "must be a table");
        return Vec::new();
    };
    for (name, value) in table {
        let at = below(at, name);
        let keys: Vec<&'static str> =
            ["module"].into_iter().chain(switches.iter().copied()).collect();
        let Some(entry) = findings.object(value, &at, &keys) else { continue };
        if let Some(module) = findings.needed(entry, &at, "module") {
            let at = below(&at, "module");
            if let Some(path) = findings.text(module, &at).map(Path::new) {
                let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
                if !is_inside || !has(path) {
                    findings.add(at, format!("{} is no file of the flake", path.display()));
                }
            }
        }
        for switch in switches {
            if let Some(value) = present(entry, switch) {
                findings.flag(value, &below(&at, switch));
            }
        }
    }
    table.keys().cloned().collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    const GOOD: &str = "[meta]\nversion = 1\n[profiles.minimal]\nmodule = \"a.nix\"\n\
                        [roles.worker]\nmodule = \"a.nix\"\nrequires_secrets_drive = true\n";

    fn checked(text: &str, profile: &str, role: &Role) -> Result<(), Error> {
        check(text.as_bytes(), &|path| path == Path::new("a.nix"), profile, role)
    }

    #[test]
    fn a_profile_and_a_role_that_the_flake_has_are_taken() {
        checked(GOOD, "minimal", &Role::Worker).unwrap();
        let bare = "[meta]\nversion = 1\n[profiles.minimal]\nmodule = \"a.nix\"\n";
        checked(bare, "minimal", &Role::Gateway).unwrap();
    }

    #[test]
    fn what_the_flake_does_not_have_is_refused_with_what_it_has() {
        let error = checked(GOOD, "large", &Role::Worker).unwrap_err();
        assert!(error.message.ends_with("has minimal"), "{error}");
        let error = checked(GOOD, "minimal", &Role::Gateway).unwrap_err();
        assert!(error.message.ends_with("has worker"), "{error}");
    }

    #[test]
    fn every_finding_is_told_with_its_place() {
        let findings = |text: &str| {
            let error = checked(text, "minimal", &Role::Worker).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
            error.to_string() + &error.causes.join("\n")
        };
        for (text, place) in [
            (GOOD.replace("version = 1", "version = 2"), "meta.version"),
            (GOOD.replace("\"a.nix\"\n[roles", "\"b.nix\"\n[roles"), "profiles.minimal.module"),
            (GOOD.replace("\"a.nix\"\n[roles", "\"../a.nix\"\n[roles"), "profiles.minimal.module"),
            (GOOD.replace("roles.worker", "roles.wrong"), "roles.wrong"),
            (GOOD.replace("= true", "= 1"), "roles.worker.requires_secrets_drive"),
            (GOOD.replace("requires_secrets", "require_secrets"), "require_secrets_drive"),
            (GOOD.replace("[meta]\nversion = 1\n", ""), "meta"),
            ("[meta".to_owned(), "line 1"),
        ] {
            let found = findings(&text);
            assert!(found.contains(place), "{place}: {found}");
        }
    }
}
