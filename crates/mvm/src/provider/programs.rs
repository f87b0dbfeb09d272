//! Our own programs, and whether a machine has the caller's build of them.
//!
//! A stamp is size and time of change of the caller's file: cheap to take before every command, and
//! different after every build or upgrade.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use mvm_core::error::{Error, ErrorKind};

use crate::wiring;

/// The programs that work together inside; those of a later build that are not there are left out.
const NAMES: &[&str] = &["mvm", "mvm-shim", "mvm-guest", "mvm-pager", "mvm-hostd", "mvm-agentd"];
/// Without these nothing runs.
const REQUIRED: &[&str] = &["mvm", "mvm-shim", "mvm-pager", "mvm-guest"];
/// Where they go.
pub(super) const DIRECTORY: &str = "usr/local/bin";

/// The caller's programs by name.
pub(super) fn ours() -> Result<BTreeMap<&'static str, PathBuf>, Error> {
    let mut found = BTreeMap::new();
    for name in NAMES {
        let path = match (*name, std::env::current_exe()) {
            ("mvm", Ok(own)) => own,
            (_, _) => wiring::program(name),
        };
        if path.is_file() {
            found.insert(*name, path);
        } else if REQUIRED.contains(name) {
            return Err(Error::new(ErrorKind::NotFound, format!("{} is missing", path.display()))
                .hint("install mvm as a whole: its programs belong beside each other"));
        }
    }
    Ok(found)
}

/// Their stamps.
pub(super) fn stamps(
    programs: &BTreeMap<&'static str, PathBuf>,
) -> Result<BTreeMap<String, String>, Error> {
    programs.iter().map(|(name, path)| Ok(((*name).to_owned(), stamp(path)?))).collect()
}

fn stamp(path: &Path) -> Result<String, Error> {
    let data = fs::metadata(path).map_err(|error| {
        Error::new(ErrorKind::Failed, format!("cannot look at {}", path.display())).because(&error)
    })?;
    Ok(format!("{}-{}.{:09}", data.len(), data.mtime(), data.mtime_nsec()))
}
