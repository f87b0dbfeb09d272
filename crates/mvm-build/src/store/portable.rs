//! Images that leave a store and come into one as files whose sizes and digests are known.
//!
//! The manifest is one of these files: it comes with the same bytes as it left. It refuses to know how the
//! files travel.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Image, ImageStore, MANIFEST, StoreError, file};
use crate::fetch::Pinned;
use crate::hash::ContentHash;
use crate::manifest::{MANIFEST_SCHEMA, Manifest};

/// How long another build may hold the store.
const PATIENCE: Duration = Duration::from_secs(600);

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its name in the image's directory.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its length and digest.
    pub pinned: Pinned,
}

impl Image {
    /// Everything that makes up the image, the manifest first; lengths and digests are those that the manifest
    /// gives, and of the manifest itself those that it has.
    ///
    /// # Errors
    /// When the manifest cannot be read.
    pub fn portable(&self) -> Result<Vec<StoredFile>, StoreError> {
        let path = self.directory.join(MANIFEST);
        let (sha256, size) = ContentHash::of_file(&path).map_err(file("read", &path))?;
        let mut all =
            vec![StoredFile { name: MANIFEST.to_owned(), path, pinned: Pinned { size, sha256 } }];
        for (path, size, sha256) in self.files() {
            let is_inside = path.parent() == Some(&*self.directory);
            let name = path.file_name().and_then(|name| name.to_str()).filter(|_| is_inside);
            let name = name.ok_or_else(|| StoreError::Damaged { path: path.clone() })?.to_owned();
            all.push(StoredFile { name, path, pinned: Pinned { size, sha256 } });
        }
        Ok(all)
    }
}

impl ImageStore {
    /// Whether the image is here, is made up of these very files, and every byte of them is as it should be.
    ///
    /// # Errors
    /// [`StoreError::Differs`] when it is here with other files; why the store cannot be read.
    pub fn has(&self, hash: ContentHash, files: &[(String, Pinned)]) -> Result<bool, StoreError> {
        match self.get(hash) {
            Ok(image) if is_made_of(&image, files)? => Ok(image.verify().is_ok()),
            Ok(_) => Err(StoreError::Differs { hash }),
            Err(StoreError::NotFound(_) | StoreError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes an image of files that were verified; they may be linked, and must not change any more.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] when they are not the image of this hash; when the disk refuses. Nothing of it is in
    /// the store then.
    pub fn import(&self, hash: ContentHash, files: &[StoredFile]) -> Result<Image, StoreError> {
        let lock = self.lock(PATIENCE)?;
        let scratch = self.scratch(&lock)?;
        for one in files {
            let to = scratch.path().join(&one.name);
            link(&one.path, &to).map_err(file("write", &to))?;
        }
        let path = scratch.path().join(MANIFEST);
        let foreign = || StoreError::Foreign { hash };
        let bytes = fs::read(&path).map_err(|_| foreign())?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|_| foreign())?;
        let image = Image { directory: scratch.path().to_owned(), manifest };
        let listed: Vec<_> = files.iter().map(|one| (one.name.clone(), one.pinned)).collect();
        let Manifest { schema, hash: named, .. } = &image.manifest;
        if *schema != MANIFEST_SCHEMA || *named != hash || !is_made_of(&image, &listed)? {
            return Err(foreign());
        }
        self.place(scratch, hash, &lock)
    }
}

fn is_made_of(image: &Image, files: &[(String, Pinned)]) -> Result<bool, StoreError> {
    let is: Vec<_> = image.portable()?.into_iter().map(|one| (one.name, one.pinned)).collect();
    let is_among = |one: &(String, Pinned), all: &[(String, Pinned)]| all.contains(one);
    Ok(is.iter().all(|one| is_among(one, files)) && files.iter().all(|one| is_among(one, &is)))
}

/// The same file under another name, or a copy where there is no link between the two places.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to)?;
    }
    fs::set_permissions(to, Permissions::from_mode(0o644))?;
    fs::File::open(to)?.sync_all()
}
