//! `config.toml` as it stands there. It refuses to know defaults and what wins over the file.

use std::{
    collections::BTreeMap,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use mvm_core::{
    error::{Error, ErrorKind},
    id::{TenantId, VmmVersion},
    secrets::ValueSource,
};
use serde::Deserialize;

use super::{
    LogFormat,
    storage::StorageTable,
    tables::{AuditTable, BuilderTable, GcTable, PolicyTable, RegistriesTable},
};
use crate::provider::{HostChoice, Machine};

/// `config.toml`; unknown keys are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) mtu: Option<u16>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) production: Option<bool>,
    pub(super) firecracker: Option<VmmVersion>,
    pub(super) asset_mirror: Option<String>,
    pub(super) release_key: Option<PathBuf>,
    pub(super) lock_wait_seconds: Option<u16>,
    pub(super) host: Option<HostChoice>,
    #[serde(default)]
    pub(super) machine: Machine,
    pub(super) disk_reserve_percent: Option<u8>,
    pub(super) vcpu_overcommit: Option<u32>,
    pub(super) guest_memory_percent: Option<u32>,
    pub(super) log: Option<String>,
    pub(super) log_format: Option<LogFormat>,
    #[serde(default)]
    pub(super) audit: AuditTable,
    #[serde(default)]
    pub(super) tenant_keys: BTreeMap<TenantId, ValueSource>,
    #[serde(default)]
    pub(super) gc: GcTable,
    #[serde(default)]
    pub(super) registries: RegistriesTable,
    #[serde(default)]
    pub(super) storage: StorageTable,
    #[serde(default)]
    pub(super) policy: PolicyTable,
    #[serde(default)]
    pub(super) builder: BuilderTable,
}

/// Whether the file has to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    Optional,
}

pub(super) fn read_file(file: &Path, presence: Presence) -> Result<File, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && presence == Presence::Optional =>
        {
            return Ok(File::default());
        }
        Err(error) => {
            return Err(Error::new(ErrorKind::Invalid, format!("cannot read {}", file.display()))
                .because(&error));
        }
    };
    toml::from_str(&text).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("{} makes no sense", file.display())).because(&error)
    })
}

/// Writes `production = true` above the first table of the file in this directory.
pub(super) fn set_production(config_dir: &Path) -> Result<(), Error> {
    let path = config_dir.join("config.toml");
    let file = read_file(&path, Presence::Optional)?;
    if file.production == Some(true) {
        return Ok(());
    }
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Failed, format!("cannot write {}", path.display())).because(&error)
    };
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let kept = text
        .lines()
        .filter(|line| line.split_once('=').is_none_or(|(key, _)| key.trim() != "production"));
    // The key belongs above the first table.
    let text = std::iter::once("production = true").chain(kept).collect::<Vec<_>>().join("\n");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(config_dir).map_err(failed)?;
    let part = path.with_extension("part");
    // Who may look into the directory may read it: an agent without root does.
    let group = std::fs::metadata(config_dir).map_err(failed)?.gid();
    let mode = if group == 0 { 0o600 } else { 0o640 };
    std::fs::write(&part, text + "\n")
        .and_then(|()| std::os::unix::fs::chown(&part, None, Some(group)))
        .and_then(|()| std::fs::set_permissions(&part, std::fs::Permissions::from_mode(mode)))
        .and_then(|()| std::fs::File::open(&part)?.sync_all())
        .and_then(|()| std::fs::rename(&part, &path))
        .map_err(failed)
}
