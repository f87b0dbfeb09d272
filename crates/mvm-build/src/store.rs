//! Images on disk, each under its content key, complete or not there at all.
//!
//! ```text
//! images/HASH/{manifest.json,vmlinux,rootfs.squashfs,[initrd.img]}
//! images/refs/NAME         the current image of a name
//! images/requests/KEY      which image a request was answered with
//! images/.new-*            being written; left-overs go with the next build
//! ```
//!
//! Who uses an image, and for how long it must stay, is not known here.

mod portable;

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use portable::StoredFile;

use crate::failed::FileError;
use crate::hash::ContentHash;
use crate::manifest::{MANIFEST_SCHEMA, Manifest};

/// How often a store that another build holds is looked at.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// The shortest prefix of a hash that selects an image, in digits.
const PREFIX: usize = 6;

const MANIFEST: &str = "manifest.json";
const SCRATCH: &str = ".new-";

/// An image that is complete on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Where its files are.
    pub directory: PathBuf,
    /// What is known of it.
    pub manifest: Manifest,
}

impl Image {
    /// The kernel, an ELF `vmlinux`.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.directory.join(&self.manifest.kernel.file)
    }

    /// The root file system.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join(&self.manifest.root.file)
    }

    /// The initramfs, if the kernel needs one.
    #[must_use]
    pub fn initrd(&self) -> Option<PathBuf> {
        self.manifest.initrd.as_ref().map(|file| self.directory.join(&file.file))
    }

    /// The files with the length and digest that the manifest gives.
    fn files(&self) -> Vec<(PathBuf, u64, ContentHash)> {
        let Manifest { kernel, root, initrd, .. } = &self.manifest;
        let mut files = vec![
            (self.kernel(), kernel.size, kernel.sha256),
            (self.root(), root.size, root.sha256),
        ];
        if let Some(file) = initrd {
            files.push((self.directory.join(&file.file), file.size, file.sha256));
        }
        files
    }

    /// Reads every file and compares its digest with the manifest's.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for the first that differs.
    pub fn verify(&self) -> Result<(), StoreError> {
        for (path, _, want) in self.files() {
            let is_intact = ContentHash::of_file(&path).is_ok_and(|(found, _)| found == want);
            if !is_intact {
                return Err(StoreError::Damaged { path });
            }
        }
        Ok(())
    }
}

/// Why the store can't answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A manifest that can't be read.
    #[error("cannot read the image manifest {path}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The parser's reason.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest of another schema.
    #[error("the image manifest {path} has schema {found}, this program reads schema 1")]
    Schema {
        /// The manifest.
        path: PathBuf,
        /// The number found.
        found: u32,
    },
    /// A file that is missing or isn't what the manifest says.
    #[error("{path} of an image is missing or damaged; build the image again")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// No such image.
    #[error("no image {0:?}")]
    NotFound(String),
    /// A prefix of several hashes.
    #[error("{0:?} is the beginning of more than one image's hash")]
    Ambiguous(String),
    /// Something that can't be the name of an image.
    #[error("not an image name: {0:?}; use 1 to 63 of a-z, 0-9 and hyphens")]
    Name(String),
    /// An image of this hash with other bytes than are wanted.
    #[error("the image {hash} is here with other bytes")]
    Differs {
        /// Its hash.
        hash: ContentHash,
    },
    /// Files that are said to be an image and are not.
    #[error("these files are not the image {hash}")]
    Foreign {
        /// Its hash.
        hash: ContentHash,
    },
    /// Another build held the store for too long.
    #[error("another build works in {path}; waited {} s", waited.as_secs())]
    Busy {
        /// The store.
        path: PathBuf,
        /// For how long this one waited.
        waited: Duration,
    },
}

fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| FileError::new(act, path, source).into()
}

/// A directory of images.
#[derive(Debug, Clone)]
pub struct ImageStore {
    directory: PathBuf,
}

