//! Rules about manifests: every member opts in to the workspace's lints; no `anyhow` (R14).

use std::fs;
use std::path::PathBuf;

use super::Finding;
use crate::error::{Act, Error, Result};
use crate::workspace::Metadata;

/// One member's manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    content: toml::Table,
}

/// The manifests of all members.
pub(super) fn read(metadata: &Metadata) -> Result<Vec<Manifest>> {
    metadata
        .members()
        .map(|member| {
            let path = member.manifest_path.clone();
            let text = fs::read_to_string(&path).act(|| format!("read {}", path.display()))?;
            let content = text
                .parse()
                .map_err(|error| Error::refused(format!("{}: {error}", path.display())))?;
            Ok(Manifest { path, content })
        })
        .collect()
}

/// Checks all manifests.
pub(super) fn check(manifests: &[Manifest]) -> Vec<Finding> {
    manifests.iter().flat_map(check_one).collect()
}

fn check_one(manifest: &Manifest) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lints = manifest.content.get("lints").and_then(|lints| lints.get("workspace"));
    if lints.and_then(toml::Value::as_bool) != Some(true) {
        let text = format!("{}: no [lints] workspace = true", manifest.path.display());
        findings.push(Finding::error("lints", text));
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let table = manifest.content.get(section).and_then(toml::Value::as_table);
        for name in ["anyhow", "eyre", "color-eyre"] {
            if table.is_some_and(|table| table.contains_key(name)) {
                let text = format!("{}: {name} hides what went wrong", manifest.path.display());
                findings.push(Finding::error("R14", text));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    fn rules(text: &str) -> Vec<&'static str> {
        let manifest = Manifest { path: "Cargo.toml".into(), content: text.parse().unwrap() };
        check_one(&manifest).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_manifest_must_opt_in_to_the_lints() {
        assert_eq!(rules("[lints]\nworkspace = true\n"), [""; 0]);
        assert_eq!(rules("[lints.rust]\nunsafe_code = 'deny'\n"), ["lints"]);
    }

    #[test]
    fn anyhow_is_refused_in_every_section() {
        let text = "[lints]\nworkspace = true\n[dev-dependencies]\nanyhow = '1'\n";
        assert_eq!(rules(text), ["R14"]);
    }
}
