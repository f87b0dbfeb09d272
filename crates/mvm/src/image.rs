//! Images without a pool: made of a directory, written into one file, taken from one; and the paths by
//! which people name them.
//!
//! An image in one file is a source like any other: taking it is a build of its path. What is in such a file
//! is `mvm_build::parcel`'s.

use std::{fs, path::Path};

use mvm_build::{ImageStore, StoreError, parcel};
use mvm_core::{
    error::{Error, ErrorKind},
    id::{ImageHash, PoolRef},
    layout::data,
    operation::{Operation, Rebuild},
    pool::Source,
    units::Seconds,
};
use mvm_engine::Context;
use serde_json::Value;

use crate::{Mvm, builder, forward::ImagePath, mvmfile};

/// An image that was written into a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The image, as the store names it.
    pub image: ImageHash,
    /// The digest of the file, 64 hexadecimal digits.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

impl Mvm {
    /// Makes the image of a directory with an `Mvmfile.toml`, or takes the one in a file into the store.
    ///
    /// # Errors
    /// `NotFound` when nothing is there; `Invalid` when it is no image or makes no sense, `Integrity` when
    /// it was altered: nothing is in the store then that was not there before.
    pub fn build(
        &self,
        cx: &Context,
        path: &Path,
        rebuild: Rebuild,
        timeout: Seconds,
    ) -> Result<ImageHash, Error> {
        let source = Source::Image(image_at(path)?);
        self.engine.ensure_image(cx, source, rebuild, timeout)
    }

    /// All that the records of pools and templates say of where images come from, as text.
    ///
    /// # Errors
    /// Why the store failed.
    pub fn sources(&self) -> Result<String, Error> {
        let pools: Vec<_> = self.engine.pools(None)?.into_iter().map(|view| view.record).collect();
        let templates = self.engine.templates()?.into_iter().map(|view| view.record);
        serde_json::to_string(&(pools, templates.collect::<Vec<_>>())).map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot write down what images come from").because(&error)
        })
    }

    /// Takes the image of a file into the store.
    ///
    /// # Errors
    /// As [`Mvm::build`].
    pub fn image_import(&self, cx: &Context, file: &Path) -> Result<ImageHash, Error> {
        self.build(cx, file, Rebuild::WhenChanged, Operation::BUILD_TIMEOUT)
    }

    /// The image that a name, a hash or a pool's current build is.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` of a pool without a build.
    pub fn image_find(&self, name: &str) -> Result<ImageHash, Error> {
        if name.contains('/') {
            let pool: PoolRef = name.parse().map_err(|error| {
                Error::new(ErrorKind::Invalid, format!("{name:?} names no image and no pool"))
                    .because(&error)
            })?;
            let current = self.engine.pool(&pool)?.record.current().cloned();
            return current.ok_or_else(|| {
                Error::new(ErrorKind::Conflict, format!("pool {pool} has no build"))
                    .hint(format!("mvm pool build {pool}"))
            });
        }
        let image = self.images()?.find(name).map_err(|error| unusable(name, &error))?;
        builder::hash_of(&image.manifest.hash.to_string())
    }

    /// Writes an image into one file, in place of what has that name.
    ///
    /// # Errors
    /// As [`Mvm::image_find`]; `Integrity` when it is damaged; why the file cannot be written.
    pub fn image_export(&self, name: &str, to: &Path) -> Result<Exported, Error> {
        let image = self.image_find(name)?;
        let found = self.images()?.find(image.as_str()).map_err(|error| unusable(name, &error))?;
        let written = parcel::write(&found, to).map_err(|error| {
            builder::parcel::explain(&format!("cannot export the image {name:?}"), &error)
        })?;
        Ok(Exported { image, sha256: written.sha256.to_string(), size: written.size })
    }

    /// The image store of this machine.
    pub(crate) fn images(&self) -> Result<ImageStore, Error> {
        ImageStore::open(&self.roots.data.join(data::IMAGES)).map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot open the image store").because(&error)
        })
    }
}

fn unusable(name: &str, error: &StoreError) -> Error {
    let kind = match error {
        StoreError::NotFound(_) => ErrorKind::NotFound,
        StoreError::Ambiguous(_) | StoreError::Name(_) => ErrorKind::Invalid,
        StoreError::Damaged { .. }
        | StoreError::Manifest { .. }
        | StoreError::Schema { .. }
        | StoreError::Differs { .. }
        | StoreError::Foreign { .. } => ErrorKind::Integrity,
        StoreError::Busy { .. } => ErrorKind::Unavailable,
        StoreError::File(_) => ErrorKind::Failed,
    };
    Error::new(kind, format!("cannot use the image {name:?}")).because(error)
}

