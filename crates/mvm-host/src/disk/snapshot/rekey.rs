//! Wraps the file keys of snapshots with another tenant key. The chunks stay as they are.

use std::{fs, path::Path};

use mvm_core::{id::InstanceRef, layout};

use super::{
    header::{Form, Manifest},
    place::{HEADER, KEYS},
    seal::{OsRandom, unwrap, wrap},
};
use crate::{
    disk::{
        durable,
        error::{Act, Error},
        key::KeyRing,
    },
    roots::Roots,
};

/// Makes every snapshot of an instance, whatever its phase, open with the newest key alone. One that
/// was not written to its end, or whose removal was cut off, is left: nothing will open it, or all of the
/// guest's memory is written in its stead.
///
/// # Errors
/// `Integrity` when neither key opens a published one.
pub fn rekey(roots: &Roots, instance: &InstanceRef, ring: &KeyRing) -> Result<(), mvm_core::Error> {
    let parent = roots.data.join(layout::data::snapshots(instance));
    for name in durable::names(&parent)? {
        let dir = parent.join(&name);
        if !durable::exists(&dir.join(KEYS))? || !durable::exists(&dir.join(HEADER))? {
            continue;
        }
        match one(&dir, ring) {
            Err(error) if name.contains('.') => {
                tracing::warn!(%instance, name, %error, "a snapshot that is not resumed again is left");
            }
            done => done?,
        }
    }
    Ok(())
}

fn one(dir: &Path, ring: &KeyRing) -> Result<(), Error> {
    let (manifest, digest) = Manifest::read(&dir.join(HEADER))?;
    match manifest.form {
        Form::Raw { .. } => return Ok(()),
        Form::Sealed => {}
    }
    let path = dir.join(KEYS);
    let content = fs::read(&path).act("read", &path)?;
    let keys = match (unwrap(&content, &path, ring.newest(), &digest), ring.older()) {
        (Ok(_), _) => return Ok(()),
        (Err(error), None) => return Err(error),
        (Err(_), Some(older)) => unwrap(&content, &path, older, &digest)?,
    };
    let wrapped = wrap(&keys, ring.newest(), &digest, &mut OsRandom).act("seal", &path)?;
    durable::write_shredding(&path, &wrapped, 0o600)
}
