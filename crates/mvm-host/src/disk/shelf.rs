//! Volumes that outlived their instance: `volumes/<name>/data.img`, and the key of an encrypted one,
//! which is nobody's tenant's.
//!
//! A volume moves by one rename, after its key was changed: a crash leaves it in one place or the
//! other, and what opens it is there in both. It does not know who may have which.

use std::path::PathBuf;

use mvm_core::{
    id::{InstanceRef, VolumeId},
    layout,
    units::Uid,
    volume::{VolumeFate, VolumeKind},
};

use super::{
    durable,
    error::Error,
    key, luks,
    volume::{self, own, passphrases, path_of},
};
use crate::roots::Roots;

const FILE: &str = "data.img";

fn file(roots: &Roots, volume: &VolumeId) -> PathBuf {
    roots.data.join(layout::data::kept_volume(volume)).join(FILE)
}

/// Moves the closed volume of an instance to the shelf, if encrypted under a key of its own.
///
/// # Errors
/// `NotFound` when it is neither here nor there, `Conflict` while it is open.
pub fn keep(
    roots: &Roots,
    instance: &InstanceRef,
    name: &VolumeId,
    kind: VolumeKind,
) -> Result<(), mvm_core::Error> {
    volume::require_closed(&instance.instance)?;
    let (from, to) = (path_of(roots, instance), file(roots, name));
    if !durable::exists(&from)? {
        return if durable::exists(&to)? { Ok(()) } else { Err(volume::missing(instance).into()) };
    }
    if kind == VolumeKind::Luks {
        let ring = key::ring(roots, &instance.tenant)?;
        let own = key::ensure_of_volume(roots, name)?;
        let to = own.passphrase(name.as_str());
        luks::swap(&from, &passphrases(&ring, instance), &to)?;
    }
    durable::create_dirs(&roots.data.join(layout::data::kept_volume(name)))?;
    own(&from, Uid(rustix::process::geteuid().as_raw()))?;
    durable::rename(&from, &to)?;
    Ok(durable::sync_parent(&from)?)
}

/// Moves a volume from the shelf to an instance, if encrypted under the tenant's key.
///
/// # Errors
/// `NotFound` when it is neither here nor there, or the tenant has no key.
pub fn attach(
    roots: &Roots,
    name: &VolumeId,
    instance: &InstanceRef,
    kind: VolumeKind,
    uid: Uid,
) -> Result<(), mvm_core::Error> {
    let (from, to) = (file(roots, name), path_of(roots, instance));
    if durable::exists(&from)? {
        if let Some(dir) = to.parent() {
            durable::create_dirs(dir)?;
        }
        if kind == VolumeKind::Luks {
            let ring = key::ring(roots, &instance.tenant)?;
            let old = key::of_volume(roots, name)?.map(|key| key.passphrase(name.as_str()));
            let new = ring.newest().passphrase(instance.instance.as_str());
            luks::swap(&from, old.as_slice(), &new)?;
        }
        own(&from, uid)?;
        durable::rename(&from, &to)?;
        durable::sync_parent(&from)?;
    } else if !durable::exists(&to)? {
        let what = format!("the kept volume {name}");
        return Err(Error::Missing { what, hint: None }.into());
    }
    Ok(clear(roots, name)?)
}

/// Removes a volume from the shelf with its key; absent is removed.
///
/// # Errors
/// When something of it stays.
pub fn remove(
    roots: &Roots,
    name: &VolumeId,
    kind: VolumeKind,
    fate: VolumeFate,
) -> Result<(), mvm_core::Error> {
    key::destroy_of_volume(roots, name)?;
    match fate {
        VolumeFate::Wipe => volume::destroy(&file(roots, name), kind)?,
        VolumeFate::Delete | VolumeFate::Keep => {}
    }
    Ok(clear(roots, name)?)
}

/// What is left of a volume that is elsewhere or shall be gone.
fn clear(roots: &Roots, name: &VolumeId) -> Result<(), Error> {
    key::destroy_of_volume(roots, name)?;
    durable::remove_dir(&roots.data.join(layout::data::kept_volume(name)))
}

/// The volumes on the shelf, sorted.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(roots: &Roots) -> Result<Vec<VolumeId>, mvm_core::Error> {
    let mut found = Vec::new();
    for name in durable::names(&roots.data.join(layout::data::VOLUMES))? {
        if let Ok(volume) = name.parse()
            && durable::exists(&file(roots, &volume))?
        {
            found.push(volume);
        }
    }
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::fs;

    use mvm_core::ErrorKind;

    use super::*;
    use crate::disk::ground;

    #[test]
    fn a_plain_volume_goes_to_the_shelf_and_to_another_instance_with_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let first: InstanceRef = "acme/workers/i-00000001".parse().unwrap();
        let second: InstanceRef = "bolt/web/i-00000002".parse().unwrap();
        let name: VolumeId = "i-00000001".parse().unwrap();
        let uid = Uid(rustix::process::getuid().as_raw());
        let missing = keep(&roots, &first, &name, VolumeKind::Plain).unwrap_err();
        assert_eq!(missing.kind, ErrorKind::NotFound);
        let path = path_of(&roots, &first);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"bytes").unwrap();
        for _ in 0..2 {
            keep(&roots, &first, &name, VolumeKind::Plain).unwrap();
            assert_eq!(list(&roots).unwrap(), std::slice::from_ref(&name));
        }
        for _ in 0..2 {
            attach(&roots, &name, &second, VolumeKind::Plain, uid).unwrap();
            assert!(list(&roots).unwrap().is_empty());
        }
        assert_eq!(fs::read(path_of(&roots, &second)).unwrap(), b"bytes");
        for fate in [VolumeFate::Delete, VolumeFate::Wipe] {
            remove(&roots, &name, VolumeKind::Plain, fate).unwrap();
        }
    }
}
