//! What lies below the data directory: bytes on the disk, by class and tenant.
//!
//! A class follows from where a file is. It looks at names and sizes alone, and passes over what
//! vanishes while it looks.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path};

use mvm_core::{
    disk::{DiskClass, DiskUse},
    id::TenantId,
    layout::data,
};

use super::durable;
use crate::roots::Roots;

/// The directory of downloads.
const CACHE: &str = "cache";

/// Everything below the data directory.
///
/// # Errors
/// When the directory cannot be read.
pub fn of(roots: &Roots) -> Result<DiskUse, mvm_core::Error> {
    let mut walk = Walk::default();
    let mut names = durable::names(&roots.data)?;
    // What is linked into a jail belongs to whoever has it besides.
    names.sort_by_key(|name| name == data::JAILS);
    for name in names {
        let path = roots.data.join(&name);
        match name.as_str() {
            data::TENANTS => {
                for tenant in durable::names(&path)? {
                    let of = tenant.parse().ok();
                    walk.tenant(&path.join(tenant), of.as_ref());
                }
            }
            data::IMAGES => walk.all(&path, DiskClass::Images, None),
            data::KERNELS => walk.all(&path, DiskClass::Kernels, None),
            data::BINARIES | data::JAILS => walk.all(&path, DiskClass::Binaries, None),
            data::VOLUMES => walk.all(&path, DiskClass::KeptVolumes, None),
            data::ARCHIVE => walk.all(&path, DiskClass::Logs, None),
            CACHE => walk.all(&path, DiskClass::Cache, None),
            _ => walk.all(&path, DiskClass::Other, None),
        }
    }
    Ok(walk.found)
}

#[derive(Default)]
struct Walk {
    found: DiskUse,
    /// Files that have several names and were counted.
    counted: BTreeSet<(u64, u64)>,
}

impl Walk {
    fn tenant(&mut self, path: &Path, tenant: Option<&TenantId>) {
        self.visit(path, &mut |walk, file, bytes| {
            let below = file.strip_prefix(path).unwrap_or(file);
            walk.found.add(class(below), tenant, bytes);
        });
    }

    fn all(&mut self, path: &Path, class: DiskClass, tenant: Option<&TenantId>) {
        self.visit(path, &mut |walk, _, bytes| walk.found.add(class, tenant, bytes));
    }

    fn visit(&mut self, path: &Path, count: &mut dyn FnMut(&mut Self, &Path, u64)) {
        let Ok(found) = path.symlink_metadata() else { return };
        if found.is_dir() {
            let Ok(entries) = fs::read_dir(path) else { return };
            for entry in entries.flatten() {
                self.visit(&entry.path(), count);
            }
        }
        let is_again = !found.is_dir()
            && found.nlink() > 1
            && !self.counted.insert((found.dev(), found.ino()));
        if !is_again {
            count(self, path, found.blocks() * 512);
        }
    }
}

/// The class of a file by its path below its tenant's directory.
fn class(below: &Path) -> DiskClass {
    let names: Vec<&str> = below.iter().filter_map(|name| name.to_str()).collect();
    match names.as_slice() {
        ["pools", _, "artifacts", ..] => DiskClass::Images,
        ["pools", _, "snapshots", ..] => DiskClass::Snapshots,
        ["pools", _, "instances", _, "volumes", ..] => DiskClass::Volumes,
        ["pools", _, "instances", _, "snapshots", ..] => DiskClass::Snapshots,
        ["pools", _, "instances", _, "logs", ..] => DiskClass::Logs,
        [name, ..] if name.starts_with("audit.log") => DiskClass::Logs,
        _ => DiskClass::Other,
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]
mod tests {
    use super::*;
    use crate::disk::ground;

    #[test]
    fn bytes_are_counted_by_class_and_tenant_and_a_linked_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let write = |name: &str, kib: usize| {
            let path = roots.data.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vec![1; kib << 10]).unwrap();
            path
        };
        let image = write("images/x/rootfs", 64);
        let link = roots.data.join("tenants/acme/pools/web/artifacts/revisions/x/rootfs");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::hard_link(image, link).unwrap();
        write("tenants/acme/pools/web/instances/i-00000001/volumes/data.img", 128);
        write("tenants/acme/pools/web/instances/i-00000001/snapshots/3/mem", 32);
        write("volumes/old/data.img", 16);
        write("cache/blob", 8);
        let found = of(&roots).unwrap();
        let mine = &found.tenants[&"acme".parse::<TenantId>().unwrap()];
        // Directories take a block, too.
        let about = |bytes: u64, kib: u64| (kib << 10..(kib + 48) << 10).contains(&bytes);
        assert!(about(found.classes[&DiskClass::Images], 64), "{found:?}");
        assert!(about(mine[&DiskClass::Volumes], 128), "{found:?}");
        assert!(about(mine[&DiskClass::Snapshots], 32), "{found:?}");
        assert!(about(found.classes[&DiskClass::KeptVolumes], 16), "{found:?}");
        assert!(about(found.classes[&DiskClass::Cache], 8), "{found:?}");
    }
}
