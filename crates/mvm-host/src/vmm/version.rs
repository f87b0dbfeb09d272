//! Which Firecracker is used, and where it is: `<data>/binaries/firecracker-<v>/`.

use std::{fs, path::PathBuf};

use mvm_core::{Error, ErrorKind, layout::data};

use super::fault::{Act, absent};
use crate::roots::Roots;

/// The version that new VMMs run. Snapshots bind to the version that wrote them.
pub const CURRENT: &str = "1.12.1";

/// The VMM's program.
#[must_use]
pub fn firecracker(roots: &Roots, version: &str) -> PathBuf {
    directory(roots, version).join("firecracker")
}

/// The jailer's program.
#[must_use]
pub fn jailer(roots: &Roots, version: &str) -> PathBuf {
    directory(roots, version).join("jailer")
}

fn directory(roots: &Roots, version: &str) -> PathBuf {
    roots.data.join(data::BINARIES).join(format!("firecracker-{version}"))
}

/// The installed versions, in the order of their names.
///
/// # Errors
/// I/O errors.
pub fn installed(roots: &Roots) -> Result<Vec<String>, Error> {
    let path = roots.data.join(data::BINARIES);
    let what = format_args!("list {}", path.display());
    let Some(entries) = absent(fs::read_dir(&path)).act(what)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.act(what)?.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix("firecracker-"));
        found.extend(
            version.filter(|version| firecracker(roots, version).exists()).map(str::to_owned),
        );
    }
    found.sort();
    Ok(found)
}

/// Checks that VMM and jailer of a version are there.
///
/// # Errors
/// `NotFound`, naming what is missing.
pub fn check(roots: &Roots, version: &str) -> Result<(), Error> {
    for program in [firecracker(roots, version), jailer(roots, version)] {
        if !program.exists() {
            let message = format!("{} is not installed", program.display());
            return Err(Error::new(ErrorKind::NotFound, message)
                .hint("run `mvm bootstrap`, which fetches and verifies it"));
        }
    }
    Ok(())
}
