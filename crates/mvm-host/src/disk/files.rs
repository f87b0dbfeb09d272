//! The documented directories: a pool's revisions are made here, and everything is removed here.
//!
//! Every act tolerates its own half-done state and removes through directory handles, so that a
//! symbolic link planted in a directory is removed and never followed. Secrets go first: snapshots
//! lose their keys before their files go, a tenant its key before its directories.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use mvm_core::{
    id::{ImageHash, InstanceRef, PoolRef, TenantId},
    layout,
};

pub use super::listing::{
    instance_is_there, instances, observe_pool, pools, pools_of, tenant_is_there, tenants,
};
use super::{
    durable,
    error::{Act, Error},
    key, secrets, snapshot,
};
use crate::roots::Roots;

/// Links an image's files into the pool's revisions and makes `current` name them, atomically.
///
/// # Errors
/// `NotFound` when the image is not on this host, else why it cannot be linked.
pub fn ensure_revision(
    roots: &Roots,
    pool: &PoolRef,
    image: &ImageHash,
) -> Result<(), mvm_core::Error> {
    let source = roots.data.join(layout::data::image(image));
    let revision = roots.data.join(layout::data::revision(pool, image));
    if !durable::exists(&revision)? {
        if !source.is_dir() {
            return Err(Error::Missing {
                what: format!("image {}", image.short()),
                hint: Some(format!("run `mvm pool build {pool}`")),
            }
            .into());
        }
        link_all(&source, &revision)?;
    }
    Ok(point(&roots.data.join(layout::data::artifacts(pool)), image)?)
}

/// Makes `to` a directory with hard links to the files of `from`, whole or not at all.
fn link_all(from: &Path, to: &Path) -> Result<(), Error> {
    let partial = durable::partial(to);
    durable::remove_dir(&partial)?;
    durable::create_dirs(&partial)?;
    for name in durable::names(from)? {
        let file = from.join(&name);
        if file.symlink_metadata().act("look at", &file)?.is_file() {
            fs::hard_link(&file, partial.join(&name)).act("link", &file)?;
        }
    }
    durable::sync_dir(&partial)?;
    durable::rename(&partial, to)
}

fn point(artifacts: &Path, image: &ImageHash) -> Result<(), Error> {
    let (link, target) = (artifacts.join("current"), Path::new("revisions").join(image.as_str()));
    if fs::read_link(&link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let partial = durable::partial(&link);
    durable::remove_file(&partial)?;
    symlink(&target, &partial).act("make the link", &partial)?;
    durable::rename(&partial, &link)
}

/// Removes an instance's directory; its snapshots lose their keys first.
///
/// # Errors
/// When something of it stays.
pub fn remove_instance(roots: &Roots, instance: &InstanceRef) -> Result<(), mvm_core::Error> {
    snapshot::remove_all(roots, instance)?;
    Ok(durable::remove_dir(&roots.data.join(layout::data::instance(instance)))?)
}

/// Removes a pool's directory with all its instances.
///
/// # Errors
/// When something of it stays.
pub fn remove_pool(roots: &Roots, pool: &PoolRef) -> Result<(), mvm_core::Error> {
    for instance in instances(roots, pool)? {
        remove_instance(roots, &instance)?;
    }
    Ok(durable::remove_dir(&roots.data.join(layout::data::pool(pool)))?)
}

/// Archives a tenant's audit log, destroys its key and removes all its directories.
///
/// The log goes to `archive/<tenant>-<n>/`, n counting from 1 the times that a tenant of this name
/// was destroyed.
///
/// # Errors
/// When something of it stays; then trying again goes on.
pub fn remove_tenant(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    archive(roots, tenant)?;
    key::destroy(roots, tenant)?;
    secrets::remove_all(roots, tenant)?;
    for pool in pools_of(roots, tenant)? {
        remove_pool(roots, &pool)?;
    }
    Ok(durable::remove_dir(&roots.data.join(layout::data::tenant(tenant)))?)
}

/// Moves the logs into one directory that gets its final name when all are there. Ids hold no dot,
/// so its first name is nobody's final one.
fn archive(roots: &Roots, tenant: &TenantId) -> Result<(), Error> {
    let from = roots.data.join(layout::data::tenant(tenant));
    let archive = roots.data.join(layout::data::ARCHIVE);
    let partial = archive.join(format!("{tenant}.partial"));
    let names = durable::names(&from)?;
    let logs: Vec<&String> = names.iter().filter(|name| name.starts_with("audit.log")).collect();
    if !logs.is_empty() {
        durable::create_dirs(&partial)?;
    }
    for name in logs {
        if !durable::rename_if_free(&from.join(name), &partial.join(name))? {
            return Err(Error::Conflict(format!(
                "{} is archived already; move it away",
                partial.join(name).display()
            )));
        }
    }
    if durable::exists(&partial)? {
        durable::sync_dir(&partial)?;
        place(&partial, &archive, tenant)?;
        if from.is_dir() {
            durable::sync_dir(&from)?;
        }
    }
    Ok(())
}

fn place(partial: &Path, archive: &Path, tenant: &TenantId) -> Result<(), Error> {
    let mut count = 1_u64;
    loop {
        let name: PathBuf = archive.join(format!("{tenant}-{count}"));
        if durable::rename_if_free(partial, &name)? {
            return durable::sync_dir(archive);
        }
        count += 1;
    }
}

#[cfg(test)]
mod tests;
