//! The directories of snapshots and their three names; each move between names is durable.
//!
//! It never looks into memory or device state; completeness is the presence of the header, which is
//! written last.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use mvm_core::{
    id::{InstanceRef, VmmVersion},
    layout,
    observed::SnapshotPhase,
    units::Generation,
};

use super::{
    header::{self, Form, Manifest},
    seal::Name,
};
use crate::{
    disk::{
        durable,
        error::{Act, Error},
        stock,
    },
    roots::Roots,
};

pub(super) const HEADER: &str = "header.json";
pub(super) const KEYS: &str = "keys";
/// The base beneath, shared.
pub(super) const BASE: &str = "base";

/// The three names that the directory of one snapshot can have.
pub(super) struct Place {
    /// What it belongs to, for messages.
    what: String,
    /// The directory of all snapshots of the instance.
    pub(super) parent: PathBuf,
    pub(super) partial: PathBuf,
    pub(super) published: PathBuf,
    pub(super) retired: PathBuf,
}

impl Place {
    pub(super) fn of(roots: &Roots, instance: &InstanceRef, epoch: Generation) -> Self {
        let parent = roots.data.join(layout::data::snapshots(instance));
        let name = layout::data::snapshot(epoch);
        Self {
            what: format!("snapshot {epoch} of {instance}"),
            partial: parent.join(format!("{name}.partial")),
            retired: parent.join(format!("{name}.retired")),
            published: parent.join(name),
            parent,
        }
    }

    pub(super) fn missing(&self) -> Error {
        Error::Missing { what: self.what.clone(), hint: None }
    }

    pub(super) fn refuse(&self, why: &str) -> Error {
        Error::Conflict(format!("{} {why}", self.what))
    }
}

/// An instance's snapshots. One that has two names, which only a crash in the middle of a removal
/// leaves, counts as the less resumable.
///
/// # Errors
/// When the directory cannot be read.
pub fn phases(
    roots: &Roots,
    instance: &InstanceRef,
) -> Result<BTreeMap<Generation, SnapshotPhase>, mvm_core::Error> {
    let parent = roots.data.join(layout::data::snapshots(instance));
    let mut phases = BTreeMap::new();
    for (epoch, phase) in durable::names(&parent)?.iter().filter_map(|name| parse(name)) {
        let known = phases.entry(epoch).or_insert(phase);
        if phase == SnapshotPhase::Retired || *known == SnapshotPhase::Published {
            *known = phase;
        }
    }
    Ok(phases)
}

fn parse(name: &str) -> Option<(Generation, SnapshotPhase)> {
    let (number, phase) = match name.split_once('.') {
        None => (name, SnapshotPhase::Published),
        Some((number, "partial")) => (number, SnapshotPhase::Partial),
        Some((number, "retired")) => (number, SnapshotPhase::Retired),
        Some(_) => return None,
    };
    let epoch = Generation(number.parse().ok()?);
    (layout::data::snapshot(epoch) == number).then_some((epoch, phase))
}

/// What an instance's snapshots take on the disk, in bytes, without the bases that they share.
///
/// # Errors
/// When they cannot be looked at.
pub fn allocated(roots: &Roots, instance: &InstanceRef) -> Result<u64, mvm_core::Error> {
    let parent = roots.data.join(layout::data::snapshots(instance));
    let mut bytes = 0;
    for dir in durable::names(&parent)? {
        let dir = parent.join(dir);
        for name in durable::names(&dir)?.iter().filter(|name| *name != BASE) {
            bytes += stock::allocated(&dir.join(name))?;
        }
    }
    Ok(bytes)
}

/// The versions of Firecracker that wrote an instance's snapshots, whatever their phase and schema.
///
/// # Errors
/// When they cannot be read.
pub fn versions(roots: &Roots, instance: &InstanceRef) -> Result<Vec<VmmVersion>, mvm_core::Error> {
    let parent = roots.data.join(layout::data::snapshots(instance));
    let mut versions = Vec::new();
    for name in durable::names(&parent)? {
        versions.extend(header::version(&parent.join(name).join(HEADER))?);
    }
    Ok(versions)
}

/// Makes a stored snapshot resumable: everything of it synced, renamed, and the rename synced.
///
/// # Errors
/// `NotFound` when there is none, `Conflict` when it is not complete or was retired.
pub fn publish(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
) -> Result<(), mvm_core::Error> {
    let place = Place::of(roots, instance, epoch);
    if durable::exists(&place.retired)? {
        return Err(place.refuse("was retired").into());
    }
    if !durable::exists(&place.partial)? {
        if durable::exists(&place.published)? {
            return Ok(durable::sync_dir(&place.parent)?);
        }
        return Err(place.missing().into());
    }
    sync_complete(&place)?;
    if !durable::rename_if_free(&place.partial, &place.published)? {
        return Err(place.refuse("is published already").into());
    }
    Ok(durable::sync_dir(&place.parent)?)
}

fn sync_complete(place: &Place) -> Result<(), Error> {
    let dir = &place.partial;
    if !durable::exists(&dir.join(HEADER))? {
        return Err(place.refuse("was not written to its end"));
    }
    let (manifest, _) = Manifest::read(&dir.join(HEADER))?;
    let keys = match manifest.form {
        Form::Sealed => Some(KEYS),
        Form::Raw { .. } => None,
    };
    let names = Name::ALL.map(Name::as_str).into_iter().chain(keys).chain([HEADER]);
    for path in names.map(|name| dir.join(name)) {
        File::open(&path).and_then(|file| file.sync_all()).act("sync", &path)?;
    }
    durable::sync_dir(dir)
}

/// Makes a published snapshot unresumable; durable when this returns.
///
/// # Errors
/// `NotFound` when it was never published.
pub fn retire(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
) -> Result<(), mvm_core::Error> {
    Ok(retire_place(&Place::of(roots, instance, epoch))?)
}

fn retire_place(place: &Place) -> Result<(), Error> {
    if durable::exists(&place.published)? {
        if durable::exists(&place.retired)? {
            destroy(&place.retired)?;
        }
        return durable::rename(&place.published, &place.retired);
    }
    if durable::exists(&place.retired)? {
        return durable::sync_dir(&place.parent);
    }
    Err(place.missing())
}

/// Removes a snapshot in whatever phase: it can't be resumed first, then its keys are overwritten,
/// then its files go. Absent is removed.
///
/// # Errors
/// When something of it stays.
pub fn remove(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
) -> Result<(), mvm_core::Error> {
    let place = Place::of(roots, instance, epoch);
    if durable::exists(&place.published)? {
        retire_place(&place)?;
    }
    for dir in [&place.partial, &place.retired] {
        if durable::exists(dir)? {
            destroy(dir)?;
        }
    }
    Ok(())
}

/// Removes all snapshots of an instance, as [`remove`].
///
/// # Errors
/// When something of one stays.
pub fn remove_all(roots: &Roots, instance: &InstanceRef) -> Result<(), mvm_core::Error> {
    for epoch in phases(roots, instance)?.into_keys() {
        remove(roots, instance, epoch)?;
    }
    Ok(())
}

/// Overwrites the keys, then removes the directory; safe to repeat.
pub(super) fn destroy(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() && !dir.is_symlink() {
        durable::shred(&dir.join(KEYS))?;
        return durable::remove_dir(dir);
    }
    durable::remove_file(dir)
}
