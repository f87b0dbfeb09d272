//! Images that come in one file, and what their failures mean to a person.

use std::{io, path::Path};

use mvm_build::{ImageStore, Parcel, ParcelError, StoreError};
use mvm_core::{
    error::{Error, ErrorKind},
    id::ImageHash,
    port::{Progress, ProgressStep},
};

use super::{AGENT_PROTOCOL, Workshop, arch, failed, hash_of};

impl Workshop {
    /// Takes the image of a file into the store, every byte of it verified.
    pub(super) fn take_parcel(
        &self,
        store: &ImageStore,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<ImageHash, Error> {
        let act = format!("cannot use the image in {}", path.display());
        let told = |error: ParcelError| explain(&act, &error);
        let parcel = Parcel::open(path, arch()?).map_err(told)?;
        if parcel.protocol() > AGENT_PROTOCOL {
            let message = format!("{act}: its agent speaks a later protocol than this program");
            return Err(Error::new(ErrorKind::Invalid, message).hint("mvm upgrade"));
        }
        self.admit(&format!("the image in {}", path.display()), parcel.bytes().div_ceil(1 << 20))?;
        progress.report(&ProgressStep {
            subject: path.display().to_string(),
            activity: "unpacking".to_owned(),
            done: 0,
            total: 0,
        });
        let image = parcel.into_store(store).map_err(told)?;
        hash_of(&image.manifest.hash.to_string())
    }
}

/// A failure of an image in one file, with what a person can do about it.
pub(crate) fn explain(act: &str, error: &ParcelError) -> Error {
    let (kind, hint) = match error {
        ParcelError::File(file) if file.source.kind() == io::ErrorKind::NotFound => {
            (ErrorKind::NotFound, None)
        }
        ParcelError::File(file) if file.source.kind() == io::ErrorKind::PermissionDenied => {
            (ErrorKind::Permission, None)
        }
        ParcelError::NoImage(_) => (
            ErrorKind::Invalid,
            Some("write one with `mvm build --output FILE` or `mvm image export`"),
        ),
        ParcelError::Manifest(_) | ParcelError::Refused(_) | ParcelError::Arch(_) => {
            (ErrorKind::Invalid, None)
        }
        ParcelError::Damaged(_) => {
            (ErrorKind::Integrity, Some("get the file again from who made it"))
        }
        ParcelError::Store(StoreError::Damaged { .. }) => {
            (ErrorKind::Integrity, Some("make the image again: mvm pool build … --force"))
        }
        ParcelError::Store(StoreError::Busy { .. }) => (ErrorKind::Unavailable, None),
        ParcelError::File(_) | ParcelError::Store(_) => (ErrorKind::Failed, None),
    };
    let told = failed(kind, act, error);
    hint.into_iter().fold(told, Error::hint)
}
