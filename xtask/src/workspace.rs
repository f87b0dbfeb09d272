//! Where the workspace is and what its packages are, by way of `cargo metadata`.
//!
//! Knows nothing about rules; those are in `check`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::tool;

/// The workspace's root directory.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The running toolchain's cargo, started in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The part of `cargo metadata` that the tasks read.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    /// Every package of the resolved graph.
    pub(crate) packages: Vec<Package>,
    /// Package ids of the members.
    pub(crate) workspace_members: BTreeSet<String>,
    /// Where cargo puts what it builds.
    pub(crate) target_directory: PathBuf,
    /// Who really uses whom, features considered.
    pub(crate) resolve: Resolve,
}

/// The resolved graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Resolve {
    /// One node per package.
    pub(crate) nodes: Vec<Node>,
}

/// A package in the graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    /// The package's id.
    pub(crate) id: String,
    /// What it uses.
    pub(crate) deps: Vec<Edge>,
}

/// One use of a package by another.
#[derive(Debug, Deserialize)]
pub(crate) struct Edge {
    /// The used package's id.
    pub(crate) pkg: String,
    /// In which roles.
    pub(crate) dep_kinds: Vec<Role>,
}

/// A role of a dependency.
#[derive(Debug, Deserialize)]
pub(crate) struct Role {
    /// `None` for normal, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

/// One package.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Unique id.
    pub(crate) id: String,
    /// Name.
    pub(crate) name: String,
    /// Version.
    pub(crate) version: String,
    /// SPDX expression.
    pub(crate) license: Option<String>,
    /// Registry or repository; `None` for a path.
    pub(crate) source: Option<String>,
    /// Its `Cargo.toml`.
    pub(crate) manifest_path: PathBuf,
    /// What its manifest asks for.
    pub(crate) dependencies: Vec<Dependency>,
    /// What it builds.
    pub(crate) targets: Vec<Target>,
}

/// One line of a manifest's dependencies.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// `None` for normal, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

/// One thing a package builds.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    /// The file's name for a program.
    pub(crate) name: String,
    /// `bin`, `lib`, `test` …
    pub(crate) kind: Vec<String>,
}

impl Metadata {
    /// The members of the workspace.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// The name of the package with this id.
    pub(crate) fn name_of(&self, id: &str) -> Option<&str> {
        self.packages.iter().find(|package| package.id == id).map(|package| package.name.as_str())
    }

    /// A member by name.
    pub(crate) fn member(&self, name: &str) -> Option<&Package> {
        self.members().find(|package| package.name == name)
    }
}

/// The metadata of this workspace for the platform we ship on.
pub(crate) fn metadata() -> Result<Metadata> {
    let mut command = cargo();
    command.args(["metadata", "--format-version=1", "--locked"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let text = tool::capture(&mut command)?;
    serde_json::from_str(&text)
        .map_err(|source| Error::Json { what: "the output of cargo metadata".into(), source })
}
