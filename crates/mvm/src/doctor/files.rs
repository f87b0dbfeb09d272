//! What is installed, and where the data is.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use mvm_build::{Arch, Catalogue, ContentHash};
use mvm_core::layout::data;

use super::{Check, Sight};
use crate::wiring;

/// Less free space than this is too little to work with, in MiB.
const LEAST_SPACE: u64 = 1024;
/// With less than this a build or a few snapshots fill the disk, in MiB.
const SMALL_SPACE: u64 = 10 * 1024;

pub(super) fn checks(sight: &Sight<'_>) -> Vec<Check> {
    vec![
        firecracker(sight),
        programs(),
        directory(sight),
        file_system(sight.data()),
        space(sight.data()),
        runtime(sight),
    ]
}

fn firecracker(sight: &Sight<'_>) -> Check {
    let (name, version) = ("firecracker", &sight.config.firecracker);
    let advice = "run `mvm bootstrap`, which fetches it and verifies it";
    let catalogue = Catalogue::built_in().ok();
    let asset = Arch::native()
        .zip(catalogue.as_ref())
        .and_then(|(arch, catalogue)| catalogue.asset("firecracker", version.as_str(), arch).ok());
    let place = sight.data().join(data::vmm(version));
    let Some(asset) = asset else {
        let found = format!("{version} is not in the catalogue, so its files cannot be verified");
        return Check::warning(name, found, "set MVM_FC_VERSION to a version of the catalogue");
    };
    for file in &asset.files {
        let path = place.join(&file.name);
        match ContentHash::of_file(&path) {
            Ok((hash, _)) if hash == file.sha256 => {}
            Ok(_) => {
                let found = format!("{} is not what the catalogue pins", path.display());
                return Check::failed(name, found, advice);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let found = format!("{} {version} is not installed", file.name);
                return Check::failed(name, found, advice);
            }
            Err(error) => {
                return Check::failed(name, format!("{}: {error}", path.display()), advice);
            }
        }
    }
    Check::ok(name, format!("{version} with its jailer, checksums right"))
}

fn programs() -> Check {
    let missing: Vec<String> = ["mvm-shim", "mvm-pager", "mvm-guest"]
        .iter()
        .map(|name| wiring::program(name))
        .filter(|path| !path.is_file())
        .map(|path| path.display().to_string())
        .collect();
    if missing.is_empty() {
        return Check::ok("programs", "shim, page server and guest agent are there");
    }
    let advice = "install mvm as a whole: its programs belong beside each other";
    Check::failed("programs", format!("missing: {}", missing.join(", ")), advice)
}

fn directory(sight: &Sight<'_>) -> Check {
    let (name, path) = ("data-dir", sight.data());
    let Ok(metadata) = fs::metadata(path) else {
        return Check::warning(
            name,
            format!("{} does not exist yet", path.display()),
            "the first command makes it",
        );
    };
    let mode = metadata.permissions().mode() & 0o777;
    let found = format!("{} with mode {mode:03o}", path.display());
    if mode & 0o077 != 0 {
        let advice = format!("nobody else may look in: chmod 700 {}", path.display());
        return Check::failed(name, found, &advice);
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Check::failed(name, format!("{found} belongs to somebody else"), "run it as root");
    }
    Check::ok(name, found)
}

/// The nearest directory that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn file_system(path: &Path) -> Check {
    let name = "file-system";
    let Ok(found) = rustix::fs::statfs(existing(path)) else {
        return Check::failed(name, format!("{} cannot be looked at", path.display()), "mount it");
    };
    kind(found.f_type.unsigned_abs())
}

/// The verdict on a file system by its magic number (`linux/magic.h`).
pub(super) fn kind(magic: u64) -> Check {
    let name = "file-system";
    let advice = "keep the data directory on ext4, xfs or btrfs: hard links, fsync and sparse \
                  files must work";
    match magic {
        0xef53 => Check::ok(name, "ext4"),
        0x5846_5342 => Check::ok(name, "xfs"),
        0x9123_683e => Check::ok(name, "btrfs"),
        0x0102_1994 | 0x8584_58f6 => {
            Check::failed(name, "a memory file system: a reboot empties it", advice)
        }
        0x794c_7630 => Check::warning(name, "overlay", advice),
        0x6969 => Check::failed(name, "nfs", advice),
        other => Check::warning(name, format!("of unknown kind {other:#x}"), advice),
    }
}

fn space(path: &Path) -> Check {
    let Ok(found) = rustix::fs::statvfs(existing(path)) else {
        return Check::failed("space", "not known", "mount the data directory's file system");
    };
    let mib = |blocks: u64| blocks.saturating_mul(found.f_frsize) >> 20;
    free(mib(found.f_bavail), mib(found.f_blocks))
}

/// The verdict on free space, both in MiB.
pub(super) fn free(free: u64, total: u64) -> Check {
    let found = format!("{free} MiB of {total} MiB are free");
    let advice = "free some space: `mvm node gc` removes what nothing uses";
    if free < LEAST_SPACE {
        Check::failed("space", found, advice)
    } else if free < SMALL_SPACE || free < total / 10 {
        Check::warning("space", found, advice)
    } else {
        Check::ok("space", found)
    }
}

fn runtime(sight: &Sight<'_>) -> Check {
    let path = &sight.config.run_dir;
    let magic = rustix::fs::statfs(existing(path)).map(|found| found.f_type.unsigned_abs());
    if magic == Ok(0x0102_1994) {
        return Check::ok("run-dir", format!("{} is on a tmpfs", path.display()));
    }
    Check::warning(
        "run-dir",
        format!("{} is not on a tmpfs", path.display()),
        "what it tells must not outlive a reboot: keep it below /run",
    )
}
