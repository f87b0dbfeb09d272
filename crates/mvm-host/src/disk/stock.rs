//! What could be made or fetched again: images, downloads, older log files; and what each weighs.
//!
//! A removal gives back the blocks of those files whose last name goes with it. It never follows a
//! link, and never touches a file that a record needs: who asks has chosen.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use mvm_core::{
    effect::Effect,
    id::{ImageHash, InstanceRef, PoolRef},
    layout::data,
    observed::ObservedStock,
};
use mvm_shim::record::{CONSOLE_LOG, VMM_LOG};

use super::{
    durable,
    error::{Act, Error},
    listing,
};
use crate::roots::Roots;

/// What the fetcher keeps in its directory.
const DOWNLOADS: [&str; 4] = ["blobs", "parts", "wheels", "apt"];
/// The file that makes a directory of the image store an image.
const MANIFEST: &str = "manifest.json";
/// Names and answered requests of the image store: files that hold a hash.
const REFERENCES: [&str; 2] = ["refs", "requests"];

/// What is there, but for versions of Firecracker: those are told by who runs them.
///
/// # Errors
/// When a directory cannot be read.
pub fn observe(roots: &Roots) -> Result<ObservedStock, mvm_core::Error> {
    let store = roots.data.join(data::IMAGES);
    let mut images = Vec::new();
    for name in durable::names(&store)? {
        if let Ok(hash) = name.parse::<ImageHash>() {
            let path = store.join(name);
            // One that goes at this moment is as good as gone.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            images.push((metadata.mtime(), metadata.mtime_nsec(), hash));
        }
    }
    images.sort();
    let mut rotated_logs = Vec::new();
    for (tenant, pool) in listing::pools(roots)? {
        for instance in listing::instances(roots, &PoolRef { tenant, pool })? {
            if older_logs(roots, &instance)?.next().is_some() {
                rotated_logs.push(instance);
            }
        }
    }
    let mut downloads = false;
    for directory in download_dirs(roots) {
        downloads |= !durable::names(&directory)?.is_empty();
    }
    let images = images.into_iter().map(|(_, _, hash)| hash).collect();
    Ok(ObservedStock { images, rotated_logs, downloads, ..ObservedStock::default() })
}

/// Removes a pool's links to an image.
///
/// # Errors
/// `Conflict` when `current` names it, else why something of it stays.
pub fn remove_revision(
    roots: &Roots,
    pool: &PoolRef,
    image: &ImageHash,
) -> Result<(), mvm_core::Error> {
    if listing::observe_pool(roots, pool)?.current.as_ref() == Some(image) {
        let what = format!("the build {} is current in pool {pool}", image.short());
        return Err(Error::Conflict(what).into());
    }
    Ok(durable::remove_dir(&roots.data.join(data::revision(pool, image)))?)
}

/// Removes an image and the names that it had. Its manifest goes first: what is cut off in the
/// middle is no image any more.
///
/// # Errors
/// When something of it stays.
pub fn remove_image(roots: &Roots, image: &ImageHash) -> Result<(), mvm_core::Error> {
    let directory = roots.data.join(data::image(image));
    for name in REFERENCES {
        let references = roots.data.join(data::IMAGES).join(name);
        for name in durable::names(&references)? {
            let path = references.join(name);
            let held = std::fs::read_to_string(&path).unwrap_or_default();
            if held.trim() == image.as_str() {
                durable::remove_file(&path)?;
            }
        }
    }
    durable::remove_file(&directory.join(MANIFEST))?;
    Ok(durable::remove_dir(&directory)?)
}

/// Removes the older file of each of an instance's logs.
///
/// # Errors
/// When one stays.
pub fn remove_rotated_logs(roots: &Roots, instance: &InstanceRef) -> Result<(), mvm_core::Error> {
    for path in older_logs(roots, instance)? {
        durable::remove_file(&path)?;
    }
    Ok(())
}

