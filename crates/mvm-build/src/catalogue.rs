//! The catalogue: every downloadable asset, pinned, with the places that have it.
//!
//! A table of data and its reader. It knows neither how to download nor where the files go; next
//! read `fetch` and `assets`. The table that ships is `catalogue.toml`, the versions of the
//! default image's packages are in `default-image.lock`, those of the builder's in `builder-image.lock`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
use crate::source::Source;

const BUILT_IN: &str = include_str!("catalogue.toml");
const BUILT_IN_LOCK: &str = include_str!("default-image.lock");
const BUILDER_LOCK: &str = include_str!("builder-image.lock");

/// A processor architecture, by the name the kernel uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// The architecture this program was compiled for, if it is one that `mvm` knows.
    #[must_use]
    pub fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// The kernel's name: `x86_64` or `aarch64`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Debian's name: `amd64` or `arm64`.
    #[must_use]
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// What an asset is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssetKind {
    /// The virtual machine monitor and its jailer.
    Vmm,
    /// A guest kernel, ready to be booted.
    Kernel,
}

/// A set of files that belong together under one version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asset {
    /// The asset's name, such as `firecracker`.
    pub name: String,
    /// Its version, without a leading `v`.
    pub version: String,
    /// What it runs on.
    pub arch: Arch,
    /// What it is for.
    pub kind: AssetKind,
    /// Its files.
    #[serde(rename = "file")]
    pub files: Vec<AssetFile>,
}

/// One downloadable file: what it must be, and where it may come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssetFile {
    /// The name it gets on disk; no path.
    pub name: String,
    /// Whether it is a program.
    #[serde(default)]
    pub executable: bool,
    /// Its length in bytes, which also caps what is read from a source.
    pub size: u64,
    /// Its digest.
    pub sha256: ContentHash,
    /// Where to get it, in the order to try; never empty.
    pub sources: Vec<Source>,
}

/// Packages that make a guest's user space, and its kernel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageSet {
    /// The set's name.
    pub name: String,
    /// What it runs on.
    pub arch: Arch,
    /// Names of Debian packages, libraries included: nothing is resolved beyond this list.
    pub packages: Vec<String>,
    /// A package that depends on the current kernel package of its family.
    pub kernel: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueFile {
    schema: u32,
    #[serde(default, rename = "asset")]
    assets: Vec<Asset>,
    #[serde(default, rename = "package_set")]
    package_sets: Vec<PackageSet>,
}

/// The parsed table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    assets: Vec<Asset>,
    package_sets: Vec<PackageSet>,
}

/// What is wrong with a catalogue or a lock file, or with a question to it.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The text is not the TOML that is expected; line, column and key are in the source.
    #[error("cannot read the {what}")]
    Syntax {
        /// Which text.
        what: &'static str,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A schema number other than 1.
    #[error("the {what} has schema {found}, this program reads schema 1")]
    Schema {
        /// Which text.
        what: &'static str,
        /// The number found.
        found: u32,
    },
    /// Two entries under one name, version and architecture.
    #[error("the catalogue lists {0} twice")]
    Duplicate(String),
    /// A file without any source.
    #[error("the catalogue has no source for {0}")]
    NoSource(String),
    /// A name that is not a plain file name.
    #[error("the catalogue has a file name that is a path: {0:?}")]
    FileName(String),
    /// Nothing by that name, version and architecture.
    #[error("the catalogue has no {name} {version} for {arch}; it has {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The version asked for.
        version: String,
        /// The architecture asked for.
        arch: &'static str,
        /// The versions there are, or `none`.
        known: String,
    },
}

impl Catalogue {
    /// The catalogue that ships with this program.
    ///
    /// # Errors
    /// When the embedded text is malformed, which a test rules out.
    pub fn built_in() -> Result<Self, CatalogueError> {
        Self::parse(BUILT_IN)
    }

    /// Reads a catalogue.
    ///
    /// # Errors
    /// When the text is not valid TOML of schema 1, or is contradictory.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let what = "catalogue";
        let file: CatalogueFile = toml::from_str(text)
            .map_err(|source| CatalogueError::Syntax { what, source: Box::new(source) })?;
        if file.schema != 1 {
            return Err(CatalogueError::Schema { what, found: file.schema });
        }
        let mut seen = BTreeSet::new();
        for asset in &file.assets {
            let key = format!("{} {} for {}", asset.name, asset.version, asset.arch.as_str());
            for file in &asset.files {
                check_file(file)?;
            }
            if !seen.insert(key.clone()) {
                return Err(CatalogueError::Duplicate(key));
            }
        }
        for set in &file.package_sets {
            let key = format!("the package set {} for {}", set.name, set.arch.as_str());
            if !seen.insert(key.clone()) {
                return Err(CatalogueError::Duplicate(key));
            }
        }
        Ok(Self { assets: file.assets, package_sets: file.package_sets })
    }

    /// The asset with this name, version and architecture.
    ///
    /// # Errors
    /// [`CatalogueError::Unknown`] when there is none.
    pub fn asset(&self, name: &str, version: &str, arch: Arch) -> Result<&Asset, CatalogueError> {
        let of_name = || self.assets.iter().filter(|a| a.name == name && a.arch == arch);
        of_name().find(|asset| asset.version == version).ok_or_else(|| {
            unknown(name, version, arch, of_name().map(|asset| asset.version.as_str()).collect())
        })
    }

    /// The package set with this name and architecture.
    ///
    /// # Errors
    /// [`CatalogueError::Unknown`] when there is none.
    pub fn package_set(&self, name: &str, arch: Arch) -> Result<&PackageSet, CatalogueError> {
        self.package_sets
            .iter()
            .find(|set| set.name == name && set.arch == arch)
            .ok_or_else(|| unknown(name, "package set", arch, Vec::new()))
    }

    /// All assets, in the order of the table.
    #[must_use]
    pub fn assets(&self) -> &[Asset] {
        &self.assets
    }
}

