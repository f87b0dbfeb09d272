//! The JSON documents of OCI images, and of Docker's, which came first: indexes, manifests,
//! configurations.
//!
//! Unknown fields are passed over, as the specification asks. It reads what is in a document, and
//! refuses to know where it came from.

use std::collections::BTreeMap;

use mvm_proto::workload::{Restart, Service, Workload};
use serde::Deserialize;

use super::OciError;
use crate::catalogue::Arch;
use crate::fetch::Pinned;
use crate::hash::ContentHash;

/// Most layers, and most manifests of an index.
const LAYERS_MAX: usize = 256;
const MANIFESTS_MAX: usize = 1024;
/// The name of the only service of an image.
const SERVICE: &str = "main";

/// A reference to bytes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

impl Descriptor {
    /// The length and digest of the bytes.
    pub(crate) fn pinned(&self) -> Result<Pinned, OciError> {
        let hex = self.digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
        let sha256 =
            hex.ok_or_else(|| OciError::Digest(self.digest.chars().take(100).collect()))?;
        Ok(Pinned { size: self.size, sha256 })
    }

    fn is_for(&self, arch: Arch) -> bool {
        self.platform
            .as_ref()
            .is_none_or(|found| found.os == "linux" && found.architecture == arch.debian())
    }
}

/// What a manifest says.
#[derive(Debug)]
pub(crate) enum Document {
    /// One image: its configuration and its layers, the lowest first.
    Image { config: Descriptor, layers: Vec<Descriptor> },
    /// The manifest of the image for the wanted platform.
    Index(Descriptor),
}

#[derive(Deserialize)]
struct AnyManifest {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads a manifest or an index.
    pub(crate) fn read(bytes: &[u8], arch: Arch) -> Result<Self, OciError> {
        let any: AnyManifest = json("manifest", bytes)?;
        match (any.config, any.layers, any.manifests) {
            (Some(config), Some(layers), None) => {
                if layers.len() > LAYERS_MAX {
                    return Err(OciError::Layers(layers.len()));
                }
                let kind = |layer: &Descriptor| layer.media_type.clone();
                let is_foreign = |kind: &String| {
                    kind.contains("foreign")
                        || kind.contains("nondistributable")
                        || kind.contains("encrypted")
                };
                match layers.iter().map(kind).find(is_foreign) {
                    Some(kind) => Err(OciError::LayerKind(kind)),
                    None => Ok(Self::Image { config, layers }),
                }
            }
            (None, None, Some(all)) if all.len() <= MANIFESTS_MAX => {
                let mut fitting = all.iter().filter(|one| one.is_for(arch));
                let first = fitting.next().ok_or_else(|| OciError::NoPlatform {
                    arch: arch.debian(),
                    found: platforms(&all),
                })?;
                if first.platform.is_none() && fitting.next().is_some() {
                    return Err(OciError::Ambiguous(all.len()));
                }
                Ok(Self::Index(first.clone()))
            }
            // Also what could be read as both, which two programs would read in two ways.
            _ => Err(OciError::Manifest),
        }
    }
}

fn platforms(all: &[Descriptor]) -> String {
    let named = all.iter().filter_map(|one| one.platform.as_ref());
    let mut names: Vec<String> =
        named.map(|found| format!("{}/{}", found.os, found.architecture)).collect();
    names.dedup();
    names.truncate(20);
    names.join(", ")
}

/// An entry of the `manifest.json` that `docker save` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    pub(crate) layers: Vec<String>,
}

/// The configuration of an image.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<Run>,
    rootfs: Option<RootFs>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Config {
    /// Reads a configuration, which must be one for Linux on `arch`.
    pub(crate) fn read(bytes: &[u8], arch: Arch) -> Result<Self, OciError> {
        let config: Self = json("configuration", bytes)?;
        if config.os != "linux" || config.architecture != arch.debian() {
            let found = format!("{}/{}", config.os, config.architecture);
            return Err(OciError::NoPlatform { arch: arch.debian(), found });
        }
        Ok(config)
    }

    /// The digests of the layers, unpacked, the lowest first.
    pub(crate) fn diff_ids(&self) -> Result<Vec<ContentHash>, OciError> {
        let all = self.rootfs.iter().flat_map(|root| &root.diff_ids);
        let read = |text: &String| {
            let hex = text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
            hex.ok_or_else(|| OciError::Digest(text.chars().take(100).collect()))
        };
        all.map(read).collect()
    }

    /// What the image runs; none when it says nothing.
    pub(crate) fn workload(&self) -> Result<Option<Workload>, OciError> {
        let Some(run) = &self.config else { return Ok(None) };
        let words = [&run.entrypoint, &run.cmd].into_iter().flatten().flatten();
        let argv: Vec<String> = words.cloned().collect();
        if argv.first().is_none_or(String::is_empty) {
            return Ok(None);
        }
        let pairs = run.env.iter().flatten().filter_map(|pair| pair.split_once('='));
        let env: BTreeMap<String, String> = pairs
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let user = said(&run.user);
        let cwd = said(&run.working_dir).map(|path| format!("/{}", path.trim_start_matches('/')));
        let texts = argv.iter().chain(env.keys()).chain(env.values()).chain(&user).chain(&cwd);
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(OciError::Workload);
        }
        let name = SERVICE.to_owned();
        let service =
            Service { name, argv, env, user, cwd, after: Vec::new(), restart: Restart::Never };
        Ok(Some(Workload { services: vec![service] }))
    }
}

/// Reads a JSON document.
pub(crate) fn json<T: for<'de> Deserialize<'de>>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|source| OciError::Json { what, source })
}

#[cfg(test)]
mod tests;