/// Removes everything that was fetched, unless somebody is fetching.
///
/// # Errors
/// `Conflict` while somebody does, else why something stays.
pub fn remove_downloads(roots: &Roots) -> Result<(), mvm_core::Error> {
    let cache = roots.data.join(data::DOWNLOADS);
    if !durable::exists(&cache)? {
        return Ok(());
    }
    // The fetcher's own lock on its directory.
    let lock = File::open(&cache).act("open", &cache)?;
    if lock.try_lock().is_err() {
        return Err(Error::Conflict("something is being fetched at this moment".to_owned()).into());
    }
    for directory in download_dirs(roots) {
        for name in durable::names(&directory)? {
            let path = directory.join(name);
            let is_dir = path.symlink_metadata().act("look at", &path)?.is_dir();
            if is_dir { durable::remove_dir(&path) } else { durable::remove_file(&path) }?;
        }
    }
    Ok(())
}

/// How many bytes of disk each of these removals gives back, done in this order.
///
/// # Errors
/// When a file cannot be looked at.
pub fn weigh(roots: &Roots, removals: &[Effect]) -> Result<Vec<u64>, mvm_core::Error> {
    let mut scale = Scale::default();
    let mut weights = Vec::new();
    for effect in removals {
        let mut bytes = 0;
        for path in concerned(roots, effect)? {
            bytes += scale.take(&path)?;
        }
        weights.push(bytes);
    }
    Ok(weights)
}

/// The files and directories that a removal removes.
fn concerned(roots: &Roots, effect: &Effect) -> Result<Vec<PathBuf>, Error> {
    let below = |path: PathBuf| roots.data.join(path);
    Ok(match effect {
        Effect::RemoveRevision { pool, image } => vec![below(data::revision(pool, image))],
        Effect::RemoveImage(image) => vec![below(data::image(image))],
        Effect::RemoveRotatedLogs(instance) => older_logs(roots, instance)?.collect(),
        Effect::RemoveDownloads => download_dirs(roots).collect(),
        Effect::RemoveVersion(version) => vec![below(data::vmm(version))],
        Effect::RemoveJail(id) => vec![below(data::jail(id))],
        Effect::RemoveSnapshot { instance, epoch } => {
            let directory = below(data::snapshots(instance));
            let name = data::snapshot(*epoch);
            ["", ".partial", ".retired"].map(|end| directory.join(format!("{name}{end}"))).to_vec()
        }
        Effect::EnsureBridge(_)
        | Effect::RemoveBridge(_)
        | Effect::EnsureRoutes(_)
        | Effect::RemoveRoutes(_)
        | Effect::ReplaceFirewall(_)
        | Effect::EnsureTenantKey(_)
        | Effect::PublishSecrets { .. }
        | Effect::RemoveTenantFiles(_)
        | Effect::EnsureRevision { .. }
        | Effect::RemovePoolFiles(_)
        | Effect::Volume(_)
        | Effect::DrawNextKey(_)
        | Effect::RekeyInstance { .. }
        | Effect::PromoteNextKey(_)
        | Effect::RemoveInstanceFiles(_)
        | Effect::EnsureTap { .. }
        | Effect::RemoveTap { .. }
        | Effect::EnsureCgroup { .. }
        | Effect::RemoveCgroup(_)
        | Effect::EnsureJail(_)
        | Effect::SpawnVmm { .. }
        | Effect::EnsureShim { .. }
        | Effect::RemoveVmm(_)
        | Effect::BootVmm(_)
        | Effect::Base { .. }
        | Effect::LoadSnapshot { .. }
        | Effect::SwapSecrets { .. }
        | Effect::PauseVmm { .. }
        | Effect::ResumeVmm(_)
        | Effect::WriteSnapshot { .. }
        | Effect::PublishSnapshot { .. }
        | Effect::RetireSnapshot { .. } => Vec::new(),
    })
}

/// How many names of each file went so far.
#[derive(Default)]
struct Scale {
    gone: BTreeMap<(u64, u64), u64>,
}

impl Scale {
    fn take(&mut self, path: &Path) -> Result<u64, Error> {
        let Some(found) = look(path)? else { return Ok(0) };
        if !found.is_dir() {
            let gone = self.gone.entry((found.dev(), found.ino())).or_default();
            *gone += 1;
            return Ok(if *gone == found.nlink() { found.blocks() * 512 } else { 0 });
        }
        let mut bytes = found.blocks() * 512;
        for name in durable::names(path)? {
            bytes += self.take(&path.join(name))?;
        }
        Ok(bytes)
    }
}