fn unknown(name: &str, version: &str, arch: Arch, known: Vec<&str>) -> CatalogueError {
    CatalogueError::Unknown {
        name: name.to_owned(),
        version: version.to_owned(),
        arch: arch.as_str(),
        known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
    }
}

fn check_file(file: &AssetFile) -> Result<(), CatalogueError> {
    if file.name.is_empty() || file.name.contains('/') || file.name.starts_with('.') {
        return Err(CatalogueError::FileName(file.name.clone()));
    }
    if file.sources.is_empty() {
        return Err(CatalogueError::NoSource(file.name.clone()));
    }
    Ok(())
}

/// One Debian package, exactly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The length of the `.deb` in bytes.
    pub size: u64,
    /// The digest of the `.deb`.
    pub sha256: ContentHash,
}

/// The exact packages of a package set, as a checked-in lock file names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageLock {
    /// Always 1.
    pub schema: u32,
    /// What the packages run on.
    pub arch: Arch,
    /// The packages of the user space.
    #[serde(rename = "package")]
    pub packages: Vec<LockedPackage>,
    /// The kernel's package.
    pub kernel: LockedPackage,
}

impl PackageLock {
    /// The lock of the default image that ships with this program.
    ///
    /// # Errors
    /// When the embedded text is malformed, which a test rules out.
    pub fn built_in() -> Result<Self, CatalogueError> {
        Self::parse(BUILT_IN_LOCK)
    }

    /// The lock of the builder image that ships with this program.
    ///
    /// # Errors
    /// As [`PackageLock::built_in`].
    pub fn of_builder() -> Result<Self, CatalogueError> {
        Self::parse(BUILDER_LOCK)
    }

    /// Reads a lock file.
    ///
    /// # Errors
    /// When the text is not valid TOML of schema 1.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let what = "package lock";
        let lock: Self = toml::from_str(text)
            .map_err(|source| CatalogueError::Syntax { what, source: Box::new(source) })?;
        if lock.schema != 1 {
            return Err(CatalogueError::Schema { what, found: lock.schema });
        }
        Ok(lock)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn the_built_in_catalogue_and_locks_agree_on_the_packages() {
        let catalogue = Catalogue::built_in().unwrap();
        let locks = [
            ("default-image", PackageLock::built_in().unwrap()),
            ("builder-image", PackageLock::of_builder().unwrap()),
        ];
        for (name, lock) in locks {
            let set = catalogue.package_set(name, Arch::X86_64).unwrap();
            let locked: Vec<_> = lock.packages.iter().map(|p| p.name.clone()).collect();
            assert_eq!(locked, set.packages);
            assert!(lock.kernel.name.starts_with("linux-image-"));
        }
    }

    #[test]
    fn firecracker_and_jailer_are_pinned_with_two_sources_each() {
        let catalogue = Catalogue::built_in().unwrap();
        let asset = catalogue.asset("firecracker", "1.12.1", Arch::X86_64).unwrap();
        let names: Vec<_> = asset.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["firecracker", "jailer"]);
        assert!(asset.files.iter().all(|f| f.executable && f.sources.len() == 2));
    }

    #[test]
    fn an_unknown_version_names_the_ones_there_are() {
        let error = Catalogue::built_in()
            .unwrap()
            .asset("firecracker", "0.1.0", Arch::X86_64)
            .unwrap_err()
            .to_string();
        assert!(error.contains("1.12.1"), "{error}");
    }

    #[test]
    fn unknown_keys_duplicates_paths_and_foreign_schemas_are_refused() {
        let parse = |text: &str| Catalogue::parse(text).unwrap_err();
        assert!(matches!(parse("schema = 2"), CatalogueError::Schema { found: 2, .. }));
        assert!(matches!(parse("schema = 1\nx = 1"), CatalogueError::Syntax { .. }));
        assert!(matches!(
            parse(&format!("{BUILT_IN}\n{}", BUILT_IN.replace("schema = 1", ""))),
            CatalogueError::Duplicate(_)
        ));
        assert!(matches!(
            parse(&BUILT_IN.replace("name = \"jailer\"", "name = \"../jailer\"")),
            CatalogueError::FileName(_)
        ));
    }
}