impl ImageStore {
    /// Opens the store in a directory, which is made when missing.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        for path in [directory.join("refs"), directory.join("requests")] {
            fs::create_dir_all(&path).map_err(file("make", &path))?;
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// A file without a name beside the images, for what becomes one of them.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn spool(&self) -> Result<fs::File, StoreError> {
        tempfile::tempfile_in(&self.directory).map_err(file("make a file in", &self.directory))
    }

    /// The image under a name, a full hash, or an unambiguous beginning of one (6 digits or more).
    ///
    /// # Errors
    /// When there is none or it is damaged; lengths are compared here, digests by
    /// [`Image::verify`].
    pub fn find(&self, name_or_hash: &str) -> Result<Image, StoreError> {
        if let Ok(hash) = name_or_hash.parse::<ContentHash>() {
            return self.get(hash);
        }
        if is_name(name_or_hash)
            && let Some(hash) = read_hash(&self.directory.join("refs").join(name_or_hash))
        {
            return self.get(hash);
        }
        let is_prefix =
            name_or_hash.len() >= PREFIX && name_or_hash.bytes().all(|b| b.is_ascii_hexdigit());
        let mut matching = self.hashes()?;
        matching.retain(|hash| is_prefix && hash.to_string().starts_with(name_or_hash));
        match matching.as_slice() {
            [] => Err(StoreError::NotFound(name_or_hash.to_owned())),
            [hash] => self.get(*hash),
            _ => Err(StoreError::Ambiguous(name_or_hash.to_owned())),
        }
    }

    /// The image with this content key.
    ///
    /// # Errors
    /// As [`ImageStore::find`].
    pub fn get(&self, hash: ContentHash) -> Result<Image, StoreError> {
        let directory = self.directory.join(hash.to_string());
        let path = directory.join(MANIFEST);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotFound(hash.to_string()));
            }
            Err(error) => return Err(file("read", &path)(error)),
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|source| StoreError::Manifest { path: path.clone(), source })?;
        if manifest.schema != MANIFEST_SCHEMA {
            return Err(StoreError::Schema { path, found: manifest.schema });
        }
        let image = Image { directory, manifest };
        if image.manifest.hash != hash {
            return Err(StoreError::Damaged { path });
        }
        for (path, size, _) in image.files() {
            if !fs::metadata(&path).is_ok_and(|data| data.is_file() && data.len() == size) {
                return Err(StoreError::Damaged { path });
            }
        }
        Ok(image)
    }

    /// All complete images, by hash; a damaged one is left out.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        Ok(self.hashes()?.into_iter().filter_map(|hash| self.get(hash).ok()).collect())
    }

    fn hashes(&self) -> Result<Vec<ContentHash>, StoreError> {
        let wrap = |error| file("read", &self.directory)(error);
        let mut hashes = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(wrap)? {
            let name = entry.map_err(wrap)?.file_name();
            hashes.extend(name.to_str().and_then(|name| name.parse::<ContentHash>().ok()));
        }
        hashes.sort();
        Ok(hashes)
    }

    /// Makes `hash` the current image of `name`.
    ///
    /// # Errors
    /// When the name isn't one, or the disk refuses.
    pub fn set_ref(&self, name: &str, hash: ContentHash) -> Result<(), StoreError> {
        if !is_name(name) {
            return Err(StoreError::Name(name.to_owned()));
        }
        write_hash(&self.directory.join("refs").join(name), hash)
    }

    /// The image that a request was answered with before, if it is still whole.
    pub(crate) fn answered(&self, request: ContentHash) -> Option<Image> {
        let path = self.directory.join("requests").join(request.to_string());
        self.get(read_hash(&path)?).ok()
    }

    pub(crate) fn remember(
        &self,
        request: ContentHash,
        image: ContentHash,
    ) -> Result<(), StoreError> {
        write_hash(&self.directory.join("requests").join(request.to_string()), image)
    }

    /// Waits for the right to build here, at most `patience`, and clears what a killed build left.
    pub(crate) fn lock(&self, patience: Duration) -> Result<BuildLock, StoreError> {
        let path = &self.directory;
        let directory = File::open(path).map_err(file("open", path))?;
        let start = Instant::now();
        loop {
            match directory.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(file("lock", path)(source)),
                Err(TryLockError::WouldBlock) => {}
            }
            let waited = start.elapsed();
            if waited >= patience {
                return Err(StoreError::Busy { path: path.clone(), waited });
            }
            thread::sleep(LOCK_POLL);
        }
        for entry in fs::read_dir(path).map_err(file("read", path))?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(SCRATCH.as_bytes()) {
                let left = entry.path();
                fs::remove_dir_all(&left).map_err(file("remove", &left))?;
            }
        }
        Ok(BuildLock { _directory: directory })
    }

    /// A directory to write an image into; it is gone again unless published.
    pub(crate) fn scratch(&self, _: &BuildLock) -> Result<TempDir, StoreError> {
        tempfile::Builder::new()
            .prefix(SCRATCH)
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(&self.directory)
            .map_err(file("make a directory in", &self.directory))
    }

    /// Puts a written image in its place: manifest, sync, rename, sync. What a damaged image left
    /// there is replaced.
    pub(crate) fn publish(
        &self,
        scratch: TempDir,
        manifest: &Manifest,
        lock: &BuildLock,
    ) -> Result<Image, StoreError> {
        let path = scratch.path().join(MANIFEST);
        let text = serde_json::to_string_pretty(manifest)
            .map_err(|source| StoreError::Manifest { path: path.clone(), source })?;
        write_synced(&path, text.as_bytes()).map_err(file("write", &path))?;
        self.place(scratch, manifest.hash, lock)
    }

    /// Puts a directory with all files of an image, which are synced, in its place: sync, rename, sync.
    fn place(
        &self,
        scratch: TempDir,
        hash: ContentHash,
        _: &BuildLock,
    ) -> Result<Image, StoreError> {
        sync_directory(scratch.path())?;
        let place = self.directory.join(hash.to_string());
        if place.exists() {
            fs::remove_dir_all(&place).map_err(file("remove", &place))?;
        }
        fs::rename(scratch.path(), &place).map_err(file("publish", &place))?;
        sync_directory(&self.directory)?;
        self.get(hash)
    }
}

/// The right to build in a store; given back when dropped or at death.
pub(crate) struct BuildLock {
    _directory: File,
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn read_hash(path: &Path) -> Option<ContentHash> {
    fs::read_to_string(path).ok()?.trim_end().parse().ok()
}

fn write_hash(path: &Path, hash: ContentHash) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let write = || {
        let mut scratch = tempfile::NamedTempFile::new_in(directory)?;
        writeln!(scratch, "{hash}")?;
        scratch.as_file().set_permissions(Permissions::from_mode(0o644))?;
        scratch.as_file().sync_all()?;
        scratch.persist(path)?;
        Ok(())
    };
    write().map_err(file("write", path))?;
    sync_directory(directory)
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(file("sync", path))
}

/// Writes a file of an image, whole and synced.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()
}

#[cfg(test)]
pub(crate) mod tests;