/// The disk that a file, or a directory with all in it, takes; 0 when it is not there.
///
/// # Errors
/// When it cannot be looked at.
pub fn allocated(path: &Path) -> Result<u64, mvm_core::Error> {
    let Some(found) = look(path)? else { return Ok(0) };
    let mut bytes = found.blocks() * 512;
    if found.is_dir() {
        for name in durable::names(path)? {
            bytes += allocated(&path.join(name))?;
        }
    }
    Ok(bytes)
}

fn look(path: &Path) -> Result<Option<Metadata>, Error> {
    match path.symlink_metadata() {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).act("look at", path),
    }
}

fn download_dirs(roots: &Roots) -> impl Iterator<Item = PathBuf> {
    let cache = roots.data.join(data::DOWNLOADS);
    DOWNLOADS.into_iter().map(move |name| cache.join(name))
}

fn older_logs(
    roots: &Roots,
    instance: &InstanceRef,
) -> Result<impl Iterator<Item = PathBuf> + use<>, Error> {
    let directory = roots.data.join(data::logs(instance));
    let mut there = Vec::new();
    for name in [CONSOLE_LOG, VMM_LOG] {
        let path = directory.join(format!("{name}.1"));
        if durable::exists(&path)? {
            there.push(path);
        }
    }
    Ok(there.into_iter())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::ground;

    #[test]
    fn a_file_weighs_only_when_its_last_name_goes() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let pool: PoolRef = "acme/workers".parse().unwrap();
        let image: ImageHash = "a".repeat(64).parse().unwrap();
        let (store, link) =
            (roots.data.join(data::image(&image)), roots.data.join(data::revision(&pool, &image)));
        fs::create_dir_all(&store).unwrap();
        fs::create_dir_all(&link).unwrap();
        fs::write(store.join("rootfs"), vec![1u8; 1 << 20]).unwrap();
        fs::hard_link(store.join("rootfs"), link.join("rootfs")).unwrap();
        let revision = Effect::RemoveRevision { pool, image: image.clone() };
        let both = [revision.clone(), Effect::RemoveImage(image)];
        let [link, rest] = weigh(&roots, &both).unwrap()[..] else { unreachable!() };
        assert!(link < 64 << 10 && rest >= 1 << 20, "{link} {rest}");
        assert!(weigh(&roots, &[revision]).unwrap().iter().all(|bytes| *bytes < 64 << 10));
    }

    #[test]
    fn an_image_goes_with_its_names_and_other_names_stay() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let image: ImageHash = "a".repeat(64).parse().unwrap();
        let store = roots.data.join(data::image(&image));
        let refs = roots.data.join(data::IMAGES).join("refs");
        fs::create_dir_all(&store).unwrap();
        fs::create_dir_all(&refs).unwrap();
        fs::write(refs.join("default"), format!("{image}\n")).unwrap();
        fs::write(refs.join("other"), "b".repeat(64)).unwrap();
        assert_eq!(observe(&roots).unwrap().images, std::slice::from_ref(&image));
        remove_image(&roots, &image).unwrap();
        remove_image(&roots, &image).unwrap();
        assert_eq!(observe(&roots).unwrap(), ObservedStock::default());
        assert_eq!(durable::names(&refs).unwrap(), ["other"]);
    }

    #[test]
    fn downloads_stay_while_somebody_fetches() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let blobs = roots.data.join(data::DOWNLOADS).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join("x"), "x").unwrap();
        let lock = File::open(roots.data.join(data::DOWNLOADS)).unwrap();
        lock.lock().unwrap();
        assert_eq!(remove_downloads(&roots).unwrap_err().kind, mvm_core::ErrorKind::Conflict);
        drop(lock);
        remove_downloads(&roots).unwrap();
        assert!(!observe(&roots).unwrap().downloads && blobs.is_dir());
    }
}
