//! `deny.toml`: the policy on dependencies, in the subset of cargo-deny's format that we read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Act, Error, Result};

/// The whole file; unknown keys belong to cargo-deny.
#[derive(Debug, Deserialize)]
pub(crate) struct Policy {
    /// What licences are fine.
    pub(crate) licenses: Licenses,
    /// What packages are not.
    pub(crate) bans: Bans,
    /// Where packages may come from.
    pub(crate) sources: Sources,
}

/// `[licenses]`
#[derive(Debug, Deserialize)]
pub(crate) struct Licenses {
    /// SPDX names, each fine by itself.
    pub(crate) allow: BTreeSet<String>,
    /// Further names for single packages.
    #[serde(default)]
    pub(crate) exceptions: Vec<Exception>,
}

/// `[[licenses.exceptions]]`
#[derive(Debug, Deserialize)]
pub(crate) struct Exception {
    /// The package's name.
    #[serde(rename = "crate")]
    pub(crate) package: String,
    /// What is fine there.
    pub(crate) allow: BTreeSet<String>,
}

/// `[bans]`
#[derive(Debug, Deserialize)]
pub(crate) struct Bans {
    /// Packages that nobody, or only some, may depend on.
    #[serde(default)]
    pub(crate) deny: Vec<Ban>,
}

/// `[[bans.deny]]`
#[derive(Debug, Deserialize)]
pub(crate) struct Ban {
    /// The package's name.
    #[serde(rename = "crate")]
    pub(crate) package: String,
    /// The only packages that may depend on it.
    #[serde(default)]
    pub(crate) wrappers: BTreeSet<String>,
    /// Why.
    #[serde(default)]
    pub(crate) reason: String,
}

/// `[sources]`
#[derive(Debug, Deserialize)]
pub(crate) struct Sources {
    /// Registries, as cargo names them without the `registry+`.
    #[serde(default, rename = "allow-registry")]
    pub(crate) allow_registry: BTreeSet<String>,
}

/// Reads the policy of the workspace.
pub(super) fn read(root: &Path) -> Result<Policy> {
    let path = root.join("deny.toml");
    let text = fs::read_to_string(&path).act(|| format!("read {}", path.display()))?;
    toml::from_str(&text).map_err(|error| Error::refused(format!("{}: {error}", path.display())))
}