/// The text by which the image at a path is named from everywhere.
pub(crate) fn image_at(path: &Path) -> Result<String, Error> {
    let shown = path.display();
    let real = fs::canonicalize(path).map_err(|error| {
        Error::new(ErrorKind::NotFound, format!("cannot find {shown}")).because(&error)
    })?;
    if !(real.join(mvmfile::NAME).is_file() || parcel::is_one(&real)) {
        let message = format!("{shown} is no image");
        return Err(Error::new(ErrorKind::Invalid, message).hint(format!(
            "name a directory with an {}, or a file that mvm build --output wrote",
            mvmfile::NAME
        )));
    }
    let text = real.into_os_string().into_string();
    text.map_err(|_| Error::new(ErrorKind::Invalid, format!("the path {shown} is not UTF-8")))
}

/// Whether an image is named by its path: that has a slash or a dot, and does not begin with one of the words
/// before a colon that other images begin with.
pub(crate) fn is_path(text: &str) -> bool {
    let is_named = ["oci:", "oci-archive:", "deb:"].iter().any(|word| text.starts_with(word));
    !is_named && text.contains(['/', '.'])
}

/// The text by which an image that a person named is recorded: a relative path becomes absolute, and one that was
/// carried here is where it lies now; all else stays.
///
/// # Errors
/// `NotFound` when nothing is at the path, `Invalid` when it is no image.
pub fn recorded(image: &ImagePath) -> Result<String, Error> {
    match image.carried() {
        Some(place) => image_at(place).map_err(|error| error.context(image.typed())),
        None => absolute_image(image.typed(), Path::new("")),
    }
}

/// An image as a person names it, seen from a directory: a relative path becomes absolute, all else stays.
///
/// # Errors
/// `NotFound` when nothing is at the path, `Invalid` when it is no image.
fn absolute_image(text: &str, directory: &Path) -> Result<String, Error> {
    if !is_path(text) || text.starts_with('/') {
        return Ok(text.to_owned());
    }
    image_at(&directory.join(text)).map_err(|error| {
        error.hint("an image of a registry is written oci:REGISTRY/REPOSITORY:TAG")
    })
}

/// The same for every image that the pools of a manifest name, seen from the manifest's directory.
pub(crate) fn absolute_images(manifest: &mut Value, directory: &Path) -> Result<(), Error> {
    let Some(all) = manifest.as_object_mut() else { return Ok(()) };
    let pools = all.iter_mut().filter(|(key, _)| matches!(key.as_str(), "pools" | "overrides"));
    let each = pools.flat_map(|(_, value)| match value {
        Value::Array(list) => list.iter_mut().collect::<Vec<_>>(),
        Value::Object(map) => map.values_mut().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    });
    for pool in each {
        if let Some(Value::String(text)) = pool.get_mut("image") {
            *text = absolute_image(text, directory)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    /// A directory with an image in a directory, one in a file, and what is none.
    fn place() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("app")).unwrap();
        fs::write(place.path().join("app").join(mvmfile::NAME), "").unwrap();
        fs::write(place.path().join("app.elf"), [0x28, 0xb5, 0x2f, 0xfd, 0]).unwrap();
        fs::write(place.path().join("text.txt"), "text").unwrap();
        place
    }

    #[test]
    fn relative_paths_become_absolute_and_other_names_stay() {
        let place = place();
        let real = fs::canonicalize(place.path()).unwrap();
        for text in ["default", "abc123", "oci:r.example.com/a:1", "deb:a,b", "/srv/app"] {
            assert_eq!(absolute_image(text, place.path()).unwrap(), text);
        }
        for (text, name) in [
            ("app.elf", "app.elf"),
            ("./app", "app"),
            ("app/../app.elf", "app.elf"),
            ("app/", "app"),
        ] {
            let found = absolute_image(text, place.path()).unwrap();
            assert_eq!(found, real.join(name).display().to_string(), "{text}");
        }
        let kind = |text| absolute_image(text, place.path()).unwrap_err().kind;
        assert_eq!(kind("./absent"), ErrorKind::NotFound);
        assert_eq!(kind("text.txt"), ErrorKind::Invalid);
        assert_eq!(kind("."), ErrorKind::Invalid);
    }

    #[test]
    fn the_images_of_a_manifest_are_seen_from_its_directory() {
        let place = place();
        let mut manifest = serde_json::json!({
            "pools": [{ "id": "a", "image": "./app.elf" }, { "id": "b", "image": "default" }, 7],
            "overrides": { "workers": { "image": "app" }, "x": { "image": "./app" } },
        });
        absolute_images(&mut manifest, place.path()).unwrap();
        let real = fs::canonicalize(place.path()).unwrap().display().to_string();
        let at = |pointer: &str| manifest.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        assert_eq!(at("/pools/0/image"), format!("{real}/app.elf"));
        assert_eq!(at("/pools/1/image"), "default");
        assert_eq!(at("/overrides/workers/image"), "app", "a name without a slash is a name");
        assert_eq!(at("/overrides/x/image"), format!("{real}/app"));
        *manifest.pointer_mut("/pools/0/image").unwrap() = "./gone.elf".into();
        assert!(absolute_images(&mut manifest, place.path()).is_err());
    }
}
