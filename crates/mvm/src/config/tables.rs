//! The tables of `config.toml`: what each may say, and what counts when it says nothing.
//!
//! It refuses to know where the file is and what stands beside the tables.

use std::path::{Path, PathBuf};

use mvm_core::{
    error::{Error, ErrorKind},
    plan::policy::PressureLimits,
    pool::Resources,
    units::{Mib, Vcpus},
};
use serde::Deserialize;

use super::{settings::Settings, variable};

/// How many builds of a pool are kept unless told otherwise.
const KEEP_BUILDS: u32 = 3;
const CACHE_BUDGET_MIB: u32 = 10 << 10;

/// The table `[builder]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BuilderTable {
    vcpus: Option<u32>,
    mem_mib: Option<u32>,
    disk_mib: Option<u32>,
}

/// The table `[policy]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyTable {
    memory_available_percent: Option<u32>,
    memory_stalled_percent: Option<u32>,
}

/// The table `[audit]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditTable {
    rotate_bytes: Option<u64>,
    keep_files: Option<u64>,
}

/// The table `[registries]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistriesTable {
    auth_file: Option<PathBuf>,
    insecure: Option<Vec<String>>,
}

/// The table `[gc]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GcTable {
    keep_builds: Option<u32>,
    cache_budget_mib: Option<u32>,
}

/// The settings about registries of images.
pub(super) fn registries(all: &mut Settings<'_>, table: RegistriesTable) -> (PathBuf, Vec<String>) {
    let home = variable("HOME").filter(|home| home.starts_with('/'));
    let usual = Path::new(home.as_deref().unwrap_or("/root")).join(".docker/config.json");
    let auth_file = all.named("registries.auth_file").file(table.auth_file).or(usual);
    let insecure = all.named("registries.insecure").file(table.insecure).or(Vec::new());
    (auth_file, insecure)
}

/// At which size audit logs are rotated, and how many files are kept.
pub(super) fn audit(all: &mut Settings<'_>, file: &AuditTable) -> (u64, u64) {
    let bytes = all.named("audit.rotate_bytes").file(file.rotate_bytes).or(10 * 1024 * 1024);
    (bytes, all.named("audit.keep_files").file(file.keep_files).or(10))
}

/// How many builds a pool keeps, and how much may lie in store.
pub(super) fn gc(all: &mut Settings<'_>, file: &GcTable) -> (u32, u32) {
    let keep = all.named("gc.keep_builds").file(file.keep_builds).or(KEEP_BUILDS);
    let budget = all.named("gc.cache_budget_mib").file(file.cache_budget_mib);
    (keep, budget.or(CACHE_BUDGET_MIB))
}

/// When the host counts as short of memory.
pub(super) fn pressure(all: &mut Settings<'_>, file: &PolicyTable) -> PressureLimits {
    let usual = PressureLimits::default();
    let available = all.named("policy.memory_available_percent");
    let available_percent =
        available.file(file.memory_available_percent).or(usual.available_percent);
    let stalled = all.named("policy.memory_stalled_percent").file(file.memory_stalled_percent);
    PressureLimits { available_percent, stalled_percent: stalled.or(usual.stalled_percent) }
}

pub(super) fn builder(all: &mut Settings<'_>, file: &BuilderTable) -> Resources {
    let usual = mvm_engine::Config::default().builder;
    let vcpus = all.named("builder.vcpus").file(file.vcpus).or(usual.vcpus.0);
    let mem_mib = all.named("builder.mem_mib").file(file.mem_mib).or(usual.mem_mib.0);
    let disk_mib = all.named("builder.disk_mib").file(file.disk_mib).or(usual.data_disk_mib.0);
    Resources::new(Vcpus(vcpus), Mib(mem_mib), Mib(disk_mib))
}

/// # Errors
/// `Invalid` when a share is none.
pub(super) fn admit_limits(limits: PressureLimits) -> Result<(), Error> {
    for (name, value) in [
        ("policy.memory_available_percent", limits.available_percent),
        ("policy.memory_stalled_percent", limits.stalled_percent),
    ] {
        if !(1..=100).contains(&value) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{name} is {value}: it must be 1 to 100"),
            ));
        }
    }
    Ok(())
}
